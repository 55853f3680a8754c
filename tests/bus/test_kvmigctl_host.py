"""kvmigctl host and watch as programs, against the face on the bus."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

import pytest

from kvmigd.errors import Exit
from kvmigd.model.links import BridgeFact, Links
from kvmigd.model.mounts import MountFact, MountKind, Mounts
from kvmigd.model.state import SUBJECTS
from tests.bus.conftest import World, kvmigctl, world

pytestmark = pytest.mark.usefixtures("bus")

NFS = MountFact(point="/srv\x1b[2J", fs_type="nfs4", source="nas:/a", id=40, kind=MountKind.NETWORK, shared=True)


def bridge(*, up: bool) -> Links:
    return Links(problem="", bridges=(BridgeFact(name="br0", exists=True, kind="linux", up=up, carrier=True),))


class Watch:
    """A kvmigctl watch that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, *arguments: str) -> Watch:
        """Start it; it watches when it says so."""
        code = "from kvmigd.cli import main; main()"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", code, "watch", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        first = (await process.stderr.readline()).decode()
        assert first.startswith("Watching ") and first.endswith("; Ctrl-C ends it.\n"), first  # noqa: PT018
        return cls(process)

    async def line(self) -> str:
        """The next line, without the time."""
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().rstrip("\n").partition(" ")[2]

    async def json(self) -> Any:
        """The next line as JSON."""
        assert self.process.stdout is not None
        return json.loads(await self.process.stdout.readline())

    async def end(self) -> tuple[int | None, str, str]:
        """Interrupt it."""
        self.process.send_signal(signal.SIGINT)
        out, err = await self.process.communicate()
        return self.process.returncode, out.decode(), err.decode()


async def both(here: World, *arguments: str) -> tuple[str, Any]:
    """What kvmigctl host prints, and the same as JSON."""
    text, as_json = await asyncio.gather(kvmigctl("host", *arguments), kvmigctl("host", *arguments, "--json"))
    assert (text.status, text.err, as_json.status, as_json.err) == (Exit.OK, "", Exit.OK, "")
    return text.out, as_json.json


async def test_host() -> None:
    async with world() as here:
        here.operations.picture.publish(bridge(up=True))
        here.operations.picture.publish(Mounts(problem="", mounts=(NFS,)))
        text, found = await both(here)
        assert text.startswith("hosta\n")
        assert "br0     linux  up" in text
        assert "nas:/a" in text
        assert "\x1b" not in text
        assert "  system: it has not been read yet\n" in text
        assert set(found) == {"generation", *SUBJECTS}
        assert found["mounts"]["mounts"][0]["point"] == NFS.point


async def test_host_by_subject() -> None:
    async with world() as here:
        here.operations.picture.publish(bridge(up=True))
        text, found = await both(here, "links")
        assert text.splitlines()[:3] == ["hosta", "", "Bridges"]
        assert (set(found), found["generation"]) == ({"generation", "links"}, 1)
        text, found = await both(here, "links", "firewall")
        assert text.endswith("Not known\n  firewall: it has not been read yet\n")
        assert set(found) == {"generation", "links", "firewall"}
        ran = await kvmigctl("host", "weather")
        assert (ran.status, "'weather'" in ran.err) == (Exit.USAGE, True)


async def test_host_of_somebody_who_may_not() -> None:
    async with world(root_is_trusted=False) as here:
        here.polkit.answer = "no"
        assert (await kvmigctl("host")).status == Exit.NOT_AUTHORISED


async def test_watch_tells_changes_as_they_happen_and_ends_well() -> None:
    async with world() as here:
        here.operations.picture.publish(bridge(up=True))
        watch = await Watch.start()
        here.operations.picture.publish(bridge(up=False))
        assert await watch.line() == "links changed bridge br0: up yes -> no"
        here.operations.picture.publish(Mounts(problem="", mounts=(NFS,)))
        assert await watch.line() == "mounts known"
        assert (await watch.line()).startswith("mounts added mount /srv\ufffd[2J: fs_type nfs4, source nas:/a")
        here.operations.picture.unknown(Links, "netlink is silent")
        assert await watch.line() == "links not known: netlink is silent"
        assert await watch.line() == "links removed bridge br0"
        assert await watch.end() == (0, "", "")


async def test_watch_as_json_and_of_one_subject() -> None:
    async with world() as here:
        here.operations.picture.publish(bridge(up=True))
        watch = await Watch.start("links", "--json")
        here.operations.picture.publish(Mounts(problem="", mounts=(NFS,)))
        here.operations.picture.publish(bridge(up=False))
        found = await watch.json()
        assert (found["subject"], found["kind"], found["field"], found["key"]) == ("links", "changed", "bridges", "br0")
        assert (found["before"]["up"], found["value"]["up"], found["generation"]) == (True, False, 3)
        assert type(found["time_usec"]) is int
        assert await watch.end() == (0, "", "")


async def test_watch_ends_with_5_when_the_daemon_goes_away() -> None:
    async with world() as here:
        watch = await Watch.start("--json")
        await here.face.__aexit__()
        out, err = await watch.process.communicate()
        assert watch.process.returncode == Exit.NOT_REACHABLE
        assert json.loads(out)["error"]["name"].endswith("DaemonUnreachable")
        assert b"kvmigd went away" in err


async def test_neither_without_a_daemon() -> None:
    for ran in await asyncio.gather(kvmigctl("host"), kvmigctl("watch")):
        assert ran.status == Exit.NOT_REACHABLE
        assert "systemctl status kvmigd.service" in ran.err
