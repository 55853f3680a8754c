"""The watch stream's sending side: this host's news to everybody who watches, and a sign of life twice a second."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from aiohttp import web

from kvmigd.peer.news import Newsreader
from kvmigd.peer.wire import BEAT_SECONDS, HEARTBEAT

STREAMS_A_PEER = 4
BACKLOG_LIMIT = 1 << 20
STALLED_MILLISECONDS = 10_000
PICTURE_SECONDS = 0.1
"""Changes of the picture are told together that come within this time: a storm of mounts is a few lines."""
REFRESH_BEATS = 20
"""After so many beats somebody looks at what the kernel has no event for; a wake-up of its own would cost more."""


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_BEAT = _chunk(HEARTBEAT)


class Broadcast:
    """All open watch streams. A beat is one write to each, from one task: at rest this is all the server does."""

    def __init__(self, news: Newsreader, *, refresh: Callable[[], None] = lambda: None) -> None:
        self._news = news
        self._refresh = refresh
        self._streams: dict[asyncio.Future[None], tuple[str, asyncio.Transport]] = {}
        self._watched = asyncio.Event()
        self._timer: asyncio.Handle | None = None
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
        if not self._streams:  # the others may still wait for what has changed
            self._news.changes()
        whole = self._news.whole()
        self._streams[end] = name, transport
        self._watched.set()
        try:
            # The head may wait in aiohttp for the first part of the body, so that goes the ordinary way.
            await response.write(whole)
            await end
        finally:
            self._streams.pop(end, None)
            if not self._streams:
                self._watched.clear()
        return response

    def changed(self) -> None:
        """The facts may have changed; many calls in one turn of the loop are one line."""
        if self._timer is not None:
            self._timer.cancel()
        if self._streams:
            self._timer = asyncio.get_running_loop().call_soon(self._send_changes)

    def picture_changed(self) -> None:
        """The picture has changed; tell it soon."""
        if self._streams and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PICTURE_SECONDS, self._send_changes)

    def catch_up(self) -> int:
        """Tell at once what has not been told yet; returns the generation that everybody who watches knows then."""
        if self._timer is not None:
            self._timer.cancel()
        self._send_changes()
        return self._news.generation

    def _send_changes(self) -> None:
        self._timer = None
        if lines := self._news.changes():
            self._write(_chunk(lines))

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
        """Beat, for ever, while somebody listens."""
        beats = 0
        while True:
            await self._watched.wait()
            await asyncio.sleep(BEAT_SECONDS)
            self._write(_BEAT)
            beats += 1
            if beats % REFRESH_BEATS == 0:
                self._refresh()

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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for end in self._streams:
            self._finish(end)
