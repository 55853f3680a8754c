"""Accepting connections: TLS handshakes with limits, and a word in the journal about who was turned away."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import time
from typing import Any, cast

import structlog
from aiohttp import web

from kvmigd.host.verification import why_refused

log = structlog.get_logger(__name__)

CONNECTION_LIMIT = 256
HANDSHAKE_SECONDS = 10.0
COMPLAINT_SECONDS = 60.0
COMPLAINT_LIMIT = 64


class Door:
    """A listening socket whose TLS context can be replaced at any time: each connection gets the present one.

    It accepts by itself instead of with a server of asyncio's, because that one swallows failed handshakes, and
    because there the context is fixed.
    """

    def __init__(self, server: web.Server, group: asyncio.TaskGroup) -> None:
        self._server = server
        self._group = group
        self._place: tuple[str, int] | None = None
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._greetings: set[asyncio.Task[None]] = set()
        self._complaints: dict[tuple[str, str], float] = {}
        self.context: ssl.SSLContext | None = None

    @property
    def port(self) -> int:
        """The port it listens on, 0 for none."""
        return int(self._listener.getsockname()[1]) if self._listener else 0

    async def open(self, address: str, port: int) -> None:
        """Listen there; does nothing if it does already. Raises OSError, and then the old place is open again."""
        old = self._place
        if old == (address, port):
            return
        await self._stop_listening()
        try:
            await self._listen(address, port)
        except OSError:
            if old is not None:
                with contextlib.suppress(OSError):
                    await self._listen(*old)
            raise

    async def _listen(self, address: str, port: int) -> None:
        if not address and socket.has_dualstack_ipv6():
            listener = socket.create_server(("", port), family=socket.AF_INET6, backlog=64, dualstack_ipv6=True)
        else:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(
                address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
            )
            listener = socket.create_server(found[0][4][:2], family=found[0][0], backlog=64)
        listener.setblocking(False)  # noqa: FBT003  # positional only
        self._listener, self._place = listener, (address, port)
        self._accepting = self._group.create_task(self._accept(listener), name=f"peer-door-{port}")

    async def _stop_listening(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait({self._accepting})
        if self._listener is not None:
            self._listener.close()
        self._accepting = self._listener = self._place = None

    async def close(self) -> None:
        """Listen no more; connections stay."""
        await self._stop_listening()
        for task in self._greetings:
            task.cancel()
        if self._greetings:
            await asyncio.wait(self._greetings)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, origin = await loop.sock_accept(listener)
            except OSError as error:
                # Out of file descriptors or memory, or the other side was gone before it was let in.
                if error.errno != errno.ECONNABORTED:
                    log.warning("peer connection not accepted", error=error.strerror)
                    await asyncio.sleep(1.0)
                continue
            if len(self._greetings) + len(self._server.connections) >= CONNECTION_LIMIT:
                connection.close()
                self.complain(origin[0], "too many connections")
                continue
            task = self._group.create_task(self._greet(connection, origin[0]), name="peer-greeting")
            self._greetings.add(task)
            task.add_done_callback(self._greetings.discard)

    async def _greet(self, connection: socket.socket, origin: str) -> None:
        assert self.context is not None
        recorded = _Recorded(self.context)
        with connection.dup() as last_word:
            try:
                await asyncio.get_running_loop().connect_accepted_socket(
                    self._server,
                    connection,
                    ssl=cast(ssl.SSLContext, recorded),
                    ssl_handshake_timeout=HANDSHAKE_SECONDS,
                    ssl_shutdown_timeout=1.0,
                )
            except ssl.SSLError as error:
                with contextlib.suppress(OSError):
                    last_word.send(recorded.alert)
                if isinstance(error, ssl.SSLCertVerificationError):
                    self.complain(origin, f"its certificate {why_refused(error)}")
                else:
                    self.complain(origin, _HANDSHAKE.get(error.reason, f"TLS failed: {error.reason}"))
            except OSError as error:
                log.debug("peer handshake ended", origin=origin, error=str(error))

    def complain(self, origin: str, reason: str) -> None:
        """Say that somebody was turned away; the same only once a minute, and not too many in all."""
        now = time.monotonic()
        self._complaints = {what: when for what, when in self._complaints.items() if now - when < COMPLAINT_SECONDS}
        if (origin, reason) not in self._complaints and len(self._complaints) < COMPLAINT_LIMIT:
            self._complaints[origin, reason] = now
            log.warning("stranger turned away", origin=origin, reason=reason)


class _Candid(ssl.SSLObject):
    """TLS that keeps the alert of a handshake that failed, before asyncio throws it away."""

    outgoing: ssl.MemoryBIO
    alert = b""

    def do_handshake(self) -> None:
        """As in ssl.SSLObject."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            self.alert = self.outgoing.read()
            raise


class _Recorded:
    """A TLS context for one connection whose alert can be had afterwards.

    When a handshake fails, asyncio drops the connection together with the alert that would tell the other side why.
    Of a context it wants nothing but `wrap_bio`.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._made: _Candid | None = None

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **how: Any) -> ssl.SSLObject:
        """As in ssl.SSLContext."""
        self._context.sslobject_class = _Candid
        self._made = cast(_Candid, self._context.wrap_bio(incoming, outgoing, **how))
        self._made.outgoing = outgoing
        return self._made

    @property
    def alert(self) -> bytes:
        """What the other side should hear; empty if there is nothing."""
        return self._made.alert if self._made is not None else b""


_HANDSHAKE = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "HTTP_REQUEST": "it does not speak TLS",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
}
