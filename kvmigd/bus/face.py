"""The daemon's face on the system bus: publishes the operations, and keeps the objects in step with them."""

from __future__ import annotations

import asyncio

import structlog

from kvmigd.bus import path
from kvmigd.bus.authority import INTERACTIVE_TIMEOUT, TIMEOUT, Authority
from kvmigd.bus.changes import Row, Teller
from kvmigd.bus.connection import Connection
from kvmigd.bus.guest import GuestObjects
from kvmigd.bus.host import HostObject
from kvmigd.bus.job import parts_of
from kvmigd.bus.manager import Manager
from kvmigd.bus.peer import PeerObject
from kvmigd.bus.publisher import INTERVAL, Publisher
from kvmigd.jobs import Job
from kvmigd.model.peer import PeerView
from kvmigd.operations import Operations

log = structlog.get_logger(__name__)


class BusFace:
    """`async with` connects, publishes and takes the name; `run` waits for the end of the connection.

    `trusted_uids` are not asked about at polkit. `interval` is the least time between two PropertiesChanged of one
    object, in seconds.
    """

    def __init__(
        self,
        operations: Operations,
        *,
        address: str | None = None,
        trusted_uids: frozenset[int] = frozenset({0}),
        interval: float = INTERVAL,
        polkit_timeout: float = TIMEOUT,
        polkit_interactive_timeout: float = INTERACTIVE_TIMEOUT,
    ) -> None:
        self._operations = operations
        self._address = address
        self._trusted_uids = trusted_uids
        self._interval = interval
        self._polkit_timeout = polkit_timeout
        self._polkit_interactive_timeout = polkit_interactive_timeout
        self._connection: Connection | None = None
        self._publisher: Publisher | None = None
        self._authority: Authority | None = None
        self._teller: Teller | None = None
        self._peers: dict[str, PeerView] = {}
        self._guests: GuestObjects | None = None

    async def __aenter__(self) -> BusFace:
        self._connection = await Connection.open(self._address)
        self._publisher = Publisher(self._connection, interval=self._interval)
        self._authority = Authority(
            self._connection,
            trusted_uids=self._trusted_uids,
            timeout=self._polkit_timeout,
            interactive_timeout=self._polkit_interactive_timeout,
        )
        try:
            operations = self._operations
            self._teller = Teller(operations.picture, self._tell)
            host = HostObject(operations.picture, self._teller, self._authority)
            self._publisher.export(path.ROOT, Manager(operations, self._authority), host)
            operations.picture.subscribe(lambda _: self._on_change())
            operations.on_change(self._on_change)
            operations.on_peer(self._on_peer)
            for view in operations.peers:
                self._on_peer(view.name)
            self._guests = GuestObjects(self._publisher, operations)
            operations.on_standing(self._on_standing)
            operations.jobs.added.append(self._on_job_added)
            operations.jobs.removed.append(self._on_job_removed)
            for job in operations.jobs:
                self._publish_job(job)
            # Last: whoever sees the name finds everything.
            await self._connection.request_name(path.NAME)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def run(self) -> None:
        """Wait for the connection to end; raises BusUnavailable if the bus went away, for systemd to start us anew."""
        assert self._connection is not None
        await self._connection.closed()

    async def _close(self) -> None:
        if self._connection is None or self._publisher is None:
            return
        publisher, self._publisher = self._publisher, None
        if self._teller:
            self._teller.close()
        if self._guests:
            self._guests.close()
        jobs = self._operations.jobs
        if self._on_job_added in jobs.added:
            jobs.added.remove(self._on_job_added)
            jobs.removed.remove(self._on_job_removed)
        for job in jobs:
            if self._on_job_changed in job.listeners:
                job.listeners.remove(self._on_job_changed)
        await publisher.close()
        await self._connection.close()

    def _on_change(self) -> None:
        if self._publisher:
            self._publisher.changed(path.ROOT)

    def _tell(self, generation: int, subject: str, changes: list[Row]) -> asyncio.Future[None] | None:
        if self._publisher is None:
            return None
        return self._publisher.emit(path.ROOT, path.HOST, "Changed", generation, subject, changes)

    def _on_peer(self, name: str) -> None:
        """A peer changed, came or went."""
        if self._publisher is None:
            return
        place = path.peer_path(name)
        view = next((view for view in self._operations.peers if view.name == name), None)
        if view is None:
            if self._peers.pop(name, None) is not None:
                self._publisher.unexport(place)
            return
        self._peers[name] = view
        if place in self._publisher:
            self._publisher.changed(place)
        else:
            self._publisher.export(place, PeerObject(lambda: self._peer(name)))

    def _on_standing(self, uuid: str) -> None:
        if self._publisher and self._guests:
            self._guests.changed(uuid)
            self._publisher.changed(path.ROOT)

    def _peer(self, name: str) -> PeerView:
        """The peer as it is now: the round trip changes without a word."""
        now = next((view for view in self._operations.peers if view.name == name), None)
        return now or self._peers[name]

    def _on_job_added(self, job: Job) -> None:
        self._publish_job(job)
        if self._publisher:
            self._publisher.emit(path.ROOT, path.MANAGER, "JobNew", job.number, path.job_path(job.number))

    def _publish_job(self, job: Job) -> None:
        if self._publisher and self._authority:
            self._publisher.export(path.job_path(job.number), *parts_of(job, self._authority))
            job.listeners.append(self._on_job_changed)

    def _on_job_changed(self, job: Job) -> None:
        """Called by the job before who waits for it is woken: so the final state and Finished are ahead of Wait."""
        if self._publisher is None:
            return
        place = path.job_path(job.number)
        if not job.state.is_final:
            self._publisher.changed(place)
            return
        self._publisher.flush(place)
        self._publisher.emit(place, path.JOB, "Finished", job.result)
        job.listeners.remove(self._on_job_changed)

    def _on_job_removed(self, job: Job) -> None:
        place = path.job_path(job.number)
        if self._publisher and place in self._publisher:
            self._publisher.emit(path.ROOT, path.MANAGER, "JobRemoved", job.number, place, job.result)
            self._publisher.unexport(place)
