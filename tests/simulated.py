"""A hypervisor that is only simulated, for fast tests: guests are entries in a world that all its hosts share."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
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
    answer does not), "destroyed" (the guest dies), "both" (a defect: it runs twice), "lingers" (libvirt here hangs before
    it has ended the source's QEMU, and goes on as soon as that is gone).
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
        self.reasons: dict[str, str] = {}
        self.progresses: dict[str, Progress] = {}
        """What `progress` tells of a guest that moves."""
        self.tuned: list[tuple[str, int]] = []
        """What was asked of running migrations."""
        self.dirty = 0
        self.resume_problem = ""
        self._processes: dict[str, list[SimulatedProcess]] = {}
        self._pids = itertools.count(1000 * number)
        self._identities: dict[str, int] = {}

    def _set(self, uuid: str, state: GuestState, reason: str, event: GuestEvent) -> None:
        found = self.known[uuid] = msgspec.structs.replace(self.known[uuid], state=state)
        self.reasons[uuid] = reason
        self._tell(found, event)
        self._changed(uuid)

    def _tell(self, guest: Guest, event: GuestEvent) -> None:
        for listener in tuple(self._on_guest):
            listener(guest.name, guest.uuid, event)

    def end(self, uuid: str, *, undefine: bool = True) -> None:
        """The guest's QEMU ends."""
        found = self.known.get(uuid)
        if found is None:
            return
        self._identities.pop(uuid, None)
        if undefine:
            del self.known[uuid]
            self.reasons.pop(uuid, None)
        else:
            self.known[uuid] = msgspec.structs.replace(found, state=GuestState.SHUTOFF)
            self.reasons[uuid] = "crashed"
        for process in self._processes.pop(uuid, []):
            process.ended.set()
        self._tell(found, GuestEvent.STOPPED)
        self._changed(uuid)

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
        reason = self.reasons.get(uuid, "")
        return Whereabouts(
            host=self.name, known=True, state=found.state, reason=reason, persistent=found.persistent, job=job
        )

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
            was = self.known[uuid].state  # it may have been suspended meanwhile
            self._set(uuid, GuestState.PAUSED, "migrating", GuestEvent.SUSPENDED)
            if self.fault != "destroyed":
                stands = stream.paused or not was.is_executing
                arrived = GuestState.PAUSED if stands else GuestState.RUNNING
                destination.add(msgspec.structs.replace(moving, autostart=False, state=arrived))
                destination.reasons[uuid] = "user" if stands else "migrated"
                destination._tell(moving, GuestEvent.SUSPENDED if stands else GuestEvent.RESUMED)
            if self.fault == "finish-lost":
                raise HypervisorFailed("client socket is closed", number=1)
            if self.fault == "lingers":
                process = await self.process(uuid)
                assert process is not None
                await process.ended.wait()
                self.known.pop(uuid, None)
                return
            if self.fault == "both":
                self._set(uuid, GuestState.RUNNING, "migration canceled", GuestEvent.RESUMED)
            else:
                await asyncio.sleep(0)
                self.end(uuid)
            if self.fault:
                raise HypervisorFailed("domain is not running", number=9)
        finally:
            self._migrating.discard(uuid)
            for task in (holding, aborting):
                task.cancel()
            await asyncio.gather(holding, aborting, return_exceptions=True)

    async def progress(self, uuid: str) -> Progress | None:
        """Some statistics while the guest moves."""
        if uuid not in self._migrating:
            return None
        return self.progresses.get(uuid, Progress(total=100, processed=50, remaining=50, rate=10))

    async def completed(self, uuid: str) -> Progress | None:
        """Statistics of a migration that has ended."""
        return Progress(total=100, processed=100, rate=10, pause_usec=1234)

    async def abort(self, uuid: str) -> None:
        """Abort the guest's migration."""
        if uuid in self._migrating:
            self.aborted.set()

    async def set_bandwidth(self, uuid: str, bandwidth: int) -> None:
        """Note it."""
        self._check_moving(uuid)
        self.tuned.append(("bandwidth", bandwidth))

    async def set_max_pause(self, uuid: str, usec: int) -> None:
        """Note it."""
        self._check_moving(uuid)
        self.tuned.append(("max-pause", usec))

    async def start_post_copy(self, uuid: str) -> None:
        """Note it."""
        self._check_moving(uuid)
        self.tuned.append(("post-copy", 0))

    def _check_moving(self, uuid: str) -> None:
        self._check_alive()
        if uuid not in self._migrating:
            raise HypervisorFailed("domain is not being migrated", number=55)

    async def suspend(self, uuid: str) -> None:
        """Stop the guest's CPUs."""
        self._check_alive()
        if self.known[uuid].state.is_executing:
            self._set(uuid, GuestState.PAUSED, "user", GuestEvent.SUSPENDED)

    async def resume(self, uuid: str) -> None:
        """Let the guest's CPUs run."""
        self._check_alive()
        if self.resume_problem:
            raise HypervisorFailed(self.resume_problem, number=1)
        if not self.known[uuid].state.is_executing:
            self._set(uuid, GuestState.RUNNING, "unpaused", GuestEvent.RESUMED)

    async def process(self, uuid: str) -> SimulatedProcess | None:
        """The guest's QEMU."""
        self._check_alive()
        found = self.known.get(uuid)
        if found is None or not found.state.is_active:
            return None
        pid = self._identities.setdefault(uuid, next(self._pids))
        process = SimulatedProcess(self, uuid, pid)
        self._processes.setdefault(uuid, []).append(process)
        return process

    def held(self, identity: tuple[int, int]) -> SimulatedProcess | None:
        """The process of that identity, if it is still there."""
        for uuid, pid in self._identities.items():
            if identity == (pid, pid) and uuid in self.known:
                process = SimulatedProcess(self, uuid, pid)
                self._processes.setdefault(uuid, []).append(process)
                return process
        return None

    async def dirty_rate(self, uuid: str, *, seconds: int) -> int:
        """As a test has set it."""
        self._check_alive()
        return self.dirty

    async def definition(self, uuid: str) -> str:
        """The guest as JSON stands for its definition."""
        self._check_alive()
        return msgspec.json.encode(self.known[uuid]).decode()

    async def define(self, xml: str, *, autostart: bool) -> None:
        """Define a guest from what `definition` gave."""
        self._check_alive()
        found = msgspec.json.decode(xml, type=Guest)
        self.add(msgspec.structs.replace(found, state=GuestState.SHUTOFF, autostart=autostart))

    async def set_autostart(self, uuid: str, *, on: bool) -> None:
        """Note it."""
        self.known[uuid] = msgspec.structs.replace(self.known[uuid], autostart=on)

    async def remove_remainder(self, uuid: str) -> None:
        """Forget the guest, unless it runs."""
        self._check_alive()
        found = self.known.get(uuid)
        if found is not None and found.state.is_executing:
            raise HypervisorFailed(f"{found.name} runs here; it was not ended, for it is no remainder")
        self.end(uuid)


class SimulatedProcess:
    """Implements host.hypervisor.Process."""

    def __init__(self, hypervisor: SimulatedHypervisor, uuid: str, pid: int) -> None:
        self._hypervisor = hypervisor
        self._uuid = uuid
        self.identity = (pid, pid)
        self.ended = asyncio.Event()

    async def gone(self, seconds: float) -> bool:
        """Whether it has ended within so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        return self.ended.is_set()

    def kill(self) -> None:
        """End it; libvirt takes the guest for crashed."""
        if not self.ended.is_set():
            self._hypervisor.end(self._uuid, undefine=False)

    def close(self) -> None:
        """Nothing is held."""
