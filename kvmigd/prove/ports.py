"""Proofs of migration ports: connections through all firewalls, to the peer and back from it."""

from __future__ import annotations

import asyncio
import socket

import msgspec

from kvmigd.config import Migration, Peer
from kvmigd.errors import AdmissionBusy, KvmigdError, PeerFailed
from kvmigd.model.proof import PortProof
from kvmigd.peer.admission import AdmissionDesk
from kvmigd.peer.client import PeerClient
from kvmigd.peer.identity import unreachable
from kvmigd.peer.proof import Proof, ProofFailed, connect_and_read
from kvmigd.peer.proofwire import Connected, ConnectRequest
from kvmigd.prove.wanted import Purpose

CONNECT_SECONDS = 1.5
"""The kernel repeats a lost SYN after 1 s, so one may be lost."""
PASSING_SECONDS = 5.0
"""A host that is busy for no longer has only much to do."""
NO_ANSWER = "no-answer"
"""The problem of a proof that came to nothing for a reason that has nothing to do with it."""


async def reach(link: PeerClient, purpose: Purpose, *, job: str | None = None) -> PortProof:
    """Connect to the peer's port: the one of an admitted job, else the one that it would give next.

    Raises what the peer's daemon answers, but for AdmissionBusy.
    """
    try:
        async with link.proving(job, purpose=purpose) as offer:
            proof = PortProof(to=link.name, purpose=purpose, address=offer.address, port=offer.port)
            try:
                await connect_and_read(offer.address, offer.port, offer.nonce, timeout=CONNECT_SECONDS)
            except ProofFailed as error:
                return _failed(proof, error.reason, error.text)
    except AdmissionBusy as error:
        return _failed(PortProof(to=link.name, purpose=purpose), _why_busy(error), error.message)
    return proof


def _why_busy(error: AdmissionBusy) -> str:
    """No port is free, which lasts; or too much is being proved at this moment, which says nothing of the ports."""
    return "busy" if error.retry_after > PASSING_SECONDS else NO_ANSWER


async def be_reached(
    link: PeerClient, purpose: Purpose, *, here: str, migration: Migration, desk: AdmissionDesk
) -> PortProof:
    """Have the peer connect to the port of this host that would be given next; `here` is this host's name.

    Raises what the peer's daemon answers, but for AdmissionBusy.
    """
    proof = PortProof(to=here, purpose=purpose, address=migration.address)
    try:
        address = await own_address(migration, link.peer)
        listening = Proof(address, lambda: desk.proof_port(None, peer=link.name, purpose=purpose), peer=link.name)
        async with listening:
            proof = PortProof(to=here, purpose=purpose, address=address, port=listening.port)
            heard = await _asked(link, listening)
    except AdmissionBusy as error:
        return _failed(proof, _why_busy(error), error.message)
    return _failed(proof, heard.problem, heard.text) if heard.problem else proof


async def _asked(link: PeerClient, listening: Proof) -> Connected:
    request = ConnectRequest(
        address=listening.address, port=listening.port, nonce=listening.nonce, seconds=CONNECT_SECONDS
    )
    answer: Connected | KvmigdError
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(listening.serve(), name=f"proof-{listening.port}")
        try:
            answer = await link.connect_back(request)
        except KvmigdError as error:  # a group would wrap it
            answer = error
        finally:
            serving.cancel()
    if isinstance(answer, KvmigdError):
        raise answer
    return answer


async def own_address(migration: Migration, peer: Peer) -> str:
    """Where streams from the peer shall arrive here: as configured, else where connections to the peer come from.

    Raises PeerFailed where there is no such address, and PeerUnreachable without a way to the peer.
    """
    loop = asyncio.get_running_loop()
    if migration.address:
        try:
            found = await loop.getaddrinfo(migration.address, None, type=socket.SOCK_STREAM)
        except OSError as error:
            raise PeerFailed(f"migration.address {migration.address} cannot be resolved: {error.strerror}.") from error
        return str(found[0][4][0])
    problem = OSError("no address")
    try:
        ways = await loop.getaddrinfo(peer.host, peer.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise unreachable(peer, error) from error
    for family, kind, protocol, _, target in ways:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(target)  # of UDP, which only asks the kernel for a route
                return str(probe.getsockname()[0])
        except OSError as error:
            problem = error
    raise unreachable(peer, problem)


def _failed(proof: PortProof, problem: str, text: str) -> PortProof:
    return msgspec.structs.replace(proof, problem=problem, text=text.rstrip("."))
