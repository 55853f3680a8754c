"""Entries in the journal: a guest that is stuck, and that is free again; and none for what passes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from structlog.testing import capture_logs
from structlog.typing import EventDict

from kvmigd.model.finding import Verdict
from kvmigd.model.guest import GuestState
from kvmigd.model.readiness import Destination, Standing
from kvmigd.readiness.notice import FREE, STUCK, Notices

CATALOGUE = Path(__file__).parents[2] / "data/systemd/kvmigd.catalog"
UUID = "0000000a-1111-4111-8111-111111111111"
SETTLED = 0.02


def standing(readiness: Verdict | None) -> Standing:
    """A guest with one peer."""
    return Standing(
        name="web",
        uuid=UUID,
        state=GuestState.RUNNING,
        readiness=readiness,
        destinations=(Destination(peer="hostb", verdict=readiness),) if readiness else (),
        obstacle="The bridge br0 on hostb is down." if readiness is Verdict.BLOCKED else "",
    )


class World:
    """Standings, and what is noticed of them."""

    def __init__(self) -> None:
        self.standings: dict[str, Standing] = {}
        self.notices = Notices(lambda: self.standings, worth=lambda: self.worth, settled=SETTLED)
        self.worth = True

    def stands(self, readiness: Verdict | None) -> None:
        """The guest stands so from now on."""
        self.standings[UUID] = standing(readiness)
        self.notices.changed(UUID)

    def gone(self) -> None:
        """There is no such guest any longer."""
        del self.standings[UUID]
        self.notices.changed(UUID)

    @staticmethod
    async def settle() -> None:
        """What stands long enough has been told."""
        await asyncio.sleep(SETTLED * 3)


def told(body: Callable[[World], Awaitable[None]]) -> list[EventDict]:
    """What is logged meanwhile."""

    async def run() -> None:
        world = World()
        await body(world)
        world.notices.close()

    with capture_logs() as logs:
        asyncio.run(run())
    return logs


def test_stuck_and_free_again() -> None:
    async def body(world: World) -> None:
        for verdict in (Verdict.BLOCKED, Verdict.UNKNOWN, Verdict.DEGRADED, Verdict.READY, Verdict.BLOCKED):
            world.stands(verdict)
            await world.settle()

    first, free, again = told(body)
    assert first == {
        "event": "guest stuck",
        "log_level": "warning",
        "message_id": STUCK,
        "guest": "web",
        "uuid": UUID,
        "readiness": "blocked",
        "obstacle": "The bridge br0 on hostb is down.",
    }
    assert (free["event"], free["message_id"], free["peers"]) == ("guest free again", FREE, "hostb")
    assert again["message_id"] == STUCK


def test_what_passes_is_not_told() -> None:
    async def body(world: World) -> None:
        world.stands(Verdict.UNKNOWN)  # at the start of the daemon
        world.stands(Verdict.READY)
        await world.settle()
        for verdict in (Verdict.BLOCKED, Verdict.READY) * 10:
            world.stands(verdict)
        await world.settle()

    assert told(body) == []


def test_a_guest_that_ends_is_not_told_and_is_told_anew_when_it_runs_again() -> None:
    async def body(world: World) -> None:
        world.stands(Verdict.BLOCKED)
        world.stands(None)
        await world.settle()
        world.stands(Verdict.BLOCKED)
        await world.settle()
        world.stands(None)
        await world.settle()
        world.stands(Verdict.BLOCKED)
        await world.settle()
        world.gone()
        await world.settle()

    assert [entry["event"] for entry in told(body)] == ["guest stuck", "guest stuck"]


def test_without_peers_nothing_is_told() -> None:
    async def body(world: World) -> None:
        world.worth = False
        world.stands(Verdict.UNKNOWN)
        await world.settle()

    assert told(body) == []


def test_the_catalogue_explains_each_message_with_fields_that_it_has() -> None:
    async def body(world: World) -> None:
        for verdict in (Verdict.BLOCKED, Verdict.READY):
            world.stands(verdict)
            await world.settle()

    text = CATALOGUE.read_text(encoding="utf-8")
    entries = dict(re.findall(r"^-- ([0-9a-f]{32})\n(.*?)(?=^-- |\Z)", text, re.MULTILINE | re.DOTALL))
    logged = {entry["message_id"]: entry for entry in told(body)}
    assert entries.keys() == logged.keys() == {STUCK, FREE}
    for message, entry in entries.items():
        assert entry.startswith("Subject: ")
        fields = {f"KVMIGD_{name.upper()}" for name in logged[message]}
        assert set(re.findall(r"@([A-Z_]+)@", entry)) <= fields
