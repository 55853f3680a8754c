"""kvmigctl's side of the bus: calls to the daemon, and jobs followed to their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any, Self

from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from kvmigd.bus import path
from kvmigd.bus.connection import BUS, CallFailed, Connection
from kvmigd.cli.agent import agent, is_interactive
from kvmigd.errors import DaemonUnreachable

QUICK = 25.0
"""Seconds for answers that need neither a person nor another host."""

_PROPERTIES = "org.freedesktop.DBus.Properties"
_OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"

Properties = dict[str, Any]


def plain(value: Any) -> Any:
    """`value` without variants."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def number_of(place: str) -> int:
    """The number in a job's path; 0 for none."""
    last = place.rpartition("/")[2]
    return int(last) if last.isdecimal() else 0


class Client:
    """`async with` connects. Errors are CallFailed, BusUnavailable and DaemonUnreachable."""

    def __init__(self, *, may_start: bool = True) -> None:
        self._flags = MessageFlag.NONE if may_start else MessageFlag.NO_AUTOSTART
        self._may_ask = is_interactive()
        self._stack = ExitStack()
        self._signals: asyncio.Queue[Message] = asyncio.Queue()
        self.connection: Connection

    async def __aenter__(self) -> Self:
        self.connection = await Connection.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stack.close()
        await self.connection.close()

    async def call(self, place: str, interface: str, member: str, signature: str = "", *body: Any) -> list[Any]:
        """Call a method that may ask a person first, and may take its time."""
        flags = self._flags
        if self._may_ask:
            self._stack.enter_context(agent())
            self._may_ask = False
        if is_interactive():
            flags |= MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION
        reply = await self.connection.call(path.NAME, place, interface, member, signature, body, flags=flags)
        return [plain(item) for item in reply.body]

    async def manager(self, member: str, signature: str = "", *body: Any) -> list[Any]:
        """Call a method of the Manager."""
        return await self.call(path.ROOT, path.MANAGER, member, signature, *body)

    async def _quick(self, place: str, interface: str, member: str, signature: str = "", *body: Any) -> Any:
        reply = await self.connection.call(
            path.NAME, place, interface, member, signature, body, flags=self._flags, timeout=QUICK
        )
        return plain(reply.body[0])

    async def properties(self, place: str, interface: str) -> Properties:
        """All properties of one interface."""
        found: Properties = await self._quick(place, _PROPERTIES, "GetAll", "s", interface)
        return found

    async def objects(self, interface: str) -> dict[str, dict[str, Properties]]:
        """All objects that have an interface, with all their properties."""
        found: dict[str, dict[str, Properties]] = await self._quick(path.ROOT, _OBJECT_MANAGER, "GetManagedObjects")
        return {place: parts for place, parts in found.items() if interface in parts}

    async def listen(self) -> None:
        """Begin to collect what jobs tell, and whether the daemon goes away; before a job is started."""
        await self._listen(f"path_namespace='{path.ROOT}/job'")

    async def listen_to_host(self) -> None:
        """Begin to collect what changes on the host, and whether the daemon goes away."""
        await self._listen(f"path='{path.ROOT}',interface='{path.HOST}'")

    async def _listen(self, rule: str) -> None:
        self.connection.add_handler(self._on_message)
        await self.connection.subscribe(f"type='signal',sender='{path.NAME}',{rule}")
        await self.connection.subscribe(
            f"type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{path.NAME}'"
        )

    def _on_message(self, message: Message) -> bool:
        if message.message_type is not MessageType.SIGNAL:
            return False
        self._signals.put_nowait(message)
        return True

    async def follow(self, job: str) -> AsyncIterator[dict[str, Properties]]:
        """A job's properties by interface: as they are, and then again each time they change, until it has ended."""
        kind = (await self.properties(job, path.JOB))["Kind"]
        more = {"migrate": path.MIGRATION, "evacuate": path.EVACUATION}.get(kind)
        parts = {name: await self.properties(job, name) for name in (path.JOB, more) if name}
        # The job may have ended while we asked: then what we know of the parts is a mixture.
        ended = bool((await self.properties(job, path.JOB))["Result"])
        if ended:
            parts = {name: await self.properties(job, name) for name in parts}
        yield parts
        while not ended:
            message = await self._next_signal(job)
            if message.member == "PropertiesChanged":
                name, changes, _ = message.body
                parts.setdefault(name, {}).update(plain(changes))
                # The end is the last of several messages.
                if not parts[path.JOB]["Result"]:
                    yield parts
            elif message.member == "Finished":
                ended = True
                yield parts

    async def _next_signal(self, job: str) -> Message:
        """The next signal of a job; raises DaemonUnreachable if the daemon goes, which the job's end may depend on."""
        gone = f"kvmigd went away while job {number_of(job)} ran; what became of the job is not known here."
        while True:
            message = await self._next(gone, hint="See: journalctl -u kvmigd.service; kvmigctl jobs")
            if message.path == job:
                return message

    async def describe(self, subject: str = "") -> tuple[int, str]:
        """The picture of the host, or one subject of it: generation and JSON."""
        generation, text = await self.call(path.ROOT, path.HOST, "Describe", "sa{sv}", subject, {})
        return generation, text

    async def changes(self) -> AsyncIterator[tuple[int, str, list[list[str]]]]:
        """What changes on the host: generation, subject, changes. Ends with DaemonUnreachable."""
        while True:
            message = await self._next("kvmigd went away.", hint="See: systemctl status kvmigd.service")
            if message.member == "Changed":
                generation, subject, changes = message.body
                yield generation, subject, changes

    async def _next(self, gone: str, *, hint: str) -> Message:
        """The next signal; raises DaemonUnreachable that says `gone` if the daemon goes."""
        while True:
            taking, lost = asyncio.ensure_future(self._signals.get()), asyncio.ensure_future(self.connection.closed())
            try:
                await asyncio.wait({taking, lost}, return_when=asyncio.FIRST_COMPLETED)
                if not taking.done():
                    lost.result()
                message = taking.result()
            finally:
                for task in (taking, lost):
                    task.cancel()
                await asyncio.gather(taking, lost, return_exceptions=True)
            if message.sender == BUS and message.member == "NameOwnerChanged" and message.body[1]:
                raise DaemonUnreachable(gone, hint=hint)
            if message.sender != BUS:
                return message

    async def job_call(self, number: int, member: str, signature: str = "", *body: Any) -> list[Any]:
        """Call a method of a job; a job that does not exist is said so."""
        try:
            return await self.call(path.job_path(number), path.JOB, member, signature, *body)
        except CallFailed as error:
            if error.name.endswith(".UnknownObject"):
                raise CallFailed(error.name, f"There is no job {number}, or it ended long ago.") from error
            raise
