"""LVM volume groups of which a volume is active here, told from device-mapper's names.

Nothing is read of LVM's metadata on the disks. How a group is locked is told from what lvmlockd leaves behind when it
has started the group here: a DLM lockspace `lvm_NAME`, or for sanlock the group's hidden volume `lvmlock`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from kvmigd.model.storage import BlockDevice, Lockspace, VolumeGroup

_UUID = re.compile(r"LVM-([0-9A-Za-z]{32})[0-9A-Za-z]{32}(?:-.*)?")
"""device-mapper's UUID of a volume: the group's and the volume's, without dashes, then the layer (`-real`, `-cow`)."""
_GROUPS = (6, 4, 4, 4, 4, 4, 6)


def split_name(dm_name: str) -> tuple[str, str]:
    """Group and volume (with its layer) in a device-mapper name; dashes within them are doubled: `vg--a-lv`."""
    group, _, volume = dm_name.replace("--", "\0").partition("-")
    return group.replace("\0", "-"), volume.replace("\0", "-")


def formatted(uuid: str) -> str:
    """A UUID as LVM's tools show it: 6-4-4-4-4-4-6."""
    parts, at = [], 0
    for length in _GROUPS:
        parts.append(uuid[at : at + length])
        at += length
    return "-".join(parts)


def volume_groups(devices: Iterable[BlockDevice], *, lockspaces: Iterable[Lockspace] = ()) -> tuple[VolumeGroup, ...]:
    """The groups of all active volumes, by name."""
    groups: dict[str, str] = {}
    sanlock: set[str] = set()
    for device in devices:
        if found := _UUID.fullmatch(device.dm_uuid):
            name, volume = split_name(device.dm_name)
            groups[found[1]] = name
            if volume == "lvmlock":
                sanlock.add(found[1])
    dlm = {space.name for space in lockspaces}
    return tuple(
        VolumeGroup(
            name=name,
            uuid=formatted(uuid),
            lock_type="dlm" if f"lvm_{name}" in dlm else "sanlock" if uuid in sanlock else "",
        )
        for uuid, name in sorted(groups.items(), key=lambda item: (item[1], item[0]))
    )
