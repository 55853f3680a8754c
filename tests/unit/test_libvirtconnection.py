"""The connection to libvirt when it is away, hangs or comes back, with a library that is made up."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest

from kvmigd.errors import HypervisorUnavailable
from kvmigd.host import libvirtconnection, libvirtjobs
from kvmigd.host.files import Files
from kvmigd.host.libvirtconnection import LibvirtConnection
from kvmigd.host.libvirtjobs import GuestJobs

UUID = "11111111-1111-4111-8111-111111111111"


def error(number: int, text: str) -> libvirt.libvirtError:
    made = libvirt.libvirtError(text)
    made.err = (number, libvirt.VIR_FROM_RPC, text, 2, "", "", "", 0, 0)
    return made


class Domain:
    """A guest with a job."""

    def __init__(self) -> None:
        self.operation = 0

    def isActive(self) -> int:
        return 1

    def jobStats(self) -> dict[str, Any]:
        return {"type": 2, "operation": self.operation} if self.operation else {"type": 0}


class Connection:
    """A connection of the library's."""

    def __init__(self) -> None:
        self.closed: Callable[..., None] = lambda *_: None
        self.is_closed = False
        self.domain = Domain()

    def registerCloseCallback(self, callback: Callable[..., None], _opaque: Any) -> None:
        self.closed = callback

    def lookupByUUIDString(self, _uuid: str) -> Domain:
        return self.domain

    def getCapabilities(self) -> str:
        return "<capabilities/>"

    def getHostname(self) -> str:
        return "hosta"

    def getLibVersion(self) -> int:
        return 9_000_000

    def getVersion(self) -> int:
        return 7_002_000

    def isAlive(self) -> int:
        return int(not self.is_closed)

    def close(self) -> None:
        self.is_closed = True

    def __getattr__(self, name: str) -> Any:  # setKeepAlive and all that registers for events
        return lambda *_: 0


class Library:
    """What `libvirt.open` does."""

    def __init__(self) -> None:
        self.made: list[Connection] = []
        self.attempts = 0
        self.refuses = False
        self.goes_on = threading.Event()
        self.goes_on.set()

    def open(self, _uri: str) -> Connection:
        self.attempts += 1
        self.goes_on.wait()
        if self.refuses:
            raise error(libvirt.VIR_ERR_NO_CONNECT, "Failed to connect socket.")
        self.made.append(Connection())
        return self.made[-1]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setattr(libvirt, "open", made.open)
    monkeypatch.setattr(libvirtconnection, "_start_event_thread", lambda: None)
    return made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def running(connection: LibvirtConnection, jobs: GuestJobs | None = None) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part.run()) for part in (connection, jobs) if part is not None]
        yield
        for task in tasks:
            task.cancel()


def test_it_is_lost_and_made_anew(library: Library) -> None:
    async def run() -> None:
        connection = LibvirtConnection("qemu:///system", host_name="hosta")
        async with running(connection):
            await until(lambda: connection.alive)
            first = library.made[0]
            first.closed(first, libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE, None)
            await until(lambda: len(library.made) == 2 and connection.alive)
            await until(lambda: first.is_closed)

    asyncio.run(run())


def test_a_libvirt_that_hangs_is_connected_to_once(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits in the library cannot be ended; there shall be one of them, and its connection is used."""
    monkeypatch.setattr(libvirtconnection, "QUERY_SECONDS", 0.02)
    library.goes_on.clear()

    async def run() -> None:
        connection = LibvirtConnection("qemu:///system", host_name="hosta")
        async with running(connection):
            await until(lambda: "not answered" in connection.problem)
            with pytest.raises(HypervisorUnavailable, match="not answered"):
                await connection.ask(lambda _: None)
            await asyncio.sleep(0.1)
            assert library.attempts == 1
            library.goes_on.set()
            await until(lambda: connection.alive)
            assert library.attempts == 1

    asyncio.run(run())


def test_a_socket_that_comes_is_tried_soon(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirtconnection, "RETRY_SECONDS", (3600.0, 3600.0, 3600.0))
    monkeypatch.setattr(libvirtconnection, "SOCKETS_SECONDS", 0.01)
    library.refuses = True

    async def run() -> None:
        with tempfile.TemporaryDirectory() as short:  # the path of a socket has an end
            folder = Path(short) / "run/libvirt"
            folder.mkdir(parents=True)
            async with Files() as files:
                connection = LibvirtConnection("qemu:///system", host_name="hosta", files=files, root=Path(short))
                async with running(connection):
                    await until(lambda: "Failed to connect" in connection.problem)
                    library.refuses = False
                    with socket.socket(socket.AF_UNIX) as one:
                        one.bind(str(folder / "libvirt-sock"))
                        await until(lambda: connection.alive)

    asyncio.run(run())


def test_the_connection_for_jobs_is_opened_when_it_is_needed(library: Library) -> None:
    async def run() -> None:
        connection = LibvirtConnection("qemu:///system", host_name="hosta")
        async with running(connection):
            await until(lambda: connection.alive)
            assert len(library.made) == 1
            used = [await connection.control(lambda it: it, 5.0) for _ in range(2)]
            assert used == [library.made[1], library.made[1]]

    asyncio.run(run())


def test_calls_that_come_together_have_connections_of_their_own(library: Library) -> None:
    """Two that wait on one connection when libvirtd is given up would crash the daemon."""

    async def run() -> None:
        connection = LibvirtConnection("qemu:///system", host_name="hosta")
        meet = threading.Barrier(3, timeout=5)

        def together(line: Any) -> Any:
            meet.wait()
            return line

        async with running(connection):
            await until(lambda: connection.alive)
            used = await asyncio.gather(*(connection.ask(together) for _ in range(3)))
            assert set(used) == set(library.made), "each its own, and one of them the main one"
            assert await connection.ask(lambda it: it) is library.made[0], "which costs nothing more where it is free"

    asyncio.run(run())


def test_the_main_connection_is_closed_when_the_call_on_it_has_ended(library: Library) -> None:
    async def run() -> None:
        connection = LibvirtConnection("qemu:///system", host_name="hosta")
        go, began = threading.Event(), threading.Event()

        def slow(line: Any) -> bool:
            began.set()
            go.wait(5)
            return bool(line.is_closed)

        async with running(connection):
            await until(lambda: connection.alive)
            asked = asyncio.ensure_future(connection.ask(slow))
            await until(began.is_set)
            first = library.made[0]
            first.closed(first, libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE, None)
            await until(lambda: len(library.made) == 2 and connection.alive)
            assert not first.is_closed
            assert await connection.ask(lambda it: it) is library.made[1], "the new one is free"
            go.set()
            assert not await asked
            await until(lambda: first.is_closed)

    asyncio.run(run())


def test_a_job_that_is_aborted_is_known_to_have_ended(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """No event tells of it."""
    monkeypatch.setattr(libvirtjobs, "AGAIN_SECONDS", 0.005)
    told: list[str] = []

    async def run() -> None:
        connection = LibvirtConnection("qemu:///system", host_name="hosta")
        jobs = GuestJobs(connection, told.append)
        async with running(connection, jobs):
            await until(lambda: connection.alive)
            library.made[0].domain.operation = libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
            jobs.heard(UUID, "outgoing")
            assert jobs.known == {UUID: "outgoing"}
            library.made[0].domain.operation = 0
            await until(lambda: not jobs.known)
            assert told == [UUID, UUID]

    asyncio.run(run())


def test_a_job_that_ran_before_is_asked_for(library: Library) -> None:
    async def run() -> None:
        connection = LibvirtConnection("qemu:///system", host_name="hosta")
        jobs = GuestJobs(connection, lambda _: None)
        async with running(connection, jobs):
            await until(lambda: connection.alive)
            library.made[0].domain.operation = libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP
            jobs.look([UUID])
            await until(lambda: jobs.known == {UUID: "other"})
            library.made[0].closed(library.made[0], libvirt.VIR_CONNECT_CLOSE_REASON_ERROR, None)
            await until(lambda: not jobs.known)  # an old truth is not told

    asyncio.run(run())
