"""Running jobs: who waits for them, who cancels them, and what is kept of them when they have ended."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import structlog

from kvmigd.errors import Cancelled, InternalError, JobFinished, KvmigdError
from kvmigd.model.finding import Finding
from kvmigd.model.job import JOB_STEPS, PHASE_STEPS, GuestLine, JobKind, JobState, Phase, Progress

log = structlog.get_logger(__name__)

RETENTION_SECONDS = 15 * 60.0
"""Finished jobs stay visible this long."""

T = TypeVar("T")


def wall_usec() -> int:
    """Wall clock in microseconds since 1970, as D-Bus properties carry times."""
    return time.time_ns() // 1000


class IllegalStep(RuntimeError):
    """A job was asked to take a step that is not in its table: a defect, never a user's mistake."""


class Job:
    """One job. Its listeners hear of every change; what they show of it is theirs."""

    def __init__(
        self, number: int, *, kind: JobKind, guest: str = "", guest_uuid: str = "", peer: str = "", parent: int = 0
    ) -> None:
        self.number = number
        self.uuid = str(uuid.uuid4())
        self.kind = kind
        self.guest = guest
        self.guest_uuid = guest_uuid
        self.peer = peer
        self.parent = parent
        self.state = JobState.WAITING
        self.phase = Phase.NEW
        self.progress = Progress()
        self.bandwidth = 0
        self.lines: dict[str, GuestLine] = {}
        self.findings: tuple[Finding, ...] = ()
        self.error: KvmigdError | None = None
        self.created_usec = wall_usec()
        self.finished_usec = 0
        self.listeners: list[Callable[[Job], None]] = []
        self._cancel = asyncio.Event()
        self._finished = asyncio.Event()

    def __repr__(self) -> str:
        return f"<job {self.number} {self.kind} {self.guest or '-'} {self.state}/{self.phase}>"

    @property
    def result(self) -> str:
        """How the job ended; empty while it runs."""
        return str(self.state) if self.state.is_final else ""

    @property
    def cancel_requested(self) -> bool:
        """Somebody has asked for the end of the job."""
        return self._cancel.is_set()

    def _changed(self) -> None:
        for listener in tuple(self.listeners):
            listener(self)

    def enter(self, phase: Phase) -> None:
        """Take the next phase; one that the table does not allow is a defect."""
        if phase is self.phase:
            return
        if phase not in PHASE_STEPS[self.phase]:
            raise IllegalStep(f"{self!r} cannot enter {phase}")
        self.phase = phase
        log.debug("phase entered", job=self.number, guest=self.guest, peer=self.peer, phase=str(phase))
        self._changed()

    def move(self, state: JobState) -> None:
        """Take the next state; one that the table does not allow is a defect."""
        if state not in JOB_STEPS[self.state]:
            raise IllegalStep(f"{self!r} cannot become {state}")
        self.state = state
        if state.is_final:
            self.finished_usec = wall_usec()
            self.phase = Phase.FINISHED
        self._changed()
        if state.is_final:
            self._finished.set()

    def report(self, progress: Progress) -> None:
        """New statistics of the stream."""
        if progress != self.progress:
            self.progress = progress
            self._changed()

    def note_line(self, line: GuestLine) -> None:
        """New state of one guest of an evacuation."""
        if self.lines.get(line.guest) != line:
            self.lines[line.guest] = line
            self._changed()

    def cancel(self) -> None:
        """Ask for the end of the job. Asking twice is harmless; a job that has ended raises JobFinished."""
        if self.state.is_final:
            raise JobFinished(f"Job {self.number} has already ended: {self.state}.")
        if not self._cancel.is_set():
            self._cancel.set()
            if self.state is JobState.RUNNING:
                self.move(JobState.CANCELLING)

    async def wait(self) -> str:
        """Wait for the end and tell it."""
        await self._finished.wait()
        return self.result

    async def wait_cancel(self) -> None:
        """Wait until somebody asks for the end."""
        await self._cancel.wait()

    async def unless_cancelled(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work`, but stop it and raise Cancelled as soon as the job is cancelled."""
        doing = asyncio.ensure_future(work)
        waiting = asyncio.ensure_future(self._cancel.wait())
        try:
            await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            raise Cancelled(f"Job {self.number} was cancelled.")
        finally:
            for task in (doing, waiting):
                task.cancel()
            await asyncio.gather(doing, waiting, return_exceptions=True)


Work = Callable[[Job], Awaitable[JobState | None]]
"""What a job does; returns its final state, None for `done`."""


class Jobs:
    """All jobs of the daemon, running and recently ended."""

    def __init__(self, group: asyncio.TaskGroup, *, retention: float = RETENTION_SECONDS) -> None:
        self._group = group
        self._retention = retention
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self.added: list[Callable[[Job], None]] = []
        self.removed: list[Callable[[Job], None]] = []

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs.values()))

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def running(self) -> tuple[Job, ...]:
        """Jobs that have not ended."""
        return tuple(job for job in self._jobs.values() if not job.state.is_final)

    def moving(self, guest_uuid: str) -> Job | None:
        """The running migration of a guest, if there is one."""
        for job in self.running:
            if job.guest_uuid == guest_uuid and job.kind is JobKind.MIGRATE:
                return job
        return None

    def start(
        self, work: Work, *, kind: JobKind, guest: str = "", guest_uuid: str = "", peer: str = "", parent: int = 0
    ) -> Job:
        """Make a job and run it; it goes on when its caller goes away."""
        job = Job(next(self._numbers), kind=kind, guest=guest, guest_uuid=guest_uuid, peer=peer, parent=parent)
        self._jobs[job.number] = job
        for listener in tuple(self.added):
            listener(job)
        self._group.create_task(self._run(job, work), name=f"job-{job.number}")
        return job

    async def _run(self, job: Job, work: Work) -> None:
        fields = {"job": job.number, "kind": str(job.kind), "guest": job.guest}
        log.info("job started", **fields, peer=job.peer)
        job.move(JobState.RUNNING)
        if job.cancel_requested:
            job.move(JobState.CANCELLING)
        try:
            end = await work(job) or JobState.DONE
        except Cancelled as error:
            job.error, end = error, JobState.CANCELLED
        except KvmigdError as error:
            job.error, end = error, JobState.FAILED
            job.findings = error.findings or job.findings
        except Exception as error:
            log.exception("job broke", **fields)
            job.error, end = InternalError(f"Internal error: {type(error).__name__}; see the journal."), JobState.FAILED
        job.move(end)
        end_fields = {"peer": job.peer, "result": job.result, "usec": job.finished_usec - job.created_usec}
        if job.error:
            log.warning("job ended", **fields, **end_fields, error=str(job.error))
        else:
            log.info("job ended", **fields, **end_fields)
        asyncio.get_running_loop().call_later(self._retention, self._forget, job)

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.number, None)
        for listener in tuple(self.removed):
            listener(job)
