"""Migrations and evacuations between hosts with real TLS between them and a simulated hypervisor."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from kvmigd.errors import (
    AdmissionRefused,
    Blocked,
    Cancelled,
    GuestBusy,
    GuestLost,
    GuestNotRunning,
    HypervisorFailed,
    HypervisorUnavailable,
    KvmigdError,
    NoDestination,
    NoSuchGuest,
    NoSuchPeer,
    PeerUnreachable,
    SameHost,
    Unresolved,
)
from kvmigd.host.hypervisor import Stream
from kvmigd.jobs import Job
from kvmigd.migrate import mover
from kvmigd.model.finding import Verdict
from kvmigd.model.guest import GuestState
from kvmigd.model.job import CheckOptions, EvacuateOptions, GuestLine, JobState, MigrateOptions, Phase
from kvmigd.model.proof import PortProof, Proofs
from kvmigd.readiness.readiness import Readiness
from tests.simulated import guest
from tests.unit.daemon_lab import Side, until


async def migrated(side: Side, name: str, peer: str = "hostb") -> Job:
    job = await side.service.migrate(name, peer, MigrateOptions())
    await job.wait()
    return job


def error_of(job: Job) -> KvmigdError:
    assert job.error is not None
    return job.error


Run = Callable[..., None]


def test_a_guest_moves_and_its_autostart_with_it(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a, b = sides["hosta"], sides["hostb"]
        web = a.hypervisor.add(guest("web", autostart=True))
        phases: list[Phase] = []
        job = await a.service.migrate("web", "hostb", MigrateOptions(bandwidth=100 << 20))
        job.listeners.append(lambda job: phases.append(job.phase))
        assert await job.wait() == "done"
        assert web.uuid not in a.hypervisor.known
        assert b.hypervisor.known[web.uuid].autostart
        assert b.desk.reservations == (), "the lease ends with the job"
        (stream,) = a.hypervisor.streams
        assert stream.libvirt_uri == "qemu+tls://hostb/system"
        host, _, port = stream.stream_uri.rpartition(":")
        assert host == "tcp://127.0.0.1"
        # Not always the last one: a proof of readiness may have it at this moment.
        assert int(port) in range(b.host.config.migration.port_min, b.host.config.migration.port_max + 1)
        assert stream.bandwidth == 100 << 20
        seen = list(dict.fromkeys(phases))
        assert seen[-2:] == [Phase.CONFIRMING, Phase.FINISHED]
        assert Phase.SWITCHING in seen
        assert job.progress.pause_usec == 1234, "the real pause comes from the destination"

    run(body)


def test_a_proof_that_failed_is_tried_again_before_it_stands_in_the_way(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Proofs(ports=(PortProof(to="hostb", problem="timeout", text="it did not answer", taken_usec=1),))
    asked: list[str] = []

    def proofs(_readiness: Readiness, peer: str) -> Proofs:
        asked.append(peer)
        return held

    monkeypatch.setattr(Readiness, "proofs", proofs)

    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        a.hypervisor.add(guest("web"))
        job = await a.service.migrate("web", "hostb", MigrateOptions())
        assert await job.wait() == "done"
        assert asked == ["hostb"]
        assert "port.open" not in [finding.check for finding in job.findings]

    run(body)


@pytest.mark.parametrize(("asked", "used"), [(None, 50 << 20), (0, 0), (1 << 20, 1 << 20)])
def test_bandwidth_is_the_configured_one_unless_one_is_asked_for(run: Run, asked: int | None, used: int) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        migration = msgspec.structs.replace(a.host.config.migration, bandwidth=50 << 20)
        a.host.config = msgspec.structs.replace(a.host.config, migration=migration)
        a.hypervisor.add(guest("web"))
        job = await a.service.migrate("web", "hostb", MigrateOptions(bandwidth=asked))
        assert await job.wait() == "done"
        assert a.hypervisor.streams[0].bandwidth == job.bandwidth == used

    run(body)


@pytest.mark.parametrize(
    ("fault", "error", "running_on"),
    [
        ("refused", HypervisorFailed, ["hosta"]),
        ("finish-lost", None, ["hostb"]),
        ("destroyed", GuestLost, []),
        ("both", Unresolved, ["hosta", "hostb"]),
    ],
)
def test_what_libvirt_says_does_not_count_but_where_the_guest_runs(
    run: Run, fault: str, error: type[KvmigdError] | None, running_on: list[str]
) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a, b = sides["hosta"], sides["hostb"]
        web = a.hypervisor.add(guest("web"))
        a.hypervisor.fault = fault
        job = await migrated(a, "web")
        assert job.state is (JobState.FAILED if error else JobState.DONE)
        assert type(job.error) is (error or type(None))
        assert a.hypervisor.world.running_on(web.uuid) == running_on
        assert b.desk.reservations == ()
        if fault == "finish-lost":
            assert web.uuid not in a.hypervisor.known, "the shell of the guest is gone"

    run(body)


MISSING = (
    "internal error: process exited while connecting to monitor: Could not open '/srv/web.qcow2': "
    "No such file or directory"
)


@pytest.mark.parametrize(
    ("number", "words", "check"),
    [
        (38, "Cannot get interface MTU on 'br0': No such device", "network.bridge"),
        (1, MISSING, "storage.path"),
        (9, "operation failed: something new", ""),
    ],
)
def test_libvirts_words_become_the_check_that_should_have_known(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int, words: str, check: str
) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a, b = sides["hosta"], sides["hostb"]
        a.hypervisor.add(guest("web"))

        async def fail(_uuid: str, _stream: Stream) -> None:
            raise HypervisorFailed(words, number=number)

        monkeypatch.setattr(a.hypervisor, "migrate", fail)
        job = await migrated(a, "web")
        error = error_of(job)
        assert isinstance(error, HypervisorFailed)
        assert error.number == number
        assert b.desk.reservations == ()
        if not check:
            assert (error.message, error.hint) == (words, ""), "nothing is guessed"
            assert words not in [finding.found for finding in job.findings]
            return
        first = job.findings[0]
        assert (first.check, first.severity, first.basis, first.host) == (check, "block", "proved", "hostb")
        assert first.found == words
        assert all(finding.severity == "warn" for finding in job.findings[1:]), "what Check had found stays"
        assert error.message == f"{words}. {first.summary}"
        assert error.hint == first.remedy
        assert "hostb" in first.remedy

    run(body)


def test_what_libvirt_complains_of_is_no_finding_when_the_guest_arrived(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        a.hypervisor.add(guest("web"))
        a.hypervisor.fault = "finish-lost"
        job = await migrated(a, "web")
        assert job.state is JobState.DONE
        assert "hypervisor.remote" not in [finding.check for finding in job.findings]

    run(body)


def test_a_guest_that_is_lost_is_told_with_the_meaning_of_libvirts_words(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        a.hypervisor.add(guest("web"))
        a.hypervisor.fault = "destroyed"
        job = await migrated(a, "web")
        assert isinstance(job.error, GuestLost)
        assert job.findings[0].check == "guest.state"
        assert job.findings[0].summary in job.error.message
        assert "virsh start web" in job.error.hint

    run(body)


def test_nothing_is_touched_while_the_peer_cannot_be_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mover, "RESOLVE_SECONDS", 0.2)

    async def body(sides: dict[str, Side]) -> None:
        a, b = sides["hosta"], sides["hostb"]
        web = a.hypervisor.add(guest("web"))
        a.hypervisor.fault = "finish-lost"
        a.hypervisor.hold.clear()
        job = await a.service.migrate("web", "hostb", MigrateOptions())
        await until(lambda: job.phase is Phase.STREAMING)
        b.hypervisor.set_alive(alive=False)
        a.hypervisor.hold.set()
        assert await job.wait() == "failed"
        assert isinstance(job.error, Unresolved)
        assert a.hypervisor.known[web.uuid].state is GuestState.PAUSED
        assert web.uuid in b.hypervisor.known

    run(body)


def test_cancelling_aborts_the_stream(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a, b = sides["hosta"], sides["hostb"]
        a.hypervisor.add(guest("web"))
        a.hypervisor.hold.clear()
        job = await a.service.migrate("web", "hostb", MigrateOptions())
        await until(lambda: job.phase is Phase.STREAMING)
        with pytest.raises(GuestBusy, match="already being migrated"):
            await a.service.migrate("web", "hostb", MigrateOptions())
        job.cancel()
        job.cancel()
        assert await job.wait() == "cancelled"
        assert isinstance(job.error, Cancelled)
        assert b.desk.reservations == ()
        with pytest.raises(KvmigdError, match="already ended"):
            job.cancel()

    run(body)


def test_what_blocks_stops_the_job_before_libvirt_is_asked(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a, b = sides["hosta"], sides["hostb"]
        a.hypervisor.add(guest("web"))
        b.hypervisor.missing_cpu = "missing features: avx512f"
        job = await migrated(a, "web")
        assert isinstance(job.error, Blocked)
        assert [finding.check for finding in error_of(job).findings if finding.severity == "block"] == ["cpu.model"]
        assert a.hypervisor.streams == []
        (result,) = await a.service.check("web", "hostb", CheckOptions())
        assert result.verdict is Verdict.BLOCKED
        b.hypervisor.missing_cpu = ""
        (result,) = await a.service.check("web", "hostb", CheckOptions())
        assert result.verdict is Verdict.DEGRADED
        (result,) = await a.service.check("web", "", CheckOptions())
        assert result.peer == "hostb"

    run(body)


def test_a_port_that_is_taken_behind_our_back_is_found_out(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a, b = sides["hosta"], sides["hostb"]
        a.hypervisor.add(guest("web"))
        b.hypervisor.set_alive(alive=True)
        b.desk._bindable = lambda _port: False
        job = await migrated(a, "web")
        assert isinstance(job.error, AdmissionRefused)
        assert a.hypervisor.streams == []

    run(body)


def test_bad_input_has_its_own_errors_at_once(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        off = msgspec.structs.replace(guest("off", 2), state=GuestState.SHUTOFF)
        a.hypervisor.add(off)
        a.hypervisor.add(guest("web"))
        for name, peer, error in (
            ("nobody", "hostb", NoSuchGuest),
            ("web", "hosty", NoSuchPeer),
            ("web", "hosta", SameHost),
            ("off", "hostb", GuestNotRunning),
        ):
            with pytest.raises(error):
                await a.service.migrate(name, peer, MigrateOptions())
        assert len(a.service.jobs) == 0
        a.hypervisor.set_alive(alive=False)
        with pytest.raises(HypervisorUnavailable):
            await a.service.migrate("web", "hostb", MigrateOptions())
        assert a.service.state == "no-hypervisor"

    run(body)


def test_a_peer_in_maintenance_blocks(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a, b = sides["hosta"], sides["hostb"]
        a.hypervisor.add(guest("web"))
        await b.service.set_maintenance(on=True)
        job = await migrated(a, "web")
        assert isinstance(job.error, Blocked)
        assert "maintenance off" in str(job.error)
        await until(lambda: (facts := a.service.peers[0].facts) is not None and not facts.accepting)
        with pytest.raises(NoDestination, match="maintenance"):
            await a.service.migrate("web", "", MigrateOptions())

    run(body)


def lines(job: Job) -> dict[str, GuestLine]:
    return job.lines


def test_evacuation_moves_everybody_and_leaves_maintenance_on(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        guests = [a.hypervisor.add(guest(f"web{number}", number)) for number in (1, 2, 3)]
        job = await a.service.evacuate(EvacuateOptions())
        assert await a.service.evacuate(EvacuateOptions()) is job, "a second call joins the first"
        assert await job.wait() == "done"
        assert [line.state for line in job.lines.values()] == [JobState.DONE] * 3
        assert all(a.hypervisor.world.running_on(one.uuid) in (["hostb"], ["hostc"]) for one in guests)
        assert a.service.maintenance
        assert a.service.state == "maintenance"
        assert sum(child.parent == job.number for child in a.service.jobs) == 3

    run(body, hosts=3)


def test_a_guest_that_cannot_leave_stops_nobody_else(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a, b = sides["hosta"], sides["hostb"]
        a.hypervisor.add(guest("a-web", 1))
        a.hypervisor.add(guest("b-huge", 2, memory=1 << 50))
        a.hypervisor.add(guest("c-web", 3))
        b.hypervisor.add(msgspec.structs.replace(guest("c-web", 9), state=GuestState.SHUTOFF))
        job = await a.service.evacuate(EvacuateOptions())
        assert await job.wait() == "partial"
        states = {name: line.state for name, line in job.lines.items()}
        assert states == {"a-web": JobState.DONE, "b-huge": JobState.FAILED, "c-web": JobState.FAILED}
        assert "no peer takes it" in job.lines["b-huge"].message
        assert "hostb" in job.lines["c-web"].message
        assert "2" not in error_of(job).message.split()[0]

    run(body)


def test_evacuation_for_a_shutdown_drains_and_keeps_to_its_deadline(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        a.hypervisor.add(guest("web1", 1))
        a.hypervisor.add(guest("web2", 2))
        a.hypervisor.hold.clear()
        job = await a.service.evacuate(EvacuateOptions(shutdown=True, deadline_usec=300_000))
        assert a.service.state == "draining"
        assert not a.service.maintenance
        assert await job.wait() == "failed"
        assert {line.state for line in job.lines.values()} <= {JobState.FAILED, JobState.CANCELLED}
        assert set(a.hypervisor.known) == {guest("web1", 1).uuid, guest("web2", 2).uuid}

    run(body)


def test_cancelling_an_evacuation_stops_it_orderly(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        for number in (1, 2):
            a.hypervisor.add(guest(f"web{number}", number))
        a.hypervisor.hold.clear()
        job = await a.service.evacuate(EvacuateOptions())
        await until(lambda: bool(a.hypervisor.streams))
        job.cancel()
        assert await job.wait() == "cancelled"
        assert [line.state for line in job.lines.values()] == [JobState.CANCELLED] * 2
        assert all(one.state.is_final for one in a.service.jobs)

    run(body)


def test_no_peer_at_all(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        a.hypervisor.add(guest("web"))
        with pytest.raises(PeerUnreachable):
            await a.service.check("web", "", CheckOptions())
        job = await a.service.evacuate(EvacuateOptions())
        assert await job.wait() == "failed"
        assert "no peer is configured" in job.lines["web"].message

    run(body, hosts=1)
