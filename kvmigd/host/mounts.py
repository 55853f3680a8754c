"""Mounted file systems, from /proc/PID/mountinfo (proc_pid_mountinfo(5)): parsing, and what they are."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from kvmigd.model.mounts import MountFact, MountKind, Persistence

SHARED_TYPES = frozenset(
    {
        *("nfs", "nfs4", "gfs2", "ocfs2", "afs", "smbfs", "ceph", "gpfs", "acfs", "beegfs", "fhgfs"),
        *("fuse.glusterfs", "fuse.quobyte"),
    }
)
"""What libvirt takes for shared: virFileIsSharedFS in libvirt's src/util/virfile.c goes by the statfs magic, and for
FUSE by the type in the mount table. SMB is a case of its own: see `is_shared`."""

_KINDS: dict[MountKind, str] = {
    MountKind.NETWORK: """nfs nfs4 cifs smb3 smbfs sshfs fuse.sshfs 9p virtiofs afs coda ncpfs webdav davfs fuse.davfs
        fuse.davfs2 fuse.rclone fuse.s3fs fuse.goofys fuse.curlftpfs fuse.nfs fuse.gcsfuse fuse.juicefs fuse.smbnetfs
        fuse.hdfs fuse.xrootdfs fuse.cvmfs2 prl_fs vboxsf vmhgfs fuse.vmhgfs-fuse""",
    MountKind.CLUSTER: """gfs gfs2 ocfs2 glusterfs fuse.glusterfs ceph fuse.ceph fuse.ceph-fuse lustre lustre_lite gpfs
        mmfs beegfs fhgfs acfs pvfs2 orangefs fuse.orangefs moosefs fuse.moosefs fuse.mfs mfs fuse.lizardfs lizardfs
        fuse.saunafs saunafs quobyte fuse.quobyte fuse.seaweedfs fuse.pxfs wekafs weka panfs vxcfs cvfs stornext
        fuse.xtreemfs fuse.bcfs fuse.mapr maprfs""",
    MountKind.DISK: """ext2 ext3 ext4 xfs btrfs bcachefs zfs f2fs jfs reiserfs reiser4 nilfs2 vfat msdos exfat ntfs
        ntfs3 fuseblk hfs hfsplus minix ufs sysv udf iso9660 squashfs erofs cramfs romfs jffs2 ubifs vxfs zonefs
        fuse.zfs fuse.ntfs-3g fuse.exfat""",
    MountKind.STACKED: """overlay overlayfs aufs unionfs autofs ecryptfs shiftfs fuse.fuse-overlayfs fuse.mergerfs
        fuse.unionfs fuse.bindfs fuse.encfs fuse.gocryptfs fuse.lxcfs fuse.gvfsd-fuse fuse.portal fuse.snapfuse
        fuse.squashfuse""",
    MountKind.MEMORY: "tmpfs ramfs devtmpfs hugetlbfs rootfs",
    MountKind.KERNEL: """proc sysfs cgroup cgroup2 devpts mqueue debugfs tracefs securityfs selinuxfs smackfs configfs
        fusectl pstore efivarfs bpf binfmt_misc rpc_pipefs nfsd nsfs pipefs sockfs resctrl binder xenfs functionfs
        dlmfs ocfs2_dlmfs openpromfs spufs pidfs secretmem usbfs bdev cpuset""",
}
_KIND: dict[str, MountKind] = {name: kind for kind, names in _KINDS.items() for name in names.split()}

_DELETED = "//deleted"
_ESCAPE = re.compile(r"\\([0-7]{3})")


def unescape(text: str) -> str:
    """Undo mountinfo's octal escapes (space, tab, newline, backslash and `#`)."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text) if "\\" in text else text


def kind_of(fs_type: str) -> MountKind:
    """What is behind a file system of that type; OTHER for one that is not known here."""
    return _KIND.get(fs_type, MountKind.OTHER)


def is_shared(fs_type: str, super_options: Iterable[str] = ()) -> bool:
    """Whether libvirt takes it for shared.

    The kernel's SMB client answers statfs with SMB2's magic for every protocol but 1.0 (smb2_queryfs), and libvirt
    knows only the old one: it refuses what lies on SMB 2 and 3 as unsafe.
    """
    return fs_type in SHARED_TYPES or (fs_type == "cifs" and "vers=1.0" in super_options)


def parse_line(line: str) -> MountFact | None:
    """One line of mountinfo; None where it is not one. What depends on other lines is not in it."""
    left, separator, right = line.partition(" - ")
    fields, tail = left.split(" "), right.split(" ")
    if not separator or len(fields) < 6 or len(tail) < 2:
        return None
    fs_type = unescape(tail[0])
    point, root = unescape(fields[4]), unescape(fields[3])
    super_options = _options(" ".join(tail[2:]))
    return MountFact(
        id=_number(fields[0]),
        parent=_number(fields[1]),
        device=fields[2],
        root=root.removesuffix(_DELETED) or "/",
        point=point.removesuffix(_DELETED) or "/",
        options=_options(fields[5]),
        super_options=super_options,
        propagation=tuple(fields[6:]),
        fs_type=fs_type,
        source=unescape(tail[1]),
        kind=kind_of(fs_type),
        shared=is_shared(fs_type, super_options),
        deleted=point.endswith(_DELETED) or root.endswith(_DELETED),
    )


@functools.lru_cache(512)
def _options(text: str) -> tuple[str, ...]:
    return tuple(sorted(unescape(option) for option in text.split(",") if option))


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _never_judged(_mount: MountFact, _parent: MountFact | None) -> Persistence:
    return Persistence.UNKNOWN


class MountLines:
    """Parses a table again and again: a mount that has not changed stays the same object, and costs next to nothing."""

    def __init__(self) -> None:
        self._known: dict[bytes, MountFact] = {}
        self._covered: dict[int, tuple[MountFact, MountFact]] = {}

    def forget(self) -> None:
        """Judge all mounts anew at the next call."""
        self._known = {}

    def parse(
        self, data: bytes, *, judge: Callable[[MountFact, MountFact | None], Persistence] = _never_judged
    ) -> tuple[MountFact, ...]:
        """All mounts, in the kernel's order. `judge` gets each new mount and the one that it is mounted on."""
        known, now = self._known, dict[bytes, MountFact]()
        new: list[bytes] = []
        for line in data.split(b"\n"):
            fact = known.get(line)
            if fact is None:
                fact = parse_line(line.decode(errors="surrogateescape"))
                if fact is None:
                    continue
                new.append(line)
            now[line] = fact
        by_id = {fact.id: fact for fact in now.values()}
        for line in new:
            fact = now[line]
            persistence = judge(fact, by_id.get(fact.parent))
            if persistence is not fact.persistence:
                now[line] = by_id[fact.id] = msgspec.structs.replace(fact, persistence=persistence)
        self._known = now
        return self._with_covered(list(now.values()), by_id)

    def _with_covered(self, facts: list[MountFact], by_id: dict[int, MountFact]) -> tuple[MountFact, ...]:
        hidden, before, now = covered(facts, by_id), self._covered, dict[int, tuple[MountFact, MountFact]]()
        for place, fact in enumerate(facts) if hidden else ():
            if id(fact) in hidden:
                entry = before.get(id(fact))
                if entry is None or entry[0] is not fact:
                    entry = fact, msgspec.structs.replace(fact, covered=True)
                now[id(fact)] = entry
                facts[place] = entry[1]
        self._covered = now
        return tuple(facts)


def covered(facts: Sequence[MountFact], by_id: dict[int, MountFact]) -> set[int]:
    """The mounts into which no path leads, by id() of their objects.

    A mount lies over another one that it is mounted on at the same place, and over everything below a folder that it
    is mounted on later than that; what is mounted on a hidden mount is hidden with it.
    """
    places = {(fact.parent, fact.point): fact for fact in facts}
    stacked: set[int] = set()  # something lies on its root
    buried: set[int] = set()  # something lies over a folder on the way to it
    below: dict[tuple[int, str], bool] = {}
    for fact in facts:
        parent = by_id.get(fact.parent)
        if parent is not None and parent is not fact and parent.point == fact.point:
            stacked.add(id(parent))
        folder = fact.parent, fact.point.rpartition("/")[0]
        hidden = below.get(folder)
        if hidden is None:
            hidden = below[folder] = _is_below(folder, places, len(parent.point) if parent is not None else 1)
        if hidden or places[fact.parent, fact.point] is not fact:
            buried.add(id(fact))
    reached = stacked | buried
    while reached:
        further: set[int] = set()
        for fact in facts:
            parent = by_id.get(fact.parent)
            if parent is None or id(parent) not in reached or id(fact) in buried or parent is fact:
                continue
            if id(parent) in buried or parent.point != fact.point:
                buried.add(id(fact))
                further.add(id(fact))
        reached = further
    return stacked | buried


def _is_below(folder: tuple[int, str], places: dict[tuple[int, str], MountFact], end: int) -> bool:
    """Whether a mount with the same parent lies on that folder or on one above it."""
    parent, path = folder
    while len(path) > end:
        if (parent, path) in places:
            return True
        path = path.rpartition("/")[0]
    return False


def parse(text: str) -> tuple[MountFact, ...]:
    """All mounts, in the kernel's order, so that a later mount on the same point covers an earlier one."""
    return MountLines().parse(text.encode(errors="surrogateescape"))


def read(path: Path = Path("/proc/self/mountinfo")) -> tuple[MountFact, ...]:
    """The mounts that this process sees."""
    return MountLines().parse(path.read_bytes())


def containing(path: str, mounts: Iterable[MountFact]) -> MountFact | None:
    """The mount that a path is on: the deepest one that is not covered, and of those on one point the last."""
    best: MountFact | None = None
    for mount in mounts:
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if inside and not mount.covered and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best
