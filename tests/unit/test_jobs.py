"""Jobs: closed tables, every way to end, who waits, who cancels, and what is kept."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as some
from structlog.testing import capture_logs

from kvmigd.errors import Blocked, Cancelled, GuestLost, InternalError, JobFinished, KvmigdError
from kvmigd.jobs import IllegalStep, Job, Jobs, Work
from kvmigd.model.finding import Finding, Severity
from kvmigd.model.job import JOB_STEPS, PHASE_STEPS, GuestLine, JobKind, JobState, Phase, Progress
from tests.unit.peer_lab import asynchronous, until

Step = TypeVar("Step", bound=StrEnum)

ENDS = frozenset({JobState.DONE, JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED})
FINDING = Finding(check="a.b", severity=Severity.BLOCK, summary="No.")


@asynccontextmanager
async def jobs(*, retention: float = 900.0) -> AsyncIterator[Jobs]:
    async with asyncio.TaskGroup() as group:
        yield Jobs(group, retention=retention)


def reachable(table: Mapping[Step, Iterable[Step]], start: Step) -> set[Step]:
    """All steps that can be come to."""
    found, new = {start}, {start}
    while new:
        new = {after for step in new for after in table[step]} - found
        found |= new
    return found


# The tables


def test_every_state_and_phase_is_in_its_table_and_can_be_reached() -> None:
    assert JOB_STEPS.keys() == set(JobState) == reachable(JOB_STEPS, JobState.WAITING)
    assert PHASE_STEPS.keys() == set(Phase) == reachable(PHASE_STEPS, Phase.NEW)


def test_every_job_can_end_and_an_end_is_an_end() -> None:
    assert {state for state in JobState if state.is_final} == ENDS
    for state in JobState:
        assert state.is_final or reachable(JOB_STEPS, state) & ENDS
    for phase in Phase:
        assert Phase.FINISHED in reachable(PHASE_STEPS, phase)
    assert PHASE_STEPS[Phase.FINISHED] == frozenset()


def test_no_phase_comes_twice() -> None:
    for phase, after in PHASE_STEPS.items():
        for step in after:
            assert phase not in reachable(PHASE_STEPS, step)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(JobState, JobState)))
def test_a_step_of_the_state_is_taken_or_raises(before: JobState, after: JobState) -> None:
    job = Job(1, kind=JobKind.MIGRATE)
    job.state = before
    if after in JOB_STEPS[before]:
        job.move(after)
        assert job.state is after
        assert bool(job.finished_usec) == after.is_final
        assert job.result == (str(after) if after.is_final else "")
        assert (job.phase is Phase.FINISHED) == after.is_final
    else:
        with pytest.raises(IllegalStep, match=f"cannot become {after}"):
            job.move(after)
        assert job.state is before


@pytest.mark.parametrize(("before", "after"), list(itertools.product(Phase, Phase)))
def test_a_step_of_the_phase_is_taken_or_raises(before: Phase, after: Phase) -> None:
    job = Job(1, kind=JobKind.MIGRATE)
    job.phase = before
    if after is before or after in PHASE_STEPS[before]:
        job.enter(after)
        assert job.phase is after
    else:
        with pytest.raises(IllegalStep, match=f"cannot enter {after}"):
            job.enter(after)
        assert job.phase is before


@given(some.integers(), some.integers())
def test_the_fraction_is_one(total: int, remaining: int) -> None:
    assert 0.0 <= Progress(total=total, remaining=remaining).fraction <= 1.0


# What listeners hear


def test_listeners_hear_of_changes_and_of_nothing_else() -> None:
    job = Job(1, kind=JobKind.EVACUATE)
    heard: list[str] = []
    job.listeners.append(lambda job: heard.append(f"{job.state}/{job.phase}"))
    job.report(Progress())
    job.enter(Phase.NEW)
    assert heard == []
    job.report(Progress(total=1))
    job.report(Progress(total=1))
    job.note_line(GuestLine(guest="web"))
    job.note_line(GuestLine(guest="web"))
    job.note_line(GuestLine(guest="web", state=JobState.DONE))
    assert len(heard) == 3
    assert job.lines["web"].state is JobState.DONE


def test_a_listener_may_leave_while_it_is_told() -> None:
    job = Job(1, kind=JobKind.MIGRATE)
    heard: list[int] = []

    def once(_job: Job) -> None:
        heard.append(1)
        job.listeners.remove(once)

    job.listeners += [once, lambda _job: heard.append(2)]
    job.enter(Phase.CHECKING)
    job.enter(Phase.ADMISSION)
    assert heard == [1, 2, 2]


# How jobs end


async def _refuses(job: Job) -> None:
    raise Blocked("Something is in the way.", findings=[FINDING])


async def _is_lost(job: Job) -> None:
    job.findings = (FINDING,)
    raise GuestLost("It is gone.")


async def _gives_up(job: Job) -> None:
    raise Cancelled("It was cancelled.")


async def _does_it(job: Job) -> None:
    await asyncio.sleep(0)


async def _does_some(job: Job) -> JobState:
    return JobState.PARTIAL


@pytest.mark.parametrize(
    ("work", "state", "error", "findings"),
    [
        (_does_it, JobState.DONE, None, ()),
        (_does_some, JobState.PARTIAL, None, ()),
        (_refuses, JobState.FAILED, Blocked, (FINDING,)),
        (_is_lost, JobState.FAILED, GuestLost, (FINDING,)),
        (_gives_up, JobState.CANCELLED, Cancelled, ()),
    ],
)
@asynchronous
async def test_ends(
    work: Work, state: JobState, error: type[KvmigdError] | None, findings: tuple[Finding, ...]
) -> None:
    async with jobs() as running:
        job = running.start(work, kind=JobKind.MIGRATE, guest="web", guest_uuid="uuid")
        assert running.moving("uuid") is job
        assert job.state is JobState.WAITING
        assert await job.wait() == str(state)
        assert type(job.error) is (error or type(None))
        assert job.findings == findings
        assert job.finished_usec >= job.created_usec > 0
        assert running.moving("uuid") is None
        assert running.running == ()
        assert list(running) == [job]


@asynchronous
async def test_a_defect_is_told_without_its_text() -> None:
    async def breaks(job: Job) -> None:
        raise ValueError("the password is secret")

    with capture_logs() as logs:
        async with jobs() as running:
            job = running.start(breaks, kind=JobKind.MIGRATE)
            assert await job.wait() == "failed"
    assert type(job.error) is InternalError
    assert str(job.error) == "Internal error: ValueError; see the journal."
    broke = [entry for entry in logs if entry["event"] == "job broke"]
    assert [entry["exc_info"] for entry in broke] == [True], "the journal has the whole of it"


@asynchronous
async def test_a_step_that_is_not_in_the_table_breaks_the_job_only() -> None:
    async def leaps(job: Job) -> None:
        job.enter(Phase.SWITCHING)

    async with jobs() as running:
        job = running.start(leaps, kind=JobKind.MIGRATE)
        assert await job.wait() == "failed"
        assert "IllegalStep" in str(job.error)
        assert await running.start(_does_it, kind=JobKind.MIGRATE).wait() == "done"


@asynchronous
async def test_several_may_wait_and_who_comes_late_too() -> None:
    go = asyncio.Event()

    async def work(job: Job) -> None:
        await go.wait()

    async with jobs() as running:
        job = running.start(work, kind=JobKind.MIGRATE)
        impatient = asyncio.ensure_future(job.wait())
        waiting = [asyncio.ensure_future(job.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        assert not job.state.is_final, "who waits no longer ends nothing"
        go.set()
        assert await asyncio.gather(*waiting) == ["done"] * 3
        assert await job.wait() == "done"


# Cancelling


@asynchronous
async def test_cancel_before_the_work_has_begun() -> None:
    async def work(job: Job) -> None:
        await job.unless_cancelled(asyncio.Event().wait())

    async with jobs() as running:
        job = running.start(work, kind=JobKind.MIGRATE)
        states: list[JobState] = []
        job.listeners.append(lambda job: states.append(job.state))
        job.cancel()
        assert (job.state, job.cancel_requested) == (JobState.WAITING, True)
        assert await job.wait() == "cancelled"
        assert states == [JobState.RUNNING, JobState.CANCELLING, JobState.CANCELLED]


@asynchronous
async def test_cancel_of_work_that_runs_and_of_work_that_has_ended() -> None:
    async def work(job: Job) -> None:
        await job.unless_cancelled(asyncio.Event().wait())

    async with jobs() as running:
        job = running.start(work, kind=JobKind.MIGRATE)
        await until(lambda: job.state is JobState.RUNNING)
        job.cancel()
        assert job.state is JobState.CANCELLING
        job.cancel()
        assert await job.wait() == "cancelled"
        assert str(job.error) == "Job 1 was cancelled."
        with pytest.raises(JobFinished, match="already ended: cancelled"):
            job.cancel()


@pytest.mark.parametrize("end", sorted(ENDS))
@asynchronous
async def test_a_cancel_can_come_too_late(end: JobState) -> None:
    async def work(job: Job) -> JobState:
        await job.wait_cancel()
        if end is JobState.FAILED:
            raise GuestLost("It is gone.")
        return end

    async with jobs() as running:
        job = running.start(work, kind=JobKind.MIGRATE)
        await until(lambda: job.state is JobState.RUNNING)
        job.cancel()
        assert await job.wait() == str(end)


@asynchronous
async def test_unless_cancelled_gives_the_result_or_the_error_of_the_work() -> None:
    async def seven() -> int:
        await asyncio.sleep(0)
        return 7

    async def breaks() -> None:
        raise GuestLost("It is gone.")

    job = Job(3, kind=JobKind.MIGRATE)
    assert await job.unless_cancelled(seven()) == 7
    with pytest.raises(GuestLost):
        await job.unless_cancelled(breaks())


@asynchronous
async def test_unless_cancelled_stops_the_work_and_waits_for_its_end() -> None:
    steps: list[str] = []

    async def tidy() -> None:
        try:
            steps.append("begun")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("tidied")

    for outside in (False, True):
        steps.clear()
        job = Job(3, kind=JobKind.MIGRATE)
        waiting = asyncio.ensure_future(job.unless_cancelled(tidy()))
        await until(lambda: steps == ["begun"])
        if outside:
            waiting.cancel()
        else:
            job.cancel()
        with pytest.raises(asyncio.CancelledError if outside else Cancelled):
            await waiting
        assert steps == ["begun", "tidied"]


@asynchronous
async def test_work_that_is_done_when_the_cancel_comes_counts() -> None:
    job = Job(3, kind=JobKind.MIGRATE)

    async def work() -> int:
        job.cancel()
        return 7

    assert await job.unless_cancelled(work()) == 7


# All jobs


@asynchronous
async def test_numbers_and_news() -> None:
    async with jobs() as running:
        added: list[int] = []
        running.added.append(lambda job: added.append(job.number))
        first = running.start(_does_it, kind=JobKind.EVACUATE, guest_uuid="uuid")
        assert running.moving("uuid") is None, "only migrations move a guest"
        second = running.start(_does_it, kind=JobKind.MIGRATE, guest="web", peer="hostb", parent=first.number)
        assert added == [first.number, second.number] == [1, 2]
        assert (second.guest, second.peer, second.parent) == ("web", "hostb", 1)
        assert first.uuid != second.uuid
        assert running.running == (first, second)
        assert len(running) == 2


@asynchronous
async def test_what_has_ended_is_kept_for_a_while_and_then_forgotten() -> None:
    go = asyncio.Event()

    async def work(job: Job) -> None:
        await go.wait()

    async with jobs(retention=0.0) as running:
        gone: list[str] = []
        running.removed.append(lambda job: gone.append(job.result))
        stays = running.start(work, kind=JobKind.MIGRATE)
        job = running.start(_does_it, kind=JobKind.MIGRATE)
        assert await job.wait() == "done"
        await until(lambda: bool(gone))
        assert gone == ["done"]
        assert list(running) == [stays], "what runs is never forgotten"
        go.set()


@asynchronous
async def test_what_has_just_ended_is_still_there() -> None:
    async with jobs() as running:
        job = running.start(_does_it, kind=JobKind.MIGRATE)
        await job.wait()
    assert list(running) == [job]
