"""Connections to libvirt, one for each call that is under way.

libvirt's client lets several threads share a connection, but not its end: when a libvirtd that hangs is given up while
two calls wait for it, libvirt 9.0 quits the wrong thread's loop, never tells of the loss, and may crash the process
(virNetClientIOEventLoopPassTheBuck). So a connection is used by one call at a time, and closed by nobody who waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import libvirt
import structlog

log = structlog.get_logger(__name__)

KEEPALIVE = 5, 3
IDLE_SECONDS = 60.0
"""So long a connection beside the main one is kept after its last use."""


class _Main(NamedTuple):
    connection: Any
    use: threading.Lock


class Lines:
    """Gives each call a connection. `main` is the one with the events, which costs nothing more where it is free.

    `line`, and what `lose` returns, are called by threads that may block, the rest on the loop.
    """

    def __init__(self, uri: str, *, close_in_thread: Callable[[Callable[[], None]], object]) -> None:
        self._uri = uri
        self._close_in_thread = close_in_thread
        self._loop = asyncio.get_running_loop()
        self._main: _Main | None = None
        self._lock = threading.Lock()
        self._spares: list[Any] = []
        self._timer: asyncio.TimerHandle | None = None

    def use(self, main: Any) -> None:
        """This is the main connection from now on."""
        with self._lock:
            self._main = _Main(main, threading.Lock())

    def lose(self) -> Callable[[], None]:
        """The main connection is gone. What is returned closes it, when the call on it has ended, and the rest."""
        with self._lock:
            lost, self._main = self._main, None

        def end() -> None:
            self.close_spares()
            if lost is not None:
                with lost.use:
                    close(lost.connection)

        return end

    @contextlib.contextmanager
    def line(self, *, apart: bool = False) -> Iterator[Any]:
        """A connection that nobody else uses meanwhile; with `apart` never the main one. Raises libvirtError."""
        main = None if apart else self._main
        if main is not None and main.use.acquire(blocking=False):
            try:
                yield main.connection
            finally:
                main.use.release()
            return
        spare = self._spare()
        try:
            yield spare
        finally:
            self._give_back(spare)

    def _spare(self) -> Any:
        with self._lock:
            while self._spares:
                spare = self._spares.pop()
                if spare.isAlive():
                    return spare
                close(spare)
        spare = libvirt.open(self._uri)
        spare.setKeepAlive(*KEEPALIVE)
        return spare

    def _give_back(self, spare: Any) -> None:
        with self._lock:
            if self._main is not None and spare.isAlive():
                self._spares.append(spare)
                # The loop may have ended while the call was under way.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._arm)
                return
        close(spare)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(IDLE_SECONDS, self._close_in_thread, self.close_spares)

    def close_spares(self) -> None:
        """Close those that nobody uses."""
        with self._lock:
            spares, self._spares = self._spares, []
        for spare in spares:
            close(spare)


def close(connection: Any) -> None:
    """Close a connection; one that is broken is closed already."""
    try:
        connection.close()
    except libvirt.libvirtError as error:
        log.debug("connection not closed", error=str(error))
