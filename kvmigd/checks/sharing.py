"""Disks that libvirt takes for safe to migrate: shared ones, and caches that do not go stale.

libvirt decides in qemuMigrationSrcIsSafe (src/qemu/qemu_migration.c), on the source and for the top layer alone: a disk
without a medium, one that is only read and one that is copied along are safe; so are network disks. A file must lie on
a file system of its list (virFileIsSharedFS), an NVMe disk never is safe. Then the cache: none and directsync are safe,
and shareable disks; on GFS2, OCFS2 and Ceph any is, and elsewhere too where QEMU can drop its cache at the end.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check, Way
from kvmigd.checks.needs import copied, name_of, quoted
from kvmigd.checks.places import described, is_common, mount_of
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Local
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.guest import Disk
from kvmigd.model.mounts import MountFact

SHARED = Check(
    id="storage.shared",
    severity=Severity.BLOCK,
    title="libvirt takes the storage of disks that the guest writes to for shared.",
    why="libvirt refuses a migration without shared storage as unsafe, even where it is shared in truth: SMB 2 and 3, "
    "ceph-fuse, sshfs, 9p.",
    known="The type of the mount on which the disk lies, by libvirt's own list, and shared_filesystems in qemu.conf.",
    remedy="shared_filesystems in /etc/libvirt/qemu.conf on both hosts (libvirt 10.10 and later); or move the disk.",
    ways=(Way.COPY,),
)
LOCAL = Check(
    id="storage.local",
    severity=Severity.BLOCK,
    title="No disk that the guest writes to is on storage of its host alone.",
    why="The destination has another disk at that path, or none; libvirt refuses such a migration as unsafe.",
    known="The kind of the disk, and the type of the mount on which it lies.",
    remedy="Copy the disks along (copy_disks), or move the disk to shared storage.",
    ways=(Way.COPY,),
)
CACHE = Check(
    id="storage.cache",
    severity=Severity.BLOCK,
    title="No disk is cached in a way that the destination could read old data.",
    why="libvirt refuses, for what the destination's kernel has cached of the disk may be older than what is on it.",
    known="The disks' cache modes and file systems, and the versions of libvirt and QEMU on the source.",
    remedy="<driver cache='none'/> in the guest's definition; it counts from its next start on.",
    ways=(Way.COPY, Way.SHUTDOWN),
)

KNOWS_FOLDERS = 10_008_000
"""The first libvirt that may know shared_filesystems; those that do not ignore it."""
DROPS_CACHE = (5_007_000, 4_000_000)
"""The first libvirt, and the first QEMU, with which any cache mode is safe (QEMU_CAPS_MIGRATION_FILE_DROP_CACHE)."""
_COHERENT = ("gfs2", "ocfs2", "ceph")
"""virFileIsClusterFS."""


@rule(Scope.GUEST, reads="guest look mounts hypervisor", tells=(SHARED, LOCAL))
def storage_shared(local: Local) -> Iterator[Finding]:
    """Disks that the guest writes to lie on storage that libvirt takes for shared, or on block devices."""
    for disk in local.guest.disks:
        if disk.readonly or (not disk.layers and not disk.paths):
            continue
        if disk.kind == "file":
            mount = _mount(local, disk)
            if mount is None or mount.shared or _is_listed(local, disk.paths[0]) or copied(local, disk):
                continue
            yield _unshared(local, disk, mount)
        elif disk.kind in _ALONE:
            yield from _alone(local, disk)


_ALONE = ("nvme", "dir", "vhostuser", "vhostvdpa")


def _mount(local: Local, disk: Disk) -> MountFact | None:
    fact = local.paths_here.get(disk.paths[0]) if disk.paths else None
    return None if fact is None or fact.is_block else mount_of(local.source, fact)


def _is_listed(local: Local, path: str) -> bool:
    """Whether libvirt has been told to take its folder for shared."""
    hypervisor = local.source.state.hypervisor
    folders = hypervisor.settings.shared_filesystems
    return (
        bool(folders)
        and hypervisor.libvirt >= KNOWS_FOLDERS
        and any(path == folder or path.startswith(f"{folder.rstrip('/')}/") for folder in folders if folder)
    )


def _unshared(local: Local, disk: Disk, mount: MountFact) -> Finding:
    path, name = disk.paths[0], name_of(disk)
    if is_common(mount):
        return SHARED.finding(
            f"libvirt does not take the storage of {path} ({name}) for shared.",
            host=local.here,
            subject=path,
            expected="a file system that libvirt takes for shared (NFS, GFS2, OCFS2, GlusterFS, CephFS …)",
            found=described(mount),
            remedy="With libvirt 10.10 and later, on both hosts: shared_filesystems = [ "
            f'"{mount.point}" ] in /etc/libvirt/qemu.conf, and restart libvirtd (virtqemud); '
            "else move the disk to such a file system",
        )
    return LOCAL.finding(
        f"{path} ({name}) is on storage of {local.here} alone.",
        host=local.here,
        subject=path,
        expected="shared storage (NFS, GFS2, OCFS2, GlusterFS, CephFS …), or a block device that both hosts have",
        found=described(mount),
        remedy=f"kvmigctl migrate with the disks copied along; or on {local.here}, to move the disk to shared storage: "
        f"virsh blockcopy {quoted(local.guest)} {disk.target} --dest PATH --pivot --wait --transient-job",
    )


def _alone(local: Local, disk: Disk) -> Iterator[Finding]:
    what, severity = {
        "nvme": ("an NVMe disk of the host's", Severity.BLOCK),
        "dir": ("a folder of the host's", Severity.BLOCK),
        "vhostuser": ("served by a process of the host's (vhost-user)", Severity.WARN),
        "vhostvdpa": ("a vDPA device of the host's", Severity.BLOCK),
    }[disk.kind]
    layer = disk.layers[0] if disk.layers else None
    subject = (layer.address or layer.path) if layer is not None else ""
    yield LOCAL.finding(
        f"{name_of(disk)} is {what}.",
        host=local.here,
        subject=subject or disk.target,
        expected="a disk that both hosts have",
        found=subject or disk.kind,
        remedy=f"Move it to shared storage; or see that the destination serves the same disk at {subject}"
        if severity is Severity.WARN
        else f"On {local.here}: virsh blockcopy {quoted(local.guest)} {disk.target} --dest PATH --pivot --wait "
        "--transient-job, to shared storage",
        severity=severity,
        basis=Basis.ASSUMED if severity is Severity.WARN else Basis.COMPARED,
    )


@rule(Scope.GUEST, reads="guest look mounts hypervisor", tells=(CACHE,))
def storage_cache(local: Local) -> Iterator[Finding]:
    """No disk is cached in a way that libvirt refuses."""
    hypervisor = local.source.state.hypervisor
    if hypervisor.libvirt >= DROPS_CACHE[0] and hypervisor.qemu >= DROPS_CACHE[1]:
        return
    if not hypervisor.libvirt or not hypervisor.qemu:
        return
    for disk in local.guest.disks:
        if disk.cache in ("none", "directsync") or disk.readonly or disk.shareable or disk.kind == "network":
            continue
        if (not disk.layers and not disk.paths) or copied(local, disk):
            continue
        mount = _mount(local, disk) if disk.kind == "file" else None
        if mount is not None and mount.fs_type in _COHERENT:
            continue
        yield CACHE.finding(
            f"{name_of(disk)} is cached on {local.here} (cache='{disk.cache or 'default'}').",
            host=local.here,
            subject=disk.target,
            expected="cache='none' or 'directsync', or libvirt 5.7 and QEMU 4.0, which drop what is cached",
            found=disk.cache or "default",
            remedy=f"On {local.here}: virsh edit {quoted(local.guest)}: <driver cache='none'/> for {disk.target}; "
            "then shut the guest down and start it",
        )
