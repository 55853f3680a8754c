"""Jobs on the bus: org.kvmigd1.Job, and what migrations and evacuations add to it."""

from __future__ import annotations

from typing import Any, ClassVar

from dbus_next.signature import Variant

from kvmigd.bus import path
from kvmigd.bus.authority import Authority
from kvmigd.bus.findings import findings_body
from kvmigd.bus.options import parse
from kvmigd.bus.publisher import Call, Implementation
from kvmigd.errors import row_of
from kvmigd.jobs import Job
from kvmigd.model.job import JobKind, NoOptions


class JobObject(Implementation):
    """org.kvmigd1.Job."""

    interface: ClassVar[str] = path.JOB

    def __init__(self, job: Job, authority: Authority) -> None:
        self._job = job
        self._authority = authority

    def properties(self) -> dict[str, Any]:
        job = self._job
        return {
            "Kind": str(job.kind),
            "Guest": job.guest,
            "GuestUUID": job.guest_uuid,
            "Peer": job.peer,
            "Parent": path.job_path(job.parent),
            "State": str(job.state),
            "Phase": str(job.phase),
            "Progress": 1.0 if job.result == "done" else job.progress.fraction,
            "CreatedUSec": job.created_usec,
            "FinishedUSec": job.finished_usec,
            "Result": job.result,
            "ErrorName": row_of(job.error).dbus if job.error else "",
            "ErrorMessage": str(job.error) if job.error else "",
            "Findings": findings_body(job.findings, peer=job.peer),
        }

    async def cancel(self, call: Call, options: dict[str, Variant]) -> None:
        """Ask for the job's end."""
        parse(options, NoOptions, method=call.member)
        job = self._job
        await self._authority.require(
            "org.kvmigd1.cancel", call, job=str(job.number), guest=job.guest, destination=job.peer
        )
        job.cancel()

    async def wait(self, call: Call) -> str:
        """Answer when the job has ended, with its result."""
        job = self._job
        await self._authority.require(
            "org.kvmigd1.wait", call, job=str(job.number), guest=job.guest, destination=job.peer
        )
        return await job.wait()


class MigrationObject(Implementation):
    """org.kvmigd1.Migration, on jobs that migrate one guest."""

    interface: ClassVar[str] = path.MIGRATION

    def __init__(self, job: Job) -> None:
        self._job = job

    def properties(self) -> dict[str, Any]:
        progress = self._job.progress
        return {
            "BytesTotal": progress.total,
            "BytesProcessed": progress.processed,
            "BytesRemaining": progress.remaining,
            "Rate": progress.rate,
            "DirtyRate": progress.dirty_rate,
            "Iteration": progress.iteration,
            "ElapsedUSec": progress.elapsed_usec,
            "ExpectedEndUSec": progress.expected_end_usec,
            "PauseUSec": progress.pause_usec,
            "Bandwidth": self._job.bandwidth,
        }


class EvacuationObject(Implementation):
    """org.kvmigd1.Evacuation, on jobs that empty the host."""

    interface: ClassVar[str] = path.EVACUATION

    def __init__(self, job: Job) -> None:
        self._job = job

    def properties(self) -> dict[str, Any]:
        return {
            "Guests": [
                [line.guest, line.peer, str(line.state), line.message, path.job_path(line.job)]
                for line in self._job.lines.values()
            ]
        }


def parts_of(job: Job, authority: Authority) -> tuple[Implementation, ...]:
    """All interfaces of a job's object."""
    more: dict[JobKind, type[MigrationObject] | type[EvacuationObject]] = {
        JobKind.MIGRATE: MigrationObject,
        JobKind.EVACUATE: EvacuationObject,
    }
    return JobObject(job, authority), more[job.kind](job)
