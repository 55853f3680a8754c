"""Mounted file systems, from /proc/self/mountinfo (proc_pid_mountinfo(5))."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from kvmigd.model.mounts import MountFact

SHARED_TYPES = frozenset(
    {
        *("nfs", "nfs4", "gfs2", "ocfs2", "afs", "cifs", "smb3", "ceph", "gpfs", "acfs", "beegfs"),
        *("fuse.glusterfs", "fuse.quobyte"),
    }
)
"""What libvirt takes for shared: virFileIsSharedFS in libvirt's src/util/virfile.c goes by the statfs magic, and for
FUSE by the type in the mount table."""

_ESCAPE = re.compile(r"\\([0-7]{3})")


def unescape(text: str) -> str:
    """Undo mountinfo's octal escapes (space, tab, newline, backslash and `#`)."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def parse_line(line: str) -> MountFact | None:
    """One line of mountinfo; None where it is not one."""
    left, separator, right = line.partition(" - ")
    fields, tail = left.split(" "), right.split(" ")
    if not separator or len(fields) < 6 or len(tail) < 2:
        return None
    fs_type = tail[0]
    return MountFact(
        point=unescape(fields[4]),
        root=unescape(fields[3]),
        fs_type=fs_type,
        source=unescape(tail[1]),
        options=tuple(sorted(fields[5].split(","))),
        shared=fs_type in SHARED_TYPES,
    )


def parse(text: str) -> tuple[MountFact, ...]:
    """All mounts, in the kernel's order, so that a later mount on the same point covers an earlier one."""
    return tuple(mount for line in text.splitlines() if (mount := parse_line(line)) is not None)


def read(path: Path = Path("/proc/self/mountinfo")) -> tuple[MountFact, ...]:
    """The mounts that this process sees."""
    return parse(path.read_text(encoding="utf-8", errors="surrogateescape"))


def containing(path: str, mounts: Iterable[MountFact]) -> MountFact | None:
    """The mount that a path is on: the deepest one, and of those on one point the last."""
    best: MountFact | None = None
    for mount in mounts:
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best
