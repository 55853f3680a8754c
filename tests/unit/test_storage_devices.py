"""Block devices and what they call themselves, on trees of /sys."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host.storage import ceph, devices, multipath, nvme, scsi
from kvmigd.model.storage import BlockDevice, DeviceKind
from tests.unit.storage_trees import NAA, block, link, page80, page83, san, write


def read(root: Path) -> dict[str, BlockDevice]:
    return {device.name: device for device in devices.read(root)}


def test_a_stack_is_followed_down_to_the_lun(tmp_path: Path) -> None:
    san(tmp_path)
    found = read(tmp_path)
    assert sorted(found) == ["dm-0", "dm-1", "dm-2", "sda", "sdb", "sdc"]
    disk = found["sda"]
    assert (disk.kind, disk.number, disk.size, disk.transport) == (DeviceKind.DISK, "8:0", 2 << 30, "fc")
    assert (disk.wwid, disk.serial, disk.state) == (f"naa.{NAA.hex()}", "51234567-89", "running")
    lun = found["dm-0"]
    assert (lun.kind, lun.dm_name, lun.slaves) == (DeviceKind.MULTIPATH, "lun1", ("sda", "sdb"))
    assert lun.wwid == disk.wwid, "a host without multipath sees the same"
    assert lun.fs_type == "LVM2_member"
    assert found["dm-1"].kind is DeviceKind.LVM
    assert (found["dm-1"].state, found["dm-2"].state) == ("", "suspended")
    assert devices.identities("dm-1", found) == (disk.wwid,)
    assert (found["sdc"].transport, found["sdc"].state) == ("iscsi", "transport-offline")


def test_partitions_loops_md_and_crypt(tmp_path: Path) -> None:
    at = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0"
    write(tmp_path / "sys/devices" / at / "wwid", "t10.ATA     QEMU HARDDISK                           QM00001")
    block(tmp_path, "sda", "8:0", at=at, udev={"ID_SERIAL_SHORT": "QM00001"})
    block(tmp_path, "sda1", "8:1", at=at, disk="sda", udev={"ID_FS_UUID": "66AA-1234", "ID_SERIAL_SHORT": "QM00001"})
    block(tmp_path, "loop0", "7:0", attributes={"loop/backing_file": "/srv/a b.img (deleted)"})
    block(tmp_path, "loop1", "7:1", size=0)
    block(tmp_path, "zram0", "252:0")
    md = {"md/uuid": "6e2bf1d4-0c71-4e0d-9a5e-1f8d2c3b4a59", "md/array_state": "clean"}
    block(tmp_path, "md127", "9:127", slaves=("sda1",), attributes=md)
    crypt = {"dm/name": "luks-x", "dm/uuid": "CRYPT-LUKS2-0123456789abcdef0123456789abcdef-luks-x"}
    block(tmp_path, "dm-0", "253:0", slaves=("md127",), attributes=crypt)
    found = read(tmp_path)
    assert sorted(found) == ["dm-0", "loop0", "md127", "sda", "sda1"]
    assert (found["sda"].transport, found["sda"].serial) == ("ata", "QM00001")
    part = found["sda1"]
    assert (part.kind, part.slaves, part.wwid, part.serial, part.fs_uuid) == (
        *(DeviceKind.PARTITION, ("sda",)),
        *("", "", "66AA-1234"),
    )
    assert found["loop0"].backing == "/srv/a b.img (deleted)"
    assert (found["md127"].kind, found["md127"].state) == (DeviceKind.RAID, "clean")
    assert found["md127"].wwid == "md.6e2bf1d40c714e0d9a5e1f8d2c3b4a59"
    assert found["dm-0"].kind is DeviceKind.CRYPT
    assert devices.identities("dm-0", found) == (found["sda"].wwid,)
    assert devices.identities("loop0", found) == ("/srv/a b.img (deleted)",)
    assert devices.identities("nowhere", found) == ()


def test_a_circle_of_devices_ends() -> None:
    around = {
        name: BlockDevice(name=name, number="1:1", kind=DeviceKind.OTHER, slaves=(other,))
        for name, other in (("a", "b"), ("b", "a"))
    }
    assert devices.identities("a", around) == ()


def test_a_device_that_goes_while_it_is_read(tmp_path: Path) -> None:
    san(tmp_path)
    assert devices.read_one(tmp_path, "sdz") is None
    link(tmp_path / "sys/class/block/sdy", tmp_path / "sys/devices/gone")
    assert "sdy" not in read(tmp_path)
    assert devices.read(tmp_path / "nowhere") == ()


def test_paths_that_fail_are_not_active(tmp_path: Path) -> None:
    san(tmp_path)
    (lun,) = multipath.maps(devices.read(tmp_path))
    assert (lun.name, lun.wwid, lun.device) == ("lun1", f"3{NAA.hex()}", "dm-0")
    assert lun.paths == lun.active == ("sda", "sdb")
    (lun,) = multipath.maps(devices.read(tmp_path), failed={("dm-0", "8:16")})
    assert lun.active == ("sda",)
    write(next((tmp_path / "sys/devices").glob("*/*/host3/*/*/3:0:1:0/state")), "transport-offline")
    (lun,) = multipath.maps(devices.read(tmp_path))
    assert lun.active == ("sdb",)


def test_nvme_over_two_controllers(tmp_path: Path) -> None:
    subsystem = tmp_path / "sys/devices/virtual/nvme-subsystem/nvme-subsys0"
    for number, state in ((0, "live"), (1, "connecting")):
        controller = tmp_path / f"sys/devices/virtual/nvme-fabrics/ctl/nvme{number}"
        for key, value in {"transport": "tcp", "state": state, "serial": "S1"}.items():
            write(controller / key, value)
        link(subsystem / f"nvme{number}", controller)
        path = controller / f"nvme0c{number}n1"
        for key, value in {"dev": f"259:{number + 1}", "size": "2048", "hidden": "1", "ana_state": "optimized"}.items():
            write(path / key, value)
        link(path / "device", controller)
        link(tmp_path / f"sys/class/block/nvme0c{number}n1", path)
    head = subsystem / "nvme0n1"
    for key, value in {
        "dev": "259:0",
        "size": "2048",
        "hidden": "0",
        "nguid": "6f5e4d3c-2b1a-0099-8877-665544332211",
    }.items():
        write(head / key, value)
    link(head / "device", subsystem)
    link(tmp_path / "sys/class/block/nvme0n1", head)
    (device,) = devices.read(tmp_path)
    assert (device.name, device.transport, device.state, device.serial) == ("nvme0n1", "nvme-tcp", "live", "S1")
    assert device.wwid == "eui.6f5e4d3c2b1a00998877665544332211"
    (paths,) = nvme.multipaths(str(tmp_path))
    assert (paths.wwid, paths.paths, paths.active) == (device.wwid, ("nvme0c0n1", "nvme0c1n1"), ("nvme0c0n1",))
    write(head / "uuid", "5d8a5b5c-0000-4000-8000-000000000001")
    assert nvme.wwid(str(head)) == "uuid.5d8a5b5c-0000-4000-8000-000000000001"
    write(head / "wwid", "eui.0025385b71b0a1c2")
    assert nvme.wwid(str(head)) == "eui.0025385b71b0a1c2"


def test_images_that_the_kernel_has_mapped_from_ceph(tmp_path: Path) -> None:
    fsid = "d7a1b2c3-1111-4222-8333-444455556666"
    for key, value in {"pool": "vms", "pool_ns": "", "name": "web", "cluster_fsid": fsid, "current_snap": "-"}.items():
        write(tmp_path / "sys/bus/rbd/devices/0" / key, value)
    for key, value in {
        "pool": "vms",
        "pool_ns": "n",
        "name": "base",
        "cluster_fsid": fsid,
        "current_snap": "s",
    }.items():
        write(tmp_path / "sys/bus/rbd/devices/1" / key, value)
    block(tmp_path, "rbd0", "251:0", at="rbd/0")
    block(tmp_path, "rbd1", "251:16", at="rbd/1")
    found = read(tmp_path)
    assert found["rbd0"].wwid == f"rbd:{fsid}/vms/web"
    assert found["rbd1"].wwid == f"rbd:{fsid}/vms/n/base@s"
    assert found["rbd0"].transport == "rbd"
    assert devices.read_one(tmp_path, "rbd0") == found["rbd0"]


def test_ceph_conf(tmp_path: Path) -> None:
    assert ceph.fsid(tmp_path) == ""
    write(
        tmp_path / "etc/ceph/ceph.conf",
        "[global]\n  fsid = D7A1B2C3-1111-4222-8333-444455556666\n"
        "mon host = [v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0],[v2:[fd00::2]:3300/0]\n; note\n[client]\nfsid=x\n",
    )
    assert ceph.fsid(tmp_path) == "d7a1b2c3-1111-4222-8333-444455556666"
    assert ceph.clusters(tmp_path)[0].monitors == {"10.0.0.1", "fd00::2"}
    write(tmp_path / "etc/ceph/odd.conf", b"no section\n\xff[[[")
    assert ceph.fsid(tmp_path, cluster="odd") == ""


@pytest.mark.parametrize(
    ("page", "name"),
    [
        (page83((0, 3, NAA), (0, 2, bytes(range(8)))), f"naa.{NAA.hex()}"),
        (page83((0, 2, bytes(range(16))), (0, 3, bytes.fromhex("5001405000000001"))), f"eui.{bytes(range(16)).hex()}"),
        (page83((0, 1, b"LIO-ORG disk1   "), (0, 2, bytes(range(8)))), "eui.0001020304050607"),
        (page83((0, 1, b"LIO-ORG disk1   ")), "t10.LIO-ORG disk1"),
        (page83((0, 8, b"iqn.2003-01.org:disk\0\0"), (0, 3, NAA)), "iqn.2003-01.org:disk"),
        (page83((1, 3, NAA), (2, 3, NAA)), ""),
        (page83((0, 3, NAA))[:12], ""),
        (page83((0, 3, b"\x60")), ""),
        (page80(b"x"), ""),
        (b"", ""),
    ],
)
def test_names_in_page_83(page: bytes, name: str) -> None:
    assert scsi.wwid_of_page(page) == name


def test_serial_in_page_80() -> None:
    assert scsi.serial_of_page(page80(b"  S3Z9NB0K\0\0")) == "S3Z9NB0K"
    assert scsi.serial_of_page(page83((0, 3, NAA))) == ""


@pytest.mark.parametrize(
    ("wwid", "name"),
    [
        ("3600140512345678900000000000000aa", "naa.600140512345678900000000000000aa"),
        ("35001405000000001", "naa.5001405000000001"),
        ("20025385b71b0a1c2", "eui.0025385b71b0a1c2"),
        ("1ATA_QEMU", "1ATA_QEMU"),
        ("", ""),
    ],
)
def test_multipath_names_as_the_kernel_writes_them(wwid: str, name: str) -> None:
    assert devices.canonical(wwid) == name


@given(st.binary(max_size=300))
def test_odd_bytes_of_disks_never_raise(page: bytes) -> None:
    scsi.wwid_of_page(page)
    scsi.wwid_of_page(b"\0\x83" + page)
    scsi.serial_of_page(b"\0\x80" + page)
    devices.properties(page)


@given(st.text(max_size=60))
def test_odd_text_never_raises(text: str) -> None:
    devices.canonical(text)
    ceph.addresses(text)


@given(
    st.dictionaries(
        st.sampled_from(("dev", "size", "dm/name", "dm/uuid", "md/uuid", "partition", "hidden")), st.binary()
    )
)
def test_odd_attributes_never_raise(attributes: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, value in attributes.items():
            write(root / "sys/class/block/dm-1" / name, value)
        devices.read(root)
