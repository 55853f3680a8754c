"""Storage: the same, at the same path, on both hosts."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check, Way
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, Local
from kvmigd.model.finding import Finding, Severity
from kvmigd.model.guest import Disk
from kvmigd.model.mounts import MountFact

PATH = Check(
    id="storage.path",
    severity=Severity.BLOCK,
    title="Every file that the guest needs is there on the destination, at the same path.",
    why="QEMU on the destination opens disks, backing files, media, kernel and firmware by these paths.",
    known="Both hosts look at every path of the guest's definition and of its images' headers.",
    remedy="Mount the storage on the destination at the same place; eject media that are not needed.",
    ways=(Way.COPY,),
)
MOUNT = Check(
    id="storage.mount",
    severity=Severity.BLOCK,
    title="What is mounted where the disks lie is the same storage on both hosts.",
    why="QEMU would open another disk under the same name, and the guest's writes go to the wrong place.",
    known="Source, root and type of the mounts on both hosts are compared.",
    remedy="Mount on the destination what is mounted on the source, at the same place.",
)
SHARED = Check(
    id="storage.shared",
    severity=Severity.BLOCK,
    title="Disks that the guest writes to lie on storage that libvirt takes for shared, or on block devices.",
    why="libvirt refuses a migration without shared storage as unsafe.",
    known="The type of the mount on which the disk lies, by libvirt's own list.",
    remedy="Move the disk to shared storage; or shared_filesystems in qemu.conf with libvirt 10.10 and later.",
    ways=(Way.COPY,),
)


@rule(Scope.PAIR, reads="guest look", tells=(PATH,))
def storage_path(case: Case) -> Iterator[Finding]:
    """Every disk, backing file, kernel and firmware of the guest exists on the destination, at the same path."""
    if case.look is None:
        return
    there = case.paths_there
    for path, what in _wanted(case):
        fact = there.get(path)
        if fact is None or not fact.exists:
            point = fact.mount.point if fact and fact.mount else "/"
            yield PATH.finding(
                f"{path} ({what}) is not there on {case.there}.",
                host=case.there,
                subject=path,
                expected=f"the file that {case.here} has",
                found=fact.problem if fact else "missing",
                remedy=_mount_remedy(case, path, point),
            )


@rule(Scope.PAIR, reads="guest look", tells=(MOUNT,))
def storage_mount(case: Case) -> Iterator[Finding]:
    """What is mounted where the disks lie is the same storage on both hosts."""
    here = case.paths_here
    there = case.paths_there
    told: set[tuple[str, str]] = set()
    for path, what in _wanted(case):
        mine, theirs = here.get(path), there.get(path)
        if mine is None or theirs is None or not theirs.exists or mine.mount is None or theirs.mount is None:
            continue
        if not mine.mount.shared and not theirs.mount.shared:
            continue  # a local file, which storage.shared judges
        if _identity(mine.mount) != _identity(theirs.mount) and (mine.mount.point, theirs.mount.point) not in told:
            told.add((mine.mount.point, theirs.mount.point))
            yield MOUNT.finding(
                f"{path} ({what}) lies on different storage on {case.there}.",
                host=case.there,
                subject=mine.mount.point,
                expected=_describe(mine.mount),
                found=_describe(theirs.mount),
                remedy=_mount_remedy(case, path, theirs.mount.point),
            )


@rule(Scope.GUEST, reads="guest look", tells=(SHARED,))
def storage_shared(local: Local) -> Iterator[Finding]:
    """Disks that the guest writes to lie on storage that libvirt takes for shared, or on block devices."""
    here = local.paths_here
    for disk in local.guest.local_disks:
        if disk.readonly:
            continue
        for path in disk.paths[:1]:
            fact = here.get(path)
            if fact is None or fact.is_block or fact.mount is None or fact.mount.shared:
                continue
            yield SHARED.finding(
                f"{path} ({_name(disk)}) is on storage of {local.here} alone.",
                host=local.here,
                subject=path,
                expected="a file system that libvirt takes for shared (NFS, GFS2, OCFS2, GlusterFS, CephFS …)",
                found=f"{fact.mount.fs_type} on {fact.mount.point}",
                remedy="Move the disk to shared storage; libvirt 10.10 and later can be told of other shared file "
                "systems: shared_filesystems in /etc/libvirt/qemu.conf on both hosts",
            )


def _wanted(case: Case) -> Iterator[tuple[str, str]]:
    """All paths that the guest needs on the destination, with what each is for."""
    for disk in case.guest.local_disks:
        for depth, path in enumerate(disk.paths):
            yield path, _name(disk) if depth == 0 else f"backing file of {_name(disk)}"
    for path in case.guest.files:
        yield path, "boot file"


def _name(disk: Disk) -> str:
    return disk.target if disk.device == "disk" else f"{disk.device} {disk.target}"


def _identity(mount: MountFact) -> tuple[str, str, str]:
    """What must be equal.

    A file's inode number is not: GlusterFS and NFS clients go on telling that of a file which has been replaced on
    another host until their caches forget it.
    """
    return mount.source, mount.root, mount.fs_type


def _describe(mount: MountFact) -> str:
    return f"{mount.source} ({mount.fs_type}) on {mount.point}"


def _mount_remedy(case: Case, path: str, point_there: str) -> str:
    here = case.paths_here
    mount = here[path].mount if path in here else None
    if mount is None or not mount.shared:
        return f"Put {path} where both hosts have it, on shared storage"
    if mount.point == point_there:
        return f"On {case.there}: umount {mount.point} && mount -t {_type(mount)} {mount.source} {mount.point}"
    return f"On {case.there}: mount -t {_type(mount)} {mount.source} {mount.point}"


def _type(mount: MountFact) -> str:
    return mount.fs_type.removeprefix("fuse.")
