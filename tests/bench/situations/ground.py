"""What situations are made on: a lab that stays up, and its guests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab import daemon, guests
from tests.lab.command import LabError
from tests.lab.daemon import Finding
from tests.lab.guests import Guest, Kind
from tests.lab.host import Host, wait_until
from tests.lab.lab import Lab

PATIENCE = 12
"""Seconds that Check gets for an answer."""

PEER_URI = "qemu+tls://{name}/system"


_UNITS = (
    *("libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd-tls.socket"),
    *("kvmigd.service", "systemd-networkd.service", "srv-vm.mount"),
)


class Ground:
    """Two hosts of a lab: `a`, where guests run, and `b`, where they shall go."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.a = lab.host("hosta")
        self.b = lab.host("hostb")
        self.guest = guests.boot_sector("none")
        """The guest that is to move; a situation starts it."""
        self.calm = guests.boot_sector("calm", memory=32, number=99)
        """One that never moves: while nothing is in its way, no fault is left."""
        self._linux: Guest | None = None

    # -- guests

    def start(self, guest: Guest | None = None, **changes: object) -> Guest:
        """Start a guest on the first host, a small one where none is given, and wait until it is ready."""
        guest = dataclasses.replace(guest or self.sector(), **changes)  # type: ignore[arg-type]
        self.guest = guests.create(self.a, guest)
        return guest

    def sector(self, name: str = "web") -> Guest:
        """A guest that is ready in milliseconds, with a raw disk, without anything special."""
        return Guest(name=name, kind=Kind.BOOT_SECTOR, memory=32, number=2, disk_format="raw")

    def linux(self) -> Guest:
        """The Linux guest, which goes on running from one situation to the next."""
        if self._linux is None or guests.state(self.a, self._linux) != "running":
            self._linux = None
            self._linux = guests.create(self.a, guests.linux("linux1", number=1))
        self.guest = self._linux
        return self._linux

    def _bring_linux_back(self) -> None:
        linux = self._linux
        if linux is None:
            return
        if guests.state(self.a, linux) == "running" and not guests.state(self.b, linux):
            return
        self._linux = None
        if guests.state(self.b, linux) == "running":
            flags = ("--live", "--p2p", "--persistent", "--undefinesource")
            back = ("timeout", "20", "virsh", "--quiet", "migrate", *flags, linux.name)
            if self.b.run(*back, PEER_URI.format(name=self.a.name), check=False).returncode == 0:
                self._linux = linux

    # -- putting back

    def clean(self) -> None:
        """Remove the situation's guest, wherever it is, and bring the Linux guest home; what fails resets the lab."""
        try:
            self._bring_linux_back()
            self._remove_guests()
            kept = ("-not", "-name", "calm.*", "-not", "-name", "linux1.*")
            self.a.run("find", guests.FOLDER, "-mindepth", "1", *kept, "-delete")
        except LabError:
            self.reset()

    def _remove_guests(self) -> None:
        kept = {self.a: [self.calm.name], self.b: [""]}
        if self._linux is not None:
            kept[self.a].append(self._linux.name)

        def gone() -> bool:
            # both each time: a guest may be on its way from one to the other
            found = [self._away(host, kept[host]) for host in (self.a, self.b)]
            return not any(found)

        wait_until("the situation's guests are gone", gone, timeout=20)

    def _away(self, host: Host, kept: list[str]) -> bool:
        listed = host.run("virsh", "--quiet", "list", "--all", "--name", timeout=10).stdout.split("\n")
        names = [name for name in listed if name and name not in kept]
        for name in names:
            host.run("timeout", "5", "virsh", "--quiet", "destroy", name, check=False)
            options = ("--managed-save", "--snapshots-metadata", "--nvram")
            host.run("timeout", "5", "virsh", "--quiet", "undefine", *options, name, check=False)
        return bool(names)

    def wait_clear(self) -> str:
        """Wait until nothing is in the calm guest's way; resets the lab if it takes too long, and tells why."""
        try:
            # not all that is needed may be known to Check
            for host in (self.a, self.b):
                states = host.run("systemctl", "is-active", *_UNITS, check=False).stdout.split()
                if set(states) != {"active"}:
                    raise LabError(f"Not all services of {host.name} are active.")
            if guests.state(self.a, self.calm) != "running":
                raise LabError("The calm guest is gone.")
            wait_until("the way is free", self._is_clear, timeout=12, every=0.1)
        except LabError as error:
            left = self._left() or str(error)
            self.reset()
            return left
        return ""

    def _left(self) -> str:
        """What Check still says of the calm guest."""
        try:
            verdict, findings = self.check(self.calm)
        except (daemon.CallFailed, LabError) as error:
            return str(error)
        return "" if verdict == "ready" else "; ".join(f"{found.check}: {found.summary}" for found in findings)

    def _is_clear(self) -> bool:
        try:
            return self.check(self.calm)[0] == "ready"
        except (daemon.CallFailed, LabError):
            return False

    def check(self, guest: Guest, *, prove: bool = True) -> tuple[str, list[Finding]]:
        """Ask Check; raises CallFailed, also where it does not answer in time."""
        words = ("ssa{sv}", guest.name, self.b.name, "1", "prove", "b", "true" if prove else "false")
        verdict, findings = daemon.call(self.a, daemon.ROOT, daemon.MANAGER, "Check", *words, timeout=PATIENCE)
        return verdict, [
            Finding(check, severity, summary, {key: value["data"] for key, value in details.items()})
            for check, severity, summary, details in findings
        ]

    def reset(self) -> None:
        """Put the lab back thoroughly, and start the calm guest again."""
        self._linux = None
        self.lab.reset()
        for host in (self.a, self.b):
            # a connection that nobody answers is given up after 8 s instead of 135
            host.run("sysctl", "--quiet", "--write", "net.ipv4.tcp_syn_retries=2")
            daemon.wait_ready(host)
        daemon.wait_connected(self.a, self.b)
        guests.create(self.a, self.calm)
        wait_until("the way is free", self._is_clear, timeout=20, every=0.1)

    # -- files

    @contextmanager
    def file(self, path: str, content: str | bytes, *hosts: Host) -> Iterator[None]:
        """A file, on the hosts named, or on both; its folders stay."""
        hosts = hosts or (self.a, self.b)
        for host in hosts:
            host.write(path, content, mode="0644")
        try:
            yield
        finally:
            for host in hosts:
                if host.is_on:
                    host.run("rm", "-f", path, check=False)


def with_interface(xml: str) -> tuple[str, str]:
    """An edit of a guest: another interface than one on the bridge."""
    return "<interface type='bridge'>\n      <source bridge='br0'/>", xml


CDROM = (
    "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{path}'/>"
    "<target dev='sda' bus='sata'/><readonly/></disk>"
)


def second_disk(path: str, *, kind: str = "raw", driver: str = "cache='none'", inside: str = "") -> str:
    """A second disk of a guest, as XML."""
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='{kind}' {driver}/><source file='{path}'/>"
        f"<target dev='vdb' bus='virtio'/>{inside}</disk>"
    )
