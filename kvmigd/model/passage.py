"""What both daemons keep on disk of a migration until they agree where the guest runs: the journal's records."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from kvmigd.model.forecast import Forecast
from kvmigd.model.job import MigrateOptions


class Stage(StrEnum):
    """How far a departure has come. It is on disk before what it names is done, and never decides alone."""

    STREAMING = "streaming"
    """libvirt may have been asked to migrate."""
    FENCING = "fencing"
    """The destination has all of the guest; from here on the guest goes on there and nowhere else."""
    FENCED = "fenced"
    """The source's QEMU was seen gone; the destination may have been told to wake the guest."""
    STAYED = "stayed"
    """The guest stays where it was; what is left over on the destination is to be removed."""


class Departure(msgspec.Struct, frozen=True, kw_only=True):
    """A guest that leaves this host. `process` is its QEMU: pid and start time (field 22 of /proc/PID/stat)."""

    job: str
    number: int
    parent: int = 0
    peer: str
    guest: str
    guest_uuid: str
    autostart: bool = False
    memory: int = 0
    port: int = 0
    mode: str = "live"
    """live, offline, or definition of a guest that is shut off."""
    handover: str = "fenced"
    options: MigrateOptions = MigrateOptions()
    stage: Stage = Stage.STREAMING
    process: tuple[int, int] = (0, 0)
    suspended: bool = False
    """The guest was, or may have been, suspended by kvmigd: it is resumed wherever it ends up."""
    steps: tuple[str, ...] = ()
    """What was done to help it, in order."""
    disks: tuple[str, ...] = ()
    """Targets of the disks that are copied along."""
    created_usec: int = 0
    started_usec: int = 0
    """When libvirt was asked."""
    forecast: Forecast | None = None
    rested: bool = False
    """Its job has ended with needs-decision; it is still looked after."""
    problem: str = ""
    """Why it is not resolved, as a sentence."""


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """A guest that is expected on this host."""

    job: str
    peer: str
    guest: str
    guest_uuid: str
    memory: int = 0
    port: int = 0
    handover: str = "fenced"
    woken: bool = False
    """The source's QEMU was seen gone, and this host was told, or has found out, that the guest is its own."""
    volumes: tuple[str, ...] = ()
    """Image files that were made here for disks that are copied; removed again if the guest does not arrive."""
    created_usec: int = 0
    problem: str = ""
