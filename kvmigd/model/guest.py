"""A guest (a libvirt domain) as live migration sees it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from kvmigd.model.devices import (
    Character,
    Cpu,
    Disk,
    Firmware,
    Graphics,
    HostDevice,
    Label,
    Memory,
    Metadata,
    Nic,
    Pinning,
    Share,
    SharedMemory,
    Timer,
    Tpm,
)

__all__ = ["METADATA", "Disk", "Guest", "GuestState", "Nic", "Whereabouts"]

METADATA = "https://kvmigd.org/guest/1"
"""The XML namespace of what kvmigd keeps in a guest's definition."""


class GuestState(StrEnum):
    """libvirt's domain states (virDomainState), by name."""

    RUNNING = "running"
    BLOCKED = "blocked"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"
    SHUTOFF = "shutoff"
    CRASHED = "crashed"
    SUSPENDED = "suspended"
    UNKNOWN = "unknown"

    @property
    def is_active(self) -> bool:
        """A QEMU process exists."""
        return self not in (GuestState.SHUTOFF, GuestState.CRASHED, GuestState.UNKNOWN)

    @property
    def is_executing(self) -> bool:
        """The guest's CPUs run."""
        return self in (GuestState.RUNNING, GuestState.BLOCKED)


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's definition and state. Sizes are bytes."""

    name: str
    uuid: str
    state: GuestState
    persistent: bool = True
    autostart: bool = False
    memory: int
    vcpus: int
    arch: str
    machine: str
    domain_type: str
    emulator: str
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    files: tuple[str, ...] = ()
    """Other paths QEMU opens on the host: kernel, initrd, firmware."""
    cpu_xml: str = ""
    """The <cpu> element of the migratable definition, for compareHypervisorCPU; empty if there is none."""
    problem: str = ""
    """Why nothing more is known of it than its name; empty otherwise."""
    reason: str = ""
    """libvirt's reason for the state, as `virsh domstate --reason` prints it."""
    job: str = "none"
    """What libvirt does with it now: none, outgoing or incoming (migrations), or other."""
    title: str = ""
    description: str = ""
    managed_save: bool = False
    snapshots: int = 0
    """Snapshots whose metadata libvirt holds."""
    checkpoints: int = 0
    cpu: Cpu = Cpu()
    ram: Memory = Memory()
    pinning: Pinning = Pinning()
    iothreads: int = 0
    firmware: Firmware = Firmware()
    features: tuple[str, ...] = ()
    """What is on of <features>: `acpi`, `smm`, `hyperv.relaxed` …, sorted."""
    timers: tuple[Timer, ...] = ()
    clock: str = ""
    """Offset of its clock: utc, localtime, timezone, variable or absolute."""
    launch_security: str = ""
    """sev, sev-snp, tdx, s390-pv: memory that the host cannot read."""
    tpms: tuple[Tpm, ...] = ()
    host_devices: tuple[HostDevice, ...] = ()
    shares: tuple[Share, ...] = ()
    shared_memory: tuple[SharedMemory, ...] = ()
    characters: tuple[Character, ...] = ()
    graphics: tuple[Graphics, ...] = ()
    unmovable: tuple[str, ...] = ()
    """What of it QEMU has never learnt to move, as the definition has it: `crypto model='virtio'` …, sorted."""
    vsock: int = 0
    """The guest's context identifier; 0 where it has no vsock."""
    vsock_auto: bool = False
    watchdogs: tuple[str, ...] = ()
    """`model=action`"""
    inputs: tuple[str, ...] = ()
    """The host's input devices that it takes."""
    leases: tuple[str, ...] = ()
    """`lockspace/key` of a lock manager."""
    labels: tuple[Label, ...] = ()
    arguments: tuple[str, ...] = ()
    """Arguments for QEMU that libvirt does not understand (<qemu:commandline>)."""
    metadata: tuple[Metadata, ...] = ()

    @property
    def key(self) -> str:
        """Its UUID."""
        return self.uuid

    @property
    def local_paths(self) -> tuple[str, ...]:
        """All paths that must be there on the destination: disks with their known layers, and boot files."""
        return (*(path for disk in self.local_disks for path in disk.paths), *self.files)

    @property
    def formats(self) -> dict[str, str]:
        """What libvirt has been told of the formats of images; boot files count as raw, for they have no layers."""
        known = {layer.path: layer.format for disk in self.disks for layer in disk.layers if layer.path}
        known |= {disk.paths[0]: disk.format for disk in self.local_disks if disk.format and disk.paths}
        return known | dict.fromkeys(self.files, "raw")

    @property
    def local_disks(self) -> tuple[Disk, ...]:
        """Disks that are paths on the host and so must be there, the same, on the destination."""
        return tuple(disk for disk in self.disks if disk.is_local_path)


class Whereabouts(msgspec.Struct, frozen=True, kw_only=True):
    """What libvirt on one host says about a guest, asked now and never from memory."""

    host: str
    known: bool
    state: GuestState = GuestState.UNKNOWN
    reason: str = ""
    """libvirt's reason for the state, as `virsh domstate --reason` prints it."""
    persistent: bool = False
    job: str = "none"
    """Kind of a running libvirt job: none, incoming, outgoing or other."""

    @property
    def is_executing(self) -> bool:
        """The guest's CPUs run on this host."""
        return self.known and self.state.is_executing

    def describe(self) -> str:
        """One phrase for a message."""
        if not self.known:
            return f"{self.host}: not defined"
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.host}: {self.state}{reason}"
