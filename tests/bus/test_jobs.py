"""Jobs on the bus: progress, order of what is told, waiting, cancelling, forgetting."""

from __future__ import annotations

import asyncio

import pytest
from dbus_next.signature import Variant

from kvmigd.bus import path
from kvmigd.bus.connection import CallFailed, Connection
from kvmigd.errors import Blocked
from kvmigd.model.job import Phase, Progress
from tests.bus.conftest import Caller, world
from tests.bus.operations import BRIDGE_DOWN

pytestmark = pytest.mark.usefixtures("bus")


async def test_new_job_is_told_before_its_path_is_answered() -> None:
    async with world() as here:
        job = await here.caller.migrate()
        assert job == "/org/kvmigd1/job/1"
        assert [(item.path, item.member, item.body[:2]) for item in here.caller.heard[:2]] == [
            (path.ROOT, "InterfacesAdded", [job, here.caller.heard[0].body[1]]),
            (path.ROOT, "JobNew", [1, job]),
        ]
        assert set(here.caller.heard[0].body[1]) == {path.JOB, path.MIGRATION}


async def test_job_that_runs_shows_what_it_does() -> None:
    async with world() as here:
        job = await here.caller.migrate(bandwidth=Variant("t", 1 << 20))
        await here.caller.until("PropertiesChanged", at=job)
        properties = await here.caller.properties(job, path.JOB)
        assert properties.pop("CreatedUSec") > 1_600_000_000_000_000
        assert properties == {
            "Kind": "migrate",
            "Guest": "web1",
            "GuestUUID": "uuid-of-web1",
            "Peer": "hostb",
            "Parent": "/",
            "State": "running",
            "Phase": "checking",
            "Progress": 0.0,
            "FinishedUSec": 0,
            "Result": "",
            "ErrorName": "",
            "ErrorMessage": "",
            "Findings": [],
        }
        assert (await here.caller.properties(job, path.MIGRATION))["Bandwidth"] == 1 << 20


async def test_final_state_is_told_before_finished_and_finished_before_wait_answers() -> None:
    async with world(interval=3600.0) as here:
        job = await here.caller.migrate()
        order: list[str] = []
        waiting = asyncio.create_task(here.caller.call(job, path.JOB, "Wait"))
        waiting.add_done_callback(lambda _: order.extend(here.caller.members(at=job)))
        await here.caller.manager("CanReload")
        here.operations.go.set()
        assert await waiting == ["done"]
        await asyncio.sleep(0)
        assert order[-1] == "Finished"
        assert order.count("Finished") == 1
        told = [item for item in here.caller.heard if item.path == job and item.member == "PropertiesChanged"]
        final = {key: value.value for item in told for key, value in item.body[1].items()}
        now = {**await here.caller.properties(job, path.JOB), **await here.caller.properties(job, path.MIGRATION)}
        assert final.items() <= now.items()
        assert (final["State"], final["Result"], final["Phase"]) == ("done", "done", "finished")
        assert (final["Progress"], final["BytesProcessed"]) == (1.0, 100 << 20)
        assert final["FinishedUSec"] > 0


async def test_storm_of_reports_is_told_once_an_interval() -> None:
    async with world(interval=3600.0) as here:
        job = await here.caller.migrate()
        await here.caller.manager("CanReload")
        (running,) = here.operations.jobs.running
        for phase in (Phase.ADMISSION, Phase.PROVING, Phase.STARTING, Phase.STREAMING):
            running.enter(phase)
        for done in range(1000):
            running.report(Progress(total=1000, processed=done, remaining=1000 - done))
            if done % 100 == 0:
                await asyncio.sleep(0)
        await here.caller.manager("CanReload")
        assert here.caller.members(at=job) == []
        assert (await here.caller.properties(job, path.MIGRATION))["BytesProcessed"] == 999
        running.cancel()
        await here.caller.until("Finished", at=job)
        assert here.caller.members(at=job) == ["PropertiesChanged", "PropertiesChanged", "Finished"]


async def test_two_callers_wait_while_the_job_changes() -> None:
    async with world() as here:
        job = await here.caller.migrate()
        other = await Caller.start()
        waits = [asyncio.create_task(caller.call(job, path.JOB, "Wait")) for caller in (here.caller, other, other)]
        await other.manager("CanReload")
        here.operations.go.set()
        assert await asyncio.gather(*waits) == [["done"]] * 3
        assert other.members(at=job)[-1] == "Finished"
        assert await other.call(job, path.JOB, "Wait") == ["done"]
        await other.connection.close()


async def test_job_goes_on_when_its_caller_leaves() -> None:
    async with world() as here:
        other = await Caller.start()
        job = await other.migrate()
        waiting = asyncio.create_task(other.call(job, path.JOB, "Wait"))
        await other.manager("CanReload")
        await other.connection.close()
        await asyncio.gather(waiting, return_exceptions=True)
        here.operations.go.set()
        assert (await here.caller.until("Finished", at=job)).body == ["done"]


async def test_cancel() -> None:
    async with world() as here:
        job = await here.caller.migrate()
        await here.caller.call(job, path.JOB, "Cancel", "a{sv}", {})
        await here.caller.call(job, path.JOB, "Wait")
        properties = await here.caller.properties(job, path.JOB)
        assert (properties["State"], properties["Result"]) == ("cancelled", "cancelled")
        assert properties["ErrorName"] == "org.kvmigd1.Error.Cancelled"
        with pytest.raises(CallFailed, match=r"org\.kvmigd1\.Error\.JobFinished"):
            await here.caller.call(job, path.JOB, "Cancel", "a{sv}", {})
        with pytest.raises(CallFailed, match="takes none"):
            await here.caller.call(job, path.JOB, "Cancel", "a{sv}", {"force": Variant("t", 1)})


async def test_failure_carries_its_error_and_findings() -> None:
    async with world() as here:
        here.operations.failure = Blocked(
            "Checks stand in the way.", hint="See: kvmigctl check", findings=[BRIDGE_DOWN]
        )
        here.operations.go.set()
        job = await here.caller.migrate()
        assert await here.caller.call(job, path.JOB, "Wait") == ["failed"]
        properties = await here.caller.properties(job, path.JOB)
        assert properties["ErrorName"] == "org.kvmigd1.Error.Blocked"
        assert properties["ErrorMessage"] == "Checks stand in the way. See: kvmigctl check"
        (finding,) = properties["Findings"]
        assert finding[:3] == ["network.bridge-up", "block", "Bridge br0 is down on hostb."]


async def test_evacuation_has_a_line_a_guest_and_child_jobs() -> None:
    async with world() as here:
        job = await here.caller.manager("Evacuate", "a{sv}", {})
        await here.caller.until("JobNew")
        child = path.job_path(2)
        await here.caller.until("PropertiesChanged", at=child)
        assert (await here.caller.properties(child, path.JOB))["Parent"] == job
        assert (await here.caller.properties(job, path.EVACUATION))["Guests"] == [
            ["web1", "hostb", "running", "", child],
            ["big1", "", "failed", "No peer has memory for big1.", "/"],
        ]
        here.operations.go.set()
        assert await here.caller.call(job, path.JOB, "Wait") == ["partial"]
        assert (await here.caller.properties(job, path.EVACUATION))["Guests"][0][2] == "done"


async def test_job_that_ended_is_forgotten_in_time() -> None:
    async with world(retention=0.0) as here:
        here.operations.go.set()
        job = await here.caller.migrate()
        removed = await here.caller.until("InterfacesRemoved")
        assert (removed.path, removed.body) == (path.ROOT, [job, [path.JOB, path.MIGRATION]])
        assert (await here.caller.until("JobRemoved")).body == [1, job, "done"]
        with pytest.raises(CallFailed, match="UnknownObject"):
            await here.caller.call(job, path.JOB, "Wait")


async def test_jobs_that_were_there_before_the_face_are_published() -> None:
    async with world() as here:
        await here.caller.migrate()
        await here.face.__aexit__()
        async with here.face:
            connection = await Connection.open()
            reply = await connection.call(
                path.NAME, path.ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"
            )
            assert path.job_path(1) in reply.body[0]
            await connection.close()
