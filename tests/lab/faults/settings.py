"""Faults of libvirt's settings, and of what is defined in it beside guests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.faults.fault import undo
from tests.lab.faults.files import file_changed
from tests.lab.host import Host

QEMU_CONF = "/etc/libvirt/qemu.conf"
LIBVIRTD_CONF = "/etc/libvirt/libvirtd.conf"


def restart_libvirt(host: Host, *, check: bool = True) -> None:
    """Restart libvirtd; one that does not end by itself is killed, which its guests do not notice."""
    # it takes 25 s to stop after some migrations, and a start within that time fails
    script = (
        "systemctl reset-failed libvirtd.service || true; systemctl kill --signal=KILL libvirtd.service || true\n"
        "systemctl stop libvirtd.service; systemctl start libvirtd.service"
    )
    host.run("sh", "-ec", script, check=check)


@contextmanager
def libvirt_setting(host: Host, settings: str, *, path: str = QEMU_CONF, check: bool = True) -> Iterator[None]:
    """Change settings of libvirt (lines `name = value`, which take the place of such as are there); restarts libvirtd.

    Without `check` libvirtd need not start with them.
    """
    names = {line.partition("=")[0].strip() for line in settings.splitlines()}
    kept = [line for line in host.read(path).splitlines() if line.partition("=")[0].strip() not in names]
    try:
        with file_changed(host, path, "\n".join([*kept, settings, ""])):
            restart_libvirt(host, check=check)
            yield
    finally:
        if host.is_on:
            restart_libvirt(host)


@contextmanager
def network_defined(host: Host, name: str, *, inside: str, active: bool = True) -> Iterator[None]:
    """Define a network of libvirt's, with that XML inside of <network>, and start it."""
    xml = f"<network><name>{name}</name>{inside}</network>"
    host.run("virsh", "--quiet", "net-define", "/dev/stdin", input=xml)
    try:
        if active:
            host.run("virsh", "--quiet", "net-start", name)
        yield
    finally:
        undo(host, "virsh", "--quiet", "net-destroy", name)
        undo(host, "virsh", "--quiet", "net-undefine", name)
