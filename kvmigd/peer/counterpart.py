"""The peer's half of proofs: what this host does when a peer asks it to take part. Everything ends by itself."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from kvmigd.config import Config, Migration, Peer
from kvmigd.errors import AdmissionBusy, InvalidArguments, NotAuthorised
from kvmigd.peer import proofwire, wire
from kvmigd.peer.admission import AdmissionDesk
from kvmigd.peer.burst import Burst, Bursts
from kvmigd.peer.handshake import Handshake
from kvmigd.peer.local import LocalHost
from kvmigd.peer.proof import Proof, ProofDesk, ProofFailed, connect_and_read
from kvmigd.peer.sessions import Sessions

CONNECTIONS_A_PEER = 4
"""So many connections to a peer are tried at once, when it asks for them."""

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
        self._connecting: Counter[str] = Counter()

    @property
    def routes(self) -> tuple[tuple[str, Handler], ...]:
        """Paths to POST to, without the version."""
        return (
            ("/proof", self._prove),
            ("/proof/connect", self._connect),
            ("/proof/burst", self._burst),
            ("/proof/tls", self._tls),
            ("/proof/{token}/close", self._close),
        )

    async def close(self) -> None:
        """End everything."""
        self._handshakes.close()
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
        if self._connecting[peer.name] >= CONNECTIONS_A_PEER:
            raise AdmissionBusy(f"{CONNECTIONS_A_PEER} connections to {peer.name} are being tried.", retry_after=1.0)
        self._connecting[peer.name] += 1
        try:
            await connect_and_read(message.address, message.port, message.nonce, timeout=message.seconds)
        except ProofFailed as error:
            return proofwire.Connected(problem=error.reason, text=error.text.rstrip("."))
        finally:
            self._connecting[peer.name] -= 1
        return proofwire.Connected()

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
            lambda: self._desk.proof_port(None, peer=peer.name),
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


async def _addresses(name: str) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {ipaddress.ip_address(target[0]) for *_, target in found}
