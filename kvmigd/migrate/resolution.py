"""From whatever state both hosts are in to one guest that runs in one place: asks, does what follows, and asks again."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

import structlog

from kvmigd.errors import GuestLost, KvmigdError, Unresolved
from kvmigd.migrate.departing import Departing
from kvmigd.migrate.handover import fence
from kvmigd.migrate.outcome import Outcome, decide, has_remainder
from kvmigd.model.guest import Whereabouts
from kvmigd.model.passage import Stage

log = structlog.get_logger(__name__)

RESOLVE_SECONDS = 60.0
"""libvirt gives up on a silent peer after 30 s (keepalive 5 s x 5) and then cleans up; twice that."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0


class Resolved(NamedTuple):
    """Where the guest is, and what both hosts said of it."""

    outcome: Outcome
    source: Whereabouts | None
    destination: Whereabouts | None

    @property
    def described(self) -> str:
        """One phrase for a message."""
        return "; ".join(side.describe() for side in (self.source, self.destination) if side) or "no answer"


async def resolve(departing: Departing, *, seconds: float = RESOLVE_SECONDS) -> Resolved:
    """Bring the guest to where it belongs; returns ARRIVED or STAYED.

    What libvirt still does counts for nothing until it is done with it: the time begins when no job of libvirt's is
    under way on the source. Raises GuestLost when it runs nowhere, and Unresolved when it runs twice or cannot be
    brought anywhere in `seconds`; nothing is lost then that was not lost before.
    """
    give_up, pause, before, problem = time.monotonic() + seconds, FIRST_PAUSE, Outcome.PENDING, ""
    while True:
        found = await look(departing)
        if found.outcome.is_final and (found.outcome is before or found.outcome is Outcome.ARRIVED):
            return _end(departing, found)
        before = found.outcome
        try:
            await _act(departing, found)
            problem = ""
        except KvmigdError as error:
            log.warning("not resolved yet", guest=departing.record.guest, outcome=str(found.outcome), error=str(error))
            problem = error.message
        if found.source is not None and found.source.job == "outgoing":
            give_up = time.monotonic() + seconds
        if time.monotonic() > give_up:
            raise unresolved(departing, found, problem)
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 2)


async def look(departing: Departing) -> Resolved:
    """Ask both hosts now."""
    source, destination = await asyncio.gather(departing.here(), departing.there())
    outcome = decide(
        source,
        destination,
        fenced=departing.fenced,
        gone=await departing.is_gone(),
        suspended=departing.record.suspended,
    )
    return Resolved(outcome, source, destination)


async def _act(departing: Departing, found: Resolved) -> None:
    """Take the one step that the outcome names; every step may be taken again."""
    job, uuid = departing.job.uuid, departing.uuid
    match found.outcome:
        case Outcome.FENCE:
            # libvirt has answered, and no job of its is under way: what stands still here stays so.
            await departing.keep(stage=Stage.FENCING)
            if departing.process is not None:
                await fence(departing)
            await departing.hypervisor.remove_remainder(uuid)
        case Outcome.WAKE:
            await departing.keep(stage=Stage.FENCED)
            if found.source is not None and has_remainder(found.source):
                await departing.hypervisor.remove_remainder(uuid)
            await departing.link.wake(job, uuid)
        case Outcome.RESUME:
            await departing.keep(stage=Stage.STAYED)
            await departing.link.drop(job, uuid)
            await departing.hypervisor.resume(uuid)


def _end(departing: Departing, found: Resolved) -> Resolved:
    guest = departing.record.guest
    if found.outcome is Outcome.LOST:
        raise GuestLost(
            f"{guest} runs on neither host ({found.described}).",
            hint=f"virsh start {guest}, on the host where it is defined.",
        )
    if found.outcome is Outcome.BOTH:
        raise unresolved(departing, found, "It runs on both hosts")
    return found


def unresolved(departing: Departing, found: Resolved, problem: str = "") -> Unresolved:
    """What is known when a person is needed."""
    guest = departing.record.guest
    return Unresolved(
        f"It is not settled where {guest} runs ({found.described})."
        + (f" {problem.rstrip('.')}." if problem else " A host that does not answer is asked again and again."),
        hint=f"kvmigctl recover {guest} shows both sides, and how to decide.",
    )
