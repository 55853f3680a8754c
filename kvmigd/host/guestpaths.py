"""The paths that a look at a guest is about: what QEMU opens, and what libvirt makes before."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from kvmigd.model.guest import Guest

SWTPM = "/usr/bin/swtpm"


def wanted(guest: Guest) -> tuple[str, ...]:
    """All of them, each once: disks with their layers, boot files, and those that need not be there."""
    return tuple(dict.fromkeys((*guest.local_paths, *beside(guest))))


def beside(guest: Guest) -> tuple[str, ...]:
    """Those that are no images: folders in which disks are copied, the firmware's variables, the TPM's program."""
    return tuple(dict.fromkeys(path for path in _beside(guest) if path.startswith("/")))


def _beside(guest: Guest) -> Iterator[str]:
    for disk in guest.local_disks:
        if disk.kind == "file" and not disk.readonly:
            yield posixpath.dirname(disk.paths[0])
    firmware = guest.firmware
    yield from firmware.acpi_tables
    if firmware.nvram and firmware.nvram_kind in ("", "file"):
        yield firmware.nvram
        yield firmware.nvram_template
        yield posixpath.dirname(firmware.nvram)
    if any(tpm.backend == "emulator" for tpm in guest.tpms):
        yield SWTPM


def formats(guest: Guest) -> dict[str, str]:
    """What is known of their formats; what is no image counts as raw, for it has no layers."""
    return dict.fromkeys(beside(guest), "raw") | guest.formats
