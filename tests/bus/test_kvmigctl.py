"""kvmigctl as a program, against the face on the bus: what it says, what it exits with, what it prints as JSON."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from kvmigd.bus import path
from kvmigd.bus.connection import Connection
from kvmigd.checks.catalogue import CHECKS
from kvmigd.cli.picture import clock
from kvmigd.errors import Blocked, Exit, HypervisorFailed, KvmigdError, PeerUnreachable
from kvmigd.model.finding import Verdict
from kvmigd.model.job import CheckOptions, EvacuateOptions, MigrateOptions
from kvmigd.model.peer import PeerState
from tests.bus.conftest import Bus, Ran, kvmigctl, world
from tests.bus.operations import BRIDGE_DOWN, OLDER_QEMU, WEB1, view

pytestmark = pytest.mark.usefixtures("bus")


async def together(*work: Coroutine[Any, Any, Ran]) -> list[Ran]:
    """Run programs side by side."""
    return await asyncio.gather(*work)


async def test_check() -> None:
    async with world() as here:
        ready, as_json = await together(
            kvmigctl("check", "web1", "hostb"), kvmigctl("check", "web1", "hostb", "--json")
        )
        assert (ready.status, ready.err) == (Exit.OK, "")
        assert ready.out == "ready: web1 can move to hostb now.\n"
        assert as_json.json == {"guest": "web1", "peer": "hostb", "verdict": "ready", "findings": []}
        assert here.operations.calls == [("check", "web1", "hostb", CheckOptions())] * 2


async def test_check_shows_what_was_expected_and_found_and_what_mends_it() -> None:
    async with world() as here:
        here.operations.findings = (BRIDGE_DOWN, OLDER_QEMU)
        text, as_json = await together(
            kvmigctl("check", "web1", "hostb", "--no-proofs"), kvmigctl("check", "web1", "hostb", "--json")
        )
        assert text.status == as_json.status == Exit.BLOCKED
        assert text.out.splitlines() == [
            "blocked: web1 cannot move to hostb now.",
            "",
            "BLOCKS   Bridge br0 is down on hostb.",
            "         expected: up",
            "         found:    down",
            "         remedy:   ip link set br0 up",
            "         check:    network.bridge-up, proved by trying it",
            "",
            "WARNING  QEMU on hostb is older.",
            "         check:    software.qemu, by comparing both hosts",
        ]
        assert ("check", "web1", "hostb", CheckOptions(prove=False)) in here.operations.calls
        assert as_json.json["verdict"] == "blocked"
        assert as_json.json["findings"][0] == {
            "check": "network.bridge-up",
            "severity": "block",
            "summary": "Bridge br0 is down on hostb.",
            "expected": "up",
            "found": "down",
            "remedy": "ip link set br0 up",
            "subject": "br0",
            "host": "hostb",
            "basis": "proved",
            "peer": "hostb",
        }


async def test_check_tells_when_it_was_proved_and_which_other_ways_there_are() -> None:
    async with world() as here:
        usec = 1_700_000_000_000_000
        here.operations.findings = (
            msgspec.structs.replace(BRIDGE_DOWN, proved_usec=usec, ways=("copy", "shutdown"), raw="libvirt's words"),
        )
        told = await kvmigctl("check", "web1", "hostb")
        assert f"proved by trying it at {clock(usec)}" in told.out
        assert "         or:       this does not stand in the way of: copy, shutdown" in told.out
        assert "         said:     libvirt's words" in told.out


async def test_check_passes_its_options_on() -> None:
    async with world() as here:
        await kvmigctl("check", "web1", "hostb", "--strict", "--copy-disks", "--offline")
        wanted = CheckOptions(strict=True, copy_disks=True, offline=True)
        assert here.operations.calls == [("check", "web1", "hostb", wanted)]


async def test_check_explains_what_the_catalogue_knows() -> None:
    async with world() as here:
        here.operations.findings = (BRIDGE_DOWN, OLDER_QEMU)
        told = await kvmigctl("check", "web1", "hostb", "--explain")
        assert told.out.count("         because:") == 1, "network.bridge-up is in no catalogue"
        assert CHECKS["software.qemu"].why in told.out


async def test_check_without_a_peer_is_about_all_of_them() -> None:
    async with world() as here:
        here.operations.findings = (OLDER_QEMU,)
        text, as_json = await together(kvmigctl("check", "web1"), kvmigctl("check", "web1", "--json"))
        assert text.status == as_json.status == Exit.OK
        heads = [line for line in text.out.splitlines() if line.startswith("degraded")]
        assert heads == [f"degraded: web1 can move to {peer}, with warnings." for peer in ("2nd.host", "hostb")]
        assert here.operations.calls == [("check_all", "web1", "", CheckOptions())] * 2
        assert (as_json.json["peer"], as_json.json["verdict"]) == ("2nd.host", "degraded")
        assert [answer["peer"] for answer in as_json.json["peers"]] == ["2nd.host", "hostb"]
        here.operations.findings = (BRIDGE_DOWN,)
        assert (await kvmigctl("check", "web1")).status == Exit.BLOCKED


async def test_check_of_all_guests_is_a_table() -> None:
    async with world() as here:
        text, as_json = await together(kvmigctl("check", "--all"), kvmigctl("check", "--all", "--json"))
        assert text.status == as_json.status == Exit.OK
        lines = text.out.splitlines()
        assert lines[0].split() == ["GUEST", "PEER", "VERDICT", "FIRST"]
        assert [line.split()[:3] for line in lines[1:3]] == [["web1", "2nd.host", "ready"], ["web1", "hostb", "ready"]]
        assert lines[-1] == "All 1 guests can move to some peer."
        assert [answer["peer"] for answer in as_json.json_lines] == ["2nd.host", "hostb"]
        here.operations.findings = (BRIDGE_DOWN, OLDER_QEMU)
        told = await kvmigctl("check", "--all")
        assert told.status == Exit.BLOCKED
        assert "Bridge br0 is down on hostb. (and 1 more)" in told.out
        assert told.out.splitlines()[-1] == "0 of 1 guests can move to some peer; not: web1."


async def test_check_of_nothing_is_a_mistake() -> None:
    async with world() as here:
        told = await kvmigctl("check")
        assert told.status == Exit.USAGE
        assert "Which guest? Give its name or UUID, or --all." in told.err
        assert here.operations.calls == []


async def test_readiness() -> None:
    async with world() as here:
        text, as_json, one = await together(
            kvmigctl("readiness"), kvmigctl("readiness", "--json"), kvmigctl("readiness", "web1")
        )
        assert text.status == as_json.status == one.status == Exit.OK
        lines = text.out.splitlines()
        assert lines[0].split() == ["GUEST", "STATE", "READINESS", "COULD", "GO", "TO", "FIRST"]
        assert [line.split()[:3] for line in lines[1:3]] == [["off1", "shutoff", "-"], ["web1", "running", "ready"]]
        assert lines[-1] == "All guests can leave."
        assert [guest["name"] for guest in as_json.json_lines] == ["off1", "web1"]
        way = {"peer": "hostb", "verdict": "ready", "proved_usec": 1_700_000_000_000_000}
        assert as_json.json_lines[1]["destinations"][0] == way
        assert one.out.splitlines()[0] == "web1: ready"
        here.operations.tell_standing(
            msgspec.structs.replace(WEB1, readiness=Verdict.BLOCKED, obstacle="The bridge br0 on hostb is down.")
        )
        stuck, nobody = await together(kvmigctl("readiness"), kvmigctl("readiness", "web9"))
        assert stuck.status == Exit.BLOCKED
        assert stuck.out.splitlines()[-1] == "Not all guests can leave: web1."
        assert "The bridge br0 on hostb is down." in stuck.out
        assert "No guest 'web9' is here." in nobody.err


async def test_migrate_tells_its_phases_and_its_end() -> None:
    async with world() as here:
        here.operations.go.set()
        text, as_json = await together(
            kvmigctl("migrate", "web1", "hostb", "--bandwidth", "100"), kvmigctl("migrate", "web1", "--json")
        )
        assert (text.status, text.err) == (Exit.OK, "")
        assert "migrating web1 to hostb." in text.out
        assert "web1 runs on hostb now; it took " in text.out.splitlines()[-1]
        assert ("migrate", "web1", "hostb", MigrateOptions(bandwidth=100 << 20)) in here.operations.calls
        assert as_json.status == Exit.OK
        last = as_json.json_lines[-1]
        assert (last["guest"], last["peer"], last["result"], last["progress"]) == ("web1", "hostb", "done", 1.0)
        assert (last["parent"], last["findings"]) == (0, [])
        assert last["migration"]["bytes_total"] == 100 << 20
        assert type(last["created_usec"]) is int
        assert {line["job"] for line in as_json.json_lines} == {last["job"]}


async def test_migrate_without_waiting_then_jobs_and_cancel() -> None:
    async with world() as here:
        assert (await kvmigctl("jobs")).out == "No jobs.\n"
        started = await kvmigctl("migrate", "web1", "hostb", "--no-wait", "--json")
        assert (started.status, started.json) == (Exit.OK, {"job": 1})
        assert "Job 2 started." in (await kvmigctl("migrate", "web1", "hostb", "--no-wait")).out
        text, as_json, cancelled = await together(kvmigctl("jobs"), kvmigctl("jobs", "--json"), kvmigctl("cancel", "2"))
        assert text.out.splitlines()[0].split() == ["JOB", "KIND", "GUEST", "PEER", "STATE", "DONE", "MESSAGE"]
        assert text.out.splitlines()[1].split()[:5] == ["1", "migrate", "web1", "hostb", "running,"]
        assert [job["job"] for job in as_json.json_lines] == [1, 2]
        assert (cancelled.status, cancelled.out) == (Exit.OK, "Job 2 is being cancelled.\n")
        await here.caller.until("Finished", at=path.job_path(2))
        again, nothing = await together(kvmigctl("cancel", "2"), kvmigctl("cancel", "77"))
        assert (again.status, nothing.status) == (Exit.FAILED, Exit.FAILED)
        assert "has already ended: cancelled" in again.err
        assert "There is no job 77" in nothing.err


async def test_job_that_fails_says_why() -> None:
    async with world() as here:
        here.operations.go.set()
        here.operations.failure = Blocked("Checks stand in the way.", hint="Mend it.", findings=[BRIDGE_DOWN])
        ran = await kvmigctl("migrate", "web1", "hostb")
        assert ran.status == Exit.BLOCKED
        assert "ip link set br0 up" in ran.out
        assert ran.err == "kvmigctl: job 1 failed: Checks stand in the way. Mend it.\n"
        here.operations.failure = HypervisorFailed("QEMU broke.")
        ran = await kvmigctl("migrate", "web1", "hostb", "--json")
        assert ran.status == Exit.FAILED
        assert ran.json_lines[-1]["error_name"] == "org.kvmigd1.Error.HypervisorFailed"


async def test_evacuate_has_a_line_a_guest() -> None:
    async with world() as here:
        here.operations.go.set()
        text, as_json = await together(kvmigctl("evacuate", "--deadline", "60"), kvmigctl("evacuate", "--json"))
        assert text.status == as_json.status == Exit.FAILED
        assert "web1: now on hostb" in text.out
        assert "big1: failed: No peer has memory for big1." in text.out
        assert "Evacuation partial after" in text.err
        assert as_json.json_lines[-1]["guests"][1] == {
            "guest": "big1",
            "peer": "",
            "state": "failed",
            "message": "No peer has memory for big1.",
            "job": 0,
        }
        assert sorted(call[1].deadline_usec for call in here.operations.calls) == [0, 60_000_000]  # type: ignore[attr-defined]


async def test_maintenance_and_reload() -> None:
    async with world() as here:
        for arguments, answer in ((["on"], "on"), ([], "on"), (["off"], "off"), (["status"], "off")):
            ran = await kvmigctl("maintenance", *arguments)
            assert (ran.status, ran.out) == (Exit.OK, f"Maintenance of hosta is {answer}.\n")
        assert (await kvmigctl("reload")).out == "Configuration reloaded.\n"
        assert here.operations.calls == [("set_maintenance", True), ("set_maintenance", False), ("reload",)]


async def test_status_and_peers() -> None:
    async with world() as here:
        here.operations.peers = (view("hostb", state=PeerState.UNREACHABLE), view("2nd.host"))
        here.operations.tell_peer("hostb")
        await here.caller.migrate()
        status, status_json, peers, peers_json = await together(
            kvmigctl("status"), kvmigctl("status", "--json"), kvmigctl("peers"), kvmigctl("peers", "--json")
        )
        assert {ran.status for ran in (status, status_json, peers, peers_json)} == {Exit.OK}
        assert status.out.splitlines()[0] == "hosta: ready"
        assert "1 of 2 connected" in status.out
        assert "hostb: hostb does not answer." in status.out
        assert "1: migrating web1 to hostb, running" in status.out
        assert status_json.json["host_name"] == "hosta"
        assert status_json.json["jobs"] == [1]
        assert [line.split()[0] for line in peers.out.splitlines()] == ["PEER", "2nd.host", "hostb"]
        assert [(peer["name"], peer["accepting"]) for peer in peers_json.json_lines] == [
            ("2nd.host", True),
            ("hostb", False),
        ]
        assert peers_json.json_lines[0]["memory_free"] == 8 << 30


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PeerUnreachable("hostb does not answer.", hint="See: kvmigctl peers"), Exit.FAILED),
        (Blocked("Checks stand in the way."), Exit.BLOCKED),
        (ZeroDivisionError(), Exit.FAILED),
    ],
)
async def test_errors_of_the_daemon_have_their_sentence_and_status(error: Exception, status: Exit) -> None:
    async with world() as here:
        here.operations.error = error
        text, as_json = await together(kvmigctl("migrate", "web1"), kvmigctl("check", "web1", "--json"))
        sentence = str(error) if isinstance(error, KvmigdError) else "Internal error in "
        assert text.err.startswith(f"kvmigctl: {sentence}")
        assert (text.status, text.out) == (status, "")
        assert as_json.status == status
        assert as_json.json["error"]["name"].startswith("org.kvmigd1.Error.")


async def test_bad_usage_is_2() -> None:
    async with world() as here:
        for ran in await together(
            kvmigctl("migrate"),
            kvmigctl("migrate", "web1", "--bandwidth", "fast"),
            kvmigctl("maintenance", "maybe"),
            kvmigctl("teleport"),
            kvmigctl("cancel", "0"),
            kvmigctl("migrate", ""),  # only the daemon knows
        ):
            assert ran.status == Exit.USAGE, ran.err
            assert ran.err
        assert here.operations.calls == []


async def test_not_authorised_is_4() -> None:
    async with world(root_is_trusted=False) as here:
        here.polkit.answer = "challenge"
        ran = await kvmigctl("migrate", "web1", "hostb")
        assert ran.status == Exit.NOT_AUTHORISED
        assert "org.kvmigd1.migrate" in ran.err
        assert here.polkit.questions[0][3] == 0


async def test_no_daemon_and_no_bus_are_5(bus: Bus) -> None:
    ran = await kvmigctl("status", "--json")
    assert ran.status == Exit.NOT_REACHABLE
    assert "systemctl status kvmigd.service" in ran.err
    assert ran.json["error"]["name"] == "org.kvmigd1.Error.DaemonUnreachable"
    bus.kill()
    assert (await kvmigctl("status")).status == Exit.NOT_REACHABLE


async def kvmigctl_started(*arguments: str, out: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
    """kvmigctl while it runs."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-c", "from kvmigd.cli import main; main()"),
        *arguments,
        stdout=out,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_interrupt_leaves_the_job_running_and_says_how_to_cancel_it() -> None:
    async with world() as here:
        process = await kvmigctl_started("migrate", "web1", "hostb")
        assert process.stdout is not None
        assert b"Job 1: migrating web1 to hostb." in await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert process.returncode == 130
        assert b"To cancel it: kvmigctl cancel 1" in err
        assert [job.number for job in here.operations.jobs.running] == [1]
        assert not here.operations.jobs.running[0].cancel_requested


async def test_daemon_that_goes_away_meanwhile_is_5() -> None:
    async with world() as here:
        process = await kvmigctl_started("migrate", "web1", "hostb")
        assert process.stdout is not None
        await process.stdout.readline()
        await here.face.__aexit__()
        _, err = await process.communicate()
        assert process.returncode == Exit.NOT_REACHABLE
        assert b"went away while job 1 ran" in err


async def test_progress_bar_on_a_terminal() -> None:
    async with world() as here:
        ours, theirs = os.openpty()
        process = await kvmigctl_started("migrate", "web1", "hostb", out=theirs)
        os.close(theirs)
        await here.caller.until("JobNew")
        here.operations.go.set()
        shown = await asyncio.to_thread(_read_all, ours)
        _, err = await process.communicate()
        assert (process.returncode, err) == (Exit.OK, b"")
        assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}".encode() in shown
        assert b"web1 runs on hostb now" in shown


def _read_all(terminal: int) -> bytes:
    found = b""
    with os.fdopen(terminal, "rb", buffering=0) as file:
        while True:
            try:
                found += file.read(4096) or b""
            except OSError:  # EIO: the program has ended (pty(7))
                return found


async def test_shutdown_evacuates_only_if_the_host_goes_down() -> None:
    async with world() as here:
        here.operations.go.set()
        state = "running"
        systemd = await Connection.open()

        def answer(message: Message) -> bool:
            if message.message_type is MessageType.METHOD_CALL:
                systemd.send(Message.new_method_return(message, "v", [Variant("s", state)]))
            return True

        systemd.add_handler(answer)
        await systemd.request_name("org.freedesktop.systemd1")
        ran = await kvmigctl("shutdown-evacuate")
        assert (ran.status, here.operations.calls) == (Exit.OK, [])
        state = "stopping"
        ran = await kvmigctl("shutdown-evacuate")
        assert here.operations.calls == [("evacuate", EvacuateOptions(shutdown=True))]
        assert ran.status == Exit.FAILED  # big1 stays
        await systemd.close()


async def test_names_from_elsewhere_cannot_steer_the_terminal() -> None:
    async with world() as here:
        here.operations.error = PeerUnreachable("\x1b]0;owned\x07 does not answer.")
        ran = await kvmigctl("migrate", "web1", "hostb")
        assert "\x1b" not in ran.err
        assert "owned" in ran.err
