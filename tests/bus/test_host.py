"""The picture of the host on the bus: properties, Describe, and Changed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import pytest
from dbus_next.signature import Variant

from kvmigd.bus import path
from kvmigd.bus.connection import CallFailed, Connection
from kvmigd.bus.publisher import STANDARD
from kvmigd.model.links import BridgeFact, Links
from kvmigd.model.mounts import MountFact, MountKind, Mounts, Persistence, Space
from kvmigd.model.state import SUBJECTS
from kvmigd.model.system import Release, System
from tests.bus.conftest import Bus, Heard, World, run, world

pytestmark = pytest.mark.usefixtures("bus")

HOST = (path.ROOT, path.HOST)
SINCE = 1_700_000_000_000_000
NFS = MountFact(
    point="/srv",
    fs_type="nfs4",
    source="nas:/a",
    id=40,
    kind=MountKind.NETWORK,
    shared=True,
    options=("noatime", "rw"),
    persistence=Persistence.FSTAB,
    space=Space(total=100, free=60),
)


def mounts(count: int) -> Mounts:
    facts = (
        MountFact(point=f"/m/{n}", fs_type="nfs4", source="nas:/a", id=n, kind=MountKind.NETWORK) for n in range(count)
    )
    return Mounts(problem="", mounts=tuple(facts))


async def heard(here: World, *, until: int) -> list[Heard]:
    """All Changed up to a generation."""
    found: list[Heard] = []
    while not found or found[-1].body[0] < until:
        await asyncio.sleep(0.01)
        found = [item for item in here.caller.heard if item.member == "Changed"]
    return found


async def describe(here: World, subject: str = "") -> tuple[int, Any]:
    generation, text = await here.caller.call(*HOST, "Describe", "sa{sv}", subject, {})
    return generation, json.loads(text)


async def test_at_first_everything_is_unknown() -> None:
    async with world() as here:
        found = await here.caller.properties(*HOST)
        assert found["Generation"] == 0
        assert found["Unknown"] == {name: [0, "it has not been read yet"] for name in SUBJECTS}
        assert found["Mounts"] == []
        assert found["Software"]["kernel"] == Variant("s", "")


async def test_properties_have_typed_rows() -> None:
    async with world() as here:
        here.operations.picture.publish(Mounts(problem="", mounts=(NFS,)))
        here.operations.picture.unknown(Links, "netlink is silent")
        found = await here.caller.properties(*HOST)
        (row,) = found["Mounts"]
        assert row["point"] == Variant("s", "/srv")
        assert row["options"] == Variant("as", ["noatime", "rw"])
        assert row["shared"].value is True
        assert row["space"].value["free"] == Variant("t", 60)
        assert found["Generation"] == 2
        assert found["Unknown"]["links"] == [SINCE, "netlink is silent"]
        assert "mounts" not in found["Unknown"]
        (one,) = await here.caller.call(path.ROOT, STANDARD + "Properties", "Get", "ss", path.HOST, "Mounts")
        assert (one.signature, one.value) == ("aa{sv}", found["Mounts"])
        (number,) = await here.caller.call(path.ROOT, STANDARD + "Properties", "Get", "ss", path.HOST, "Generation")
        assert number == Variant("t", 2)


async def test_changes_of_large_properties_are_told_by_name_and_of_small_ones_with_their_value() -> None:
    async with world() as here:
        here.operations.picture.publish(Mounts(problem="", mounts=(NFS,)))
        changed = await here.caller.until("PropertiesChanged")
        name, values, names = changed.body
        assert (name, names) == (path.HOST, ["Mounts"])
        assert values["Generation"] == Variant("t", 1)
        assert "mounts" not in values["Unknown"].value
        here.caller.heard.clear()
        here.operations.picture.publish(System(problem="", kernel="6.1.0", release=Release(id="debian")))
        changed = await here.caller.until("PropertiesChanged")
        assert changed.body[2] == ["Software"]


async def test_describe_tells_all_or_one_subject() -> None:
    async with world() as here:
        here.operations.picture.publish(Mounts(problem="", mounts=(NFS,)))
        generation, everything = await describe(here)
        assert generation == everything["generation"] == 1
        assert set(everything) == {"generation", *SUBJECTS}
        assert everything["mounts"]["mounts"][0]["point"] == "/srv"
        assert everything["links"]["problem"] == "it has not been read yet"
        assert await describe(here, "mounts") == (1, everything["mounts"])


@pytest.mark.parametrize(
    ("subject", "options", "words"),
    [
        ("weather", {}, ["'weather'", "mounts, storage, links, firewall, system, hypervisor"]),
        ("x" * 500, {}, ["There is no subject"]),
        ("mounts", {"deep": Variant(signature="b", value=True)}, ["'deep'", "takes none"]),
    ],
)
async def test_describe_of_nonsense_is_refused_before_polkit_is_asked(
    subject: str, options: dict[str, Variant], words: list[str]
) -> None:
    async with world(root_is_trusted=False) as here:
        with pytest.raises(CallFailed, match="InvalidArgs") as caught:
            await here.caller.call(*HOST, "Describe", "sa{sv}", subject, options)
        for word in words:
            assert word in caught.value.text
        assert here.polkit.questions == []


@pytest.mark.parametrize("answer", ["yes", "no", "challenge"])
async def test_can_describe(answer: str) -> None:
    async with world(root_is_trusted=False) as here:
        here.polkit.answer = answer
        assert await here.caller.call(*HOST, "CanDescribe") == [answer]
        assert here.polkit.questions[0][1] == "org.kvmigd1.describe"


async def test_changed_is_told_in_pieces_and_in_order_and_not_by_the_interval() -> None:
    async with world(interval=60.0) as here:
        here.operations.picture.publish(mounts(250))
        signals = await heard(here, until=1)
        while sum(len(item.body[2]) for item in signals) < 251:
            await asyncio.sleep(0.01)
            signals = await heard(here, until=1)
        assert [len(item.body[2]) for item in signals] == [100, 100, 51]
        assert {(item.path, item.interface, item.body[1]) for item in signals} == {(*HOST, "mounts")}
        first, *rest = [change for item in signals for change in item.body[2]]
        assert first == ["changed", "problem", "", '""']
        assert [change[:3] for change in rest] == [["added", "mounts", f"{n}:/m/{n}"] for n in range(250)]
        assert json.loads(rest[7][3])["source"] == "nas:/a"
        here.operations.picture.publish(mounts(249))
        last = (await heard(here, until=2))[-1]
        assert last.body == [2, "mounts", [["removed", "mounts", "249:/m/249", ""]]]


async def test_describe_comes_after_the_signals_up_to_its_generation() -> None:
    async with world() as here:
        here.operations.picture.publish(mounts(1000))
        generation, found = await describe(here, "mounts")
        told = [change for item in here.caller.heard if item.member == "Changed" for change in item.body[2]]
        assert (generation, len(found["mounts"]), len(told)) == (1, 1000, 1001)


async def test_bus_that_takes_nothing_for_a_while_costs_neither_memory_nor_the_connection(bus: Bus) -> None:
    async with world(interval=60.0) as here:
        os.kill(bus._process.pid, signal.SIGSTOP)
        try:
            for turn in range(300):
                here.operations.picture.publish(mounts(500 * (turn % 2) + 1))
                await asyncio.sleep(0)
            connection = here.face._connection
            assert connection is not None
            assert connection._bus._writer.messages.qsize() < 5
            # A socket that is full to the brim is not the end of the connection either.
            assert here.face._publisher is not None
            for number in range(3000):
                here.face._publisher.emit(path.ROOT, path.MANAGER, "JobNew", number, path.job_path(1))
            await asyncio.sleep(0.05)
        finally:
            os.kill(bus._process.pid, signal.SIGCONT)
        _, found = await describe(here, "mounts")
        assert len(found["mounts"]) == 501
        assert sum(item.member == "JobNew" for item in here.caller.heard) == 3000


async def test_loop_turns_while_a_large_answer_is_made() -> None:
    async with world() as here:
        here.operations.picture.publish(mounts(3000))
        other = await Connection.open()
        large = asyncio.create_task(here.caller.call(path.ROOT, STANDARD + "Properties", "GetAll", "s", path.HOST))
        answered = 0
        while not large.done():
            await other.call(path.NAME, path.ROOT, STANDARD + "Peer", "Ping")
            answered += not large.done()
        await large
        assert answered > 1
        await other.close()


async def test_busctl_understands_it(bus: Bus) -> None:
    async with world() as here:
        here.operations.picture.publish(Mounts(problem="", mounts=(NFS,)))
        address = f"--address={bus.address}"
        ran = await run("busctl", address, "introspect", path.NAME, *HOST)
        assert ran.status == 0, ran.err
        assert "aa{sv}" in ran.out
        ran = await run("busctl", address, "--json=short", "get-property", path.NAME, *HOST, "Mounts")
        assert json.loads(ran.out)["data"][0]["fsType"] == {"type": "s", "data": "nfs4"}
        ran = await run("busctl", address, "--json=short", "call", path.NAME, *HOST, "Describe", "sa{sv}", "", "0")
        assert json.loads(json.loads(ran.out)["data"][1])["mounts"]["mounts"][0]["source"] == "nas:/a"


async def test_bridge_that_goes_down_is_one_change() -> None:
    async with world() as here:
        here.operations.picture.publish(Links(problem="", bridges=(BridgeFact(name="br0", exists=True, up=True),)))
        here.operations.picture.publish(Links(problem="", bridges=(BridgeFact(name="br0", exists=True, up=False),)))
        here.operations.picture.publish(Links(problem="", bridges=(BridgeFact(name="br0", exists=True, up=True),)))
        await heard(here, until=3)
        here.operations.picture.publish(Links(problem="", bridges=(BridgeFact(name="br0", exists=True, up=False),)))
        (change,) = (await heard(here, until=4))[-1].body[2]
        assert change[:3] == ["changed", "bridges", "br0"]
        assert json.loads(change[3])["up"] is False
