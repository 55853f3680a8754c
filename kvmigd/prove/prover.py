"""Drives proofs with one peer, all at once and bounded in time, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from kvmigd.errors import (
    CertificateInvalid,
    KvmigdError,
    NoLease,
    PeerNotTrusted,
    PeerUnreachable,
    ProtocolMismatch,
)
from kvmigd.host.local import Host
from kvmigd.model.proof import PortProof, Proof, Proofs, Throughput, TlsProof
from kvmigd.peer.admission import AdmissionDesk
from kvmigd.peer.burst import Bursts
from kvmigd.peer.client import PeerClient
from kvmigd.peer.identity import unreachable
from kvmigd.prove.ports import be_reached, reach
from kvmigd.prove.throughput import measure
from kvmigd.prove.tls import handshake
from kvmigd.prove.wanted import Purpose, Wanted

PROVE_SECONDS = 2.0
"""The longest that one proof takes, whatever the peer does."""

NO_ANSWER = "no-answer"
"""The problem of a proof that the peer left hanging."""

_GONE = (PeerUnreachable, PeerNotTrusted, ProtocolMismatch, CertificateInvalid, NoLease)
"""These say nothing of what was to be proved, so they are raised."""

Tried = TypeVar("Tried", bound=Proof)


class Prover:
    """Proofs between this host and the peer of `link`. `desk` and `bursts` are those of this host's peer server.

    What goes wrong with one proof is told in it, as its problem. Raised are PeerUnreachable, PeerNotTrusted,
    ProtocolMismatch and CertificateInvalid when the peer as a whole cannot be talked to, and NoLease of a job.
    """

    def __init__(self, host: Host, link: PeerClient, *, desk: AdmissionDesk, bursts: Bursts) -> None:
        self._host = host
        self._link = link
        self._desk = desk
        self._bursts = bursts

    async def prove(self, wanted: Wanted) -> Proofs:
        """Everything that is wanted, at the same time."""
        proved = ports, back, handshakes, rates = await _together(
            self.ports(wanted.ports),
            self.ports_back(wanted.back),
            self.tls() if wanted.tls else _nothing(),
            self.throughput() if wanted.throughput else _nothing(),
        )
        every = [proof for group in proved for proof in group]
        if every and all(proof.problem == NO_ANSWER for proof in every):
            raise unreachable(self._link.peer, f"no answer within {PROVE_SECONDS:g} s")
        return Proofs(ports=(*ports, *back), tls=handshakes, throughput=next(iter(rates), None))

    async def ports(self, purposes: Sequence[Purpose], job: str | None = None) -> tuple[PortProof, ...]:
        """Connections to the peer: to the ports of an admitted job, else to those that it would give next."""
        link = self._link
        return await _together(
            *(
                self._tried(reach(link, purpose, job=job), PortProof(to=link.name, purpose=purpose))
                for purpose in purposes
            )
        )

    async def ports_back(self, purposes: Sequence[Purpose]) -> tuple[PortProof, ...]:
        """Connections from the peer, to the ports that this host would give next."""
        here, migration = self._host.config.name, self._host.config.migration
        return await _together(
            *(
                self._tried(
                    be_reached(self._link, purpose, here=here, migration=migration, desk=self._desk),
                    PortProof(to=here, purpose=purpose),
                )
                for purpose in purposes
            )
        )

    async def tls(self) -> tuple[TlsProof, ...]:
        """Handshakes with QEMU's certificates, each host being the server once."""
        here, pki = self._host.config.name, self._host.config.pki
        return await _together(
            self._tried(handshake(self._link, "client", here=here, pki=pki), TlsProof(to=self._link.name)),
            self._tried(handshake(self._link, "server", here=here, pki=pki), TlsProof(to=here)),
        )

    async def throughput(self) -> tuple[Throughput, ...]:
        """How fast one TCP connection to the peer is, as one proof; measured at most every ten minutes."""
        return (await self._tried(measure(self._link, self._bursts), Throughput()),)

    async def _tried(self, doing: Awaitable[Tried], unproved: Tried) -> Tried:
        """What came of it, with its time; `unproved` is the proof for when nothing did."""
        try:
            async with asyncio.timeout(PROVE_SECONDS):
                proof = await doing
        except _GONE:
            raise
        except TimeoutError:
            text = f"{self._link.name} did not answer within {PROVE_SECONDS:g} s"
            proof = msgspec.structs.replace(unproved, problem=NO_ANSWER, text=text)
        except KvmigdError as error:
            proof = msgspec.structs.replace(unproved, problem="failed", text=error.message.rstrip("."))
        taken = proof.taken_usec or time.time_ns() // 1000
        return msgspec.structs.replace(proof, taken_usec=taken)


async def _nothing() -> tuple[()]:
    return ()


async def _together(*doing: Coroutine[Any, Any, Any]) -> tuple[Any, ...]:
    """All of them at once. The first that fails ends the others, and its error is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in doing]
    except BaseExceptionGroup as errors:
        known, others = errors.split(KvmigdError)
        if known is None or others is not None:
            raise
        raise next(leaves(known)) from None
    return tuple(task.result() for task in tasks)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error
