"""What storage is: identities by which two hosts can tell whether they have the same."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from kvmigd.model.mounts import MountFact
from kvmigd.model.subject import Subject


class DeviceKind(StrEnum):
    """What a block device is."""

    DISK = "disk"
    PARTITION = "partition"
    LVM = "lvm"
    MULTIPATH = "multipath"
    CRYPT = "crypt"
    RAID = "raid"
    LOOP = "loop"
    OTHER = "other"


class BlockDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A block device, from /sys/block and /sys/dev/block."""

    name: str
    """The kernel's: sda, dm-3."""
    number: str
    """major:minor."""
    kind: DeviceKind
    size: int = 0
    """Bytes."""
    transport: str = ""
    """fc, iscsi, sas, nvme, virtio, usb …; empty where it is not known or not one."""
    wwid: str = ""
    """What the device calls itself to every host: SCSI VPD page 0x83 (naa., eui., t10.), NVMe NGUID, EUI64 or UUID."""
    serial: str = ""
    dm_name: str = ""
    dm_uuid: str = ""
    """device-mapper's: LVM-<VG UUID><LV UUID>, mpath-<WWID>, CRYPT-LUKS2-<UUID>-<name>."""
    fs_uuid: str = ""
    """UUID of the file system or volume on it, from udev's database."""
    fs_type: str = ""
    slaves: tuple[str, ...] = ()
    """What it is made of, by name; down to the disks by following them."""
    state: str = ""
    """SCSI's, NVMe's or md's word for it: running, live, offline, blocked, transport-offline, clean … `suspended` for a
    device-mapper device that holds its I/O back."""
    backing: str = ""
    """The file below a loop device, as the kernel names it."""

    @property
    def key(self) -> str:
        """Its name."""
        return self.name


class Multipath(msgspec.Struct, frozen=True, kw_only=True):
    """A LUN that is reached over several paths."""

    name: str
    wwid: str
    device: str
    """Kernel name of the map, dm-N."""
    paths: tuple[str, ...] = ()
    """Kernel names of all its paths."""
    active: tuple[str, ...] = ()
    """Those that work: their device does, and the kernel has not told of their failure since the daemon watches."""

    @property
    def key(self) -> str:
        """Its WWID."""
        return self.wwid


class IscsiSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session of the kernel's initiator, /sys/class/iscsi_session."""

    name: str
    target: str
    """IQN."""
    portal: str = ""
    """address:port,tag."""
    state: str = ""
    """LOGGED_IN, FAILED or FREE."""
    luns: tuple[str, ...] = ()
    """`LUN=device`."""

    @property
    def key(self) -> str:
        """Its name, sessionN."""
        return self.name


class FcPort(msgspec.Struct, frozen=True, kw_only=True):
    """A Fibre Channel port of this host, /sys/class/fc_host."""

    name: str
    wwpn: str
    wwnn: str = ""
    state: str = ""
    """Online, Linkdown …"""
    speed: str = ""
    fabric: str = ""
    targets: tuple[str, ...] = ()
    """WWPNs of the remote ports that are online."""

    @property
    def key(self) -> str:
        """Its name, hostN."""
        return self.name


class VolumeGroup(msgspec.Struct, frozen=True, kw_only=True):
    """An LVM volume group of which a volume is active here."""

    name: str
    uuid: str
    lock_type: str = ""
    """dlm or sanlock where lvmlockd has it started here; empty where it is local or not known (idm leaves no trace)."""

    @property
    def key(self) -> str:
        """Its UUID."""
        return self.uuid


class Lockspace(msgspec.Struct, frozen=True, kw_only=True):
    """A DLM lockspace that this host has joined."""

    name: str
    id: str = ""
    """Its global ID, which is equal on all members."""
    control: str = ""
    """`recovering` while the kernel waits for other members; empty where nothing is said."""
    members: tuple[str, ...] = ()
    """Node IDs, as dlm_controld has told the kernel."""

    @property
    def key(self) -> str:
        """Its name."""
        return self.name


class FileSystemIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What a mounted file system is, in words that are equal on every host that has the same one mounted."""

    point: str
    fs_type: str
    server: str = ""
    """Host name or addresses as mounted, for network file systems."""
    addresses: tuple[str, ...] = ()
    """What the server's name stood for when it was mounted, where the file system tells."""
    export: str = ""
    """Path, share, volume or subvolume at the server."""
    root: str = "/"
    """What of the file system is mounted there: a folder or subvolume of it."""
    uuid: str = ""
    """fsid, volume id or UUID, from the file system itself."""
    lock_table: str = ""
    """cluster:name of GFS2 and OCFS2."""
    devices: tuple[str, ...] = ()
    """WWIDs of the disks below it; the kernel's names where there are none. Bricks of GlusterFS, host:/path."""
    problem: str = ""
    """Why its identity could not be read; what it lacks is not known then."""

    @property
    def key(self) -> str:
        """Where it is mounted."""
        return self.point


class Storage(Subject, frozen=True, kw_only=True):
    """All of this host's storage, below its mounts."""

    filesystems: tuple[FileSystemIdentity, ...] = ()
    devices: tuple[BlockDevice, ...] = ()
    multipaths: tuple[Multipath, ...] = ()
    iscsi: tuple[IscsiSession, ...] = ()
    fibre_channel: tuple[FcPort, ...] = ()
    volume_groups: tuple[VolumeGroup, ...] = ()
    lockspaces: tuple[Lockspace, ...] = ()
    quorate: bool | None = None
    """Whether the cluster has quorum; None where there is no cluster."""


class PathFact(msgspec.Struct, frozen=True, kw_only=True):
    """A path that a guest needs (an image file, a block device, firmware), as one host sees it."""

    path: str
    """As it was asked for; links in it are followed."""
    exists: bool
    problem: str = ""
    """Why it is not there or does not answer; of an image that is there, why its header could not be read."""
    mount: MountFact | None = None
    """The one on which the path lies as it is written; `device` tells where it ends."""
    device: str = ""
    """major:minor: of the file system for a file, its own for a block device."""
    inode: int = 0
    born_usec: int = 0
    """Birth time (statx(2)), microseconds since 1970; 0 where the file system keeps none."""
    changed_usec: int = 0
    """When its content changed last (mtime), microseconds since 1970."""
    size: int = 0
    """Bytes; of a block device 0."""
    is_block: bool = False
    uid: int = -1
    """Its owner; -1 where it is not known."""
    gid: int = -1
    mode: int = 0
    """Permissions, the lower twelve bits of st_mode."""
    hangs: bool = False
    """Its storage did not answer in time."""
    format: str = ""
    """qcow2, qed, vmdk, vdi, vpc, vhdx, luks or raw; empty where it was not asked or could not be read."""
    backing: str = ""
    """The next layer as the image's header names it, made absolute; empty for the last one. `json:{…}` and network
    disks (`nbd://…`) as they are."""
    data_file: str = ""
    """Where a qcow2 image keeps its data in a file of its own."""
    readable: bool | None = None
    """Whether QEMU's user may read it; None where it was not tried."""
    writable: bool | None = None
    """Whether QEMU's user may write to it; None where it was not tried."""
    barred: str = ""
    """The folder on the way to it that QEMU's user may not enter; libvirt never changes one."""
