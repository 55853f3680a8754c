"""What kvmigd needs of a hypervisor. `host.libvirt` is the real one; fast tests bring a double of their own."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import msgspec

from kvmigd.model.guest import Guest, Whereabouts
from kvmigd.model.host import CpuFact, NameFact
from kvmigd.model.hypervisor import HypervisorState, NetworkFact
from kvmigd.model.job import Progress


class HypervisorFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What libvirt says of the host. Versions are libvirt's numbers: 1000000a + 1000b + c."""

    host_id: str
    hostname: str
    libvirt: int
    qemu: int


ALL = "all"
"""Everything of the inventory may have changed."""


class GuestEvent(StrEnum):
    """A lifecycle event, as far as anybody here listens to it."""

    DEFINED = "defined"
    UNDEFINED = "undefined"
    STARTED = "started"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    STOPPED = "stopped"
    OTHER = "other"


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """How a migration shall be streamed. `bandwidth` is bytes a second, 0 for no limit."""

    libvirt_uri: str
    stream_uri: str
    tls: bool
    tls_name: str = ""
    """The name that the destination's QEMU certificate must carry; `stream_uri` may hold an address instead."""
    bandwidth: int = 0
    max_pause_usec: int = 0
    """The pause allowed at the start; 0 for QEMU's own 300 ms."""
    paused: bool = False
    """The destination does not let the guest run: VIR_MIGRATE_PAUSED, for the fenced handover."""
    post_copy: bool = False
    """Post-copy may be started later: VIR_MIGRATE_POSTCOPY, not together with `paused`."""
    auto_converge: bool = False
    throttle_initial: int = 0
    """Percent; 0 for QEMU's own 20."""
    throttle_increment: int = 0
    """Percent; 0 for QEMU's own 10."""
    streams: int = 0
    """Parallel streams; 0 and 1 for one without multifd."""
    disks: tuple[str, ...] = ()
    """Targets of the disks that are copied along over NBD."""
    disks_uri: str = ""
    """`tcp://host:port` of NBD; empty where no disk is copied."""
    unsafe: bool = False
    """The checks have proved what libvirt would refuse as unsafe."""


class Process(Protocol):
    """A guest's QEMU, held by a pidfd: what is held cannot be another process that got its pid."""

    @property
    def identity(self) -> tuple[int, int]:
        """pid, and start time in clock ticks since the boot (field 22 of /proc/PID/stat)."""

    async def gone(self, seconds: float) -> bool:
        """Whether it has ended, waiting for it so long at most."""

    def kill(self) -> None:
        """End it with SIGKILL; harmless if it has ended."""

    def close(self) -> None:
        """Hold it no longer."""


class Hypervisor(Protocol):
    """The hypervisor of this host. Every call has a deadline and never blocks the event loop.

    Raises HypervisorUnavailable when it does not answer, HypervisorFailed when it answers with an error.
    """

    @property
    def alive(self) -> bool:
        """A connection is up."""

    @property
    def problem(self) -> str:
        """Why it is not alive; empty when it is."""

    @property
    def facts(self) -> HypervisorFacts | None:
        """What it said when the connection came up; None before the first time."""

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever `alive` or `facts` changes."""

    def on_guest(self, listener: Callable[[str, str, GuestEvent], None]) -> None:
        """Call `listener(name, uuid, event)` on lifecycle events of guests."""

    async def run(self) -> None:
        """Keep the connection up, for ever."""

    def on_inventory(self, listener: Callable[[str], None]) -> None:
        """Call `listener(what)` when something of the inventory may have changed.

        `what` is `guest:UUID`, `networks`, `pools`, `secrets`, or ALL.
        """

    async def inventory(self, before: HypervisorState | None, changed: frozenset[str]) -> HypervisorState:
        """Everything that libvirt says of itself and of what it has.

        Only what has `changed` is read again, the rest is that of `before`; all is read with ALL or without `before`.
        """

    async def guests(self) -> list[Guest]:
        """All guests of the host, running or not."""

    async def guest(self, key: str) -> Guest:
        """The guest of that name or UUID; raises NoSuchGuest."""

    async def whereabouts(self, uuid: str) -> Whereabouts:
        """Where the guest stands on this host, asked now."""

    async def names(self, name: str, uuid: str) -> NameFact:
        """Who holds this name and this UUID here."""

    async def machine_problem(self, guest: Guest) -> str:
        """Why the guest's machine type cannot be had here; empty if it can."""

    async def compare_cpu(self, guest: Guest) -> CpuFact:
        """Whether the guest's CPU can run here."""

    async def network(self, name: str) -> NetworkFact:
        """The libvirt network of that name."""

    async def migrate(self, uuid: str, stream: Stream) -> None:
        """Migrate live and peer-to-peer; returns when libvirt says that it is over. Raises HypervisorFailed."""

    async def progress(self, uuid: str) -> Progress | None:
        """Statistics of the guest's running migration; None when no job runs."""

    async def completed(self, uuid: str) -> Progress | None:
        """Statistics of the guest's completed migration, known on the destination; None when there are none."""

    async def abort(self, uuid: str) -> None:
        """Abort the guest's running migration; harmless when none runs."""

    async def set_bandwidth(self, uuid: str, bandwidth: int) -> None:
        """Limit the running migration to so many bytes a second, 0 for no limit. Raises HypervisorFailed."""

    async def set_max_pause(self, uuid: str, usec: int) -> None:
        """Allow the running migration so long a pause. Raises HypervisorFailed."""

    async def start_post_copy(self, uuid: str) -> None:
        """Switch the running migration to post-copy. Raises HypervisorFailed."""

    async def suspend(self, uuid: str) -> None:
        """Stop the guest's CPUs; harmless if they stand still."""

    async def resume(self, uuid: str) -> None:
        """Let the guest's CPUs run; harmless if they do."""

    async def process(self, uuid: str) -> Process | None:
        """The guest's QEMU on this host; None if it has none."""

    def held(self, identity: tuple[int, int]) -> Process | None:
        """The process of that identity, from before a restart of this daemon; None if it has ended."""

    async def dirty_rate(self, uuid: str, *, seconds: int) -> int:
        """Bytes a second that the guest writes to, sampled over so many seconds (1 to 60): virDomainStartDirtyRateCalc.

        It counts every page once, so the longer the window, the nearer `rate * seconds` comes to the working set.
        """

    async def definition(self, uuid: str) -> str:
        """The persistent definition, with secrets, as it is to be defined elsewhere. Raises NoSuchGuest."""

    async def define(self, xml: str, *, autostart: bool) -> None:
        """Define a guest that is shut off."""

    async def set_autostart(self, uuid: str, *, on: bool) -> None:
        """Start the guest with the host, or not."""

    async def remove_remainder(self, uuid: str) -> None:
        """Destroy and undefine what is left here of a guest that runs elsewhere, keeping its disks and NVRAM.

        Raises HypervisorFailed and touches nothing if the guest's CPUs run here.
        """
