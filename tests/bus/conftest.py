"""A bus of our own for each test, a polkit that says what it is told, and a daemon on it.

`world(bus)` puts the daemon's face with simulated operations on the bus. A test that has a whole daemon starts it with
`bus` alone (DBUS_SYSTEM_BUS_ADDRESS points to it) and uses `Caller`, `Polkit` and `kvmigctl` as they are.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from kvmigd.bus import path
from kvmigd.bus.connection import Connection
from kvmigd.bus.face import BusFace
from tests.bus.operations import FakeOperations

_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="false"/>
    <deny send_requested_reply="false" send_type="method_return"/>
    <deny send_requested_reply="false" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
</busconfig>
"""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Tests here may be `async def`; none may take for ever."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}

    async def run() -> None:
        async with asyncio.timeout(120):
            await pyfuncitem.obj(**arguments)

    asyncio.run(run())
    return True


class Bus:
    """A dbus-daemon of our own. Its address is also in DBUS_SYSTEM_BUS_ADDRESS."""

    def __init__(self, folder: Path, config_text: str = _CONFIG) -> None:
        self.address = f"unix:path={folder / 'bus'}"
        config = folder / "bus.conf"
        config.write_text(config_text.format(socket=folder / "bus"), encoding="utf-8")
        self._process = subprocess.Popen(
            ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--nosyslog", "--print-address"],
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "dbus-daemon did not start"

    def kill(self) -> None:
        """End it, as when the bus breaks down."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    """A system bus of our own."""
    # Not in tmp_path: the path of a socket may have 107 bytes only.
    with tempfile.TemporaryDirectory(prefix="bus-") as folder:
        bus = Bus(Path(folder))
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        try:
            yield bus
        finally:
            bus.kill()


class Polkit:
    """The authority's name and its one method; `answer` is yes, no, challenge, silent, error or nonsense."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.answer = "yes"
        self.questions: list[list[Any]] = []
        self.withdrawn: list[str] = []
        self.asked = asyncio.Event()
        connection.add_handler(self._on_message)

    @classmethod
    async def start(cls, connection: Connection) -> Polkit:
        """Take polkit's name on the bus."""
        polkit = cls(connection)
        await connection.request_name("org.freedesktop.PolicyKit1")
        return polkit

    def reply(self, message: Message) -> None:
        """Answer a question as `answer` says."""
        bodies = {"yes": [True, False, {}], "no": [False, False, {}], "challenge": [False, True, {}]}
        if self.answer == "error":
            self._connection.send(Message.new_error(message, "org.freedesktop.PolicyKit1.Error.Failed", "broken"))
        elif self.answer == "nonsense":
            self._connection.send(Message.new_method_return(message, "s", ["yes"]))
        elif self.answer != "silent":
            self._connection.send(Message.new_method_return(message, "(bba{ss})", [bodies[self.answer]]))

    def _on_message(self, message: Message) -> bool:
        if message.member == "CheckAuthorization":
            self.questions.append(message.body)
            self.last = message
            self.asked.set()
            self.reply(message)
        elif message.member == "CancelCheckAuthorization":
            self.withdrawn.append(message.body[0])
            self._connection.send(Message.new_method_return(message))
        else:
            return False
        return True


class Heard(NamedTuple):
    """A signal, or an answer that came between signals."""

    path: str
    member: str
    body: list[Any]
    interface: str = ""


class Caller:
    """A client on the bus that keeps what it hears."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.heard: list[Heard] = []
        self._news = asyncio.Event()
        connection.add_handler(self._on_message)

    @classmethod
    async def start(cls, address: str | None = None) -> Caller:
        """Connect and listen to all of kvmigd's signals."""
        caller = cls(await Connection.open(address))
        await caller.connection.subscribe(f"type='signal',path_namespace='{path.ROOT}'")
        return caller

    def _on_message(self, message: Message) -> bool:
        # The bus itself tells everybody the name that he got, sooner or later.
        if message.message_type is not MessageType.SIGNAL or not message.path.startswith(path.ROOT):
            return False
        self.heard.append(Heard(message.path, message.member, message.body, message.interface))
        self._news.set()
        return True

    async def until(self, member: str, *, at: str | None = None) -> Heard:
        """The first signal of that name, waiting for it if it has not come yet."""
        while True:
            for item in self.heard:
                if item.member == member and at in (None, item.path):
                    return item
            self._news.clear()
            await self._news.wait()

    def members(self, *, at: str) -> list[str]:
        """The names of what was heard from one path."""
        return [item.member for item in self.heard if item.path == at]

    async def call(
        self, place: str, interface: str, member: str, signature: str = "", *body: Any, flags: int = 0
    ) -> list[Any]:
        """Call a method of kvmigd's."""
        reply = await self.connection.call(
            path.NAME, place, interface, member, signature, body, flags=MessageFlag(flags)
        )
        return list(reply.body)

    async def manager(self, member: str, signature: str = "", *body: Any, flags: int = 0) -> Any:
        """Call a method of the Manager; the first of its results."""
        results = await self.call(path.ROOT, path.MANAGER, member, signature, *body, flags=flags)
        return results[0] if results else None

    async def migrate(self, guest: str = "web1", destination: str = "hostb", **options: Variant) -> str:
        """Start a migration; the path of its job."""
        return str(await self.manager("Migrate", "ssa{sv}", guest, destination, options))

    async def properties(self, place: str, interface: str) -> dict[str, Any]:
        """All properties of an interface."""
        (values,) = await self.call(place, "org.freedesktop.DBus.Properties", "GetAll", "s", interface)
        return {key: variant.value for key, variant in values.items()}


class World(NamedTuple):
    """What `world` gives."""

    operations: FakeOperations
    face: BusFace
    polkit: Polkit
    caller: Caller


@asynccontextmanager
async def world(
    *, root_is_trusted: bool = True, interval: float = 0.0, retention: float = 900.0, timeout: float = 30.0
) -> AsyncIterator[World]:
    """The daemon's face on the bus with simulated operations, a polkit, and a caller. Jobs left over are cancelled."""
    async with asyncio.TaskGroup() as group:
        operations = FakeOperations(group, retention=retention)
        authority = await Connection.open()
        polkit = await Polkit.start(authority)
        face = BusFace(
            operations,
            trusted_uids=frozenset({os.getuid()}) if root_is_trusted else frozenset(),
            interval=interval,
            polkit_timeout=timeout,
            polkit_interactive_timeout=timeout,
        )
        async with face:
            caller = await Caller.start()
            try:
                yield World(operations, face, polkit, caller)
            finally:
                await caller.connection.close()
                await authority.close()
                for job in operations.jobs.running:
                    job.cancel()


class Ran(NamedTuple):
    """How a program ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as one JSON object."""
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        """What it printed, as one JSON object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


async def run(*command: str, user: int | None = None) -> Ran:
    """Run a program, as another user if wanted."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, user=user
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


async def kvmigctl(*arguments: str) -> Ran:
    """Run kvmigctl."""
    return await run(sys.executable, "-W", "error", "-c", "from kvmigd.cli import main; main()", *arguments)
