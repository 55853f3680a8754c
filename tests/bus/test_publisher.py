"""Objects on the bus: calls, properties, introspection, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from dbus_next.constants import MessageFlag
from dbus_next.message import Message
from dbus_next.signature import Variant

from kvmigd.bus import interface as xml
from kvmigd.bus import path
from kvmigd.bus.connection import BUS, BUS_PATH, BusUnavailable, CallFailed, Connection
from kvmigd.bus.face import BusFace
from kvmigd.bus.publisher import CALLS_PER_CALLER
from kvmigd.errors import NoSuchGuest
from tests.bus.conftest import Bus, run, world
from tests.bus.operations import BRIDGE_DOWN

ERROR = "org.freedesktop.DBus.Error."
PROPERTIES = "org.freedesktop.DBus.Properties"
ON = Variant(signature="b", value=True)
MANAGER_OBJECT = (path.ROOT, path.MANAGER)

pytestmark = pytest.mark.usefixtures("bus")


@pytest.mark.parametrize(
    ("call", "name", "words"),
    [
        (("/org/kvmigd1/job/7", path.JOB, "Wait"), "UnknownObject", ["/org/kvmigd1/job/7"]),
        (("/nowhere", "org.freedesktop.DBus.Introspectable", "Introspect"), "UnknownObject", ["/nowhere"]),
        ((path.ROOT, "org.kvmigd1.Nothing", "Check"), "UnknownInterface", ["org.kvmigd1.Nothing"]),
        ((path.ROOT, path.JOB, "Wait"), "UnknownInterface", [path.JOB]),
        ((*MANAGER_OBJECT, "Teleport"), "UnknownMethod", ["Teleport"]),
        ((*MANAGER_OBJECT, "Check", "ss", "web1", "hostb"), "InvalidArgs", ["'ssa{sv}'", "'ss'", "s destination"]),
        ((*MANAGER_OBJECT, "Check"), "InvalidArgs", ["'ssa{sv}'", "''"]),
        ((*MANAGER_OBJECT, "SetMaintenance", "sa{sv}", "on", {}), "InvalidArgs", ["'ba{sv}'", "'sa{sv}'"]),
        ((path.ROOT, PROPERTIES, "Get", "ss", path.MANAGER, "Nope"), "UnknownProperty", ["Nope"]),
        ((path.ROOT, PROPERTIES, "Get", "ss", "org.kvmigd1.X", "Nope"), "UnknownInterface", ["org.kvmigd1.X"]),
        ((path.ROOT, PROPERTIES, "GetAll", "s", ""), "UnknownInterface", []),
        ((path.ROOT, PROPERTIES, "Set", "ssv", path.MANAGER, "Nope", ON), "UnknownProperty", ["Nope"]),
        (
            (path.ROOT, PROPERTIES, "Set", "ssv", path.MANAGER, "Maintenance", ON),
            "PropertyReadOnly",
            ["Maintenance"],
        ),
    ],
)
async def test_calls_that_do_not_exist_have_the_standard_errors(
    call: tuple[Any, ...], name: str, words: list[str]
) -> None:
    async with world() as here:
        with pytest.raises(CallFailed) as caught:
            await here.caller.call(*call)
        assert caught.value.name == ERROR + name
        for word in words:
            assert word in caught.value.text
        assert here.operations.calls == []


async def test_interface_may_be_left_out_of_a_call() -> None:
    async with world() as here:
        caller = here.caller.connection
        message = Message(destination=path.NAME, path=path.ROOT, member="CanCheck")
        heard: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        message.serial = caller._bus.next_serial()
        caller._pending[message.serial] = heard
        caller.send(message)
        assert (await heard).body == ["yes"]


async def test_caller_may_want_no_reply() -> None:
    async with world() as here:
        quiet = int(MessageFlag.NO_REPLY_EXPECTED)
        for member in ("Reload", "Teleport"):
            here.caller.connection.send(
                Message(
                    destination=path.NAME,
                    path=path.ROOT,
                    interface=path.MANAGER,
                    member=member,
                    flags=MessageFlag(quiet),
                )
            )
        await here.caller.manager("CanReload")
        assert here.operations.calls == [("reload",)]


async def test_handler_that_raises_tells_the_caller_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    async with world() as here:
        here.operations.error = ZeroDivisionError("secret of the implementation")
        with pytest.raises(CallFailed) as caught:
            await here.caller.manager("Reload")
        assert caught.value.name == "org.kvmigd1.Error.Internal"
        assert "Reload" in caught.value.text
        assert "secret" not in caught.value.text
        assert "Traceback" not in caught.value.text
        here.operations.error = None
        await here.caller.manager("Reload")
    assert "secret of the implementation" in capsys.readouterr().out


async def test_answer_that_cannot_be_marshalled_is_an_error() -> None:
    async with world() as here:
        here.operations.host_name = 17  # type: ignore[assignment]
        with pytest.raises(CallFailed, match=r"org\.kvmigd1\.Error\.Internal"):
            await here.caller.properties(path.ROOT, path.MANAGER)
        here.operations.host_name = "hosta"
        assert (await here.caller.properties(path.ROOT, path.MANAGER))["HostName"] == "hosta"


async def test_text_that_dbus_cannot_carry_does_not_cost_the_connection() -> None:
    async with world() as here:
        here.operations.error = NoSuchGuest("a\0b\udcffc\N{GREEK SMALL LETTER ALPHA}")
        with pytest.raises(CallFailed) as caught:
            await here.caller.manager("Reload")
        assert caught.value.text == "a\ufffdb?c\N{GREEK SMALL LETTER ALPHA}"
        assert await here.caller.manager("CanReload") == "yes"


async def test_one_caller_cannot_pile_up_calls() -> None:
    async with world() as here:
        job = await here.caller.migrate()
        waits = [asyncio.create_task(here.caller.call(job, path.JOB, "Wait")) for _ in range(CALLS_PER_CALLER + 1)]
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = [task.exception() for task in done]
        assert isinstance(refused, CallFailed)
        assert refused.name == ERROR + "LimitsExceeded"
        other = await Connection.open()
        await other.call(path.NAME, path.ROOT, path.MANAGER, "CanReload")
        await other.close()
        here.operations.go.set()
        assert [await task for task in waits if task not in done] == [["done"]] * CALLS_PER_CALLER


def _members(element: ET.Element) -> list[tuple[str, dict[str, str]]]:
    """An interface as Introspect tells it, in order, for comparison with the file."""
    return [(item.tag, dict(item.attrib)) for item in element.iter()]


async def test_live_introspection_is_the_documented_xml() -> None:
    async with world() as here:
        migration, evacuation = await here.caller.migrate(), await here.caller.manager("Evacuate", "a{sv}", {})
        seen = set()
        for place in (path.ROOT, migration, evacuation, path.peer_path("hostb")):
            (text,) = await here.caller.call(place, "org.freedesktop.DBus.Introspectable", "Introspect")
            for element in ET.fromstring(text).findall("interface"):
                name = element.attrib["name"]
                if not name.startswith("org.freedesktop."):
                    seen.add(name)
                    documented = ET.parse(xml.path_of(name)).find("interface")
                    assert documented is not None
                    assert _members(element) == _members(documented)
        assert seen == {path.MANAGER, path.JOB, path.MIGRATION, path.EVACUATION, path.PEER, path.HOST}


async def test_children_are_found_from_the_top() -> None:
    async with world() as here:
        await here.caller.migrate()

        async def below(place: str) -> list[str]:
            (text,) = await here.caller.call(place, "org.freedesktop.DBus.Introspectable", "Introspect")
            return [node.attrib["name"] for node in ET.fromstring(text).findall("node")]

        assert await below("/") == ["org"]
        assert await below("/org") == ["kvmigd1"]
        assert await below(path.ROOT) == ["guest", "job", "peer"]
        assert await below(path.ROOT + "/job") == ["1"]
        assert await below(path.ROOT + "/peer") == ["_32nd_2ehost", "hostb"]


async def test_peer_interface_answers_everywhere() -> None:
    async with world() as here:
        for place in ("/", "/nowhere", path.ROOT):
            assert await here.caller.call(place, "org.freedesktop.DBus.Peer", "Ping") == []


async def test_object_manager_is_at_the_root_only() -> None:
    async with world() as here:
        job = await here.caller.migrate()
        manager = "org.freedesktop.DBus.ObjectManager"
        (objects,) = await here.caller.call(path.ROOT, manager, "GetManagedObjects")
        guests = {path.guest_path(uuid) for uuid in here.operations.standings}
        assert set(objects) == {job, path.peer_path("hostb"), path.peer_path("2nd.host"), *guests}
        assert set(objects[job]) == {path.JOB, path.MIGRATION}
        assert objects[job][path.JOB]["Guest"] == Variant("s", "web1")
        with pytest.raises(CallFailed, match="UnknownInterface"):
            await here.caller.call(job, manager, "GetManagedObjects")


async def test_busctl_understands_us(bus: Bus) -> None:
    async with world() as here:
        here.operations.findings = (BRIDGE_DOWN,)
        ran = await run(
            "busctl",
            f"--address={bus.address}",
            "call",
            path.NAME,
            *MANAGER_OBJECT,
            "Check",
            "ssa{sv}",
            "web1",
            "hostb",
            "0",
        )
        assert ran.status == 0, ran.err
        assert ran.out.startswith('sa(sssa{sv}) "blocked" 1 "network.bridge-up" "block"')
        ran = await run("busctl", f"--address={bus.address}", "introspect", path.NAME, path.ROOT)
        assert "SetMaintenance" in ran.out, ran.err
        ran = await run("busctl", f"--address={bus.address}", "tree", path.NAME)
        assert path.peer_path("hostb") in ran.out, ran.err


async def test_name_that_is_taken_is_a_clear_error() -> None:
    async with world() as here:
        with pytest.raises(BusUnavailable, match=r"org\.kvmigd1 is taken"):
            async with BusFace(here.operations):
                pass
        assert await here.caller.manager("CanReload") == "yes"


async def test_bus_that_dies_ends_the_face(bus: Bus) -> None:
    async with world() as here:
        waiting = asyncio.create_task(here.face.run())
        call = asyncio.create_task(here.caller.manager("CanReload"))
        await call
        bus.kill()
        with pytest.raises(BusUnavailable, match="lost"):
            await waiting
        with pytest.raises(BusUnavailable, match="lost"):
            await here.caller.manager("CanReload")
        here.operations.tell_peer("hostb")  # what happens now is told to nobody, and breaks nothing


async def test_no_bus_is_a_clear_error(bus: Bus) -> None:
    bus.kill()
    with pytest.raises(BusUnavailable, match="cannot be reached"):
        await Connection.open()
    with pytest.raises(BusUnavailable, match="cannot be reached"):
        await Connection.open("unix:path=/nonexistent/bus")


async def test_bus_that_hangs_up_is_a_clear_error() -> None:
    def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with tempfile.TemporaryDirectory(prefix="bus-") as folder:
        server = await asyncio.start_unix_server(hang_up, Path(folder) / "bus")
        with pytest.raises(BusUnavailable, match="does not let us in: "):
            await Connection.open(f"unix:path={folder}/bus")
        server.close()


async def test_closing_gives_the_name_back() -> None:
    async with world():
        pass
    connection = await Connection.open()
    reply = await connection.call(BUS, BUS_PATH, BUS, "NameHasOwner", "s", [path.NAME])
    assert reply.body == [False]
    await connection.close()
