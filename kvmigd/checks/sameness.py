"""Whether two hosts have the same storage at a path: file systems and block devices by what they call themselves."""

from __future__ import annotations

import posixpath
import re
from enum import StrEnum
from typing import NamedTuple

from kvmigd.checks.view import Hosts, HostView
from kvmigd.host.storage.filesystems import split_source
from kvmigd.model.mounts import MountFact
from kvmigd.model.storage import BlockDevice, DeviceKind, FileSystemIdentity, PathFact

_FAMILIES = {
    "nfs4": "nfs",
    "fuse.glusterfs": "glusterfs",
    "fuse.ceph": "ceph",
    "fuse.ceph-fuse": "ceph",
    "smb3": "cifs",
    "smbfs": "cifs",
}
_LUKS = re.compile(r"(CRYPT-[^-]+-[0-9a-fA-F]{32})-.*")


class Sameness(StrEnum):
    """What a comparison says."""

    SAME = "same"
    DIFFERENT = "different"
    UNKNOWN = "unknown"
    """Neither can be told: one of the two does not say enough of itself."""


class _Compared(NamedTuple):
    """What two mounts are to each other, whatever path on them is asked about."""

    mine: MountFact
    theirs: MountFact
    """Kept, so that their numbers (`id`) stay theirs."""
    systems: Sameness
    places: bool
    """A path leads to the same place in both."""
    numbers: bool
    """The file systems have the same number, and so have files in them."""


_COMPARED_LIMIT = 4096


def of_files(path: str, hosts: Hosts, mine: tuple[PathFact, MountFact], theirs: tuple[PathFact, MountFact]) -> Sameness:
    """Whether a file on a mount of one host is the file at the same path of the other."""
    known: dict[tuple[int, int], _Compared] = hosts.__dict__.setdefault("_compared", {})
    key = id(mine[1]), id(theirs[1])
    found = known.get(key)
    if found is None:
        if len(known) >= _COMPARED_LIMIT:
            known.clear()
        found = known[key] = _compared(path, hosts, mine[1], theirs[1])
    if found.systems is Sameness.DIFFERENT or found.places:
        return found.systems
    # Servers show one folder under several names (NFS 3 and 4), but a file's number is the same under all of them.
    same = found.numbers and bool(mine[0].inode) and mine[0].inode == theirs[0].inode
    return Sameness.SAME if same else Sameness.DIFFERENT


def _compared(path: str, hosts: Hosts, mine: MountFact, theirs: MountFact) -> _Compared:
    one, other = identity(hosts.source, mine), identity(hosts.destination, theirs)
    return _Compared(
        mine,
        theirs,
        of_filesystems(one, other),
        _place(path, mine, one) == _place(path, theirs, other),
        bool(one.uuid) and one.uuid == other.uuid,
    )


def identity(host: HostView, mount: MountFact) -> FileSystemIdentity:
    """What the host says of the mount; where it has not said anything, what the mount table says."""
    known = host.filesystems.get(mount.point)
    if known is not None and known.fs_type == mount.fs_type:
        return known
    server, export = split_source(mount.source)
    return FileSystemIdentity(
        point=mount.point, fs_type=mount.fs_type, server=server, export=export or mount.source, root=mount.root
    )


def family(fs_type: str) -> str:
    """File systems that are one and the same behind several drivers."""
    return _FAMILIES.get(fs_type, fs_type.removeprefix("fuse."))


def of_filesystems(one: FileSystemIdentity, other: FileSystemIdentity) -> Sameness:
    """Whether two mounts are of one file system, whatever folder of it."""
    kind = family(one.fs_type)
    if kind != family(other.fs_type):
        return Sameness.DIFFERENT
    if one.lock_table and other.lock_table and one.lock_table != other.lock_table:
        return Sameness.DIFFERENT
    if one.uuid and other.uuid and _is_comparable(kind, one, other):
        return Sameness.SAME if one.uuid == other.uuid else Sameness.DIFFERENT
    if kind == "glusterfs":
        return _gluster(one, other)
    if kind == "ceph" and not (one.server and one.server == other.server):
        return _met(one.addresses, other.addresses)
    if one.server or other.server:
        return _servers(one, other)
    if one.devices and other.devices:
        return Sameness.SAME if set(one.devices) == set(other.devices) else Sameness.DIFFERENT
    if one.export and other.export:  # a tag, or the name of a cluster's own
        return Sameness.SAME if one.export == other.export else Sameness.DIFFERENT
    return Sameness.UNKNOWN


def _is_comparable(kind: str, one: FileSystemIdentity, other: FileSystemIdentity) -> bool:
    # NFS 3 and 4 make different numbers of one file system.
    return kind != "nfs" or one.fs_type == other.fs_type


def _servers(one: FileSystemIdentity, other: FileSystemIdentity) -> Sameness:
    """By server; a server can have several names and addresses, but the addresses of one name meet."""
    if one.server == other.server or _met(one.addresses, other.addresses) is Sameness.SAME:
        return Sameness.SAME
    return Sameness.DIFFERENT


def _met(one: tuple[str, ...], other: tuple[str, ...]) -> Sameness:
    if not one or not other:
        return Sameness.UNKNOWN
    return Sameness.DIFFERENT if set(one).isdisjoint(other) else Sameness.SAME


def _gluster(one: FileSystemIdentity, other: FileSystemIdentity) -> Sameness:
    """By bricks, else by the volume's name and server; any server of the pool can be named when it is mounted."""
    if one.export.partition("/")[0] != other.export.partition("/")[0]:
        return Sameness.DIFFERENT
    if one.devices and other.devices:
        return Sameness.SAME if set(one.devices) == set(other.devices) else Sameness.DIFFERENT
    return Sameness.SAME if one.server == other.server else Sameness.UNKNOWN


def _place(path: str, mount: MountFact, known: FileSystemIdentity) -> str:
    """Where the path is in the file system, seen from its server."""
    kind = family(mount.fs_type)
    export = known.export
    if kind == "ceph":
        export = export.rpartition("=")[2]  # the file system's name, which may be left out
    elif kind == "glusterfs":
        export = export.strip("/")
    elif kind == "cifs":
        export = export.lower()
    elif known.uuid and not known.server:
        export = ""  # the device's name here
    root = mount.root
    if root != "/" and export.rstrip("/").endswith(root):
        root = "/"  # the kernel's NFS client names the folder in both places
    inside = path[len(mount.point) :] if mount.point != "/" else path
    return posixpath.normpath(f"/{export}/{root}/{inside}").replace("//", "/")


def of_devices(mine: tuple[HostView, PathFact], theirs: tuple[HostView, PathFact]) -> Sameness:
    """Whether two block devices are one: by what the disk, the volume or the array calls itself."""
    one, other = (_named(host, fact.device) for host, fact in (mine, theirs))
    if one and other:
        return Sameness.SAME if one == other else Sameness.DIFFERENT
    # What is on it can be a copy, so that its UUID says only where two are not the same.
    on_one, on_other = (device_at(host, fact.device) for host, fact in (mine, theirs))
    if on_one is not None and on_other is not None and on_one.fs_uuid and on_other.fs_uuid:
        return Sameness.UNKNOWN if on_one.fs_uuid == on_other.fs_uuid else Sameness.DIFFERENT
    return Sameness.UNKNOWN


def device_at(host: HostView, number: str) -> BlockDevice | None:
    """The block device with that major:minor."""
    return _devices(host)[0].get(number)


def disks_below(host: HostView, number: str) -> list[BlockDevice]:
    """The device with that major:minor and everything it is made of; a multipath map ends it."""
    by_number, by_name = _devices(host)
    found: list[BlockDevice] = []
    waiting = [by_number.get(number)]
    while waiting:
        device = waiting.pop(0)
        if device is not None and device not in found:
            found.append(device)
            if device.kind is not DeviceKind.MULTIPATH:
                waiting += [by_name.get(name) for name in device.slaves]
    return found


def _devices(host: HostView) -> tuple[dict[str, BlockDevice], dict[str, BlockDevice]]:
    known: tuple[dict[str, BlockDevice], dict[str, BlockDevice]] | None = host.__dict__.get("_block_devices")
    if known is None:
        all_of_them = host.state.storage.devices
        known = {one.number: one for one in all_of_them}, {one.name: one for one in all_of_them}
        host.__dict__["_block_devices"] = known
    return known


def _named(host: HostView, number: str) -> str:
    by_number, by_name = _devices(host)
    device = by_number.get(number)
    return "" if device is None else name_of(device, by_name)


def name_of(device: BlockDevice, by_name: dict[str, BlockDevice], depth: int = 0) -> str:
    """What the device is called on every host that has it; empty where it has no such name."""
    if device.wwid:
        return device.wwid
    if device.dm_uuid.startswith("LVM-"):
        return device.dm_uuid
    if found := _LUKS.fullmatch(device.dm_uuid):
        return found[1]
    if device.kind is DeviceKind.PARTITION and depth < 8:
        number = re.search(r"\d+$", device.name)
        of_map = re.match(r"part(\d+)-", device.dm_uuid)
        parents = [by_name[name] for name in device.slaves if name in by_name]
        parent = name_of(parents[0], by_name, depth + 1) if len(parents) == 1 else ""
        which = of_map[1] if of_map else number[0] if number else ""
        return f"{parent} partition {which}" if parent and which else ""
    return f"serial {device.serial}" if device.serial else ""


def called(host: HostView, number: str) -> str:
    """A block device for people."""
    device = device_at(host, number)
    if device is None:
        return f"a device {number} that tells nothing of itself"
    return _named(host, number) or f"{device.name}, which has no WWID"
