"""The connection to libvirt: kept up, watched for hangs, made anew.

Calls of libvirt's library block, so each runs in a thread with a deadline. Its events come from the library's own
event loop in a thread of its own: `libvirtaio` changes asyncio's selector and timers from whatever thread a call
runs in, which asyncio does not allow.

At rest there is one connection. libvirtd sends a keepalive on each connection that is silent for 5 s
(`keepalive_interval`), which we answer; as long as it comes, our own timer, which is longer, never ends. When libvirtd
hangs, we ask once, and give up 14 s after its last word. Calls that come together, and those about running jobs, have
connections of their own (libvirtlines.py), opened when they are needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import libvirt
import structlog

from kvmigd.errors import HypervisorFailed, HypervisorUnavailable
from kvmigd.host import capabilities, libvirtevents
from kvmigd.host.capabilities import Capabilities
from kvmigd.host.files import Files
from kvmigd.host.hypervisor import GuestEvent, HypervisorFacts
from kvmigd.host.libvirtlines import Lines, close

log = structlog.get_logger(__name__)

QUERY_SECONDS = 10.0
KEEPALIVE_SECONDS, KEEPALIVE_COUNT = 7, 1
"""Longer than libvirtd's own 5 s, so that only one side asks; 7 s of silence, one question, 7 s for the answer."""
STREAM_KEEPALIVE = 5, 3
SOCKETS_SECONDS = 2.0
"""After libvirt's socket has come, an admin may still be starting the others: our connection would start libvirtd by
the first one, and systemd refuses a socket whose service runs already."""
RETRY_SECONDS = 1.0, 5.0, 30.0
"""The first pause while there is no connection, and the longest: without a watch on libvirt's sockets, and with it."""

HINT = "`systemctl status libvirtd virtqemud` shows why."

_EVENTS = {
    libvirt.VIR_DOMAIN_EVENT_DEFINED: GuestEvent.DEFINED,
    libvirt.VIR_DOMAIN_EVENT_UNDEFINED: GuestEvent.UNDEFINED,
    libvirt.VIR_DOMAIN_EVENT_STARTED: GuestEvent.STARTED,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: GuestEvent.SUSPENDED,
    libvirt.VIR_DOMAIN_EVENT_RESUMED: GuestEvent.RESUMED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED: GuestEvent.STOPPED,
}

T = TypeVar("T")
_event_thread_started = threading.Event()


def _start_event_thread() -> None:
    """libvirt has one event implementation a process; it must be there before the first connection."""
    if _event_thread_started.is_set():
        return
    _event_thread_started.set()
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors come as exceptions, not on stderr
    libvirt.virEventRegisterDefaultImpl()

    def forever() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=forever, name="libvirt-events", daemon=True).start()


class LibvirtConnection:
    """A connection to libvirt on this host, for as long as `run` runs."""

    def __init__(self, uri: str, *, host_name: str, files: Files | None = None, root: Path = Path("/")) -> None:
        self.uri = uri
        self.capabilities = Capabilities()
        self.facts: HypervisorFacts | None = None
        self.on_change: list[Callable[[], None]] = []
        self.on_guest: list[Callable[[str, str, GuestEvent], None]] = []
        self.on_event: list[Callable[[str], None]] = []
        """Called with libvirtevents' words."""
        self._host_name = host_name
        self._files = files
        self._sockets = capabilities.sockets(root=root)
        self._loop = asyncio.get_running_loop()
        self._connects = ThreadPoolExecutor(1, thread_name_prefix="libvirt-connect")
        self._queries = ThreadPoolExecutor(8, thread_name_prefix="libvirt")
        self._control = ThreadPoolExecutor(8, thread_name_prefix="libvirt-job")
        self._main: Any = None
        self._lines = Lines(uri, close_in_thread=self._control.submit)
        self._problem = f"libvirt on {host_name} has not been connected yet."
        self._lost = asyncio.Event()

    @property
    def alive(self) -> bool:
        """A connection is up."""
        return self._main is not None

    @property
    def problem(self) -> str:
        """Why there is no connection; empty when there is one."""
        return "" if self._main is not None else self._problem

    async def run(self) -> None:
        """Keep the connection up: connect, wait for the loss, connect again."""
        _start_event_thread()
        sockets_changed = asyncio.Event()
        watch = self._files.watch(self._sockets, sockets_changed.set) if self._files is not None else None
        shortest, longest = RETRY_SECONDS[0], RETRY_SECONDS[1 if watch is None else 2]
        pause = shortest
        try:
            while True:
                sockets_changed.clear()
                try:
                    main = await self._connected()
                except (HypervisorFailed, HypervisorUnavailable) as error:
                    self._unavailable(error.message)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await sockets_changed.wait()
                    pause = shortest if sockets_changed.is_set() else min(longest, pause * 2)
                    while sockets_changed.is_set():
                        sockets_changed.clear()
                        await asyncio.sleep(SOCKETS_SECONDS)
                    continue
                pause = shortest
                await self._keep(main)
        finally:
            if watch is not None:
                watch.close()

    async def _connected(self) -> Any:
        """Connect, however long it takes: a libvirtd that hangs takes the connection and answers when it goes on.

        Another attempt meanwhile would only leave another thread that waits.
        """
        self._lost.clear()
        attempt = self._loop.run_in_executor(self._connects, self._connect)
        done, _ = await asyncio.wait({attempt}, timeout=QUERY_SECONDS)
        if not done:
            self._unavailable(f"libvirt on {self._host_name} has not answered for {QUERY_SECONDS:.0f} s.")
        try:
            return await attempt
        except libvirt.libvirtError as error:
            raise self.translated(error) from error

    def _unavailable(self, problem: str) -> None:
        if self._problem != problem:
            log.warning("hypervisor unavailable", uri=self.uri, problem=problem)
            self._problem = problem
            self._tell_change()

    async def _keep(self, main: Any) -> None:
        self._main = main
        self._lines.use(main)
        assert self.facts is not None
        log.info("hypervisor connected", uri=self.uri, libvirt=self.facts.libvirt, qemu=self.facts.qemu)
        self._tell_change()
        try:
            await self._lost.wait()
        finally:
            self._main = None
            self._control.submit(self._lines.lose())
        self._problem = f"The connection to libvirt on {self._host_name} was lost."
        log.warning("hypervisor lost", uri=self.uri)
        self._tell_change()

    def _connect(self) -> Any:
        main = libvirt.open(self.uri)
        try:
            main.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
            main.registerCloseCallback(self._closed, None)
            main.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
            libvirtevents.register(main, self._changed)
            known = capabilities.capabilities_of(main.getCapabilities())
            facts = HypervisorFacts(
                host_id=known.host_id,
                hostname=main.getHostname(),
                libvirt=main.getLibVersion(),
                qemu=main.getVersion(),
            )
        except BaseException:
            close(main)
            raise
        self.capabilities, self.facts = known, facts
        return main

    def _closed(self, connection: Any, _reason: int, _opaque: Any) -> None:
        self._loop.call_soon_threadsafe(self._on_closed, connection)

    def _on_closed(self, connection: Any) -> None:
        # While `_connected` waits there is none that this could be about but the new one.
        if self._main is None or connection is self._main:
            self._lost.set()

    def _lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        kind, uuid = _EVENTS.get(event, GuestEvent.OTHER), domain.UUIDString()
        self._loop.call_soon_threadsafe(self._tell_guest, domain.name(), uuid, kind)
        if job := libvirtevents.job_after(event, detail):
            self._changed(f"job:{uuid}:{job}")
        self._changed(f"guest:{uuid}")

    def _changed(self, what: str) -> None:
        """Called in libvirt's thread."""
        self._loop.call_soon_threadsafe(self._tell_inventory, what)

    def _tell_change(self) -> None:
        for listener in tuple(self.on_change):
            listener()

    def _tell_guest(self, name: str, uuid: str, event: GuestEvent) -> None:
        for listener in tuple(self.on_guest):
            listener(name, uuid, event)

    def _tell_inventory(self, what: str) -> None:
        for listener in tuple(self.on_event):
            listener(what)

    async def in_thread(self, pool: ThreadPoolExecutor, call: Callable[[], T], seconds: float | None) -> T:
        """Run a blocking call; HypervisorUnavailable after so many seconds, libvirt's errors as ours."""
        try:
            async with asyncio.timeout(seconds):
                return await self._loop.run_in_executor(pool, call)
        except TimeoutError as error:
            raise HypervisorUnavailable(
                f"libvirt on {self._host_name} has not answered for {seconds:.0f} s.", hint=HINT
            ) from error
        except libvirt.libvirtError as error:
            raise self.translated(error) from error

    def translated(self, error: libvirt.libvirtError) -> HypervisorFailed | HypervisorUnavailable:
        """libvirt's error as one of ours."""
        text, number = said(error)
        if number in (libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_CONN) or (
            error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
        ):
            return HypervisorUnavailable(f"libvirt on {self._host_name} does not answer: {text}.", hint=HINT)
        return HypervisorFailed(text, number=number)

    async def ask(self, question: Callable[[Any], T], seconds: float = QUERY_SECONDS) -> T:
        """Ask something on the connection."""
        return await self.ask_in(self._queries, question, seconds)

    async def ask_in(self, pool: ThreadPoolExecutor, question: Callable[[Any], T], seconds: float | None = None) -> T:
        """Ask something on the connection, in the threads of that pool."""
        if self._main is None:
            raise HypervisorUnavailable(self._problem, hint=HINT)
        return await self.in_thread(pool, lambda: self._on_line(question), seconds)

    async def control(self, action: Callable[[Any], T], seconds: float) -> T:
        """Do something with a running job, on a connection of its own."""
        if self._main is None:
            raise HypervisorUnavailable(self._problem, hint=HINT)
        return await self.in_thread(self._control, lambda: self._on_line(action, apart=True), seconds)

    def _on_line(self, call: Callable[[Any], T], *, apart: bool = False) -> T:
        with self._lines.line(apart=apart) as connection:
            return call(connection)


def said(error: libvirt.libvirtError) -> tuple[str, int]:
    """libvirt's words without their full stop, and its number for them."""
    return str(error.get_error_message() or error).rstrip("."), error.get_error_code() or 0
