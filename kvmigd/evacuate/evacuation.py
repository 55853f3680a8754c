"""Emptying the host: every running guest, one after the other, to the peer with the most free memory."""

from __future__ import annotations

import asyncio
import time

import structlog

from kvmigd.checks.guest import memory_needed
from kvmigd.errors import Cancelled, GuestBusy, GuestLost, GuestsStayed, KvmigdError, NoSuchGuest, Unresolved
from kvmigd.evacuate.placement import candidates, why_none
from kvmigd.host.local import Host
from kvmigd.jobs import Job, Jobs
from kvmigd.migrate.mover import Mover
from kvmigd.model.guest import Guest
from kvmigd.model.job import GuestLine, JobState, MigrateOptions
from kvmigd.peer.peers import Peers

log = structlog.get_logger(__name__)


class Evacuation:
    """The work of one evacuation job."""

    def __init__(self, host: Host, peers: Peers, jobs: Jobs, mover: Mover, *, deadline_seconds: float = 0.0) -> None:
        self._host = host
        self._peers = peers
        self._jobs = jobs
        self._mover = mover
        self._ends = time.monotonic() + deadline_seconds if deadline_seconds else None

    async def run(self, job: Job) -> JobState:
        """Move every running guest; one that cannot leave stops nobody else.

        Guests that appear meanwhile are included. Ends `done` when all have left, `failed` when none has, else
        `partial`; raises Cancelled after the guest that was moving has come to rest.
        """
        tried: set[str] = set()
        while True:
            waiting = [guest for guest in await self._running() if guest.uuid not in tried]
            if not waiting:
                break
            for guest in waiting:
                job.note_line(GuestLine(guest=guest.name))
            for guest in waiting:
                tried.add(guest.uuid)
                if job.cancel_requested:
                    self._end_line(job, guest, JobState.CANCELLED, "the evacuation was cancelled")
                else:
                    await self._evacuate(job, guest)
        if job.cancel_requested:
            raise Cancelled(f"The evacuation was cancelled; {_left(job)} of {len(job.lines)} guests have left.")
        left = _left(job)
        if left == len(job.lines):
            return JobState.DONE
        stayed = ", ".join(line.guest for line in job.lines.values() if line.state is not JobState.DONE)
        job.error = GuestsStayed(f"{left} of {len(job.lines)} guests have left; still here: {stayed}.")
        return JobState.PARTIAL if left else JobState.FAILED

    def _is_late(self) -> bool:
        return self._ends is not None and time.monotonic() >= self._ends

    async def _running(self) -> list[Guest]:
        guests = [guest for guest in await self._host.hypervisor.guests() if guest.state.is_active]
        return sorted(guests, key=lambda guest: guest.name)

    async def _evacuate(self, job: Job, guest: Guest) -> None:
        """Try one peer after the other until one has the guest."""
        refused: dict[str, str] = {}
        while True:
            if self._is_late():
                return self._end_line(job, guest, JobState.FAILED, _told("the deadline has passed", refused))
            needed = memory_needed(guest.memory, guest.vcpus)
            names = [name for name in candidates(self._peers.views, memory=needed) if name not in refused]
            if not names:
                reason = "every peer was tried" if refused else f"no peer takes it ({why_none(self._peers.views)})"
                return self._end_line(job, guest, JobState.FAILED, _told(reason, refused))
            child = self._child(job, guest, names[0])
            await self._attend(job, child)
            if child.state is JobState.DONE:
                return self._end_line(job, guest, JobState.DONE, "", child)
            if child.state is JobState.CANCELLED and not job.cancel_requested and self._is_late():
                return self._end_line(job, guest, JobState.FAILED, "the deadline has passed while it moved", child)
            problem = str(child.error or child.result)
            if child.state is JobState.CANCELLED or isinstance(child.error, GuestLost | Unresolved):
                return self._end_line(job, guest, child.state, problem, child)
            refused[child.peer] = problem
            if await self._is_gone(guest):
                return self._end_line(job, guest, JobState.DONE, "no longer runs here", child)

    def _child(self, job: Job, guest: Guest, peer: str) -> Job:
        """The job that moves the guest: a new one, or the one that is at it already."""
        try:
            child = self._mover.start(guest, self._peers.get(peer), MigrateOptions(), parent=job.number)
        except GuestBusy:
            running = self._jobs.moving(guest.uuid)
            if running is None:
                raise
            child = running
        job.note_line(GuestLine(guest=guest.name, peer=child.peer, state=JobState.RUNNING, job=child.number))
        return child

    async def _attend(self, job: Job, child: Job) -> None:
        """Wait for a migration to end; a cancel of the evacuation and its deadline are handed on to it."""
        ending = asyncio.ensure_future(child.wait())
        cancelling = asyncio.ensure_future(job.wait_cancel())
        try:
            left = None if self._ends is None else max(0.0, self._ends - time.monotonic())
            await asyncio.wait({ending, cancelling}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not child.state.is_final:
                log.info("migration cut short", job=job.number, guest=child.guest, cancelled=job.cancel_requested)
                child.cancel()
                await ending
        finally:
            for task in (ending, cancelling):
                task.cancel()
            await asyncio.gather(ending, cancelling, return_exceptions=True)

    async def _is_gone(self, guest: Guest) -> bool:
        try:
            return not (await self._host.hypervisor.guest(guest.uuid)).state.is_active
        except NoSuchGuest:
            return True
        except KvmigdError:
            return False

    def _end_line(self, job: Job, guest: Guest, state: JobState, message: str, child: Job | None = None) -> None:
        log.info(
            "guest evacuated" if state is JobState.DONE else "guest not evacuated", guest=guest.name, reason=message
        )
        job.note_line(
            GuestLine(
                guest=guest.name,
                peer=child.peer if child else "",
                state=state,
                message=message,
                job=child.number if child else 0,
            )
        )


def _left(job: Job) -> int:
    return sum(line.state is JobState.DONE for line in job.lines.values())


def _told(reason: str, refused: dict[str, str]) -> str:
    return "; ".join([reason, *(f"{peer}: {why}" for peer, why in refused.items())])
