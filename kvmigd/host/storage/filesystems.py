"""Identities of mounted file systems, from the mount table, /sys and /proc, and the file systems' own answers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from kvmigd.host import process
from kvmigd.host.storage import attributes, ceph, cluster, devices
from kvmigd.model.mounts import MountFact, MountKind
from kvmigd.model.storage import BlockDevice, FileSystemIdentity

PROBE_SECONDS = 5.0
_BRACKETED = re.compile(r"\[([^\]]*)\]:(.*)", re.DOTALL)
_GLUSTER = ("fuse.glusterfs", "glusterfs")
_CEPH = re.compile(r"[^@]*@([0-9a-fA-F-]*)\.([^=]*)=(.*)", re.DOTALL)
"""USER@FSID.NAME=PATH, since Linux 5.17; the fsid may be left out."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a file system says of itself (probe.py)."""

    point: str = ""
    uuid: str = ""
    bricks: tuple[str, ...] = ()
    problem: str = ""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What the identities of file systems are put together from, read once for all mounts."""

    devices: dict[str, BlockDevice] = {}
    numbers: dict[str, str] = {}
    """Names of devices by major:minor."""
    nfs: dict[str, str] = {}
    """fsid of NFS mounts by major:minor."""
    gfs2: dict[str, tuple[str, str]] = {}
    """Lock table and UUID of GFS2 mounts by major:minor."""
    btrfs: dict[str, str] = {}
    """UUID of btrfs file systems by the name of each of their devices."""
    btrfs_devices: dict[str, tuple[str, ...]] = {}
    """All their devices, by UUID."""
    cluster: str = ""
    ceph: tuple[ceph.Cluster, ...] = ()


def read(root: Path, known: Iterable[BlockDevice]) -> Host:
    """Everything that the kernel tells of its file systems outside of the mount table."""
    by_name = {device.name: device for device in known}
    btrfs = {
        uuid: tuple(attributes.names(f"{root}/sys/fs/btrfs/{uuid}/devices"))
        for uuid in attributes.names(f"{root}/sys/fs/btrfs")
        if len(uuid) == 36
    }
    return Host(
        devices=by_name,
        numbers={device.number: device.name for device in by_name.values()},
        nfs=parse_volumes(attributes.text(f"{root}/proc/fs/nfsfs/volumes")),
        gfs2=_gfs2(root),
        btrfs={name: uuid for uuid, names in btrfs.items() for name in names},
        btrfs_devices=btrfs,
        cluster=cluster.name(root),
        ceph=ceph.clusters(root),
    )


def parse_volumes(text: str) -> dict[str, str]:
    """fsid by device, from /proc/fs/nfsfs/volumes (NV SERVER PORT DEV FSID FSC); the one of a pseudo root is 0:0."""
    found = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 5 and re.fullmatch(r"v\d+", fields[0]) and fields[4] != "0:0":
            found[fields[3]] = fields[4]
    return found


def _gfs2(root: Path) -> dict[str, tuple[str, str]]:
    folder = f"{root}/sys/fs/gfs2"
    return {
        number: (table, attributes.text(f"{folder}/{table}/uuid").lower())
        for table in attributes.names(folder)
        if (number := attributes.text(f"{folder}/{table}/id"))
    }


def identity(mount: MountFact, host: Host, answer: Answer | None = None) -> FileSystemIdentity:
    """What a mount is. `answer` is the file system's own, None where it was not asked."""
    fs_type = mount.fs_type
    reader = next((reader for types, reader in _READERS if fs_type in types), None)
    if reader is not None:
        found = reader(mount, host, answer or Answer())
    elif mount.kind in (MountKind.NETWORK, MountKind.CLUSTER):
        server, path = split_source(mount.source)
        found = _made(mount, server=server, export=path)
    else:
        found = _disk(mount, host, answer or Answer())
    if found.uuid or found.problem or not is_asked(mount, found):
        return found
    if mount.problem:
        problem = f"{mount.point} cannot be asked what it is: {mount.problem}"
    elif answer is None:
        problem = f"{mount.point} is being asked what it is"
    else:
        problem = answer.problem and f"{mount.point} does not tell what it is: {answer.problem}"
    return msgspec.structs.replace(found, problem=problem)


def is_asked(mount: MountFact, found: FileSystemIdentity) -> bool:
    """Whether only the file system itself can tell what it is."""
    if mount.fs_type in _GLUSTER:
        return True
    return mount.kind is MountKind.DISK and not found.uuid and not mount.covered and not mount.deleted


def split_source(source: str) -> tuple[str, str]:
    """Server and path of `host:/path`, `[fe80::1]:/path`, `a,b:/path`; all is path where there is no server."""
    if bracketed := _BRACKETED.fullmatch(source):
        return bracketed[1], bracketed[2]
    server, colon, path = source.partition(":/")
    if colon and "/" not in server:
        return server, f"/{path}"
    server, colon, path = source.partition(":")
    return (server, path) if colon and "/" not in server else ("", source)


def option(mount: MountFact, *names: str) -> str:
    """The value of the first of these options that is set."""
    for name in names:
        for one in (*mount.super_options, *mount.options):
            key, equals, value = one.partition("=")
            if equals and key == name:
                return value
    return ""


def _made(
    mount: MountFact,
    *,
    server: str = "",
    addresses: Sequence[str] = (),
    export: str = "",
    uuid: str = "",
    lock_table: str = "",
    devices: tuple[str, ...] = (),
    problem: str = "",
) -> FileSystemIdentity:
    return FileSystemIdentity(
        point=mount.point,
        fs_type=mount.fs_type,
        server=server,
        addresses=tuple(address for address in addresses if address),
        export=export,
        root=mount.root,
        uuid=uuid,
        lock_table=lock_table,
        devices=devices,
        problem=problem,
    )


def _nfs(mount: MountFact, host: Host, _answer: Answer) -> FileSystemIdentity:
    server, export = split_source(mount.source)
    return _made(
        mount,
        server=server,
        addresses=(option(mount, "addr", "mountaddr"),),
        export=export,
        uuid=host.nfs.get(mount.device, ""),
    )


def _gluster(mount: MountFact, _host: Host, answer: Answer) -> FileSystemIdentity:
    server, volume = split_source(mount.source)
    # `store:vm` and `store:/vm` are the same volume. Without an ID (not replicated) its bricks say which one it is.
    return _made(mount, server=server, export=volume.lstrip("/"), uuid=answer.uuid, devices=answer.bricks)


def _ceph(mount: MountFact, host: Host, _answer: Answer) -> FileSystemIdentity:
    fsid = option(mount, "fsid").lower()
    name = option(mount, "fs", "mds_namespace")
    monitors = option(mount, "mon_addr")
    if found := _CEPH.fullmatch(mount.source):
        server, path = "", found[3]
        fsid, name = found[1].lower() or fsid, found[2] or name
    elif mount.fs_type == "ceph":
        server, _, path = mount.source.rpartition(":/")
        monitors, path = monitors or server, f"/{path}"
    else:  # ceph-fuse calls every cluster `ceph-fuse`
        server, path = "", option(mount, "client_mountpoint") or "/"
    addresses = ceph.addresses(monitors)
    if not fsid:
        fitting = [one.fsid for one in host.ceph if one.fsid and (not addresses or addresses & one.monitors)]
        fsid = fitting[0] if len(set(fitting)) == 1 else ""
    return _made(
        mount,
        server=server,
        addresses=sorted(addresses),
        export=f"{name}={path}" if name else path,
        uuid=fsid,
        problem="" if fsid else "its fsid is neither in the mount's options nor in /etc/ceph: mount it with fsid=",
    )


def _cifs(mount: MountFact, _host: Host, _answer: Answer) -> FileSystemIdentity:
    server, _, share = mount.source.replace("\\", "/").lstrip("/").partition("/")
    # Names of servers and shares are the same in capitals.
    return _made(
        mount, server=server.lower(), addresses=(option(mount, "addr", "ip"),), export=share, uuid=option(mount, "uuid")
    )


def _sshfs(mount: MountFact, _host: Host, _answer: Answer) -> FileSystemIdentity:
    login, path = split_source(mount.source)
    user, at, server = login.rpartition("@")
    if not path.startswith("/"):  # in the home of whoever logs in
        path = f"~{user if at else ''}/{path}".rstrip("/")
    return _made(mount, server=server.strip("[]"), export=path)


def _tagged(mount: MountFact, _host: Host, _answer: Answer) -> FileSystemIdentity:
    if option(mount, "trans") in ("tcp", "rdma", "unix"):
        return _made(mount, server=mount.source, export=option(mount, "aname"))
    return _made(mount, export=mount.source)  # a tag, or a device of its cluster


def _lustre(mount: MountFact, _host: Host, _answer: Answer) -> FileSystemIdentity:
    server, _, path = mount.source.rpartition(":/")
    return _made(mount, server=server, export=path)


def _beegfs(mount: MountFact, _host: Host, _answer: Answer) -> FileSystemIdentity:
    return _made(mount, server=option(mount, "sysMgmtdHost"), export=option(mount, "cfgFile") or mount.source)


def _clustered(mount: MountFact, host: Host, _answer: Answer) -> FileSystemIdentity:
    device = _device(mount, host)
    uuid = device.fs_uuid.lower() if device is not None else ""
    table = ""
    if mount.fs_type.startswith("gfs2"):
        known, own = host.gfs2.get(mount.device, ("", ""))
        table, uuid = option(mount, "locktable") or known, own or uuid
    elif uuid:
        # OCFS2's DLM domain is its UUID, in capitals and without dashes.
        table = f"{host.cluster}:{uuid.replace('-', '').upper()}"
    return _made(
        mount,
        export="" if device is not None else mount.source,
        uuid=uuid,
        lock_table=table,
        devices=devices.identities(device.name, host.devices) if device is not None else (),
        problem="" if uuid else f"neither the kernel nor udev tells the UUID of {mount.source}",
    )


def _disk(mount: MountFact, host: Host, answer: Answer) -> FileSystemIdentity:
    device = _device(mount, host)
    if device is None:
        return _made(mount, export=mount.source, uuid=answer.uuid)
    uuid = host.btrfs.get(device.name, "") if mount.fs_type == "btrfs" else ""
    below = [one for name in host.btrfs_devices.get(uuid, (device.name,)) for one in _wwids(name, host)]
    return _made(mount, uuid=uuid or device.fs_uuid.lower() or answer.uuid, devices=tuple(sorted(set(below))))


def _wwids(name: str, host: Host) -> tuple[str, ...]:
    return devices.identities(name, host.devices)


def _device(mount: MountFact, host: Host) -> BlockDevice | None:
    """The block device of a mount; by its source where the file system has a number of its own, like btrfs."""
    name = host.numbers.get(mount.device)
    if name is None and mount.source.startswith("/dev/"):
        last = mount.source.rpartition("/")[2]
        mapped = (one.name for one in host.devices.values() if one.dm_name == last)
        name = last if last in host.devices else next(mapped, None)
    return host.devices.get(name) if name is not None else None


_READERS = (
    (("nfs", "nfs4"), _nfs),
    (_GLUSTER, _gluster),
    (("ceph", "fuse.ceph", "fuse.ceph-fuse"), _ceph),
    (("cifs", "smb3", "smbfs"), _cifs),
    (("fuse.sshfs", "sshfs"), _sshfs),
    (("9p", "virtiofs", "gpfs"), _tagged),
    (("lustre",), _lustre),
    (("beegfs",), _beegfs),
    (("gfs2", "gfs2meta", "ocfs2"), _clustered),
)


async def ask(mounts: Sequence[MountFact], *, seconds: float = PROBE_SECONDS) -> dict[str, Answer]:
    """Ask file systems what they are, by place; by a process that is given up if it has not done within `seconds`."""
    script = str(Path(__file__).with_name("probe.py"))
    arguments = [word for mount in mounts for word in (mount.fs_type, mount.point)]
    try:
        outcome = await process.run((sys.executable, "-I", "-S", script, *arguments), seconds=seconds)
    except OSError as error:
        return {mount.point: Answer(problem=f"{sys.executable} cannot be run: {error.strerror}") for mount in mounts}
    reason = outcome.errors.rpartition("\n")[2] or "no answer"
    missing = Answer(problem=reason if outcome.in_time else f"no answer for {seconds:.0f} s")
    told = {answer.point: answer for line in outcome.output.split(b"\n") if (answer := parse_answer(line))}
    return {mount.point: told.get(mount.point, missing) for mount in mounts}


def parse_answer(line: bytes) -> Answer | None:
    """What probe.py has printed; None where it is not that."""
    try:
        return msgspec.convert(json.loads(line), Answer)
    except (ValueError, RecursionError, msgspec.ValidationError):
        return None
