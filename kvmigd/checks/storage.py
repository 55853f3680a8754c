"""Storage: the same, at the same path, on both hosts."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.case import Case, blocks
from kvmigd.model.finding import Finding
from kvmigd.model.guest import Disk
from kvmigd.model.mounts import MountFact


def storage_path(case: Case) -> Iterator[Finding]:
    """Every disk, backing file, kernel and firmware of the guest exists on the destination, at the same path."""
    there = {fact.path: fact for fact in case.destination.paths}
    for path, what in _wanted(case):
        fact = there.get(path)
        if fact is None or not fact.exists:
            point = fact.mount.point if fact and fact.mount else "/"
            yield blocks(
                "storage.path",
                f"{path} ({what}) is not there on {case.there}.",
                host=case.there,
                subject=path,
                expected=f"the file that {case.here} has",
                found=fact.problem if fact else "missing",
                remedy=_mount_remedy(case, path, point),
            )


def storage_mount(case: Case) -> Iterator[Finding]:
    """What is mounted where the disks lie is the same storage on both hosts."""
    here = {fact.path: fact for fact in case.source.paths}
    there = {fact.path: fact for fact in case.destination.paths}
    told: set[tuple[str, str]] = set()
    for path, what in _wanted(case):
        mine, theirs = here.get(path), there.get(path)
        if mine is None or theirs is None or not theirs.exists or mine.mount is None or theirs.mount is None:
            continue
        if not mine.mount.shared and not theirs.mount.shared:
            continue  # a local file, which storage.shared judges
        if _identity(mine.mount) != _identity(theirs.mount) and (mine.mount.point, theirs.mount.point) not in told:
            told.add((mine.mount.point, theirs.mount.point))
            yield blocks(
                "storage.mount",
                f"{path} ({what}) lies on different storage on {case.there}.",
                host=case.there,
                subject=mine.mount.point,
                expected=_describe(mine.mount),
                found=_describe(theirs.mount),
                remedy=_mount_remedy(case, path, theirs.mount.point),
            )


def storage_shared(case: Case) -> Iterator[Finding]:
    """Disks that the guest writes to lie on storage that libvirt takes for shared, or on block devices."""
    here = {fact.path: fact for fact in case.source.paths}
    for disk in case.guest.local_disks:
        if disk.readonly:
            continue
        for path in disk.paths[:1]:
            fact = here.get(path)
            if fact is None or fact.is_block or fact.mount is None or fact.mount.shared:
                continue
            yield blocks(
                "storage.shared",
                f"{path} ({_name(disk)}) is on storage of {case.here} alone.",
                host=case.here,
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
    here = {fact.path: fact for fact in case.source.paths}
    mount = here[path].mount if path in here else None
    if mount is None or not mount.shared:
        return f"Put {path} where both hosts have it, on shared storage"
    if mount.point == point_there:
        return f"On {case.there}: umount {mount.point} && mount -t {_type(mount)} {mount.source} {mount.point}"
    return f"On {case.there}: mount -t {_type(mount)} {mount.source} {mount.point}"


def _type(mount: MountFact) -> str:
    return mount.fs_type.removeprefix("fuse.")
