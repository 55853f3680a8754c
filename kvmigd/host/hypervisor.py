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

    async def set_autostart(self, uuid: str, *, on: bool) -> None:
        """Start the guest with the host, or not."""

    async def remove_remainder(self, uuid: str) -> None:
        """Destroy and undefine what is left here of a guest that runs elsewhere, keeping its disks and NVRAM."""
