"""Bridges of this host, from sysfs (Documentation/ABI/testing/sysfs-class-net in the kernel's sources)."""

from __future__ import annotations

from pathlib import Path

from kvmigd.model.links import BridgeFact

_IFF_UP = 0x1
NET = Path("/sys/class/net")


def bridge(name: str, *, net: Path = NET) -> BridgeFact:
    """The link of that name, which should be a bridge that is up and has a port with a carrier."""
    link = net / name
    if not name or "/" in name or not link.is_dir():
        return BridgeFact(name=name, exists=False)
    ports = sorted(port.name for port in (link / "brif").iterdir()) if (link / "brif").is_dir() else []
    return BridgeFact(
        name=name,
        exists=True,
        # Open vSwitch's bridges have no folder of their own, but their device driver says what they are.
        is_bridge=(link / "bridge").is_dir() or "DEVTYPE=bridge" in _text(link / "uevent"),
        up=bool(int(_text(link / "flags") or "0", 16) & _IFF_UP),
        carrier=any(_text(net / port / "carrier") == "1" for port in ports),
        mtu=int(_text(link / "mtu") or "0"),
        uplinks=tuple(port for port in ports if not (net / port / "tun_flags").exists()),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""  # the carrier of a link that is down answers EINVAL; a link can vanish while it is read
