"""firewalld as kvmigd sees it: one that is there, changes, is silent, refuses, goes and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from kvmigd.bus.connection import Connection
from kvmigd.host.firewall.firewalld import NAME, PATH, Firewalld
from kvmigd.host.firewall.packet import Packet
from kvmigd.model.firewall import Answer
from tests.bus.conftest import Bus

PACKET = Packet(source="10.77.1.12", port=49152, link="mig0")
RANGE = ["49152-49215", "tcp"]


class Fake:
    """Answers as firewalld 1.3.3 does. Services: `ssh`, and `both`, which includes it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.runtime: dict[str, dict[str, Any]] = {"public": {"services": ["both"], "target": "default"}}
        self.stored: dict[str, dict[str, Any]] = {"public": {"services": ["both"], "target": "default"}}
        self.silent = False
        self.refusal = ""
        self.kept: list[Message] = []
        self.calls = 0
        connection.add_handler(self._on_message)

    @classmethod
    async def start(cls) -> Fake:
        fake = cls(await Connection.open())
        await fake.connection.request_name(NAME)
        return fake

    def tell(self, member: str = "PortAdded", interface: str = f"{NAME}.zone") -> None:
        signature, body = ("sssi", ["public", "49152-49215", "tcp", 0]) if member == "PortAdded" else ("", [])
        self.connection.send(Message.new_signal(PATH, interface, member, signature, body))

    def speak(self) -> None:
        """Answer what was kept."""
        self.silent = False
        for message in self.kept:
            self._reply(message)
        self.kept.clear()

    def _on_message(self, message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        self.calls += 1
        if self.silent:
            self.kept.append(message)
        else:
            self._reply(message)
        return True

    def _reply(self, message: Message) -> None:
        if self.refusal:
            self.connection.send(Message.new_error(message, self.refusal, "no"))
            return
        found = self._answer(message)
        if found is None:
            name = f"{NAME}.Exception"
            self.connection.send(Message.new_error(message, name, f"INVALID: {message.body}"))
        else:
            self.connection.send(Message.new_method_return(message, found[0], [found[1]]))

    def _answer(self, message: Message) -> tuple[str, Any] | None:
        name = str(message.body[0]) if message.body else message.path.rpartition("/")[2]
        match message.member:
            case "getDefaultZone":
                return "s", "public"
            case "getActiveZones":
                return "a{sa{sas}}", {
                    zone: {"sources": values["sources"]} for zone, values in self.runtime.items() if "sources" in values
                }
            case "getZoneSettings2":
                return _settings(self.runtime.get(name))
            case "getServiceSettings2":
                return _settings(SERVICES.get(name))
            case "getZoneByName" if name in self.stored:
                return "o", f"{PATH}/config/zone/{name}"
            case "getServiceByName" if name in SERVICES:
                return "o", f"{PATH}/config/service/{name}"
            case "getSettings2":
                return _settings((self.stored if "/zone/" in message.path else SERVICES).get(name))
        return None


SERVICES: dict[str, dict[str, Any]] = {"ssh": {"ports": [["22", "tcp"]]}, "both": {"includes": ["ssh"]}}
SIGNATURES = {"ports": "a(ss)", "target": "s"}


def _settings(values: dict[str, Any] | None) -> tuple[str, Any] | None:
    if values is None:
        return None
    return "a{sv}", {key: Variant(SIGNATURES.get(key, "as"), value) for key, value in values.items()}


@asynccontextmanager
async def following(*, seconds: float = 5.0) -> AsyncIterator[tuple[Firewalld, Callable[..., Any]]]:
    """What is known of firewalld, and a way to wait for it."""
    news = asyncio.Event()
    firewalld = Firewalld(Connection.open, news.set, seconds=seconds)
    task = asyncio.create_task(firewalld.run())

    async def until(met: Callable[[], bool]) -> None:
        while not met():
            news.clear()
            await news.wait()

    try:
        yield firewalld, until
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def runtime(firewalld: Firewalld, packet: Packet = PACKET) -> Answer | None:
    zone = firewalld.known.runtime.of(packet)
    return zone.judge(packet) if zone else None


def stored(firewalld: Firewalld, packet: Packet = PACKET) -> Answer | None:
    zone = firewalld.known.permanent.of(packet)
    return zone.judge(packet) if zone else None


async def test_there_is_none(bus: Bus) -> None:
    async with following() as (firewalld, until):
        await until(lambda: not firewalld.known.problem)
        assert not firewalld.known.active


async def test_it_comes_and_goes_and_comes_back(bus: Bus) -> None:
    async with following() as (firewalld, until):
        await until(lambda: not firewalld.known.problem)
        for _ in range(2):
            fake = await Fake.start()
            await until(lambda: firewalld.known.active)
            assert not firewalld.known.problem
            assert runtime(firewalld) is Answer.CLOSED
            await fake.connection.close()
            await until(lambda: not firewalld.known.active)
            assert not firewalld.known.runtime.zones


async def test_changes_are_heard_for_now_and_for_good(bus: Bus) -> None:
    fake = await Fake.start()
    async with following() as (firewalld, until):
        await until(lambda: firewalld.known.active)
        assert runtime(firewalld, Packet(source="10.77.1.12", port=22)) is Answer.OPEN, "a service that is included"
        fake.runtime["public"]["ports"] = [RANGE]
        fake.tell()
        await until(lambda: runtime(firewalld) is Answer.OPEN)
        assert stored(firewalld) is Answer.CLOSED
        fake.stored["public"]["ports"] = [RANGE]
        fake.tell("Updated", f"{NAME}.config.zone")
        await until(lambda: stored(firewalld) is Answer.OPEN)
        fake.runtime["inner"] = {"sources": ["10.77.1.0/24"], "target": "DROP"}
        fake.tell("Reloaded", NAME)
        await until(lambda: runtime(firewalld) is Answer.CLOSED)
        assert [zone.name for zone in firewalld.known.permanent.zones] == ["public"], "the other one is not stored"
    await fake.connection.close()


async def test_many_signals_are_few_readings(bus: Bus) -> None:
    fake = await Fake.start()
    async with following() as (firewalld, until):
        await until(lambda: firewalld.known.active)
        calls = fake.calls
        fake.runtime["public"]["ports"] = [RANGE]
        for _ in range(100):
            fake.tell()
        await until(lambda: runtime(firewalld) is Answer.OPEN)
        assert fake.calls < 10 * calls
    await fake.connection.close()


async def test_one_who_is_silent_is_unknown_until_he_speaks(bus: Bus) -> None:
    fake = await Fake.start()
    async with following(seconds=0.2) as (firewalld, until):
        await until(lambda: firewalld.known.active and not firewalld.known.problem)
        fake.silent = True
        fake.tell()
        await until(lambda: bool(firewalld.known.problem))
        assert firewalld.known.active
        assert firewalld.known.problem_since_usec > 0
        assert not firewalld.known.runtime.zones, "an old truth is not told"
        fake.speak()
        await until(lambda: not firewalld.known.problem)
        assert runtime(firewalld) is Answer.CLOSED
    await fake.connection.close()


async def test_one_who_refuses_is_asked_again_only_when_he_has_news(bus: Bus) -> None:
    fake = await Fake.start()
    fake.refusal = "org.freedesktop.DBus.Error.AccessDenied"
    async with following() as (firewalld, until):
        await until(lambda: "does not tell its zones" in firewalld.known.problem)
        calls = fake.calls
        await asyncio.sleep(0.1)
        assert fake.calls == calls
        fake.refusal = ""
        fake.tell()
        await until(lambda: not firewalld.known.problem)
    await fake.connection.close()


async def test_the_bus_breaks_down(bus: Bus) -> None:
    async with following() as (firewalld, until):
        await until(lambda: not firewalld.known.problem)
        bus.kill()
        await until(lambda: "the connection to the system message bus was lost" in firewalld.known.problem)
