"""Evacuations where something happens meanwhile: deadlines, guests that come and go, children ended by hand."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from kvmigd.errors import GuestLost, HypervisorUnavailable
from kvmigd.evacuate import evacuation
from kvmigd.jobs import Job
from kvmigd.model.guest import GuestState
from kvmigd.model.job import EvacuateOptions, JobKind, JobState, MigrateOptions
from tests.simulated import guest
from tests.unit.daemon_lab import Side, until

Run = Callable[..., None]


def states(job: Job) -> dict[str, JobState]:
    """How it stands with each guest."""
    return {name: line.state for name, line in job.lines.items()}


def child_of(side: Side, parent: Job, name: str) -> Job:
    """The migration of a guest."""
    (child,) = [job for job in side.service.jobs if job.parent == parent.number and job.guest == name]
    return child


class Clock:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """As time.monotonic."""
        return self.now


@pytest.mark.parametrize("shutdown", [False, True])
def test_at_the_deadline_who_has_left_has_left_and_who_waits_stays(
    run: Run, monkeypatch: pytest.MonkeyPatch, *, shutdown: bool
) -> None:
    clock = Clock()
    monkeypatch.setattr(evacuation, "time", clock)

    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        for number in (1, 2, 3):
            a.hypervisor.add(guest(f"web{number}", number))
        job = await a.service.evacuate(EvacuateOptions(shutdown=shutdown, deadline_usec=60_000_000))

        def first_has_left(_job: Job) -> None:
            if states(job).get("web1") is JobState.DONE:
                clock.now += 61

        job.listeners.append(first_has_left)
        assert await job.wait() == "partial"
        assert states(job) == {"web1": JobState.DONE, "web2": JobState.FAILED, "web3": JobState.FAILED}
        for name in ("web2", "web3"):
            assert job.lines[name].message == "the deadline has passed"
            assert job.lines[name].job == 0, "no migration was begun that could not be ended"
        assert len(a.hypervisor.streams) == 1
        assert "1 of 3 guests have left; still here: web2, web3." in str(job.error)

    run(body)


def test_a_migration_that_runs_at_the_deadline_is_aborted(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a, b = sides["hosta"], sides["hostb"]
        for number in (1, 2):
            a.hypervisor.add(guest(f"web{number}", number))
        a.hypervisor.hold.clear()
        job = await a.service.evacuate(EvacuateOptions(deadline_usec=1_000_000))
        assert await job.wait() == "failed"
        assert states(job) == {"web1": JobState.FAILED, "web2": JobState.FAILED}
        assert job.lines["web1"].message == "the deadline has passed while it moved"
        assert job.lines["web2"].message == "the deadline has passed"
        assert child_of(a, job, "web1").state is JobState.CANCELLED
        assert not b.hypervisor.known
        assert b.desk.reservations == ()

    run(body)


def test_a_guest_that_appears_meanwhile_leaves_too(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a, b = sides["hosta"], sides["hostb"]
        a.hypervisor.add(guest("web1", 1))
        a.hypervisor.hold.clear()
        job = await a.service.evacuate(EvacuateOptions())
        await until(lambda: bool(a.hypervisor.streams))
        late = a.hypervisor.add(guest("web0", 2))
        a.hypervisor.hold.set()
        assert await job.wait() == "done"
        assert states(job) == {"web1": JobState.DONE, "web0": JobState.DONE}
        assert late.uuid in b.hypervisor.known

    run(body)


def test_a_guest_that_is_shut_down_before_its_turn_is_no_failure(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        a.hypervisor.add(guest("web1", 1))
        second = a.hypervisor.add(guest("web2", 2))
        a.hypervisor.hold.clear()
        job = await a.service.evacuate(EvacuateOptions())
        await until(lambda: bool(a.hypervisor.streams))
        del a.hypervisor.known[second.uuid]
        a.hypervisor.hold.set()
        assert await job.wait() == "done"
        assert states(job) == {"web1": JobState.DONE, "web2": JobState.DONE}
        assert job.lines["web2"].message == "no longer runs here"

    run(body)


def test_a_child_cancelled_by_hand_stays_and_the_others_go_on(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        first, second = a.hypervisor.add(guest("web1", 1)), a.hypervisor.add(guest("web2", 2))
        a.hypervisor.hold.clear()
        job = await a.service.evacuate(EvacuateOptions())
        await until(lambda: bool(a.hypervisor.streams))
        child_of(a, job, "web1").cancel()
        await until(lambda: states(job)["web1"] is JobState.CANCELLED)
        assert not job.cancel_requested
        a.hypervisor.hold.set()
        assert await job.wait() == "partial"
        assert states(job) == {"web1": JobState.CANCELLED, "web2": JobState.DONE}
        assert "was cancelled" in job.lines["web1"].message
        assert a.hypervisor.world.running_on(first.uuid) == ["hosta"]
        assert a.hypervisor.world.running_on(second.uuid) == ["hostb"]

    run(body)


def test_a_paused_guest_stays_and_is_told(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a, b = sides["hosta"], sides["hostb"]
        a.hypervisor.add(msgspec.structs.replace(guest("still", 1), state=GuestState.PAUSED))
        a.hypervisor.add(msgspec.structs.replace(guest("off", 2), state=GuestState.SHUTOFF))
        a.hypervisor.add(guest("web", 3))
        job = await a.service.evacuate(EvacuateOptions())
        assert await job.wait() == "partial"
        assert states(job) == {"still": JobState.FAILED, "web": JobState.DONE}, "who is off need not leave"
        assert "still is not running" in job.lines["still"].message
        assert "virsh resume still" in job.lines["still"].message
        assert len(a.hypervisor.streams) == 1
        assert guest("still", 1).uuid not in b.hypervisor.known

    run(body)


def test_nobody_there_is_done_at_once(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        job = await sides["hosta"].service.evacuate(EvacuateOptions())
        assert await job.wait() == "done"
        assert job.lines == {}
        assert sides["hosta"].service.maintenance

    run(body)


def test_the_next_peer_is_tried_when_one_refuses(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a, b, c = (sides[name] for name in ("hosta", "hostb", "hostc"))
        web = a.hypervisor.add(guest("web"))
        b.hypervisor.missing_cpu = "missing features: avx512f"
        job = await a.service.evacuate(EvacuateOptions())
        assert await job.wait() == "done"
        assert job.lines["web"].peer == "hostc"
        assert web.uuid in c.hypervisor.known

    run(body, hosts=3)


def test_every_reason_is_told_when_all_refuse(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        a.hypervisor.add(guest("web"))
        for name in ("hostb", "hostc"):
            sides[name].hypervisor.missing_cpu = f"missing on {name}"
        job = await a.service.evacuate(EvacuateOptions())
        assert await job.wait() == "failed"
        message = job.lines["web"].message
        assert message.startswith("every peer was tried; ")
        assert "hostb: " in message
        assert "hostc: " in message

    run(body, hosts=3)


def test_a_migration_that_runs_already_is_joined(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        a.hypervisor.add(guest("web"))
        a.hypervisor.hold.clear()
        mine = await a.service.migrate("web", "hostc", MigrateOptions())
        await until(lambda: bool(a.hypervisor.streams))
        job = await a.service.evacuate(EvacuateOptions())
        await until(lambda: bool(job.lines) and job.lines["web"].job == mine.number)
        a.hypervisor.hold.set()
        assert await job.wait() == "done"
        assert job.lines["web"].peer == "hostc"
        assert len(a.hypervisor.streams) == 1

    run(body, hosts=3)


def test_a_joined_migration_that_fails_is_no_reason_not_to_try_another_peer(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        a.hypervisor.add(guest("web"))
        a.hypervisor.fault = "refused"
        a.hypervisor.hold.clear()
        await a.service.migrate("web", "hostc", MigrateOptions())
        await until(lambda: bool(a.hypervisor.streams))
        job = await a.service.evacuate(EvacuateOptions())
        await until(lambda: bool(job.lines) and job.lines["web"].job != 0)
        a.hypervisor.hold.set()
        assert await job.wait() == "failed"
        assert [stream.tls_name for stream in a.hypervisor.streams] == ["hostc", "hostb"]

    run(body, hosts=3)


def test_a_guest_that_is_lost_is_sent_nowhere_else(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        a.hypervisor.add(guest("web"))
        a.hypervisor.fault = "destroyed"
        job = await a.service.evacuate(EvacuateOptions())
        assert await job.wait() == "failed"
        assert isinstance(child_of(a, job, "web").error, GuestLost)
        assert "runs on neither host" in job.lines["web"].message
        assert len(a.hypervisor.streams) == 1

    run(body, hosts=3)


def test_without_libvirt_the_evacuation_fails_and_says_so(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        a.hypervisor.set_alive(alive=False)
        job = await a.service.evacuate(EvacuateOptions())
        assert await job.wait() == "failed"
        assert isinstance(job.error, HypervisorUnavailable)

    run(body)


def test_evacuation_at_shutdown_can_be_switched_off(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        off = msgspec.structs.replace(a.host.config.evacuation, on_shutdown=False)
        a.host.config = msgspec.structs.replace(a.host.config, evacuation=off)
        web = a.hypervisor.add(guest("web"))
        job = await a.service.evacuate(EvacuateOptions(shutdown=True))
        assert (job.kind, await job.wait()) == (JobKind.EVACUATE, "done")
        assert web.uuid in a.hypervisor.known
        assert a.service.state == "ready"
        assert await (await a.service.evacuate(EvacuateOptions())).wait() == "done"
        assert web.uuid not in a.hypervisor.known, "asked for by a person it is done all the same"

    run(body)
