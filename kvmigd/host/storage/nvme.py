"""NVMe namespaces: names and controllers."""

from __future__ import annotations

import re

from kvmigd.host.storage import attributes
from kvmigd.model.storage import Multipath

_PATH = re.compile(r"nvme(\d+)c(\d+)n(\d+)")
"""A namespace by way of one controller; the kernel makes one device, nvme1n1, of all of them."""


def wwid(device: str) -> str:
    """The name of a namespace, given its folder in sysfs: as the kernel's `wwid`, or put together in its order."""
    if found := attributes.text(f"{device}/wwid"):
        return found
    if any((uuid := attributes.text(f"{device}/uuid")).replace("-", "").strip("0")):
        return f"uuid.{uuid}"
    for name in ("nguid", "eui"):
        number = re.sub(r"[^0-9a-fA-F]", "", attributes.text(f"{device}/{name}")).lower()
        if number.strip("0"):
            return f"eui.{number}"
    return ""


def transport(device: str) -> str:
    """nvme for one in this machine, nvme-tcp, nvme-rdma or nvme-fc for one over a network."""
    for controller in controllers(device):
        found = attributes.text(f"{controller}/transport")
        if found:
            return "nvme" if found == "pcie" else f"nvme-{found}"
    return "nvme"


def state(device: str) -> str:
    """`live` if one of its controllers is, else the word of the first one."""
    words = [word for controller in controllers(device) if (word := attributes.text(f"{controller}/state"))]
    return "live" if "live" in words else next(iter(words), "")


def controllers(device: str) -> list[str]:
    """Folders of the controllers by which a namespace is reached: the one above it, or those of its subsystem."""
    above = f"{device}/device"
    if attributes.text(f"{above}/transport"):
        return [above]
    return [f"{above}/{name}" for name in attributes.names(above) if re.fullmatch(r"nvme\d+", name)]


def serial(device: str) -> str:
    """The serial number of the machine that the namespace is in."""
    above = f"{device}/device"
    return attributes.text(f"{above}/serial") or next(
        (found for controller in controllers(device) if (found := attributes.text(f"{controller}/serial"))), ""
    )


def multipaths(root: str) -> tuple[Multipath, ...]:
    """Namespaces that the kernel itself reaches over several controllers (nvme_core.multipath)."""
    folder = f"{root}/sys/class/block"
    paths: dict[str, list[str]] = {}
    for name in attributes.names(folder):
        if found := _PATH.fullmatch(name):
            paths.setdefault(f"nvme{found[1]}n{found[3]}", []).append(name)
    return tuple(
        Multipath(
            name=head,
            wwid=wwid(f"{folder}/{head}") or head,
            device=head,
            paths=tuple(names),
            active=tuple(name for name in names if _works(f"{folder}/{name}")),
        )
        for head, names in paths.items()
    )


def _works(path: str) -> bool:
    usable = attributes.text(f"{path}/ana_state") not in ("inaccessible", "persistent-loss")
    return usable and attributes.text(f"{path}/device/state") in ("live", "")
