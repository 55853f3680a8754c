"""Mounted file systems."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from kvmigd.model.subject import Subject


class MountKind(StrEnum):
    """What is behind a mount."""

    NETWORK = "network"
    """A server on the network has the data: NFS, SMB, sshfs, 9p, virtiofs …"""
    CLUSTER = "cluster"
    """Several hosts mount the same devices or servers together: GFS2, OCFS2, GlusterFS, Ceph, Lustre, GPFS …"""
    DISK = "disk"
    """A file system on a block device of this host: ext4, XFS, btrfs …"""
    STACKED = "stacked"
    """Made of other mounts: overlay, autofs, fuse-overlayfs …"""
    MEMORY = "memory"
    """tmpfs and its like: gone with a reboot."""
    KERNEL = "kernel"
    """The kernel's own: proc, sysfs, cgroup2 …"""
    OTHER = "other"
    """A type that is not known here."""

    @property
    def is_remote(self) -> bool:
        """Others can have the same data, and asking for it can hang."""
        return self in (MountKind.NETWORK, MountKind.CLUSTER)


class Persistence(StrEnum):
    """Whether a mount is there again after a reboot."""

    FSTAB = "fstab"
    UNIT = "unit"
    """A mount unit of systemd's that is enabled or pulled in."""
    AUTOFS = "autofs"
    """Mounted when it is used, by autofs or an automount unit."""
    HAND = "hand"
    """Nothing mounts it again."""
    NATURE = "nature"
    """The kernel, systemd or a service makes it at each boot; it is no storage."""
    UNKNOWN = "unknown"


class Space(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Room in a file system, statvfs(3), in steps of about a hundredth of its size so that noise is no change."""

    total: int
    """Bytes."""
    free: int
    """Bytes that users without privileges may still write (f_bavail)."""
    files_free: int = 0
    """Files that can still be made (f_favail); 0 where the file system does not count them."""


class MountFact(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A mounted file system, from mountinfo (proc_pid_mountinfo(5)), octal escapes undone."""

    point: str
    fs_type: str
    source: str
    root: str = "/"
    id: int = 0
    parent: int = 0
    device: str = ""
    """major:minor of the file system (st_dev)."""
    options: tuple[str, ...] = ()
    """Of this mount, sorted."""
    super_options: tuple[str, ...] = ()
    """Of the file system, sorted: `vers=4.2`, `hard`, `sec=sys` …"""
    propagation: tuple[str, ...] = ()
    """`shared:N`, `master:N`, `propagate_from:N`, `unbindable`; empty for private."""
    kind: MountKind = MountKind.OTHER
    shared: bool = False
    """libvirt takes a file system of this type for shared (virFileIsSharedFSType)."""
    covered: bool = False
    """Another mount lies over it, at the same place or further up, so that no path leads into it."""
    deleted: bool = False
    """What is mounted, or the place where it is mounted, was removed (`//deleted` in mountinfo)."""
    persistence: Persistence = Persistence.UNKNOWN
    space: Space | None = None
    """None where it was not asked: it is asked where guests can lie."""
    problem: str = ""
    """Why the storage behind it cannot be used (it hangs, it is stale) or why that is not known; else empty."""
    problem_since_usec: int = 0

    @property
    def key(self) -> str:
        """Its ID and place: two mounts can be at one place."""
        return f"{self.id}:{self.point}"

    @property
    def is_storage(self) -> bool:
        """Disks of guests can lie on it."""
        return self.kind in (MountKind.NETWORK, MountKind.CLUSTER, MountKind.DISK, MountKind.OTHER)


class Mounts(Subject, frozen=True, kw_only=True):
    """All mounts, in the kernel's order."""

    mounts: tuple[MountFact, ...] = ()
