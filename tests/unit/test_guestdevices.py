"""What of a guest's devices is not on this host."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kvmigd.host.guestdevices import absent, needed, usb_devices
from kvmigd.model.devices import Character, HostDevice, Nic, Share, SharedMemory
from tests.unit.cases import GUEST, changed


def plugged(folder: Path, vendor: str, product: str) -> None:
    device = folder / "1-2"
    device.mkdir(parents=True)
    (device / "idVendor").write_text(f"{vendor}\n")
    (device / "idProduct").write_text(f"{product}\n")


def test_a_plain_guest_needs_nothing() -> None:
    assert needed(GUEST) == ()


def test_what_a_guest_needs() -> None:
    guest = changed(
        GUEST,
        characters=(
            Character(element="serial", kind="dev", path="/dev/ttyS0"),
            Character(element="channel", kind="unix", mode="bind", path="/run/libvirt/qemu/channel/3-web/agent.0"),
            Character(element="serial", kind="pty", path="/dev/pts/7"),
        ),
        host_devices=(
            HostDevice(kind="pci", address="0000:03:00.1"),
            HostDevice(kind="usb", address="0x0951:0x1666"),
            HostDevice(kind="usb", address="1.4"),
            HostDevice(kind="scsi", address="scsi_host0:0:0:1"),
        ),
        shares=(Share(target="a", source="/srv/a"), Share(target="b", socket="/run/b.sock")),
        shared_memory=(SharedMemory(name="ring", server="/run/ring.sock"), SharedMemory(name="own")),
        inputs=("/dev/input/event3",),
        nics=(Nic(mac="", kind="vdpa", source="/dev/vhost-vdpa-0"), Nic(mac="", kind="bridge", source="br0")),
    )
    assert needed(guest) == (
        "/dev/ttyS0",
        "/sys/bus/pci/devices/0000:03:00.1",
        "usb:0x0951:0x1666",
        "/srv/a",
        "/run/b.sock",
        "/run/ring.sock",
        "/dev/input/event3",
        "/dev/vhost-vdpa-0",
    )


def test_what_is_not_there(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.touch()
    plugged(tmp_path / "usb", "0951", "1666")
    wanted = (str(here), str(there), str(here / "below"), "usb:0x0951:0x1666", "usb:0x1d6b:0x0002")
    assert asyncio.run(absent(wanted, mounts=(), usb=tmp_path / "usb")) == {
        str(there),
        str(here / "below"),
        "usb:0x1d6b:0x0002",
    }
    assert asyncio.run(absent((), mounts=())) == frozenset()


def test_a_loop_of_links_may_be_there(tmp_path: Path) -> None:
    """Only what is surely missing is told: the rest is not known."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert asyncio.run(absent((str(loop),), mounts=())) == frozenset()


def test_usb_devices(tmp_path: Path) -> None:
    plugged(tmp_path, "0951", "1666")
    (tmp_path / "1-2:1.0").mkdir()
    assert list(usb_devices(tmp_path)) == ["usb:0x0951:0x1666"]
    assert list(usb_devices(tmp_path / "none")) == []
