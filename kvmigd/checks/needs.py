"""What a guest needs of its hosts' storage: paths, what each is for, and where it lies now."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

import msgspec

from kvmigd.checks.view import HostView, Local
from kvmigd.model.guest import Disk, Guest
from kvmigd.model.mounts import MountFact, MountKind
from kvmigd.model.storage import PathFact

_OPTIONS = ("vers", "soft", "softerr", "nolock", "sec", "context", "local_lock", "fs", "fsid", "subdir")
"""Options without which a mount is another one, or behaves like another one; the rest is the kernel's own choice."""
_MEDIA = ("cdrom", "floppy")


class Need(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One path that QEMU opens."""

    path: str
    what: str
    """vda, backing file of vda, cdrom sda, boot file …"""
    disk: Disk | None = None
    written: bool = False
    """The guest writes to it."""
    top: bool = False
    """It is the disk itself, and nothing below it."""

    @property
    def is_medium(self) -> bool:
        """It can be taken out of its drive."""
        return self.disk is not None and self.disk.device in _MEDIA


def needs(local: Local) -> tuple[Need, ...]:
    """All paths that must be there on the destination, layers that only the images' headers name among them.

    What is copied along is not: see `copied`. It is put together once for a guest, however many peers are asked about.
    """
    known: tuple[Need, ...] | None = local.__dict__.get("_needs")
    if known is None:
        known = local.__dict__["_needs"] = tuple(_needs(local))
    return known


def _needs(local: Local) -> Iterator[Need]:
    seen: set[str] = set()
    for disk in local.guest.local_disks:
        if copied(local, disk):
            continue
        name = name_of(disk)
        data = {layer.data_file for layer in disk.layers[:1] if layer.data_file}
        for path in _chain(disk, local.paths_here):
            if path in seen:
                continue
            seen.add(path)
            top = path == disk.paths[0]
            what = name if top else f"data file of {name}" if path in data else f"backing file of {name}"
            yield Need(path=path, what=what, disk=disk, top=top, written=(top or path in data) and not disk.readonly)
    for path in (*local.guest.files, *local.guest.firmware.acpi_tables):
        if path not in seen:
            seen.add(path)
            yield Need(path=path, what="firmware" if path == local.guest.firmware.loader else "boot file")


def _chain(disk: Disk, facts: dict[str, PathFact]) -> Iterator[str]:
    """The layers that libvirt names, and those that the headers name below them."""
    waiting, seen = list(disk.paths), set()
    while waiting:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        yield path
        fact = facts.get(path)
        if fact is not None:
            waiting += [lower for lower in (fact.data_file, fact.backing) if lower.startswith("/")]


def copied(local: Local, disk: Disk) -> bool:
    """Whether the disk is taken along: it was asked for, and the disk is a file on storage of its host alone."""
    if not local.options.copy_disks or disk.readonly or disk.shareable or disk.kind != "file" or not disk.paths:
        return False
    fact = local.paths_here.get(disk.paths[0])
    return fact is not None and not fact.is_block and fact.mount is not None and not is_common(fact.mount)


def name_of(disk: Disk) -> str:
    """What people call a disk."""
    return disk.target if disk.device == "disk" else f"{disk.device} {disk.target}"


def is_common(mount: MountFact) -> bool:
    """Whether several hosts can have it: by a network, or as a cluster."""
    return mount.shared or mount.kind is MountKind.NETWORK or mount.kind is MountKind.CLUSTER


def mount_of(host: HostView, fact: PathFact) -> MountFact | None:
    """The mount on which a path ends, as it is now: where a link leads elsewhere, that of the file itself."""
    mount = fact.mount
    if mount is None:
        return None
    if fact.device != mount.device and fact.device and mount.device and not fact.is_block:
        # btrfs and overlay give files numbers that no mount has, and then the path says where they are
        mount = _by_device(host).get(fact.device, mount)
    return host.mounts.get(mount.key, mount)


def _by_device(host: HostView) -> dict[str, MountFact]:
    known: dict[str, MountFact] | None = host.__dict__.get("_mounts_by_device")
    if known is None:
        known = {mount.device: mount for mount in reversed(host.state.mounts.mounts) if not mount.covered}
        host.__dict__["_mounts_by_device"] = known
    return known


def containing(host: HostView, path: str) -> MountFact | None:
    """The mount that a path is on, whether the path is there or not."""
    best: MountFact | None = None
    for mount in host.state.mounts.mounts:
        inside = path == mount.point or path.startswith(f"{mount.point.rstrip('/')}/")
        if inside and not mount.covered and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def described(mount: MountFact) -> str:
    """A mount for people."""
    root = f" {mount.root}" if mount.root != "/" else ""
    return f"{mount.source}{root} ({mount.fs_type}) on {mount.point}"


def mount_command(mount: MountFact, *, over: MountFact | None = None) -> str:
    """The command that mounts the same; `over` is what is mounted at that place instead."""
    command = f"mount -t {mount.fs_type.removeprefix('fuse.')}"
    options = [one for one in mount.super_options if one.partition("=")[0] in _OPTIONS]
    if options:
        command += f" -o {shlex.quote(','.join(options))}"
    command += f" {shlex.quote(mount.source)} {shlex.quote(mount.point)}"
    if over is not None and over.point == mount.point:
        return f"umount {shlex.quote(mount.point)} && {command}"
    return command


def listed(names: Iterable[str], *, most: int = 3) -> str:
    """Names for a sentence; what is more than `most` is counted."""
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def version_of(text: str) -> tuple[int, ...]:
    """The numbers at the start of a package's version, its epoch left out: 0.7.3-1 is (0, 7, 3)."""
    upstream = text.rpartition(":")[2] if ":" in text else text
    found = []
    for part in upstream.partition("-")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits or len(digits) > 9:
            break
        found.append(int(digits))
    return tuple(found)


def quoted(guest: Guest) -> str:
    """The guest's name as a shell takes it."""
    return shlex.quote(guest.name)
