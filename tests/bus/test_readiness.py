"""Readiness on the bus: guests come, change and go, and who listens hears of it."""

from __future__ import annotations

import msgspec
import pytest
from dbus_next.signature import Variant

from kvmigd.bus import path
from kvmigd.model.finding import Verdict
from kvmigd.model.readiness import Destination
from tests.bus.conftest import world
from tests.bus.operations import OFF1, WEB1

pytestmark = pytest.mark.usefixtures("bus")

PLACE = path.guest_path(WEB1.uuid)
STUCK = msgspec.structs.replace(
    WEB1,
    readiness=Verdict.BLOCKED,
    destinations=(Destination(peer="hostb", verdict=Verdict.BLOCKED), Destination(peer="x", verdict=Verdict.BLOCKED)),
    obstacle="Bridge br0 is down on hostb.",
)


async def test_guests_are_objects() -> None:
    async with world() as here:
        assert PLACE == "/org/kvmigd1/guest/_30000000a_2d1111_2d4111_2d8111_2d111111111111"
        assert await here.caller.properties(PLACE, path.GUEST) == {
            "Name": "web1",
            "UUID": WEB1.uuid,
            "State": "running",
            "Readiness": "ready",
            "Destinations": [["hostb", "ready", 1_700_000_000_000_000], ["2nd.host", "blocked", 0]],
            "Obstacle": "",
        }
        off = await here.caller.properties(path.guest_path(OFF1.uuid), path.GUEST)
        assert (off["State"], off["Readiness"], off["Destinations"]) == ("shutoff", "", [])


async def test_a_guest_that_is_stuck_is_told_at_once() -> None:
    async with world() as here:
        here.operations.tell_standing(STUCK)
        told = await here.caller.until("ReadinessChanged")
        assert told.body == ["web1", WEB1.uuid, "blocked", "Bridge br0 is down on hostb."]
        changed = await here.caller.until("PropertiesChanged", at=PLACE)
        assert changed.body[1] == {
            "Readiness": Variant("s", "blocked"),
            "Destinations": Variant("a(sst)", [["hostb", "blocked", 0], ["x", "blocked", 0]]),
            "Obstacle": Variant("s", "Bridge br0 is down on hostb."),
        }
        manager = await here.caller.until("PropertiesChanged", at=path.ROOT)
        assert manager.body[1] == {"Readiness": Variant("s", "blocked"), "Stuck": Variant("as", ["web1"])}
        here.caller.heard.clear()
        here.operations.tell_standing(WEB1)
        assert (await here.caller.until("ReadinessChanged")).body[2:] == ["ready", "web1 can go to hostb."]


async def test_what_has_not_changed_is_not_told() -> None:
    async with world() as here:
        here.operations.tell_guest(WEB1.uuid)
        here.operations.tell_standing(msgspec.structs.replace(WEB1))
        await here.caller.manager("CanCheck")
        assert here.caller.heard == []


async def test_guests_come_and_go() -> None:
    async with world() as here:
        new = msgspec.structs.replace(WEB1, name="new", uuid="0000000c-1111-4111-8111-111111111111")
        here.operations.tell_standing(new)
        added = await here.caller.until("InterfacesAdded")
        assert added.body[0] == path.guest_path(new.uuid)
        assert added.body[1][path.GUEST]["Name"].value == "new"
        del here.operations.standings[new.uuid]
        here.operations.tell_guest(new.uuid)
        removed = await here.caller.until("InterfacesRemoved")
        assert removed.body == [path.guest_path(new.uuid), [path.GUEST]]
        assert "ReadinessChanged" not in here.caller.members(at=path.ROOT)


async def test_many_guests_are_all_told() -> None:
    async with world() as here:
        many = {f"{number:08d}-2222-4111-8111-111111111111" for number in range(300)}
        for uuid in many:
            here.operations.tell_standing(msgspec.structs.replace(WEB1, name=uuid[:8], uuid=uuid))
        while here.caller.members(at=path.ROOT).count("InterfacesAdded") < len(many):
            await here.caller.manager("CanCheck")
        for uuid in many:
            here.operations.tell_standing(msgspec.structs.replace(STUCK, name=uuid[:8], uuid=uuid))
        while here.caller.members(at=path.ROOT).count("ReadinessChanged") < len(many):
            await here.caller.manager("CanCheck")
        assert len((await here.caller.properties(path.ROOT, path.MANAGER))["Stuck"]) == len(many)
