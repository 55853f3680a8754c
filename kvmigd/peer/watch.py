"""The watch stream's sending side: this host's facts to everybody who watches, and a sign of life twice a second."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from aiohttp import web

from kvmigd.peer.wire import BEAT_SECONDS, HEARTBEAT

STREAMS_A_PEER = 4
BACKLOG_LIMIT = 1 << 20
STALLED_MILLISECONDS = 10_000


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_BEAT = _chunk(HEARTBEAT)


class Broadcast:
    """All open watch streams. A beat is one write to each, from one task: at rest this is all the server does."""

    def __init__(self, line: Callable[[], bytes]) -> None:
        self._line = line
        self._last = b""
        self._streams: dict[asyncio.Future[None], tuple[str, asyncio.Transport]] = {}
        self._pending = False
        self._closed = False

    @property
    def watchers(self) -> set[str]:
        """Names of the peers that watch now."""
        return {name for name, _ in self._streams.values()}

    async def serve(self, request: web.Request, name: str) -> web.StreamResponse:
        """Stream to one peer until either side has enough."""
        transport = request.transport
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        if transport is None or self._closed:
            return response
        plain = transport.get_extra_info("socket")
        if plain is not None:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_MILLISECONDS)
        mine = [end for end, (peer, _) in self._streams.items() if peer == name]
        for end in mine[: len(mine) - STREAMS_A_PEER + 1]:
            self._finish(end)
        end = asyncio.get_running_loop().create_future()
        line = self._line()
        if not self._streams:  # the others may still wait for what has changed since `_last`
            self._last = line
        self._streams[end] = name, transport
        try:
            # The head may wait in aiohttp for the first part of the body, so that goes the ordinary way.
            await response.write(line)
            await end
        finally:
            self._streams.pop(end, None)
        return response

    def changed(self) -> None:
        """The facts may have changed; many calls in one turn of the loop are one line."""
        if self._streams and not self._pending:
            self._pending = True
            asyncio.get_running_loop().call_soon(self._send_change)

    def _send_change(self) -> None:
        self._pending = False
        line = self._line()
        if line != self._last:
            self._last = line
            self._write(_chunk(line))

    def _write(self, chunk: bytes) -> None:
        """To every stream, past aiohttp: its `write` waits for a slow reader, and here one must not delay another."""
        for end, (_, transport) in tuple(self._streams.items()):
            if transport.is_closing():
                self._finish(end)
            elif transport.get_write_buffer_size() > BACKLOG_LIMIT:
                transport.abort()
                self._finish(end)
            else:
                transport.write(chunk)

    async def run(self) -> None:
        """Beat, for ever."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self._write(_BEAT)

    @staticmethod
    def _finish(end: asyncio.Future[None]) -> None:
        if not end.done():
            end.set_result(None)

    def end(self, name: str) -> None:
        """End the streams of one peer."""
        for end, (peer, _) in self._streams.items():
            if peer == name:
                self._finish(end)

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for end in self._streams:
            self._finish(end)
