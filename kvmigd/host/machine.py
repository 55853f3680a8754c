"""The machine: firmware, memory and what the kernel allows on it, from /proc, /sys and /dev."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kvmigd.model.system import HugePages, Machine, NumaNode

TEXT_BYTES = 64 << 10
"""No file that is read here is longer; of one that is, the rest is not looked at."""

NODES = "sys/devices/system/node"
POOLS = "sys/kernel/mm/hugepages"
USERFAULTFD = "proc/sys/vm/unprivileged_userfaultfd"
SELINUX = "sys/fs/selinux/enforce"
APPARMOR = "sys/module/apparmor/parameters/enabled"

_TOTAL = re.compile(r"MemTotal:\s+(\d+) kB")
_NODE = re.compile(r"node(\d+)")
_POOL = re.compile(r"hugepages-(\d+)kB")


def text(path: Path) -> str:
    """What a file of the kernel's says, without white space around it; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(TEXT_BYTES).decode(errors="replace").strip("\0 \t\n")
    except OSError:
        return ""


def number(path: Path) -> int:
    """A file with one decimal number; 0 where it says something else."""
    found = text(path)
    return int(found) if re.fullmatch(r"[0-9]{1,18}", found) else 0


def numbered(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[int, Path]]:
    """The entries of a folder that have a number in their name, by their number."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return
    found = {int(match[1]): folder / name for name in names if (match := pattern.fullmatch(name))}
    yield from sorted(found.items())


def machine(root: Path = Path("/")) -> Machine:
    """What the firmware says of the machine. The UUID can be read by root only."""
    dmi = root / "sys/class/dmi/id"
    return Machine(
        vendor=text(dmi / "sys_vendor"),
        product=text(dmi / "product_name") or text(root / "proc/device-tree/model"),
        uuid=text(dmi / "product_uuid").lower(),
        firmware=text(dmi / "bios_version"),
    )


def memory_total(root: Path = Path("/")) -> int:
    """MemTotal in bytes (proc_meminfo(5)); 0 where it is not told."""
    return _kilobytes(text(root / "proc/meminfo"))


def _kilobytes(meminfo: str) -> int:
    found = _TOTAL.search(meminfo)
    return int(found[1][:18]) * 1024 if found else 0


def numa(root: Path = Path("/")) -> tuple[NumaNode, ...]:
    """All NUMA nodes; none where the kernel is built without NUMA."""
    return tuple(
        NumaNode(node=node, cpus=text(folder / "cpulist"), memory=_kilobytes(text(folder / "meminfo")))
        for node, folder in numbered(root / NODES, _NODE)
    )


def hugepages(root: Path = Path("/")) -> tuple[HugePages, ...]:
    """The pools of every node; where the kernel is built without NUMA, those of the machine, as node 0."""
    nodes = [(node, folder / "hugepages") for node, folder in numbered(root / NODES, _NODE)] or [(0, root / POOLS)]
    return tuple(
        HugePages(
            node=node,
            size=size * 1024,
            total=number(pool / "nr_hugepages"),
            free=number(pool / "free_hugepages"),
        )
        for node, folder in nodes
        for size, pool in numbered(folder, _POOL)
    )


def hugepage_files(root: Path = Path("/")) -> tuple[Path, ...]:
    """Where the sizes of the pools are set. A write by a process is an inotify event even in sysfs and procfs."""
    folders = [root / POOLS, *(folder / "hugepages" for _, folder in numbered(root / NODES, _NODE))]
    pools = [pool / "nr_hugepages" for folder in folders for _, pool in numbered(folder, _POOL)]
    return (*pools, root / "proc/sys/vm/nr_hugepages")


def userfaultfd(root: Path = Path("/")) -> bool | None:
    """Whether QEMU, without privileges, can have its page faults told, as post-copy needs it; None: not known.

    The sysctl is there since Linux 5.2, the device since 6.1; who may open it is up to the device's mode and libvirt.
    """
    allowed = text(root / USERFAULTFD)
    if allowed == "1" or (root / "dev/userfaultfd").exists():
        return True
    return False if allowed == "0" else None


def security(root: Path = Path("/")) -> str:
    """Mandatory access control: selinux-enforcing, selinux-permissive, apparmor or none."""
    enforce = text(root / SELINUX)
    if enforce:
        return "selinux-enforcing" if enforce == "1" else "selinux-permissive"
    return "apparmor" if text(root / APPARMOR) == "Y" else "none"
