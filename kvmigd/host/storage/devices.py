"""Block devices, from /sys/class/block, and what udev has found on them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from kvmigd.host.storage import attributes, ceph, nvme, scsi
from kvmigd.model.storage import BlockDevice, DeviceKind

_SECTOR = 512
"""Unit of sizes in sysfs, whatever the device's own is (Documentation/ABI/stable/sysfs-block)."""
_IDLE = re.compile(r"(?:ram|zram|fd)\d+")
"""Never storage of guests: memory and floppy drives."""
_DM_KINDS = {"LVM": DeviceKind.LVM, "mpath": DeviceKind.MULTIPATH, "CRYPT": DeviceKind.CRYPT, "DMRAID": DeviceKind.RAID}
_TRANSPORTS = (
    # In the path of a device below /sys/devices, the outermost first: a USB disk is on a SCSI host too.
    (re.compile(r"/session\d+/"), "iscsi"),
    (re.compile(r"/rport-[\d:-]+/"), "fc"),
    (re.compile(r"/usb\d+/"), "usb"),
    (re.compile(r"/end_device-[\d:-]+/"), "sas"),
    (re.compile(r"/ata\d+/"), "ata"),
    (re.compile(r"/virtio\d+/"), "virtio"),
    (re.compile(r"/vbd-\d+"), "xen"),
    (re.compile(r"/mmc\d+"), "mmc"),
    (re.compile(r"/rbd/\d+/|/block/rbd\d+"), "rbd"),
    (re.compile(r"/block/nbd\d+"), "nbd"),
)


def read(root: Path) -> tuple[BlockDevice, ...]:
    """All block devices that have something in them; loop and network devices that nobody uses are left out."""
    images = ceph.rbd(str(root))
    names = attributes.names(f"{root}/sys/class/block")
    return tuple(device for name in names if (device := read_one(root, name, images=images)) is not None)


def read_one(root: Path, name: str, *, images: Mapping[str, str] | None = None) -> BlockDevice | None:
    """One block device by the kernel's name of it; None where it is gone or has nothing in it."""
    folder = f"{root}/sys/class/block/{name}"
    number = attributes.text(f"{folder}/dev")
    size = attributes.number(f"{folder}/size") * _SECTOR
    dm_uuid = attributes.text(f"{folder}/dm/uuid")
    dm_name = attributes.text(f"{folder}/dm/name")
    if not number or _IDLE.fullmatch(name) or (not size and not dm_name):
        return None
    if attributes.text(f"{folder}/hidden") == "1":  # one path of an NVMe namespace: nvme.multipaths tells of it
        return None
    place = attributes.target(folder)
    udev = properties(attributes.data(f"{root}/run/udev/data/b{number}"))
    backing = attributes.text(f"{folder}/loop/backing_file")
    parent = os.path.basename(os.path.dirname(place)) if attributes.text(f"{folder}/partition") else ""
    kind = DeviceKind.PARTITION if parent else _kind(name, dm_uuid=dm_uuid, dm_name=dm_name)
    if kind is DeviceKind.LOOP and not backing:
        return None
    # A partition has no name of its own; the disk's is told of the disk.
    device = "" if parent else f"{folder}/device"
    if images is None and name.startswith("rbd"):
        images = ceph.rbd(str(root))
    return BlockDevice(
        name=name,
        number=number,
        kind=kind,
        size=size,
        transport=_transport(name, place, folder),
        wwid=(images or {}).get(name) or _wwid(name, folder, device, dm_uuid=dm_uuid, udev=udev),
        serial=_serial(name, folder, device) or ("" if parent else udev.get("ID_SERIAL_SHORT", "")),
        dm_name=dm_name,
        dm_uuid=dm_uuid,
        fs_uuid=udev.get("ID_FS_UUID", ""),
        fs_type=udev.get("ID_FS_TYPE", ""),
        slaves=(parent,) if parent else tuple(attributes.names(f"{folder}/slaves")),
        state=_state(name, folder, device),
        backing=backing,
    )


def properties(record: bytes) -> dict[str, str]:
    """The properties in a record of udev's database: its lines `E:NAME=value`."""
    found = {}
    for line in record.decode(errors="replace").split("\n"):
        if line.startswith("E:"):
            name, _, value = line[2:].partition("=")
            found[name] = value
    return found


def _kind(name: str, *, dm_uuid: str, dm_name: str) -> DeviceKind:
    if dm_uuid or dm_name:
        # partitions of a multipath map are called part1-mpath-…
        prefix = re.sub(r"^part\d+-", "", dm_uuid)
        if prefix != dm_uuid:
            return DeviceKind.PARTITION
        return _DM_KINDS.get(prefix.partition("-")[0], DeviceKind.OTHER)
    if re.fullmatch(r"md(?:\d+|_.+)", name):
        return DeviceKind.RAID
    if name.startswith("loop"):
        return DeviceKind.LOOP
    return DeviceKind.OTHER if name.startswith("sr") else DeviceKind.DISK


def _transport(name: str, place: str, folder: str) -> str:
    if name.startswith("nvme"):
        return nvme.transport(folder) if "p" not in name.removeprefix("nvme") else "nvme"
    return next((word for pattern, word in _TRANSPORTS if pattern.search(place)), "")


def _wwid(name: str, folder: str, device: str, *, dm_uuid: str, udev: Mapping[str, str]) -> str:
    if dm_uuid.startswith("mpath-"):
        return canonical(dm_uuid.removeprefix("mpath-"))
    if dm_uuid:
        return ""
    if name.startswith("md"):
        uuid = attributes.text(f"{folder}/md/uuid") or udev.get("MD_UUID", "")
        return f"md.{re.sub('[^0-9a-f]', '', uuid.lower())}" if uuid else ""
    if not device:
        return ""
    if name.startswith("nvme"):
        return nvme.wwid(folder)
    return scsi.wwid(device)


def canonical(wwid: str) -> str:
    """A WWID of multipath's (scsi_id(8): a digit for the kind before the number) in the kernel's writing."""
    digit, number = wwid[:1], wwid[1:].lower()
    if digit in ("2", "3") and len(number) in (16, 24, 32) and not re.search(r"[^0-9a-f]", number):
        return f"{'naa' if digit == '3' else 'eui'}.{number}"
    return wwid


def _serial(name: str, folder: str, device: str) -> str:
    if not device:
        return ""
    if name.startswith("nvme"):
        return nvme.serial(folder)
    return scsi.serial(device) or attributes.text(f"{folder}/serial")


def _state(name: str, folder: str, device: str) -> str:
    if attributes.text(f"{folder}/dm/suspended") == "1":
        return "suspended"
    if name.startswith("md"):
        return attributes.text(f"{folder}/md/array_state")
    if name.startswith("nvme"):
        return nvme.state(folder) if device else ""
    return attributes.text(f"{device}/state") if device else ""


def below(name: str, devices: Mapping[str, BlockDevice]) -> Iterator[BlockDevice]:
    """The disks that a device is made of, each once; a multipath map is one disk, its paths are not told of."""
    seen: set[str] = set()
    left = [name]
    while left:
        device = devices.get(left.pop(0))
        if device is None or device.name in seen:
            continue
        seen.add(device.name)
        if device.slaves and device.kind is not DeviceKind.MULTIPATH:
            left.extend(device.slaves)
        else:
            yield device


def identities(name: str, devices: Mapping[str, BlockDevice]) -> tuple[str, ...]:
    """WWIDs of the disks below a device, sorted; the kernel's name, or a loop device's file, of one without."""
    return tuple(sorted({device.wwid or device.backing or device.name for device in below(name, devices)}))
