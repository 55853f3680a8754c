"""Which ports a migration needs on this host, and which configuration says so."""

from __future__ import annotations

from pathlib import Path

from kvmigd.config import Config, Listen, Migration
from kvmigd.host.firewall import libvirtconf
from kvmigd.model.firewall import PortUse

LIBVIRT = Path("etc/libvirt")
QEMU = LIBVIRT / "qemu.conf"
LIBVIRTD = LIBVIRT / "libvirtd.conf"
VIRTPROXYD = LIBVIRT / "virtproxyd.conf"
VIRTQEMUD_SOCKET = Path("run/libvirt/virtqemud-sock")
LIBVIRTD_PID = Path("run/libvirtd.pid")

TLS_PORT, TCP_PORT = 16514, 16509
"""libvirt's own defaults (remote_daemon_config.c)."""
FIRST_PORT, LAST_PORT = 49152, 49215
"""And those of qemu.conf."""


def sources(root: Path) -> tuple[Path, ...]:
    """The files that `read` depends on."""
    return tuple(root / path for path in (QEMU, LIBVIRTD, VIRTPROXYD, VIRTQEMUD_SOCKET, LIBVIRTD_PID))


def read(config: Config, *, root: Path = Path("/")) -> tuple[PortUse, ...]:
    """All ports, from our own configuration and libvirt's. A file of libvirt's that cannot be read has its defaults."""
    return (_control(config), *_libvirt(root), *_streams(config, root))


def _origin(config: Config, key: str, *, is_default: bool) -> str:
    return "default" if is_default else f"{config.directory / 'kvmigd.toml'}: {key}"


def _control(config: Config) -> PortUse:
    port = config.listen.port
    origin = _origin(config, "listen.port", is_default=port == Listen().port)
    return PortUse(purpose="control", first=port, last=port, origin=origin)


def _values(path: Path) -> dict[str, libvirtconf.Value]:
    try:
        return libvirtconf.read(path)
    except OSError:
        return {}


def is_modular(root: Path) -> bool:
    """Whether virtproxyd, and not libvirtd, listens for other hosts: the modular daemons are in use."""
    if (root / LIBVIRTD_PID).exists():
        return False
    return (root / VIRTQEMUD_SOCKET).exists() or (not (root / LIBVIRTD).exists() and (root / VIRTPROXYD).exists())


def _libvirt(root: Path) -> list[PortUse]:
    """libvirt's listeners. TCP without TLS is off unless it was switched on; the other way round with TLS."""
    path = VIRTPROXYD if is_modular(root) else LIBVIRTD
    values = _values(root / path)
    uses = []
    for purpose, switch, is_on, key, default in (
        ("libvirt", "listen_tls", 1, "tls_port", TLS_PORT),
        ("libvirt-tcp", "listen_tcp", 0, "tcp_port", TCP_PORT),
    ):
        if libvirtconf.number(values, switch, is_on):
            port = libvirtconf.port(values, key, default)
            origin = f"/{path}: {key}" if key in values else f"default of {path.stem}"
            uses.append(PortUse(purpose=purpose, first=port, last=port, origin=origin))
    return uses


def _streams(config: Config, root: Path) -> list[PortUse]:
    """The memory's stream and the disks' (NBD) take a port each of the same range.

    kvmigd names the port of each migration itself, so its own range counts; the range of libvirt's, which virsh uses,
    is told where it is another one.
    """
    first, last = config.migration.port_min, config.migration.port_max
    defaults = Migration()
    origin = _origin(
        config,
        "migration.port_min, migration.port_max",
        is_default=(first, last) == (defaults.port_min, defaults.port_max),
    )
    values = _values(root / QEMU)
    theirs = (
        libvirtconf.port(values, "migration_port_min", FIRST_PORT),
        libvirtconf.port(values, "migration_port_max", LAST_PORT),
    )
    said = any(key in values for key in ("migration_port_min", "migration_port_max"))
    where = f"/{QEMU}: migration_port_min, migration_port_max" if said else "default of qemu.conf"
    if theirs != (first, last):
        origin = f"{origin} ({where}: {theirs[0]}-{theirs[1]})"
    uses = [PortUse(purpose=purpose, first=first, last=max(first, last), origin=origin) for purpose in _STREAMS]
    if theirs != (first, last):
        uses.append(PortUse(purpose="libvirt-streams", first=theirs[0], last=max(theirs), origin=where))
    return uses


_STREAMS = ("stream", "disks")
