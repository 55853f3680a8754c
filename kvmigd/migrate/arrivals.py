"""The destination's half of migrations: guests that are expected here, until both hosts agree where they run.

A guest with a fenced handover stands still here when all of it has come, and runs only after its source has said that
its QEMU there is gone. What the source does not end, because it has died, is looked after by `run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
import structlog

from kvmigd.errors import HypervisorFailed, HypervisorUnavailable, KvmigdError, StateNotKept, Unresolved
from kvmigd.host.hypervisor import GuestEvent
from kvmigd.host.local import Host
from kvmigd.migrate.journal import Journal
from kvmigd.model.guest import Copy, Whereabouts
from kvmigd.model.job import Progress
from kvmigd.model.passage import Arrival
from kvmigd.peer import wire
from kvmigd.peer.admission import AdmissionDesk, Reservation
from kvmigd.peer.peers import Peers

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.25
"""libvirt tells of a guest that has come by an event; one that was lost costs so much."""
SETTLING_SECONDS = 0.2
"""The event comes before libvirt's job has ended."""
AGAIN_SECONDS = 5.0
"""So often what nobody looks after is looked at, while there is anything."""

Before = Callable[[wire.AdmissionRequest, Arrival], Awaitable[Arrival]]
"""Gets ready for a guest, and returns its record with what was made for it. Raises KvmigdError to refuse the guest."""
After = Callable[[Arrival, str, str], Awaitable[None]]
"""`after(arrival, outcome, error)`: the job is over."""


class Arrivals:
    """Implements peer.reception.Incoming."""

    def __init__(self, host: Host, journal: Journal, desk: AdmissionDesk, peers: Peers) -> None:
        self._host = host
        self._hypervisor = host.hypervisor
        self._records = journal.arrivals
        self._departures = journal.departures
        self._desk = desk
        self._peers = peers
        self._events: dict[str, asyncio.Event] = {}
        self._wake = asyncio.Event()
        self._turns: dict[str, asyncio.Lock] = {}
        self.before: list[Before] = []
        self.after: list[After] = []
        self.mend: Callable[[str], Awaitable[bool]] | None = None
        """Gives a guest's images back to QEMU's user, `mend(uuid)`; true if any had to be given."""
        host.hypervisor.on_guest(self._on_guest)
        host.hypervisor.on_change(self._wake.set)
        peers.on_change(lambda _name: self._wake.set() if self._orphans else None)

    def load(self) -> None:
        """Take up the leases of guests that an earlier run of the daemon has admitted."""
        for record in self._records:
            self._desk.take_up(_lease_of(record))

    # What the source asks

    async def expect(self, request: wire.AdmissionRequest, lease: Reservation) -> wire.Refused | None:
        """Get ready for a guest: hooks, volumes, and the record of it."""
        async with self._turn(request.job):
            if self._records.get(request.job) is not None:
                return None
            before = await self._hypervisor.whereabouts(lease.uuid)
            if before.is_active:
                return wire.Refused(
                    reason=f"{lease.guest} is {before.state} on {before.host} already.",
                    hint=f"On {before.host}: virsh domstate --reason {lease.guest}",
                )
            if other := self._records.of_guest(lease.uuid):
                return wire.Refused(
                    reason=f"An earlier migration of {lease.guest} from {other.peer} is not resolved yet.",
                    hint=f"On {before.host}: kvmigctl recover",
                )
            record = Arrival(
                job=lease.job,
                peer=lease.peer,
                guest=lease.guest,
                guest_uuid=lease.uuid,
                memory=lease.memory,
                port=lease.port,
                handover=request.handover,
                created_usec=time.time_ns() // 1000,
            )
            try:
                await self._records.keep(record)
                for prepare in self.before:
                    record = await prepare(request, record)
                    await self._records.keep(record)
            except KvmigdError as error:
                await self._over(record, "stayed", error.message)
                if isinstance(error, StateNotKept):
                    log.error("guest not expected", guest=record.guest, peer=record.peer, error=error.message)
                return wire.Refused(reason=error.message, hint=error.hint, findings=error.findings)
            return None

    async def landed(self, job: str, uuid: str) -> wire.Standing:
        """Wait until all of the guest is here."""
        event = self._events.setdefault(uuid, asyncio.Event())
        try:
            async with asyncio.timeout(wire.LANDING_SECONDS):
                while True:
                    event.clear()
                    where = await self.standing(job, uuid)
                    if where.copy in (Copy.WHOLE, Copy.RUNNING):
                        return where
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(None if where.copy is Copy.HALF else LOOK_SECONDS):
                            await event.wait()
                            await self._settled(uuid)
        except TimeoutError:
            return await self.standing(job, uuid)
        finally:
            if self._events.get(uuid) is event:
                del self._events[uuid]

    async def _settled(self, uuid: str) -> None:
        """Wait for the end of libvirt's job, which comes a moment after the event."""
        give_up = time.monotonic() + SETTLING_SECONDS
        while (await self._hypervisor.whereabouts(uuid)).copy is Copy.HALF and time.monotonic() < give_up:
            await asyncio.sleep(0.003)

    async def standing(self, job: str, uuid: str) -> wire.Standing:
        """Where the guest stands here."""
        where = await self._hypervisor.whereabouts(uuid)
        return wire.Standing(**_fields(where), expected=self._records.get(job) is not None)

    async def wake(self, job: str, uuid: str) -> wire.Standing:
        """Let the guest run: its QEMU at the source was seen gone."""
        async with self._turn(job):
            await self._run(job, uuid)
        return await self.standing(job, uuid)

    async def _run(self, job: str, uuid: str) -> None:
        where = await self._hypervisor.whereabouts(uuid)
        if where.copy is not Copy.WHOLE:
            return
        try:
            await self._hypervisor.resume(uuid)
        except HypervisorFailed as error:
            # libvirt at the source has taken the images from QEMU's user, because its QEMU had to be killed.
            if self.mend is None or not await self.mend(uuid):
                raise
            log.warning("images given back to QEMU", uuid=uuid, error=error.message)
            await self._hypervisor.resume(uuid)
        if (record := self._records.get(job)) is not None:
            log.info("guest woken", guest=record.guest, peer=record.peer, job=job)
            await self._records.note(msgspec.structs.replace(record, woken=True, problem=""))

    async def drop(self, job: str, uuid: str) -> wire.Standing:
        """End what is here of a guest that goes on at its source."""
        async with self._turn(job):
            await self._drop(job, uuid)
        return await self.standing(job, uuid)

    async def _drop(self, job: str, uuid: str) -> None:
        """Only a copy that stands still is ended: one that runs is the guest."""
        where = await self._hypervisor.whereabouts(uuid)
        if where.copy in (Copy.HALF, Copy.WHOLE):
            log.warning("copy removed", uuid=uuid, job=job, where=where.describe())
            await self._hypervisor.remove_remainder(uuid)

    async def settle(
        self, job: str, uuid: str, *, outcome: Literal["arrived", "stayed"], autostart: bool, error: str
    ) -> Progress | None:
        """The source knows where the guest runs: here or there."""
        async with self._turn(job):
            record = self._records.get(job)
            statistics = None
            if outcome == "arrived":
                await self._run(job, uuid)
                statistics = await self._host.settle_arrived(uuid, autostart=autostart)
            else:
                await self._drop(job, uuid)
                await self._undefine_half(uuid, record)
            if record is not None:
                await self._over(record, outcome, error)
            self._turns.pop(job, None)
            return statistics

    async def _undefine_half(self, uuid: str, record: Arrival | None) -> None:
        """A definition that libvirt had made here before the guest's way ended (VIR_MIGRATE_PERSIST_DEST)."""
        where = await self._hypervisor.whereabouts(uuid)
        if record is not None and not record.woken and where.known and not where.is_active:
            await self._hypervisor.remove_remainder(uuid)

    async def _over(self, record: Arrival, outcome: str, error: str) -> None:
        for after in self.after:
            try:
                await after(record, outcome, error)
            except KvmigdError as problem:
                log.warning("not tidied up", guest=record.guest, job=record.job, error=str(problem))
        await self._records.close(record.job)

    async def departure(self, job: str, uuid: str, *, peer: str) -> wire.Departed:
        """What is known of a guest that leaves this host; also while libvirt here is away."""
        try:
            where: Whereabouts | None = await self._hypervisor.whereabouts(uuid)
        except (HypervisorUnavailable, HypervisorFailed) as error:
            log.warning("source does not answer", uuid=uuid, error=error.message)
            where = None
        record = self._departures.get(job)
        if record is None or record.peer != peer:
            return wire.Departed(open=False, where=where)
        return wire.Departed(open=True, stage=record.stage, where=where)

    def _turn(self, job: str) -> asyncio.Lock:
        """What is asked about one job is done one after the other."""
        return self._turns.setdefault(job, asyncio.Lock())

    def _on_guest(self, _name: str, uuid: str, event: GuestEvent) -> None:
        if uuid in self._events and event is not GuestEvent.OTHER:
            self._events[uuid].set()
        if self._records.of_guest(uuid) is not None:
            self._wake.set()

    # What nobody else looks after

    @property
    def _orphans(self) -> tuple[Arrival, ...]:
        """Guests whose source has not been heard of for as long as a lease."""
        leased = {lease.job for lease in self._desk.reservations}
        return tuple(record for record in self._records if record.job not in leased)

    async def run(self) -> None:
        """Resolve what the source does not, for ever."""
        self._desk.on_change(self._wake.set)
        while True:
            wait = AGAIN_SECONDS if self._orphans or self._records.untidy else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            self._wake.clear()
            if self._records.untidy:
                await self._records.tidy()
            for record in self._orphans:
                await self._look_after(record)
            await asyncio.sleep(0.5)  # what changes together is looked at together

    async def look(self) -> None:
        """Look now at everything that is open and not under way."""
        for record in self._orphans:
            await self._look_after(record)

    async def _look_after(self, record: Arrival) -> None:
        try:
            async with self._turn(record.job):
                if self._records.get(record.job) is not None:
                    await self._resolve(record)
        except KvmigdError as error:
            if error.message != record.problem:
                log.warning("guest not resolved", guest=record.guest, peer=record.peer, error=error.message)
                await self._records.note(msgspec.structs.replace(record, problem=error.message))

    async def _resolve(self, record: Arrival) -> None:
        """Find out from the source where the guest runs, and do what follows. Raises why that cannot be."""
        here = await self._hypervisor.whereabouts(record.guest_uuid)
        if here.copy is Copy.RUNNING and (record.woken or record.handover == "direct"):
            log.info("guest has arrived", guest=record.guest, peer=record.peer)
            return await self._over(record, "arrived", "")
        source = await self._peers.get(record.peer).departure(record.job, record.guest_uuid)
        if source.open:
            return None  # the source is at it, and takes the lease up again
        if source.where is None:
            raise Unresolved(f"libvirt on {record.peer} does not answer; {here.describe()}.")
        if here.copy is Copy.RUNNING:
            return await self._over(record, "arrived", "")
        if source.where.is_active:
            # Nobody there knows of the job any longer, and the guest is there.
            await self._drop(record.job, record.guest_uuid)
            await self._undefine_half(record.guest_uuid, record)
            return await self._over(record, "stayed", "the source has forgotten the migration")
        if here.copy is Copy.WHOLE:
            await self._run(record.job, record.guest_uuid)
            return await self._over(record, "arrived", "")
        if here.copy is Copy.NONE:
            log.info("guest is not coming", guest=record.guest, peer=record.peer)
            return await self._over(record, "stayed", "the source has forgotten the migration")
        raise Unresolved(f"{record.guest} is half here and not on {record.peer} ({here.describe()}).")


def _lease_of(record: Arrival) -> wire.Claim:
    return wire.Claim(uuid=record.guest_uuid, guest=record.guest, memory=record.memory, port=record.port)


def _fields(where: Whereabouts) -> dict[str, object]:
    return {name: getattr(where, name) for name in Whereabouts.__struct_fields__}
