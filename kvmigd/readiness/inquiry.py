"""Asking both hosts about guests and having things proved; what comes of it is evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from kvmigd.host.local import Host
from kvmigd.model.guest import Guest
from kvmigd.model.host import Look
from kvmigd.model.proof import Proofs
from kvmigd.peer.link import PeerLink
from kvmigd.peer.wire import GUESTS_LIMIT
from kvmigd.prove.prover import Prover
from kvmigd.prove.wanted import Wanted
from kvmigd.readiness.check import examined, examined_here
from kvmigd.readiness.evidence import HERE, Evidence
from kvmigd.readiness.wanted import wanted_for

log = structlog.get_logger(__name__)


class Inquiry:
    """Raises what host, libvirt and peers answer; what they have said before that is kept."""

    def __init__(self, host: Host, evidence: Evidence, prover: Callable[[PeerLink], Prover]) -> None:
        self._host = host
        self._evidence = evidence
        self._prover = prover

    async def look(self, link: PeerLink, *, here: Sequence[Guest], there: Sequence[Guest], anew: bool = False) -> None:
        """Have this host look at the guests `here`, and the peer at the guests `there`; both look for each other.

        With `anew` the peer's libvirt is reached for once more, however short a time ago that went well.
        """
        for at in range(0, max(len(here), len(there), 1), GUESTS_LIMIT):
            part = slice(at, at + GUESTS_LIMIT)
            await self._look(link, here[part], there[part], anew=anew and not at)

    async def _look(self, link: PeerLink, here: Sequence[Guest], there: Sequence[Guest], *, anew: bool) -> None:
        mine, theirs = await asyncio.gather(
            examined_here(self._host, link, here, anew=anew), examined(link, there), return_exceptions=True
        )
        if not isinstance(mine, BaseException):
            self._evidence.took(HERE, here, mine.looks)
            self._evidence.met(link.name, mine, theirs if not isinstance(theirs, BaseException) else None)
        if not isinstance(theirs, BaseException):
            self._evidence.took(link.name, there, theirs.looks)
            await link.heard(theirs.told)
        for answer in (mine, theirs):
            if isinstance(answer, BaseException):
                raise answer

    async def prove(self, link: PeerLink, wanted: Wanted) -> Proofs:
        """Have all of this proved."""
        proofs = await self._prover(link).prove(wanted)
        self._evidence.proved(link.name, proofs)
        return proofs

    def wanted(
        self, link: PeerLink | None, guests: Sequence[Guest], *, disks: bool = False, throughput: bool = False
    ) -> Wanted:
        """What these guests need to have proved with a peer, or with any that has certificates for streams."""
        facts = link.view.facts if link is not None else self._host.facts
        looks: Mapping[str, Look | None] = {guest.uuid: self._evidence.look(guest.uuid) for guest in guests}
        return wanted_for(
            guests,
            self._host.picture.state,
            looks=looks,
            tls=self._host.facts.stream_tls and facts is not None and facts.stream_tls,
            disks=disks,
            throughput=throughput,
        )
