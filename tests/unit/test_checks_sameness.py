"""Whether two hosts have the same storage, by what it calls itself."""

from __future__ import annotations

import pytest

from kvmigd.checks.sameness import Sameness, of_devices, of_files, of_filesystems
from kvmigd.checks.view import Hosts, HostView
from kvmigd.model.mounts import MountFact
from kvmigd.model.storage import BlockDevice, DeviceKind, FileSystemIdentity, PathFact
from tests.unit.cases import DESTINATION, NFS, SOURCE, changed

SAME, DIFFERENT, UNKNOWN = Sameness.SAME, Sameness.DIFFERENT, Sameness.UNKNOWN


def known(fs_type: str, **fields: object) -> FileSystemIdentity:
    return FileSystemIdentity(point="/srv", fs_type=fs_type, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (known("nfs4", server="nas"), known("nfs4", server="nas"), SAME),
        (known("nfs4", server="nas"), known("nfs4", server="nas2"), DIFFERENT),
        (known("nfs4", server="nas", uuid="1:2"), known("nfs4", server="nas2", uuid="1:2"), SAME),
        (known("nfs4", server="nas", uuid="1:2"), known("nfs4", server="nas", uuid="1:3"), DIFFERENT),
        (known("nfs", server="nas", uuid="1:2"), known("nfs4", server="nas", uuid="9:0"), SAME),
        (known("nfs4", server="nas", addresses=("::1",)), known("nfs4", server="nas2", addresses=("::1",)), SAME),
        (known("nfs4", server="nas"), known("cifs", server="nas"), DIFFERENT),
        (known("cifs", server="nas", export="a"), known("smb3", server="nas", export="A"), SAME),
        (known("fuse.glusterfs", export="vm", uuid="v"), known("glusterfs", export="vm", uuid="v"), SAME),
        (known("fuse.glusterfs", export="vm", uuid="v"), known("fuse.glusterfs", export="vm", uuid="w"), DIFFERENT),
        (
            known("fuse.glusterfs", export="vm", server="a", devices=("a:/b", "b:/b")),
            known("fuse.glusterfs", export="vm", server="b", devices=("b:/b", "a:/b")),
            SAME,
        ),
        (
            known("fuse.glusterfs", export="vm", devices=("a:/b",)),
            known("fuse.glusterfs", export="vm", devices=("c:/b",)),
            DIFFERENT,
        ),
        (known("fuse.glusterfs", export="vm"), known("fuse.glusterfs", export="old"), DIFFERENT),
        (
            known("fuse.glusterfs", export="vm", server="a"),
            known("fuse.glusterfs", export="vm", server="b"),
            UNKNOWN,
        ),
        (known("ceph", uuid="f"), known("fuse.ceph-fuse", uuid="f"), SAME),
        (known("ceph", uuid="f"), known("ceph", uuid="g"), DIFFERENT),
        (known("ceph", uuid="f"), known("ceph"), UNKNOWN),
        (known("ceph", addresses=("a", "b")), known("ceph", addresses=("b", "c")), SAME),
        (known("ceph", addresses=("a",)), known("ceph", addresses=("c",)), DIFFERENT),
        (known("gfs2", uuid="u", lock_table="c:vm"), known("gfs2", uuid="u", lock_table="c:vm"), SAME),
        (known("gfs2", uuid="u", lock_table="c:vm"), known("gfs2", uuid="u", lock_table="d:vm"), DIFFERENT),
        (known("ocfs2", uuid="u"), known("ocfs2", uuid="v"), DIFFERENT),
        (known("ocfs2", devices=("naa.1",)), known("ocfs2", devices=("naa.1",)), SAME),
        (known("ocfs2", devices=("naa.1",)), known("ocfs2", devices=("naa.2",)), DIFFERENT),
        (known("ocfs2"), known("ocfs2", devices=("naa.2",)), UNKNOWN),
        (known("virtiofs", export="tag"), known("virtiofs", export="other"), DIFFERENT),
    ],
)
def test_file_systems(one: FileSystemIdentity, other: FileSystemIdentity, said: Sameness) -> None:
    assert of_filesystems(one, other) is said
    assert of_filesystems(other, one) is said


def with_identity(host: HostView, mount: MountFact, **fields: object) -> HostView:
    identity = FileSystemIdentity(point=mount.point, fs_type=mount.fs_type, root=mount.root, **fields)  # type: ignore[arg-type]
    return changed(host, state__storage__filesystems=(identity,))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("mount", "said"),
    [
        (NFS, SAME),
        (changed(NFS, point="/srv", source="nas:/"), SAME),
        (changed(NFS, source="nas:/guests/sub"), DIFFERENT),
        (changed(NFS, source="nas:/", root="/guests"), SAME),
        (changed(NFS, root="/guests"), SAME),
        (changed(NFS, root="/sub"), DIFFERENT),
        (changed(NFS, super_options=("vers=4.1", "rsize=4096"), options=("noatime",)), SAME),
    ],
)
def test_folders_of_one_server(mount: MountFact, said: Sameness) -> None:
    fact = PathFact(path="/srv/guests/web.qcow2", exists=True)
    assert of_files(fact.path, Hosts(source=SOURCE, destination=DESTINATION), (fact, NFS), (fact, mount)) is said


def test_one_folder_under_two_names() -> None:
    """NFS 4 names exports from a root of its own on; the server's numbers are the same."""
    other = changed(NFS, source="nas:/export/guests")
    here = with_identity(SOURCE, NFS, server="nas", export="/guests", uuid="1:2")
    there = with_identity(DESTINATION, other, server="nas", export="/export/guests", uuid="1:2")
    fact = PathFact(path="/srv/guests/web.qcow2", exists=True, inode=77)
    hosts = Hosts(source=here, destination=there)
    assert of_files(fact.path, hosts, (fact, NFS), (fact, other)) is SAME
    assert of_files(fact.path, hosts, (fact, NFS), (changed(fact, inode=78), other)) is DIFFERENT


def test_clustered_disks_have_other_names_on_each_host() -> None:
    mount = MountFact(point="/srv/guests", fs_type="gfs2", source="/dev/mapper/a", shared=True)
    here = with_identity(SOURCE, mount, uuid="u", lock_table="c:vm")
    there = with_identity(DESTINATION, mount, uuid="u", lock_table="c:vm")
    fact = PathFact(path="/srv/guests/web.qcow2", exists=True)
    other = changed(mount, source="/dev/dm-4")
    assert of_files(fact.path, Hosts(source=here, destination=there), (fact, mount), (fact, other)) is SAME


def host_with(*devices: BlockDevice) -> HostView:
    return changed(SOURCE, state__storage__devices=devices)  # type: ignore[no-any-return]


def disk(name: str, number: str, **fields: object) -> BlockDevice:
    return BlockDevice(name=name, number=number, kind=fields.pop("kind", DeviceKind.DISK), **fields)  # type: ignore[arg-type]


LV = "LVM-" + "a" * 32 + "b" * 32


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (disk("sda", "8:0", wwid="naa.1"), disk("sdq", "8:0", wwid="naa.1"), SAME),
        (disk("sda", "8:0", wwid="naa.1"), disk("sda", "8:0", wwid="naa.2"), DIFFERENT),
        (disk("dm-1", "8:0", dm_uuid=LV), disk("dm-7", "8:0", dm_uuid=LV), SAME),
        (disk("dm-1", "8:0", dm_uuid=LV), disk("dm-1", "8:0", dm_uuid=LV[:-1] + "c"), DIFFERENT),
        (
            disk("dm-1", "8:0", dm_uuid=f"CRYPT-LUKS2-{'0' * 32}-vm"),
            disk("dm-1", "8:0", dm_uuid=f"CRYPT-LUKS2-{'0' * 32}-guests"),
            SAME,
        ),
        (disk("vda", "8:0", serial="one"), disk("vdb", "8:0", serial="one"), SAME),
        (disk("vda", "8:0"), disk("vdb", "8:0", wwid="naa.1"), UNKNOWN),
        (disk("vda", "8:0", fs_uuid="u"), disk("vda", "8:0", fs_uuid="u"), UNKNOWN),
    ],
)
def test_block_devices(one: BlockDevice, other: BlockDevice, said: Sameness) -> None:
    fact = PathFact(path="/dev/vm", exists=True, is_block=True, device="8:0")
    assert of_devices((host_with(one), fact), (host_with(other), fact)) is said
    assert of_devices((host_with(), fact), (host_with(other), fact)) is UNKNOWN


def test_partitions() -> None:
    fact = PathFact(path="/dev/vm", exists=True, is_block=True, device="8:2")
    here = host_with(disk("sda", "8:0", wwid="naa.1"), disk("sda2", "8:2", kind=DeviceKind.PARTITION, slaves=("sda",)))
    there = host_with(
        disk("dm-1", "253:1", kind=DeviceKind.MULTIPATH, wwid="naa.1"),
        disk("dm-4", "8:2", kind=DeviceKind.PARTITION, dm_uuid="part2-mpath-31", slaves=("dm-1",)),
    )
    other = host_with(disk("sda", "8:0", wwid="naa.1"), disk("sda3", "8:2", kind=DeviceKind.PARTITION, slaves=("sda",)))
    assert of_devices((here, fact), (there, fact)) is SAME
    assert of_devices((here, fact), (other, fact)) is DIFFERENT
    circle = host_with(disk("sda2", "8:2", kind=DeviceKind.PARTITION, slaves=("sda2",)))
    assert of_devices((circle, fact), (here, fact)) is UNKNOWN
