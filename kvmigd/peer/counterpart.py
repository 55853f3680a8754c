"""The peer's half of proofs: what this host does when a peer asks it to take part. Everything ends by itself."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec
from aiohttp import web

from kvmigd.config import Config, Migration, Peer
from kvmigd.errors import AdmissionBusy, InvalidArguments, NotAuthorised, PeerFailed
from kvmigd.host import nonce
from kvmigd.peer import proofwire, wire
from kvmigd.peer.admission import AdmissionDesk
from kvmigd.peer.burst import Burst, Bursts
from kvmigd.peer.framewatch import FrameWatch
from kvmigd.peer.handshake import Handshake
from kvmigd.peer.local import LocalHost
from kvmigd.peer.proof import Proof, ProofDesk, ProofFailed, connect_and_read
from kvmigd.peer.sessions import Sessions

AT_ONCE = 4
"""So many requests of one kind are worked on at once for one peer."""
ARRIVAL_SECONDS = 0.7
"""So long a nonce that cannot be seen yet is waited for."""
READ_SECONDS = 0.8
"""A folder that has not answered by then, beside the time that a nonce may take to arrive, hangs."""

Message = TypeVar("Message", bound=msgspec.Struct)
Handler = Callable[[web.Request, Peer], Awaitable[msgspec.Struct]]


def stream_address(migration: Migration, request: web.Request) -> str:
    """Where streams shall arrive: as configured, else where this very connection did."""
    return migration.address or _plain(str(request.get_extra_info("sockname")[0]))


def _plain(address: str) -> str:
    """An address of a socket that takes IPv4 and IPv6."""
    return address.removeprefix("::ffff:") if "." in address else address


class Counterpart:
    """Answers everything below /proof. What is open for a peer is bounded in number, time and size."""

    def __init__(
        self,
        config: Callable[[], Config],
        local: LocalHost,
        desk: AdmissionDesk,
        *,
        bursts: Bursts,
        group: asyncio.TaskGroup,
    ) -> None:
        self._config = config
        self._local = local
        self._desk = desk
        self._bursts = bursts
        self._proofs = ProofDesk(group)
        self._handshakes = Sessions[Handshake]("handshakes")
        self._catching = Sessions[FrameWatch]("catches of frames", a_peer=2, limit=8, drop=FrameWatch.end)
        self._keepers = Sessions[nonce.Connection]("keepers of nonces", drop=_hang_up)
        self._group = group
        self._busy: Counter[tuple[str, str]] = Counter()

    @property
    def routes(self) -> tuple[tuple[str, Handler], ...]:
        """Paths to POST to, without the version."""
        return (
            ("/proof", self._prove),
            ("/proof/connect", self._connect),
            ("/proof/burst", self._burst),
            ("/proof/tls", self._tls),
            ("/proof/storage", self._storage),
            ("/proof/storage/open", self._open_storage),
            ("/proof/frames", self._frames),
            ("/proof/frames/{token}/close", self._close_frames),
            ("/proof/{token}/close", self._close),
        )

    async def close(self) -> None:
        """End everything."""
        self._handshakes.close()
        self._catching.close()
        self._keepers.close()
        await self._proofs.close()

    @staticmethod
    async def _read(request: web.Request, shape: type[Message]) -> Message:
        return wire.decode(await request.read(), shape)

    # Ports

    async def _prove(self, request: web.Request, peer: Peer) -> wire.ProofOffer:
        message = await self._read(request, wire.ProofRequest)
        return await self._proofs.take(
            Proof(
                stream_address(self._config().migration, request),
                lambda: self._desk.proof_port(message.job, peer=peer.name, purpose=message.purpose),
                peer=peer.name,
            )
        )

    async def _close(self, request: web.Request, peer: Peer) -> wire.ProofEnd:
        return await self._proofs.end(request.match_info["token"], peer=peer.name)

    async def _connect(self, request: web.Request, peer: Peer) -> proofwire.Connected:
        message = await self._read(request, proofwire.ConnectRequest)
        await self._check_owner(message.address, _plain(str(request.remote)), peer)
        with self._one_more("connections", peer):
            try:
                await connect_and_read(message.address, message.port, message.nonce, timeout=message.seconds)
            except ProofFailed as error:
                return proofwire.Connected(problem=error.reason, text=error.text.rstrip("."))
        return proofwire.Connected()

    @contextmanager
    def _one_more(self, what: str, peer: Peer) -> Iterator[None]:
        """Room for one more of these; raises AdmissionBusy."""
        if self._busy[what, peer.name] >= AT_ONCE:
            raise AdmissionBusy(f"{AT_ONCE} {what} are being tried for {peer.name}.", retry_after=1.0)
        self._busy[what, peer.name] += 1
        try:
            yield
        finally:
            self._busy[what, peer.name] -= 1

    async def _check_owner(self, address: str, origin: str, peer: Peer) -> None:
        """A peer may have this host connect to itself, and to nobody else; raises NotAuthorised."""
        try:
            wanted = ipaddress.ip_address(address)
        except ValueError:
            raise InvalidArguments(f"{address!r} is not an address.") from None
        if wanted == ipaddress.ip_address(origin):
            return
        for name in dict.fromkeys((peer.host, peer.name)):
            found = await _addresses(name)
            if wanted in found and not wanted.is_loopback:
                return
        raise NotAuthorised(
            f"{address} is not known as an address of {peer.name} on {self._config().name}.",
            hint=f"On {self._config().name}, the name {peer.name} must resolve to it as well (/etc/hosts).",
        )

    # Throughput

    async def _burst(self, request: web.Request, peer: Peer) -> proofwire.BurstAnswer:
        await self._read(request, proofwire.BurstRequest)
        known = self._bursts.known("from", peer.name)
        if known is not None:
            return proofwire.BurstAnswer(rate=known.rate, received=known.size, age_seconds=self._bursts.age(known))
        self._bursts.begin("from", peer.name)
        burst = Burst(
            stream_address(self._config().migration, request),
            lambda: self._desk.proof_port(None, peer=peer.name, purpose="burst"),
            peer=peer.name,
            done=lambda rate, size: self._bursts.end("from", peer.name, rate=rate, size=size),
        )
        try:
            return proofwire.BurstAnswer(offer=await self._proofs.take(burst))
        except BaseException:
            burst.close()
            raise

    # TLS

    async def _tls(self, request: web.Request, peer: Peer) -> proofwire.TlsAnswer:
        message = await self._read(request, proofwire.TlsStep)
        config = self._config()
        token = message.token
        if token is None:
            token = self._handshakes.open(
                Handshake(config.pki, message.role, here=config.name, there=peer.name), peer=peer.name
            )
        handshake = self._handshakes.get(token, peer=peer.name)
        data = await handshake.step(message.data)
        if handshake.done or handshake.problem:
            self._handshakes.end(token)
        return proofwire.TlsAnswer(
            token=token, data=data, done=handshake.done, problem=handshake.problem, text=handshake.text[:1000]
        )

    # Storage

    async def _open_storage(self, request: web.Request, peer: Peer) -> proofwire.StorageOpened:
        """A keeper takes longer to start than to read, and meanwhile the peer can write."""
        await self._read(request, proofwire.StorageOpen)
        try:
            connection = await nonce.connect()
        except OSError as error:
            raise PeerFailed(f"{nonce.SOCKET} does not answer: {error.strerror}.") from error
        try:
            return proofwire.StorageOpened(token=self._keepers.open(connection, peer=peer.name))
        except AdmissionBusy:
            _hang_up(connection)
            raise

    async def _storage(self, request: web.Request, peer: Peer) -> proofwire.StorageAnswer:
        message = await self._read(request, proofwire.StorageRequest)
        names = {each.folder: each.name for each in message.nonces}
        if len(names) != len(message.nonces):
            raise InvalidArguments("A folder is named twice.")
        with self._one_more("folders", peer):
            keeper = nonce.connect if message.token is None else self._started(message.token, peer)
            found = await nonce.read(names, arrival=ARRIVAL_SECONDS, seconds=READ_SECONDS, keeper=keeper)
        return proofwire.StorageAnswer(nonces=tuple(map(_told, found)))

    def _started(self, token: str, peer: Peer) -> nonce.Keeper:
        """The keeper that has been started for this peer; it is used once."""
        connection = self._keepers.take(token, peer=peer.name)

        async def given() -> nonce.Connection:
            return connection

        return given

    # Frames

    async def _frames(self, request: web.Request, peer: Peer) -> proofwire.FramesAnswer:
        message = await self._read(request, proofwire.FramesRequest)
        watch = FrameWatch(message.segments, self._local.picture.state.links.bridges, host=self._config().name)
        token = self._catching.open(watch, peer=peer.name)
        self._group.create_task(watch.run(), name=f"frames-{peer.name}")
        return proofwire.FramesAnswer(token=token, segments=await watch.opened())

    async def _close_frames(self, request: web.Request, peer: Peer) -> proofwire.FramesAnswer:
        token = request.match_info["token"]
        watch = self._catching.get(token, peer=peer.name)
        try:
            return proofwire.FramesAnswer(token=token, segments=await watch.caught())
        finally:
            self._catching.end(token)


def _told(read: nonce.ReadBack) -> proofwire.NonceRead:
    text = read.text
    if not text and read.write_text:
        text = f"{read.user}, as whom QEMU runs, cannot write there: {read.write_text}"
    return proofwire.NonceRead(
        content=read.content,
        user=read.user[:256],
        can_write=read.can_write,
        problem=read.problem,
        text=text[:1000],
    )


def _hang_up(connection: nonce.Connection) -> None:
    _reader, writer = connection
    writer.close()


async def _addresses(name: str) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {ipaddress.ip_address(target[0]) for *_, target in found}
