"""Faults of what a host offers its guests: mounts, bridges, the processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.command import LabError
from tests.lab.faults.fault import undo
from tests.lab.faults.settings import restart_libvirt
from tests.lab.host import Host, wait_until
from tests.lab.network import BRIDGE, Network


@contextmanager
def mount_removed(host: Host, path: str) -> Iterator[None]:
    """Take a mount of the host's fstab away, even while it is used; it is mounted again at the end."""
    host.run("umount", "--lazy", path)
    try:
        yield
    finally:
        undo(host, "sh", "-c", 'mountpoint -q "$0" || mount "$0"', path)


@contextmanager
def mount_added(
    host: Host, path: str, *, source: str = "tmpfs", kind: str = "tmpfs", options: str = "rw"
) -> Iterator[None]:
    """Mount something on a host: in a new place, or over another mount, which it hides."""
    host.run("mkdir", "-p", path)
    host.run("mount", "-t", kind, "-o", options, source, path)
    try:
        yield
    finally:
        undo(host, "umount", "--lazy", path)


@contextmanager
def mount_changed(host: Host, path: str, options: str = "ro") -> Iterator[None]:
    """Change the options of one mount (`ro`, `noexec`, …); the kernel refuses `ro` while a file is open for writing."""
    before = host.sh('findmnt --noheadings --output VFS-OPTIONS --mountpoint "$1" | tail -1', path)
    # only this mount's own flags: not every file system can change its options while it is mounted
    change = ("mount", "--internal-only", "-o")
    host.run(*change, f"remount,bind,{options}", path)
    try:
        yield
    finally:
        undo(host, *change, f"remount,bind,{before}", path)


@contextmanager
def bridge_down(host: Host, bridge: str = BRIDGE) -> Iterator[None]:
    """Set a bridge down: guests on it have no network, which nothing tells them."""
    host.run("ip", "link", "set", bridge, "down")
    try:
        yield
    finally:
        undo(host, "ip", "link", "set", bridge, "up")


@contextmanager
def bridge_without_uplink(host: Host, bridge: str = BRIDGE) -> Iterator[None]:
    """Take the host's link out of a bridge that stays up: guests on it reach only each other."""
    uplink = Network.GUESTS.link
    # networkd would plug it in again, if it has had to make the bridge anew before
    host.run("systemctl", "stop", "systemd-networkd.socket", "systemd-networkd.service")
    host.run("ip", "link", "set", uplink, "nomaster")
    try:
        yield
    finally:
        undo(host, "ip", "link", "set", uplink, "master", bridge)
        undo(host, "systemctl", "start", "systemd-networkd.socket", "systemd-networkd.service")


@contextmanager
def bridge_removed(host: Host, bridge: str = BRIDGE) -> Iterator[None]:
    """Remove a bridge, from under the guests if there are any; they are plugged in again at the end."""
    ports = host.run("ls", f"/sys/class/net/{bridge}/brif").stdout.split()
    host.run("ip", "link", "del", bridge)
    try:
        yield
    finally:
        if host.is_on:
            # networkd makes its devices only when it starts
            host.run("systemctl", "restart", "systemd-networkd.service")
            up = f"/sys/class/net/{bridge}/brif/{Network.GUESTS.link}"
            wait_until(f"{host.name} has its bridge again", lambda: host.exists(up))
            for port in ports:
                undo(host, "ip", "link", "set", port, "master", bridge)


@contextmanager
def bridge_added(host: Host, bridge: str) -> Iterator[None]:
    """Add a bridge that leads nowhere."""
    host.run("ip", "link", "add", bridge, "type", "bridge")
    host.run("ip", "link", "set", bridge, "up")
    try:
        yield
    finally:
        undo(host, "ip", "link", "del", bridge)


@contextmanager
def mtu_changed(host: Host, link: str, mtu: int) -> Iterator[None]:
    """Change the MTU of a link."""
    before = host.read(f"/sys/class/net/{link}/mtu").strip()
    host.run("ip", "link", "set", link, "mtu", str(mtu))
    try:
        yield
    finally:
        undo(host, "ip", "link", "set", link, "mtu", before)


@contextmanager
def machine_missing(host: Host, machine: str, instead: str) -> Iterator[None]:
    """Have QEMU call a machine type otherwise (a name of the same length), as an older QEMU that has none of that name.

    Restarts libvirtd twice.
    """
    if len(machine) != len(instead):
        raise LabError(f"{machine} and {instead} have different lengths, and the program is changed in place.")
    qemu = "/usr/bin/qemu-system-x86_64"
    # beside the real one, where QEMU finds its modules and its firmware
    other = f"{qemu}.other"
    host.sh('sed "s/$1-machine/$2-machine/" "$3" > "$4"; chmod 755 "$4"', machine, instead, qemu, other)
    host.run("mount", "--bind", other, qemu)
    try:
        restart_libvirt(host)
        yield
    finally:
        if host.is_on:
            host.run("umount", "--lazy", qemu, check=False)
            restart_libvirt(host)


_WRAPPER = """\
#!/bin/sh
exec {real} "$@" -global x86_64-cpu.{feature}=off
"""


@contextmanager
def cpu_without(host: Host, feature: str) -> Iterator[None]:
    """Take a feature (`sse4.2`) from a host's processor, as QEMU and libvirt see it; restarts libvirtd twice."""
    qemu = "/usr/bin/qemu-system-x86_64"
    # QEMU finds its modules and its firmware beside itself: the real one stays in that folder
    real, wrapper = f"{qemu}.real", "/var/tmp/lab-qemu"
    host.sh('[ -e "$2" ] || cp --archive "$1" "$2"', qemu, real)
    host.write(wrapper, _WRAPPER.format(real=real, feature=feature), mode="0755")
    host.run("mount", "--bind", wrapper, qemu)
    try:
        host.run("systemctl", "restart", "libvirtd.service")
        yield
    finally:
        if host.is_on:
            host.run("umount", "--lazy", qemu, check=False)
            host.run("systemctl", "restart", "libvirtd.service")
