"""A guest (a libvirt domain) as live migration sees it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


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


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """One disk, CD-ROM or floppy; `paths` are the source and its whole backing chain, outermost first."""

    target: str
    device: str = "disk"
    kind: str = "file"
    paths: tuple[str, ...] = ()
    format: str = ""
    cache: str = ""
    readonly: bool = False
    shareable: bool = False

    @property
    def is_local_path(self) -> bool:
        """The disk is reached by a path on the host (and not by a network protocol of QEMU's own)."""
        return self.kind in ("file", "block", "dir") and bool(self.paths)


class Nic(msgspec.Struct, frozen=True, kw_only=True):
    """One network interface; `source` is the bridge, the libvirt network or the device, by `kind`."""

    mac: str
    kind: str
    source: str = ""
    model: str = ""
    mtu: int = 0


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

    @property
    def key(self) -> str:
        """Its UUID."""
        return self.uuid

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
