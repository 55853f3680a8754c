"""What libvirt says of the host (libvirt.org/formatcaps.html), and which of its daemons says it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element

import msgspec

from kvmigd.host.definition.xmltext import attribute, children, number, parse_xml, text

_RUN = "run/libvirt"
# The order in which libvirt's library tries them for qemu:///system (remoteGetUNIXSocket in its source).
_DAEMONS = {"virtqemud-sock": "virtqemud", "libvirt-sock": "libvirtd"}


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """The host as libvirt sees it; fields are named as in HypervisorState."""

    host_id: str = ""
    cpu_model: str = ""
    cpu_vendor: str = ""
    cpu_features: tuple[str, ...] = ()
    tsc_hz: int = 0
    tsc_scaling: bool | None = None
    iommu: bool = False
    cells: int = 0
    transports: tuple[str, ...] = ()
    machine_types: tuple[str, ...] = ()
    security_models: tuple[str, ...] = ()


def capabilities_of(xml: str) -> Capabilities:
    """virConnectGetCapabilities' answer. Raises HypervisorFailed on what is no XML."""
    root = parse_xml(xml)
    host = root.find("host")
    cpu = host.find("cpu") if host is not None else None
    tsc = next((one for one in children(cpu, "counter") if one.get("name") == "tsc"), None)
    return Capabilities(
        host_id=text(host, "uuid"),
        cpu_model=text(cpu, "model"),
        cpu_vendor=text(cpu, "vendor"),
        cpu_features=tuple(sorted({one.get("name", "") for one in children(cpu, "feature")})),
        tsc_hz=number(attribute(tsc, "frequency")),
        tsc_scaling={"yes": True, "no": False}.get(attribute(tsc, "scaling")),
        iommu=attribute(host, "support", "iommu") == "yes",
        cells=sum(1 for _ in children(host, "topology/cells/cell")),
        transports=tuple(text(one) for one in children(host, "migration_features/uri_transports/uri_transport")),
        machine_types=tuple(sorted(set(_machine_types(root)))),
        security_models=tuple(
            sorted({f"{text(one, 'model')}:{text(one, 'doi')}" for one in children(host, "secmodel")})
        ),
    )


def _machine_types(root: Element) -> Iterator[str]:
    """An alias is an element of its own, with the name of what it stands for beside it."""
    for arch in children(root, "guest/arch"):
        for machine in (*arch.findall("machine"), *arch.findall("domain/machine")):
            for name in (text(machine), machine.get("canonical", "")):
                if name:
                    yield f"{arch.get('name', '')}/{name}"


def daemon_of(uri: str, *, root: Path = Path("/")) -> str:
    """The daemon that libvirt's library talks to for that URI: virtqemud or libvirtd; empty where it cannot be told.

    The library takes the first socket that is there. Behind `libvirt-sock` can be virtproxyd, which speaks for it,
    but then virtqemud's own socket is there too.
    """
    parts = urlsplit(uri)
    if parts.scheme != "qemu" or parts.netloc or parts.path != "/system":
        return ""
    return next((daemon for name, daemon in _DAEMONS.items() if (root / _RUN / name).is_socket()), "")


def sockets(*, root: Path = Path("/")) -> tuple[Path, ...]:
    """Where a daemon of libvirt's that comes back shows first."""
    return tuple(root / _RUN / name for name in _DAEMONS)
