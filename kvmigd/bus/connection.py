"""A typed connection to the message bus: what the daemon and kvmigctl need of dbus-next, and nothing else of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Self

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageFlag, MessageType, NameFlag, RequestNameReply
from dbus_next.errors import InvalidAddressError
from dbus_next.message import Message
from dbus_next.signature import Variant

from kvmigd.errors import KvmigdError

SYSTEM_BUS = "unix:path=/var/run/dbus/system_bus_socket"
CONNECT_SECONDS = 10.0
BUS = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"


class BusUnavailable(KvmigdError):
    """The message bus cannot be reached, went away, or does not give us our name."""


class _Bus(MessageBus):
    """dbus-next's bus, which would spin for ever if the bus hung up while it authenticates us."""

    async def _auth_readline(self) -> str:
        line = b""
        while not line.endswith(b"\r\n"):
            part = await self._loop.sock_recv(self._sock, 1)
            if not part:
                raise EOFError("it hung up")
            line += part
        return line.decode("ascii", "replace").rstrip("\r\n")


class _PatientSocket:
    """Takes nothing while the socket is full. dbus-next takes that for the end of the connection: it waits for room
    only after it has written a part of a message, not when the one before has filled the socket exactly.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: memoryview) -> int:
        """As socket.send; 0 if there is no room."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0


class CallFailed(Exception):
    """A method call was answered with an error; `name` is its D-Bus name."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text


Handler = Callable[[Message], bool]
"""Takes a method call or signal; true if it was meant for it."""


def _carried(value: Any) -> Any:
    """`value` without what D-Bus strings cannot carry: NUL, for which the bus would disconnect us, and surrogates."""
    if isinstance(value, str):
        if value.isascii() and "\0" not in value:
            return value
        return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
    if isinstance(value, list):
        return [_carried(item) for item in value]
    if isinstance(value, dict):
        return {_carried(key): _carried(item) for key, item in value.items()}
    if isinstance(value, Variant):
        return Variant(value.signature, _carried(value.value))
    return value


def _close_socket(bus: MessageBus) -> None:
    """dbus-next closes neither its socket nor the stream made of it, and the socket is open as long as the stream."""
    if hasattr(bus, "_stream"):
        with contextlib.suppress(OSError):
            bus._stream.close()
    if hasattr(bus, "_sock"):
        bus._sock.close()


class Connection:
    """A connection to the system bus, open from `open` to `close` or until the bus goes away."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._pending: dict[int, asyncio.Future[Message]] = {}
        self._handlers: list[Handler] = []
        self._closing = False
        bus._writer.sock = _PatientSocket(bus._sock)
        bus.add_message_handler(self._on_message)
        self._watcher = asyncio.create_task(self._watch(), name="bus-watcher")

    @classmethod
    async def open(cls, address: str | None = None) -> Self:
        """Connect to the system bus (DBUS_SYSTEM_BUS_ADDRESS is honoured) or to the bus at `address`."""
        bus = _Bus.__new__(_Bus)
        try:
            # In two steps, because a constructor that fails leaves a socket behind that somebody must close.
            _Bus.__init__(bus, address or os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or SYSTEM_BUS)
        except (OSError, InvalidAddressError) as error:
            _close_socket(bus)
            raise BusUnavailable(f"The system message bus cannot be reached: {error}.") from error
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await bus.connect()
            # dbus-next takes the text of an error for our name.
            if not str(bus.unique_name).startswith(":"):
                raise ConnectionRefusedError(bus.unique_name)
        except Exception as error:
            _close_socket(bus)
            raise BusUnavailable(f"The system message bus does not let us in: {error}.") from error
        return cls(bus)

    @property
    def name(self) -> str:
        """Our unique name."""
        return str(self._bus.unique_name)

    async def _watch(self) -> None:
        """Wait for the end of the connection, then fail the calls that are still waiting for an answer."""
        with contextlib.suppress(Exception):
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        for future in self._pending.values():
            if not future.done():
                future.set_exception(BusUnavailable("The connection to the system message bus was lost."))
        self._pending.clear()

    async def closed(self) -> None:
        """Wait until the connection ends; raises BusUnavailable if it was not closed by us."""
        await asyncio.shield(self._watcher)
        if not self._closing:
            raise BusUnavailable("The connection to the system message bus was lost.")

    async def close(self) -> None:
        """Close the connection."""
        self._closing = True
        if self._bus.connected:
            self._bus.disconnect()  # type: ignore[no-untyped-call]
        await self._watcher
        _close_socket(self._bus)

    def add_handler(self, handler: Handler) -> None:
        """Hand incoming method calls and signals to `handler`."""
        self._handlers.append(handler)

    def _on_message(self, message: Message) -> bool:
        if message.message_type in (MessageType.METHOD_RETURN, MessageType.ERROR):
            future = self._pending.pop(message.reply_serial, None)
            if future is not None and not future.done():
                future.set_result(message)
            return True
        for handler in self._handlers:
            if handler(message):
                return True
        # Signals must go on to dbus-next, method calls must not: its own objects are not published.
        return message.message_type is MessageType.METHOD_CALL

    def send(self, message: Message) -> asyncio.Future[None]:
        """Send without waiting; the future is done when the bus has taken it, and need not be asked.

        Raises BusUnavailable, and what dbus-next raises if the body does not fit the signature.
        """
        if not self._bus.connected:
            raise BusUnavailable("The connection to the system message bus was lost.")
        message.body = _carried(message.body)
        sent: asyncio.Future[None] = self._bus.send(message)
        # A failed write ends the connection, which `closed` tells; nobody asks this future.
        sent.add_done_callback(lambda future: future.cancelled() or future.exception())
        return sent

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
        *,
        flags: MessageFlag = MessageFlag.NONE,
        timeout: float | None = None,
    ) -> Message:
        """Call a method and return the reply; raises CallFailed, BusUnavailable or TimeoutError."""
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            flags=flags,
            serial=self._bus.next_serial(),
        )
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._pending[message.serial] = future
        try:
            self.send(message)
            async with asyncio.timeout(timeout):
                reply = await future
        finally:
            self._pending.pop(message.serial, None)
        if reply.message_type is MessageType.ERROR:
            text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
            raise CallFailed(reply.error_name, text)
        return reply

    async def call_bus(self, member: str, signature: str, *body: Any) -> Message:
        """Call a method of the bus itself."""
        return await self.call(BUS, BUS_PATH, BUS, member, signature, body, timeout=10.0)

    async def request_name(self, name: str) -> None:
        """Own `name` alone; raises BusUnavailable if it has an owner or we may not own it."""
        try:
            reply = await self.call_bus("RequestName", "su", name, int(NameFlag.DO_NOT_QUEUE))
        except CallFailed as error:
            raise BusUnavailable(
                f"The bus does not let us own {name}: {error.text}", hint="Install its bus policy and run as root."
            ) from error
        if reply.body[0] not in (RequestNameReply.PRIMARY_OWNER.value, RequestNameReply.ALREADY_OWNER.value):
            raise BusUnavailable(
                f"The bus name {name} is taken: another kvmigd runs.", hint="See: systemctl status kvmigd.service"
            )

    async def subscribe(self, rule: str) -> None:
        """Add a match rule."""
        await self.call_bus("AddMatch", "s", rule)
