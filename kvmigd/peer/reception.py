"""The peer's half of a guest's way here: what the server is asked about guests that were admitted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, Protocol, TypeVar

import msgspec
from aiohttp import web

from kvmigd.config import Peer
from kvmigd.model.guest import Whereabouts
from kvmigd.model.job import Progress
from kvmigd.peer import wire
from kvmigd.peer.admission import AdmissionDesk, Reservation

Message = TypeVar("Message", bound=msgspec.Struct)
Handler = Callable[[web.Request, Peer], Awaitable[msgspec.Struct]]


class Incoming(Protocol):
    """Guests that come here, and those that leave, as the daemon knows them. Raises the errors of kvmigd.errors."""

    async def expect(self, request: wire.AdmissionRequest, lease: Reservation) -> wire.Refused | None:
        """The desk has admitted the guest: get ready for it, or say why not. May be called again."""

    async def landed(self, job: str, uuid: str) -> wire.Standing:
        """Wait, but not for long, until all of the guest is here, and tell where it stands."""

    async def standing(self, job: str, uuid: str) -> wire.Standing:
        """Where the guest stands here, asked of libvirt now."""

    async def wake(self, job: str, uuid: str) -> wire.Standing:
        """The source's QEMU is gone: let the guest run here. May be called again."""

    async def drop(self, job: str, uuid: str) -> wire.Standing:
        """The guest goes on at its source: end what is here of it, unless it runs here. May be called again."""

    async def settle(
        self, job: str, uuid: str, *, outcome: Literal["arrived", "stayed"], autostart: bool, error: str
    ) -> Progress | None:
        """The job is over. Returns the stream's statistics, if libvirt here has any. May be called again."""

    async def departure(self, job: str, uuid: str, *, peer: str) -> wire.Departed:
        """What is known of a guest that leaves, or left, this host for that peer."""


class Reception:
    """Answers everything about guests on their way. Who asks about an arrival must have its admission."""

    def __init__(self, incoming: Incoming, desk: AdmissionDesk) -> None:
        self._incoming = incoming
        self._desk = desk

    @property
    def routes(self) -> tuple[tuple[str, Handler], ...]:
        """Paths to POST to, without the version."""
        return (
            ("/arrival/{job}/landed", self._landed),
            ("/arrival/{job}/standing", self._standing),
            ("/arrival/{job}/wake", self._wake),
            ("/arrival/{job}/drop", self._drop),
            ("/departure", self._departure),
            ("/settle", self._settle),
        )

    @staticmethod
    async def _read(request: web.Request, shape: type[Message]) -> Message:
        return wire.decode(await request.read(), shape)

    async def _about(self, request: web.Request, peer: Peer) -> tuple[str, str]:
        """Job and guest of a request; raises NoLease, or NotAuthorised if the job is another peer's."""
        message = await self._read(request, wire.ArrivalRequest)
        job = wire.job_id(request.match_info["job"])
        self._desk.check_settle(job, message.uuid, peer=peer.name)
        return job, message.uuid

    async def _landed(self, request: web.Request, peer: Peer) -> wire.Standing:
        return await self._incoming.landed(*await self._about(request, peer))

    async def _standing(self, request: web.Request, peer: Peer) -> wire.Standing:
        return await self._incoming.standing(*await self._about(request, peer))

    async def _wake(self, request: web.Request, peer: Peer) -> wire.Standing:
        return await self._incoming.wake(*await self._about(request, peer))

    async def _drop(self, request: web.Request, peer: Peer) -> wire.Standing:
        return await self._incoming.drop(*await self._about(request, peer))

    async def _departure(self, request: web.Request, peer: Peer) -> wire.Departed:
        message = await self._read(request, wire.DepartureRequest)
        return await self._incoming.departure(message.job, message.uuid, peer=peer.name)

    async def _settle(self, request: web.Request, peer: Peer) -> wire.Settled:
        message = await self._read(request, wire.SettleRequest)
        self._desk.check_settle(message.job, message.uuid, peer=peer.name)
        statistics = await self._incoming.settle(
            message.job, message.uuid, outcome=message.outcome, autostart=message.autostart, error=message.error
        )
        # Only now: if libvirt failed, the peer asks again under the same lease.
        self._desk.release(message.job, peer=peer.name)
        where: Whereabouts = await self._incoming.standing(message.job, message.uuid)
        fields = {name: getattr(where, name) for name in Whereabouts.__struct_fields__}
        return wire.Settled(**fields, statistics=statistics)
