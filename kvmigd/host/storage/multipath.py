"""device-mapper multipath: LUNs that are reached over several paths.

Which paths device-mapper itself holds for failed is only told by an ioctl on /dev/mapper/control, which the daemon may
not open. A path counts as active here as long as the device is in working order (`state`), and device-mapper has not
told of its failure (uevents with DM_ACTION=PATH_FAILED, dm-uevent in Documentation/admin-guide/device-mapper).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kvmigd.model.storage import BlockDevice, DeviceKind, Multipath

WORKING = ("running", "live", "")
"""States of a device that does I/O; virtio disks have no word for it."""


def maps(devices: Iterable[BlockDevice], *, failed: Collection[tuple[str, str]] = ()) -> tuple[Multipath, ...]:
    """The maps among the devices. `failed` has pairs of a map's kernel name and a path's major:minor."""
    devices = tuple(devices)
    by_name = {device.name: device for device in devices}
    return tuple(
        Multipath(
            name=device.dm_name or device.name,
            wwid=device.dm_uuid.removeprefix("mpath-"),
            device=device.name,
            paths=device.slaves,
            active=tuple(
                path.name
                for name in device.slaves
                if (path := by_name.get(name)) is not None
                and path.state in WORKING
                and (device.name, path.number) not in failed
            ),
        )
        for device in devices
        if device.kind is DeviceKind.MULTIPATH
    )
