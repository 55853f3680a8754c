"""A hypervisor that is only simulated, for fast tests: guests are entries in a world that all its hosts share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from kvmigd.errors import HypervisorFailed, HypervisorUnavailable, NoSuchGuest
from kvmigd.host.hypervisor import GuestEvent, HypervisorFacts, Stream
from kvmigd.model.guest import Guest, GuestState, Whereabouts
from kvmigd.model.host import CpuFact, NameFact
from kvmigd.model.hypervisor import HypervisorState, NetworkFact
from kvmigd.model.job import Progress

MIB = 1 << 20


def guest(name: str, number: int = 1, *, memory: int = 64 * MIB, autostart: bool = False) -> Guest:
    """A running guest without disks or interfaces."""
    return Guest(
        name=name,
        uuid=f"{number:08d}-1111-4111-8111-111111111111",
        state=GuestState.RUNNING,
        autostart=autostart,
        memory=memory,
        vcpus=1,
        arch="x86_64",
        machine="pc-q35-7.2",
        domain_type="qemu",
        emulator="/usr/bin/qemu-system-x86_64",
    )


class World:
    """All simulated hosts."""

    def __init__(self) -> None:
        self.hosts: dict[str, SimulatedHypervisor] = {}

    def host(self, name: str) -> SimulatedHypervisor:
        """A host of that name."""
        return self.hosts.setdefault(name, SimulatedHypervisor(self, name, number=len(self.hosts) + 1))

    def running_on(self, uuid: str) -> list[str]:
        """Names of the hosts that execute the guest."""
        return [name for name, host in self.hosts.items() if uuid in host.known and host.known[uuid].state.is_executing]


class SimulatedHypervisor:
    """One host's hypervisor; implements host.hypervisor.Hypervisor.

    `fault` names what the next migration does: "refused" (nothing happens), "finish-lost" (the guest arrives, the
    answer does not), "destroyed" (the guest dies), "both" (a defect: it runs twice).
    """

    def __init__(self, world: World, name: str, *, number: int) -> None:
        self.world = world
        self.name = name
        self.known: dict[str, Guest] = {}
        self.alive = True
        self.problem = ""
        self.facts: HypervisorFacts | None = HypervisorFacts(
            host_id=f"{number:08d}-0000-4000-8000-000000000000", hostname=name, libvirt=9_000_000, qemu=7_002_000
        )
        self.fault = ""
        self.streams: list[Stream] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.aborted = asyncio.Event()
        self.missing_cpu = ""
        self._migrating: set[str] = set()
        self._on_change: list[Callable[[], None]] = []
        self._on_guest: list[Callable[[str, str, GuestEvent], None]] = []
        self._on_inventory: list[Callable[[str], None]] = []
        self.inventories: list[frozenset[str]] = []

    def add(self, guest: Guest) -> Guest:
        """Define a guest."""
        self.known[guest.uuid] = guest
        self._changed(guest.uuid)
        return guest

    def _changed(self, uuid: str) -> None:
        for listener in self._on_inventory:
            listener(f"guest:{uuid}")

    def on_inventory(self, listener: Callable[[str], None]) -> None:
        """As the protocol says."""
        self._on_inventory.append(listener)

    async def inventory(self, before: HypervisorState | None, changed: frozenset[str]) -> HypervisorState:
        """All guests; there is nothing else."""
        self._check_alive()
        self.inventories.append(changed)
        assert self.facts is not None
        return HypervisorState(
            problem="",
            uri="simulated:///",
            host_id=self.facts.host_id,
            host_name=self.facts.hostname,
            libvirt=self.facts.libvirt,
            qemu=self.facts.qemu,
            guests=tuple(self.known.values()),
        )

    def set_alive(self, *, alive: bool) -> None:
        """Connect or disconnect."""
        self.alive, self.problem = alive, "" if alive else f"libvirt on {self.name} does not answer: simulated."
        for listener in self._on_change:
            listener()

    def on_change(self, listener: Callable[[], None]) -> None:
        """As the protocol says."""
        self._on_change.append(listener)

    def on_guest(self, listener: Callable[[str, str, GuestEvent], None]) -> None:
        """As the protocol says."""
        self._on_guest.append(listener)

    async def run(self) -> None:
        """Nothing is to be kept up."""
        await asyncio.Event().wait()

    def _check_alive(self) -> None:
        if not self.alive:
            raise HypervisorUnavailable(self.problem)

    async def guests(self) -> list[Guest]:
        """All guests."""
        self._check_alive()
        return list(self.known.values())

    async def guest(self, key: str) -> Guest:
        """The guest of that name or UUID."""
        self._check_alive()
        for found in self.known.values():
            if key in (found.name, found.uuid):
                return found
        raise NoSuchGuest(f"No guest {key!r} is defined on {self.name}.")

    async def whereabouts(self, uuid: str) -> Whereabouts:
        """Where the guest stands here."""
        self._check_alive()
        found = self.known.get(uuid)
        if found is None:
            return Whereabouts(host=self.name, known=False)
        job = "outgoing" if uuid in self._migrating else "none"
        return Whereabouts(host=self.name, known=True, state=found.state, persistent=found.persistent, job=job)

    async def names(self, name: str, uuid: str) -> NameFact:
        """Who holds name and UUID here."""
        self._check_alive()
        by_uuid = self.known.get(uuid)
        return NameFact(
            uuid_of_name=next((one.uuid for one in self.known.values() if one.name == name), ""),
            name_of_uuid=by_uuid.name if by_uuid else "",
            uuid_is_active=bool(by_uuid and by_uuid.state.is_active),
            uuid_has_save=bool(by_uuid and by_uuid.managed_save and not by_uuid.state.is_active),
        )

    async def machine_problem(self, guest: Guest) -> str:
        """Every machine type can be had."""
        return ""

    async def compare_cpu(self, guest: Guest) -> CpuFact:
        """Every CPU, unless a test says otherwise."""
        return CpuFact(compatible=not self.missing_cpu, problem=self.missing_cpu)

    async def network(self, name: str) -> NetworkFact:
        """No networks."""
        return NetworkFact(name=name, exists=False)

    async def migrate(self, uuid: str, stream: Stream) -> None:
        """Move the guest's entry to the host that the URI names, or do what `fault` says."""
        self.streams.append(stream)
        self._migrating.add(uuid)
        destination = self.world.hosts[str(urlsplit(stream.libvirt_uri).hostname)]
        moving = self.known[uuid]
        holding, aborting = asyncio.ensure_future(self.hold.wait()), asyncio.ensure_future(self.aborted.wait())
        try:
            await asyncio.wait({holding, aborting}, return_when=asyncio.FIRST_COMPLETED)
            if self.aborted.is_set():
                self.aborted.clear()
                raise HypervisorFailed("operation aborted: job 'migration out' canceled by client", number=78)
            if self.fault == "refused":
                raise HypervisorFailed("simulated refusal", number=9)
            for listener in self._on_guest:
                listener(moving.name, uuid, GuestEvent.SUSPENDED)
            if self.fault != "destroyed":
                destination.add(msgspec.structs.replace(moving, autostart=False))
            if self.fault == "finish-lost":
                self.known[uuid] = msgspec.structs.replace(moving, state=GuestState.PAUSED)
                raise HypervisorFailed("client socket is closed", number=1)
            if self.fault != "both":
                del self.known[uuid]
                self._changed(uuid)
            if self.fault:
                raise HypervisorFailed("domain is not running", number=9)
        finally:
            self._migrating.discard(uuid)
            for task in (holding, aborting):
                task.cancel()
            await asyncio.gather(holding, aborting, return_exceptions=True)

    async def progress(self, uuid: str) -> Progress | None:
        """Some statistics while the guest moves."""
        return Progress(total=100, processed=50, remaining=50, rate=10) if uuid in self._migrating else None

    async def completed(self, uuid: str) -> Progress | None:
        """Statistics of a migration that has ended."""
        return Progress(total=100, processed=100, rate=10, pause_usec=1234)

    async def abort(self, uuid: str) -> None:
        """Abort the guest's migration."""
        if uuid in self._migrating:
            self.aborted.set()

    async def set_autostart(self, uuid: str, *, on: bool) -> None:
        """Note it."""
        self.known[uuid] = msgspec.structs.replace(self.known[uuid], autostart=on)

    async def remove_remainder(self, uuid: str) -> None:
        """Forget the guest."""
        self.known.pop(uuid, None)
