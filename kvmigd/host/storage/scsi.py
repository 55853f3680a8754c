"""SCSI disks: what they call themselves, from the vital product data that the kernel has asked them for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kvmigd.host.storage import attributes


class Designator(NamedTuple):
    """One name out of VPD page 0x83 (SPC-4, 7.8.6)."""

    association: int
    """0 for the logical unit, 1 for the port, 2 for the target device."""
    kind: int
    """1 for T10 vendor ID, 2 for EUI-64, 3 for NAA, 8 for a SCSI name string."""
    value: bytes


def designators(page: bytes) -> Iterator[Designator]:
    """The designators of VPD page 0x83; a page that is cut off ends at the last whole one."""
    if len(page) < 4 or page[1] != 0x83:
        return
    end = min(len(page), 4 + int.from_bytes(page[2:4], "big"))
    at = 4
    while at + 4 <= end:
        length = page[at + 3]
        if at + 4 + length > end:
            return
        yield Designator(page[at + 1] >> 4 & 3, page[at + 1] & 0xF, page[at + 4 : at + 4 + length])
        at += 4 + length


def wwid_of_page(page: bytes) -> str:
    """The name of the logical unit as the kernel puts it together in its attribute `wwid`; empty where there is none.

    The order of preference is the kernel's (designator_prio in drivers/scsi/scsi_lib.c), so that a host whose kernel
    has no such attribute for a disk names it like the others.
    """
    best, rank = "", 0
    for found in designators(page):
        mine = _rank(found)
        if mine and mine >= rank and (name := _name(found)) and not (mine == rank == 1 and len(name) < len(best)):
            best, rank = name, mine
    return best


def _rank(found: Designator) -> int:
    if found.association or not found.value:
        return 0
    match found.kind, len(found.value):
        case 8, _:
            return 9
        case 3, (8 | 16):
            return {6: 8, 5: 5, 4: 4, 3: 1}.get(found.value[0] >> 4, 0)
        case 2, (8 | 12 | 16 as length):
            return {16: 7, 12: 6, 8: 3}[length]
        case 1, _:
            return 1
    return 0


def _name(found: Designator) -> str:
    match found.kind:
        case 8:
            return found.value.rstrip(b"\0 ").decode(errors="replace")
        case 3:
            return f"naa.{found.value.hex()}"
        case 2:
            return f"eui.{found.value.hex()}"
    return f"t10.{found.value.rstrip(bytes(1)).decode('ascii', 'backslashreplace').strip()}"


def serial_of_page(page: bytes) -> str:
    """The serial number in VPD page 0x80."""
    if len(page) < 4 or page[1] != 0x80:
        return ""
    return page[4 : 4 + int.from_bytes(page[2:4], "big")].decode("ascii", "replace").strip("\0 ")


def wwid(device: str) -> str:
    """The name of a SCSI device, given its folder in sysfs."""
    return attributes.text(f"{device}/wwid") or wwid_of_page(attributes.data(f"{device}/vpd_pg83"))


def serial(device: str) -> str:
    """The serial number of a SCSI device, given its folder in sysfs."""
    return serial_of_page(attributes.data(f"{device}/vpd_pg80"))
