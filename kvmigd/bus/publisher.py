"""Publishes objects on the bus as their interface XML describes them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

import msgspec
import structlog
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from kvmigd.bus import interface as xml
from kvmigd.bus.body import Body, Prepared
from kvmigd.bus.connection import BusUnavailable, Connection
from kvmigd.bus.interface import Interface, Method
from kvmigd.bus.pace import Pace
from kvmigd.bus.path import ROOT
from kvmigd.errors import InternalError, InvalidArguments, KvmigdError, row_of

log = structlog.get_logger(__name__)

INTERVAL = 0.5
"""Seconds between two PropertiesChanged of one object, so that a migration does not flood the bus."""

CALLS_PER_CALLER = 128
"""Calls of one caller that may be under way; each is a task, and anybody may call."""

LARGEST = 30 << 20
"""Bytes in an answer. The system bus takes messages of 32 MiB (max_message_size) and disconnects who sends more."""

STANDARD = "org.freedesktop.DBus."


class Refusal(Exception):
    """A call that D-Bus itself has an error for; `name` is its last part."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = f"{STANDARD}Error.{name}"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """Who called what, and how."""

    sender: str
    path: str
    interface: str
    member: str
    interactive: bool = False
    """The caller allows that a person is asked (ALLOW_INTERACTIVE_AUTHORIZATION)."""


class Lazy:
    """The value of a property of the root object that is an array, and is made when somebody asks for it.

    It has changed if `stamp` has; `make` gives its elements, in pairs if it is a dictionary.
    """

    def __init__(self, stamp: Any, make: Callable[[], Iterable[Any]]) -> None:
        self.stamp = stamp
        self.make = make

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lazy) and self.stamp == other.stamp

    __hash__ = None  # type: ignore[assignment]


class Large(NamedTuple):
    """The answer to a call, if it takes its time to be made. One is made at a time, and sent before the next."""

    make: Callable[[Pace], Awaitable[Body]]


class Implementation:
    """One interface of one object: an `async` method for each method of the XML, and all properties at once."""

    interface: ClassVar[str]

    def properties(self) -> dict[str, Any]:
        """The value of every property, by its D-Bus name."""
        return {}

    def documented(self) -> Interface:
        """The interface as its XML has it."""
        return xml.load(self.interface)


class _Object:
    """What is published at one path, what of it has been told, and when."""

    def __init__(self, path: str, implementations: tuple[Implementation, ...]) -> None:
        self.path = path
        self.parts = {part.interface: (part, part.documented()) for part in implementations}
        self.told: dict[str, dict[str, Any]] = {}
        self.told_at = float("-inf")
        self.timer: asyncio.Handle | None = None
        for part, description in self.parts.values():
            missing = [m.name for m in description.methods.values() if not hasattr(part, m.handler)]
            if missing or part.properties().keys() != description.properties.keys():
                raise TypeError(f"{type(part).__name__} is not what {description.name}.xml describes: {missing}")
            self.told[description.name] = part.properties()

    def values(self, name: str) -> dict[str, Variant]:
        """All properties of one interface."""
        part, description = self.parts[name]
        return {key: Variant(description.properties[key].signature, value) for key, value in part.properties().items()}

    def changes(self) -> Iterator[tuple[str, dict[str, Variant], list[str]]]:
        """What has changed since the last call, by interface: the new values, and the names of what is told by name."""
        for name, (part, description) in self.parts.items():
            now, before = part.properties(), self.told[name]
            self.told[name] = now
            changed = [description.properties[key] for key, value in now.items() if value != before[key]]
            news = {item.name: Variant(item.signature, now[item.name]) for item in changed if item.emits}
            invalidated = [item.name for item in changed if item.invalidates]
            if news or invalidated:
                yield name, news, invalidated


class Publisher:
    """All our objects. Dispatches calls to them and tells the bus of their changes."""

    def __init__(self, connection: Connection, *, interval: float = INTERVAL) -> None:
        # The standard interfaces are published by the same rules as ours, and know the publisher.
        from kvmigd.bus.standard import Introspectable, ObjectManager, Peer, Properties

        self._connection = connection
        self._interval = interval
        self._objects: dict[str, _Object] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: Counter[str] = Counter()
        self._large = asyncio.Lock()
        self._everywhere = _Object("", (Introspectable(self), Peer(), Properties(self)))
        self._at_root = _Object("", (ObjectManager(self),))
        connection.add_handler(self._on_message)

    async def close(self) -> None:
        """Withdraw everything without telling: the name goes away anyway. Calls under way are dropped."""
        for item in self._objects.values():
            if item.timer:
                item.timer.cancel()
        self._objects.clear()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def export(self, path: str, *implementations: Implementation) -> None:
        """Publish an object."""
        if path in self._objects:
            raise ValueError(f"{path} is published already")
        self._objects[path] = item = _Object(path, implementations)
        if path != ROOT:
            self._signal(ROOT, STANDARD + "ObjectManager", "InterfacesAdded", "oa{sa{sv}}", path, self.managed(path))
        item.told_at = asyncio.get_running_loop().time()

    def unexport(self, path: str) -> None:
        """Withdraw an object."""
        item = self._objects.pop(path)
        if item.timer:
            item.timer.cancel()
        self._signal(ROOT, STANDARD + "ObjectManager", "InterfacesRemoved", "oas", path, list(item.parts))

    def __contains__(self, path: str) -> bool:
        return path in self._objects

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all objects."""
        return tuple(self._objects)

    def managed(self, path: str) -> dict[str, dict[str, Variant]]:
        """All interfaces and properties of one object."""
        return {name: self._objects[path].values(name) for name in self._objects[path].parts}

    def part(self, path: str, name: str) -> tuple[Implementation, Interface]:
        """One interface of one object; Refusal if there is none."""
        if path not in self._objects:
            raise Refusal("UnknownObject", f"There is no object {path}.")
        for item in (self._objects[path], self._everywhere, self._at_root):
            if name in item.parts and (item is not self._at_root or path == ROOT):
                return item.parts[name]
        raise Refusal("UnknownInterface", f"Object {path} has no interface {name}.")

    def interfaces(self, path: str) -> list[Interface]:
        """The interfaces of a path, the standard ones too; empty where there is nothing at and below it."""
        if path not in self._objects and not any(known.startswith(path.rstrip("/") + "/") for known in self._objects):
            return []
        items = [self._everywhere, *([self._at_root] if path == ROOT else [])]
        if path in self._objects:
            items.append(self._objects[path])
        return [description for item in items for _, description in item.parts.values()]

    def changed(self, path: str) -> None:
        """Properties of an object may have changed: tell it soon, but not more often than each interval."""
        item = self._objects.get(path)
        if item is None or item.timer is not None:
            return
        loop = asyncio.get_running_loop()
        wait = item.told_at + self._interval - loop.time()
        item.timer = loop.call_later(wait, self.flush, path) if wait > 0 else loop.call_soon(self.flush, path)

    def flush(self, path: str) -> None:
        """Tell now what has changed of an object."""
        item = self._objects.get(path)
        if item is None:
            return
        if item.timer:
            item.timer.cancel()
            item.timer = None
        item.told_at = asyncio.get_running_loop().time()
        try:
            for name, news, gone in item.changes():
                self._signal(path, STANDARD + "Properties", "PropertiesChanged", "sa{sv}as", name, news, gone)
        except Exception:
            log.exception("properties cannot be told", path=path)

    def emit(self, path: str, interface: str, member: str, *body: Any) -> asyncio.Future[None] | None:
        """Send a signal that the interface's XML describes; the future is done when the bus has taken it."""
        return self._signal(path, interface, member, xml.load(interface).signals[member], *body)

    def _signal(
        self, path: str, interface: str, member: str, signature: str, *body: Any
    ) -> asyncio.Future[None] | None:
        try:
            return self._connection.send(
                Prepared(
                    Body(signature, *body),
                    message_type=MessageType.SIGNAL,
                    path=path,
                    interface=interface,
                    member=member,
                )
            )
        except BusUnavailable:
            log.debug("signal not sent, the bus is gone", path=path, member=member)
        except Exception:
            log.exception("signal cannot be sent", path=path, member=member)
        return None

    def _on_message(self, message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        if self._calls[message.sender] >= CALLS_PER_CALLER:
            self._fail(message, f"{STANDARD}Error.LimitsExceeded", f"More than {CALLS_PER_CALLER} calls are under way.")
            return True
        self._calls[message.sender] += 1
        task = asyncio.create_task(self._answer(message), name=f"call-{message.member}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _answer(self, message: Message) -> None:
        """Do one call. Whatever happens, the caller hears of it, and never with a traceback."""
        try:
            part, method = self._find(message)
            result = await self._do(message, part, method)
            if isinstance(result, Large):
                await self._answer_at_length(message, result)
                return
            if isinstance(result, Body):
                self._answer_with(message, result)
                return
            body = [] if not method.results else [result] if len(method.results) == 1 else list(result)
            if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
                self._connection.send(Message.new_method_return(message, method.result_signature, body))
        except Refusal as error:
            self._fail(message, error.name, str(error))
        except KvmigdError as error:
            self._fail(message, row_of(error).dbus, str(error))
        except Exception:
            log.exception("call broke", path=message.path, member=message.member)
            internal = InternalError(
                f"Internal error in {message.member}; the journal of kvmigd.service has the details."
            )
            self._fail(message, row_of(internal).dbus, str(internal))
        finally:
            self._calls[message.sender] -= 1
            if not self._calls[message.sender]:
                del self._calls[message.sender]

    async def _answer_at_length(self, message: Message, large: Large) -> None:
        """Anybody may ask for what is large, as often as he likes; memory is taken for one answer at a time."""
        if message.flags & MessageFlag.NO_REPLY_EXPECTED:
            return
        async with self._large:
            if sent := self._answer_with(message, await large.make(Pace())):
                await sent

    def _answer_with(self, message: Message, body: Body) -> asyncio.Future[None] | None:
        """Answer with what is marshalled already."""
        if len(body.buffer) > LARGEST:
            raise Refusal("LimitsExceeded", f"The answer to {message.member} has {len(body.buffer)} bytes.")
        if message.flags & MessageFlag.NO_REPLY_EXPECTED:
            return None
        return self._connection.send(
            Prepared(
                body,
                message_type=MessageType.METHOD_RETURN,
                reply_serial=message.serial,
                destination=message.sender,
            )
        )

    async def _do(self, message: Message, part: Implementation, method: Method) -> Any:
        if message.signature != method.signature:
            raise InvalidArguments(
                f"{method.name} takes {method.describe()}, that is signature {method.signature!r}; "
                f"found {message.signature!r}."
            )
        call = Call(
            sender=message.sender or "",
            path=message.path,
            interface=part.interface,
            member=method.name,
            interactive=bool(message.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION),
        )
        return await getattr(part, method.handler)(call, *message.body)

    def _find(self, message: Message) -> tuple[Implementation, Method]:
        """What a call is meant for. The interface may be left out (D-Bus specification, "Message Types")."""
        path, member = message.path, message.member
        known = {description.name for description in self.interfaces(path)}
        if not known and message.interface != STANDARD + "Peer":
            raise Refusal("UnknownObject", f"There is no object {path}.")
        if message.interface and message.interface not in known and known:
            raise Refusal("UnknownInterface", f"Object {path} has no interface {message.interface}.")
        for item in (self._objects.get(path), self._everywhere, self._at_root if path == ROOT else None):
            for part, description in item.parts.values() if item else ():
                if message.interface in (None, description.name) and member in description.methods:
                    return part, description.methods[member]
        raise Refusal("UnknownMethod", f"{message.interface or path} has no method {member}.")

    def _fail(self, message: Message, name: str, text: str) -> None:
        if message.flags & MessageFlag.NO_REPLY_EXPECTED:
            return
        try:
            self._connection.send(Message.new_error(message, name, text))
        except BusUnavailable:
            log.debug("error not sent, the bus is gone", member=message.member)
