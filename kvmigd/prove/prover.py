"""Drives proofs with one peer, all at once and bounded in time, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from kvmigd.errors import (
    AdmissionBusy,
    CertificateInvalid,
    KvmigdError,
    NoLease,
    PeerNotTrusted,
    PeerUnreachable,
    ProtocolMismatch,
)
from kvmigd.host.local import Host
from kvmigd.model.proof import FrameProof, PortProof, Proof, Proofs, StorageProof, Throughput, TlsProof
from kvmigd.peer.admission import AdmissionDesk
from kvmigd.peer.burst import Bursts
from kvmigd.peer.client import PeerClient
from kvmigd.peer.identity import unreachable
from kvmigd.peer.proofwire import FOLDERS_LIMIT, SEGMENTS_LIMIT
from kvmigd.prove.frames import cross
from kvmigd.prove.ports import NO_ANSWER, be_reached, reach
from kvmigd.prove.storage import compare
from kvmigd.prove.throughput import measure
from kvmigd.prove.tls import handshake
from kvmigd.prove.wanted import Purpose, Segment, Wanted

PROVE_SECONDS = 2.0
"""The longest that one proof takes, whatever the peer does."""

STORAGE_SECONDS = 4.0
"""The same for storage, which may hang on this host and then on the peer as well."""
_GONE = (PeerUnreachable, PeerNotTrusted, ProtocolMismatch, CertificateInvalid)
"""These say nothing of what was to be proved, so they are raised."""

Tried = TypeVar("Tried", bound=Proof)
Thing = TypeVar("Thing")


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
        self._silent = f"{link.name} did not answer within"

    async def prove(self, wanted: Wanted) -> Proofs:
        """Everything that is wanted, at the same time."""
        proved = ports, back, storage, frames, handshakes, rates = await _together(
            self.ports(wanted.ports),
            self.ports_back(wanted.back),
            self.storage(wanted.storage),
            self.frames(wanted.frames),
            self.tls() if wanted.tls else _nothing(),
            self.throughput() if wanted.throughput else _nothing(),
        )
        every = [proof for group in proved for proof in group]
        if every and all(proof.text.startswith(self._silent) for proof in every):
            raise unreachable(self._link.peer, f"no answer within {PROVE_SECONDS:g} s")
        return Proofs(
            ports=(*ports, *back),
            storage=storage,
            frames=frames,
            tls=handshakes,
            throughput=next(iter(rates), None),
        )

    async def ports(self, purposes: Sequence[Purpose], job: str | None = None) -> tuple[PortProof, ...]:
        """Connections to the peer: to the ports of an admitted job, else to those that it would give next."""
        link = self._link
        raised = _GONE if job is None else (*_GONE, NoLease)
        return await _together(
            *(
                self._tried(reach(link, purpose, job=job), PortProof(to=link.name, purpose=purpose), raised=raised)
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

    async def storage(self, folders: Sequence[str]) -> tuple[StorageProof, ...]:
        """Whether folders are the same on both hosts."""
        found = [
            await self._tried_all(
                compare(self._link, part), [StorageProof(folder=folder) for folder in part], seconds=STORAGE_SECONDS
            )
            for part in _parts(list(dict.fromkeys(folders)), FOLDERS_LIMIT)
        ]
        return tuple(proof for part in found for proof in part)

    async def frames(self, segments: Sequence[Segment]) -> tuple[FrameProof, ...]:
        """Whether bridges, and VLANs on them, are one segment with those of the same name on the peer."""
        bridges = self._host.picture.state.links.bridges
        found = [
            await self._tried_all(
                cross(self._link, part, here=self._host.config.name, bridges=bridges),
                [FrameProof(bridge=it.bridge, vlan=it.vlan, mtu=it.mtu) for it in part],
            )
            for part in _parts(list(dict.fromkeys(segments)), SEGMENTS_LIMIT)
        ]
        return tuple(proof for part in found for proof in part)

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

    async def _tried(
        self, doing: Awaitable[Tried], unproved: Tried, *, raised: tuple[type[KvmigdError], ...] = _GONE
    ) -> Tried:
        """What came of it, with its time; `unproved` is the proof for when nothing did."""

        async def alone() -> tuple[Tried]:
            return (await doing,)

        (proof,) = await self._tried_all(alone(), [unproved], raised=raised)
        return proof

    async def _tried_all(
        self,
        doing: Awaitable[tuple[Tried, ...]],
        unproved: Sequence[Tried],
        *,
        seconds: float = 0.0,
        raised: tuple[type[KvmigdError], ...] = _GONE,
    ) -> tuple[Tried, ...]:
        """The same for several proofs of one exchange."""
        seconds = seconds or PROVE_SECONDS
        problem = text = ""
        proofs = tuple(unproved)
        try:
            async with asyncio.timeout(seconds):
                proofs = await doing
        except raised:
            raise
        except TimeoutError:
            problem, text = NO_ANSWER, f"{self._silent} {seconds:g} s"
        except AdmissionBusy as error:
            problem, text = "busy", error.message.rstrip(".")
        except KvmigdError as error:
            problem, text = "failed", error.message.rstrip(".")
        now = time.time_ns() // 1000
        return tuple(
            msgspec.structs.replace(
                proof,
                problem=problem or proof.problem,
                text=text or proof.text,
                taken_usec=proof.taken_usec or now,
            )
            for proof in proofs
        )


def _parts(things: list[Thing], size: int) -> Iterator[list[Thing]]:
    for at in range(0, len(things), size):
        yield things[at : at + size]


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
