"""The server that other hosts' daemons talk to: TLS with certificates both ways, one handler a verb."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

import msgspec
import structlog
from aiohttp import web

from kvmigd import __version__
from kvmigd.config import Config, Peer
from kvmigd.errors import (
    AdmissionBusy,
    CertificateInvalid,
    DeadlinePassed,
    InternalError,
    InvalidArguments,
    KvmigdError,
    PeerNotTrusted,
    ProtocolMismatch,
)
from kvmigd.model.guest import Whereabouts
from kvmigd.model.host import Examination
from kvmigd.peer import wire
from kvmigd.peer.admission import AdmissionDesk, Reservation
from kvmigd.peer.burst import Bursts
from kvmigd.peer.certificates import names_in
from kvmigd.peer.counterpart import Counterpart, stream_address
from kvmigd.peer.door import Door
from kvmigd.peer.identity import Credentials, peer_of
from kvmigd.peer.local import LocalHost
from kvmigd.peer.news import Newsreader
from kvmigd.peer.watch import Broadcast

log = structlog.get_logger(__name__)

REQUESTS_A_PEER = 32
HANDLER_SECONDS = 60.0
RETRY_SECONDS = 5.0
"""How often it tries again while it cannot listen."""
CERTIFICATES_SECONDS = 3600.0
"""How often certificates are judged again although their files have not changed: they expire."""

Message = TypeVar("Message", bound=msgspec.Struct)
Handler = Callable[[web.Request, Peer], Awaitable[msgspec.Struct]]


class PeerServer:
    """Answers the peers. Without usable certificates it stays down, says why in `problem`, and tries again."""

    def __init__(
        self,
        config: Config,
        local: LocalHost,
        *,
        group: asyncio.TaskGroup,
        desk: AdmissionDesk | None = None,
        protocols: tuple[int, ...] = wire.PROTOCOLS,
    ) -> None:
        self._config = config
        self._local = local
        self._group = group
        self._protocols = protocols
        self.desk = desk or AdmissionDesk(config.migration)
        self._credentials = Credentials(config.pki)
        self._requests: Counter[str] = Counter()
        self._problem = ""
        self._opening = asyncio.Lock()
        self._look_again = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self.bursts = Bursts()
        self._counterpart = Counterpart(lambda: self._config, local, self.desk, bursts=self.bursts, group=group)
        news = Newsreader(lambda: local.facts, lambda: local.picture.state)
        self._broadcast = Broadcast(news, refresh=local.refresh)
        local.on_facts(self._broadcast.changed)
        local.picture.subscribe(lambda _change: self._broadcast.picture_changed())

    async def __aenter__(self) -> Self:
        self._runner = web.AppRunner(
            self._application(), access_log=None, handle_signals=False, keepalive_timeout=120.0, shutdown_timeout=1.0
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._door = Door(self._runner.server, self._group)
        self._tasks = [
            self._group.create_task(self._broadcast.run(), name="peer-beat"),
            self._group.create_task(self._look_after_certificates(), name="peer-certificates"),
            self._group.create_task(self._end_leases(), name="peer-leases"),
        ]
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._door.close()
        await self._counterpart.close()
        self._broadcast.close()
        await self._runner.cleanup()

    @property
    def problem(self) -> str:
        """Why peers cannot reach this host; empty if nothing is known to stand in their way."""
        return self._problem

    @property
    def port(self) -> int:
        """The port it listens on; 0 while it does not."""
        return self._door.port

    def certificates_changed(self) -> None:
        """Certificate or key files may have changed."""
        self._look_again.set()

    def on_problem(self, listener: Callable[[], None]) -> None:
        """Call `listener` when `problem` has changed."""
        self._listeners.append(listener)

    async def reload(self, config: Config) -> None:
        """Take a new configuration and certificates. Connections of peers that still are peers stay."""
        self._config = config
        self.desk.apply(config.migration)
        self._credentials.apply(config.pki)
        for name in self._broadcast.watchers - config.peers.keys():
            self._broadcast.end(name)
        await self._open()

    async def _open(self) -> None:
        """Listen, if the certificates allow it; harmless if nothing has changed."""
        async with self._opening:
            await self._open_now()

    async def _open_now(self) -> None:
        problem = ""
        try:
            # A certificate that can no longer be used does not end what stands: peers judge it themselves.
            self._door.context = self._credentials.get("server")
            await self._door.open(self._config.listen.address, self._config.listen.port)
        except CertificateInvalid as error:
            problem = error.message
        except OSError as error:
            listen = self._config.listen
            # What socket.create_server says has the address once more.
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            problem = f"Cannot listen on {listen.address or 'any address'} port {listen.port}: {why}."
        if problem != self._problem:
            self._problem = problem
            if problem:
                log.error("peer server has a problem", problem=problem)
            else:
                log.info("peer server listens", port=self.port)
            for listener in tuple(self._listeners):
                listener()

    async def _look_after_certificates(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS if self._problem else CERTIFICATES_SECONDS):
                    await self._look_again.wait()
            self._look_again.clear()
            await self._open()

    async def _end_leases(self) -> None:
        changed = asyncio.Event()
        self.desk.on_change(changed.set)
        while True:
            try:
                async with asyncio.timeout(self.desk.seconds_to_expiry):
                    await changed.wait()
                    changed.clear()
            except TimeoutError:
                self.desk.expire()

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=wire.BODY_LIMIT, middlewares=[self._border])
        app.router.add_get("/version", self._answering(self._version))
        app.router.add_get("/v3/watch", self._watch)
        post = app.router.add_post
        post("/v3/examine", self._answering(self._examine))
        post("/v3/admission", self._answering(self._admit))
        post("/v3/admission/{job}/renew", self._answering(self._renew))
        app.router.add_delete("/v3/admission/{job}", self._answering(self._release))
        for path, handler in self._counterpart.routes:
            post(f"/v3{path}", self._answering(handler))
        post("/v3/whereabouts", self._answering(self._whereabouts))
        post("/v3/settle", self._answering(self._settle))
        return app

    def _answering(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(request: web.Request) -> web.Response:
            peer = self._peer(request)
            if self._requests[peer.name] >= REQUESTS_A_PEER:
                raise AdmissionBusy(f"{peer.name} has {REQUESTS_A_PEER} requests open here.", retry_after=1.0)
            self._requests[peer.name] += 1
            try:
                async with asyncio.timeout(HANDLER_SECONDS):
                    message = await handler(request, peer)
            except TimeoutError:
                raise DeadlinePassed(f"{self._config.name} did not answer within {HANDLER_SECONDS:g} s.") from None
            finally:
                self._requests[peer.name] -= 1
            return web.Response(body=wire.encode(message), content_type="application/json")

        return answer

    @web.middleware
    async def _border(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Everything that goes wrong leaves as an error with a code."""
        try:
            self._check_protocol(request.path)
            return await handler(request)
        except KvmigdError as error:
            problem, status = error, wire.status_of(error)
        except web.HTTPException as error:
            status = error.status
            problem = InvalidArguments(f"{request.method} {request.path[:100]}: {error.reason}.")
        except ConnectionError:
            raise
        except Exception as error:
            log.exception("peer request broke", path=request.path[:100])
            problem, status = InternalError(f"Internal error: {type(error).__name__}; see the journal there."), 500
        if isinstance(problem, PeerNotTrusted):
            self._door.complain(request.remote or "", problem.message)
        return web.Response(status=status, body=wire.encode_error(problem), content_type="application/json")

    def _check_protocol(self, path: str) -> None:
        asked = re.match(r"/v(\d{1,6})/", path)
        if asked and int(asked[1]) not in self._protocols:
            spoken = ", ".join(map(str, self._protocols))
            raise ProtocolMismatch(f"{self._config.name} speaks protocol {spoken}, not {asked[1]}.")

    def _peer(self, request: web.Request) -> Peer:
        """Who asks, by the certificate and nothing else; raises PeerNotTrusted."""
        certificate = request.get_extra_info("peercert") or {}
        return peer_of(names_in(certificate), self._config.peers)

    @staticmethod
    async def _read(request: web.Request, shape: type[Message]) -> Message:
        return wire.decode(await request.read(), shape)

    async def _version(self, _request: web.Request, _peer: Peer) -> wire.Version:
        return wire.Version(protocols=self._protocols, version=__version__, name=self._config.name)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        return await self._broadcast.serve(request, self._peer(request).name)

    async def _examine(self, request: web.Request, peer: Peer) -> Examination:
        message = await self._read(request, wire.ExamineRequest)
        found = await self._local.examine(message.guests, peer.name, uri=peer.uri)
        # What the rules know of this host they have from the watch stream: it shall not be older than this answer.
        return msgspec.structs.replace(found, told=self._broadcast.catch_up())

    async def _admit(self, request: web.Request, peer: Peer) -> wire.Granted | wire.Busy | wire.Refused:
        message = await self._read(request, wire.AdmissionRequest)
        answer = self.desk.admit(
            message, peer=peer.name, not_accepting=self._local.accepting(), memory_free=self._local.memory_free()
        )
        fields = {"peer": peer.name, "guest": message.guest.name, "job": message.job}
        if isinstance(answer, Reservation):
            log.info("guest admitted", **fields, port=answer.port)
            return self._granted(request, answer)
        log.info("guest not admitted", **fields, reason=answer.reason)
        return answer

    def _granted(self, request: web.Request, lease: Reservation) -> wire.Granted:
        return wire.Granted(
            port=lease.port,
            address=stream_address(self._config.migration, request),
            lease_seconds=self._config.migration.lease_seconds,
        )

    async def _renew(self, request: web.Request, peer: Peer) -> wire.Granted:
        message = await self._read(request, wire.RenewRequest)
        return self._granted(request, self.desk.renew(self._job(request), message.claim, peer=peer.name))

    async def _release(self, request: web.Request, peer: Peer) -> wire.Done:
        self.desk.release(self._job(request), peer=peer.name)
        return wire.Done()

    @staticmethod
    def _job(request: web.Request) -> str:
        return wire.job_id(request.match_info["job"])

    async def _whereabouts(self, request: web.Request, _peer: Peer) -> Whereabouts:
        message = await self._read(request, wire.WhereaboutsRequest)
        return await self._local.whereabouts(message.uuid)

    async def _settle(self, request: web.Request, peer: Peer) -> wire.Settled:
        message = await self._read(request, wire.SettleRequest)
        self.desk.check_settle(message.job, message.uuid, peer=peer.name)
        statistics = None
        if message.outcome == "arrived":
            statistics = await self._local.settle_arrived(message.uuid, autostart=message.autostart)
        # Only now: if libvirt failed, the peer asks again under the same lease.
        self.desk.release(message.job, peer=peer.name)
        where = await self._local.whereabouts(message.uuid)
        return wire.Settled(**msgspec.structs.asdict(where), statistics=statistics)
