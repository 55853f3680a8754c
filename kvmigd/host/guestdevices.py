"""What guests need of a host beside their disks: devices, sockets and folders by path, USB devices by their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from kvmigd.host import paths
from kvmigd.model.devices import Character, HostDevice
from kvmigd.model.guest import Guest
from kvmigd.model.mounts import MountFact

_OWN = ("/var/lib/libvirt/", "/run/libvirt/", "/var/run/libvirt/")
"""Here libvirt makes sockets itself, under names that hold the guest's number on the host."""
_ALWAYS = ("/dev/random", "/dev/urandom")
_GONE = ("No such file or directory", "Not a directory")


def places_of(device: Character) -> Iterator[str]:
    """What must be there for a device of characters: its path, or the folder in which it is made; that of its log."""
    if device.path and not device.path.startswith(_OWN) and device.path not in _ALWAYS:
        if device.kind in ("dev", "random", "vhost-user") or (device.kind == "unix" and device.mode == "connect"):
            yield device.path
        elif device.kind in ("file", "unix", "pipe"):
            yield str(Path(device.path).parent)
    if device.log:
        yield str(Path(device.log).parent)


def seat_of(device: HostDevice) -> str:
    """Where the kernel has a host device; of a USB device that is known by its numbers `usb:vendor:product`."""
    if not device.address:
        return ""
    if device.kind in ("pci", "mdev"):
        return f"/sys/bus/{device.kind}/devices/{device.address}"
    # Bus and device number alone are those of one host and of this hour.
    return f"usb:{device.address}" if device.kind == "usb" and ":" in device.address else ""


def needed(guest: Guest) -> tuple[str, ...]:
    """Everything that must be there on the host that is to run it, each once."""
    return tuple(dict.fromkeys(place for place in _needed(guest) if place))


def _needed(guest: Guest) -> Iterator[str]:
    for character in guest.characters:
        yield from places_of(character)
    yield from map(seat_of, guest.host_devices)
    yield from (share.socket or share.source for share in guest.shares if not share.source or share.source[0] == "/")
    yield from (memory.server for memory in guest.shared_memory)
    yield from (module.path for module in guest.ram.modules)
    yield from guest.inputs
    yield from (display.device for display in guest.graphics)
    for nic in guest.nics:
        if nic.kind == "hostdev" and nic.address:
            yield f"/sys/bus/pci/devices/{nic.address}"
        elif nic.kind == "vdpa" and nic.source.startswith("/"):
            yield nic.source


async def absent(
    wanted: Iterable[str], *, mounts: Iterable[MountFact], usb: Path = Path("/sys/bus/usb/devices")
) -> frozenset[str]:
    """Which of these are not there. What does not answer in time may be there."""
    names = tuple(dict.fromkeys(wanted))
    if not names:
        return frozenset()
    plugged = frozenset(usb_devices(usb)) if any(name.startswith("usb:") for name in names) else frozenset()
    facts = await paths.look([name for name in names if name.startswith("/")], mounts=mounts)
    return frozenset(
        (
            *(fact.path for fact in facts if not fact.exists and fact.problem.startswith(_GONE)),
            *(name for name in names if name.startswith("usb:") and name not in plugged),
        )
    )


def usb_devices(folder: Path = Path("/sys/bus/usb/devices")) -> Iterator[str]:
    """USB devices that are plugged in, named as `seat_of` names them."""
    for device in folder.glob("*/idVendor"):
        try:
            vendor, product = (device.with_name(name).read_text().strip() for name in ("idVendor", "idProduct"))
        except OSError:  # unplugged just now
            continue
        yield f"usb:0x{vendor}:0x{product}"
