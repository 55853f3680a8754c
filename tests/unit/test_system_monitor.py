"""The clock, the kernel's events, and the monitor that keeps System true, on a tree."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host import clock, machine, packages, systemwatch, uevents
from kvmigd.host.clock import ClockWatch, Discipline
from kvmigd.host.files import Files
from kvmigd.host.picture import Picture
from kvmigd.host.systemwatch import Settling, SystemMonitor
from kvmigd.model.guest import GuestState
from kvmigd.model.hypervisor import HypervisorState
from kvmigd.model.system import System
from tests.unit import cases

STATUS = "Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n"


@given(st.integers(-1, 5), st.integers(0, 0xFFFF), st.integers(0, 1 << 40))
def test_the_kernels_word_on_its_clock(state: int, status: int, error: int) -> None:
    found = clock.judge(state, status, error)
    assert found.synchronised is not (state == 5 or bool(status & 0x40))
    assert (found.seconds_left >= 1) is bool(found.synchronised)


def test_a_clock_that_nobody_disciplines_is_looked_at_when_the_kernel_gives_it_up() -> None:
    assert clock.judge(0, 0x2001, 1_000_000).seconds_left == 30_001


def test_a_timer_for_a_set_clock_can_be_had() -> None:
    timer = clock.SetTimer()
    timer.clear()
    timer.close()


class PretendedClock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.wall = 1000.0
        self.now = Discipline(synchronised=True, seconds_left=100)

    def offset(self) -> float:
        return self.wall

    async def ask(self) -> Discipline:
        return self.now


def test_jumps_are_counted_and_told_with_their_size(tmp_path: Path) -> None:
    async def run() -> None:
        kernel, jumps, changes = PretendedClock(), [], []
        async with Files() as files:
            watch = ClockWatch(
                files,
                changed=lambda: changes.append(watch.clock),
                root=tmp_path,
                ask=kernel.ask,
                offset=kernel.offset,
            )
            watch.on_jump(jumps.append)
            async with watch, asyncio.TaskGroup() as group:
                keeping = group.create_task(watch.run())
                async with asyncio.timeout(5):
                    while watch.clock.synchronised is None:
                        await asyncio.sleep(0.001)
                assert (watch.clock.synchronised, watch.clock.jumps) == (True, 0)
                for step in (3600.0, 0.0001, -1.5):
                    kernel.wall += step
                    watch.check_jump()
                keeping.cancel()
        assert [round(jump, 6) for jump in jumps] == [3600.0, -1.5]
        assert watch.clock.jumps == 2
        assert len(changes) == 3

    asyncio.run(run())


def test_a_clock_that_becomes_synchronised_is_noticed_by_looks_that_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "LOOKS_SECONDS", (0.001, 0.001, 0.001))

    async def run() -> None:
        kernel = PretendedClock()
        kernel.now = Discipline(synchronised=False)
        asked = 0

        async def ask() -> Discipline:
            nonlocal asked
            asked += 1
            return kernel.now

        changed = asyncio.Event()
        async with (
            Files() as files,
            ClockWatch(files, changed=changed.set, root=tmp_path, ask=ask, offset=kernel.offset) as watch,
            asyncio.TaskGroup() as group,
        ):
            keeping = group.create_task(watch.run())
            async with asyncio.timeout(5):
                while asked < 4:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert (asked, watch.clock.synchronised) == (4, False), "nobody looks for ever"
            changed.clear()
            kernel.now = Discipline(synchronised=True, seconds_left=1000)
            drift = tmp_path / "var/lib/chrony/drift"
            drift.parent.mkdir(parents=True)
            drift.write_text("1")
            async with asyncio.timeout(5):
                await changed.wait()
            assert watch.clock.synchronised
            keeping.cancel()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("output", "synchronised"), [(b"yes\n", True), (b"no\n", False), (b"", None), (b"Failed to connect", None)]
)
def test_what_timedated_says(output: bytes, *, synchronised: bool | None) -> None:
    assert clock.told_by_timedated(output).synchronised is synchronised


@given(st.binary(max_size=300))
def test_odd_uevents_never_raise(message: bytes) -> None:
    uevents.matters(uevents.parse(message))


@pytest.mark.parametrize(
    ("message", "matters"),
    [
        (b"offline@/devices/system/cpu/cpu1\0ACTION=offline\0SUBSYSTEM=cpu\0SEQNUM=1\0", True),
        (b"online@/devices/system/memory/memory9\0SUBSYSTEM=memory\0", True),
        (b"add@/module/kvm_intel\0DEVPATH=/module/kvm_intel\0SUBSYSTEM=module\0", True),
        (b"add@/devices/virtual/misc/kvm\0DEVPATH=/devices/virtual/misc/kvm\0SUBSYSTEM=misc\0", True),
        (b"add@/devices/virtual/net/tap0\0DEVPATH=/devices/virtual/net/tap0\0SUBSYSTEM=net\0", False),
        (b"", False),
    ],
)
def test_which_uevents_matter(message: bytes, *, matters: bool) -> None:
    assert uevents.matters(uevents.parse(message)) is matters


def test_a_protocol_that_the_kernel_lacks_is_a_problem() -> None:
    async def run() -> None:
        async with uevents.KernelEvents(31, lambda: None) as events:
            assert events.problem

    asyncio.run(run())


def test_changes_settle() -> None:
    async def run() -> None:
        settling = Settling(quiet=0.01, patience=0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await settling.wait()
        settling.touch()
        await settling.wait()

        async def storm() -> None:
            while True:
                settling.touch()
                await asyncio.sleep(0.001)

        task = asyncio.create_task(storm())
        async with asyncio.timeout(5):
            await settling.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(content)
        fresh.rename(path)


class Watched:
    """A monitor at work on a tree."""

    def __init__(self, root: Path, files: Files) -> None:
        self.picture = Picture()
        self.monitor = SystemMonitor(self.picture, files, root=root)

    async def until(self, true: Callable[[System], bool]) -> System:
        changed = asyncio.Event()
        self.picture.subscribe(lambda _: changed.set())
        async with asyncio.timeout(10):
            while not true(self.picture.state.system):
                changed.clear()
                await changed.wait()
        return self.picture.state.system


@asynccontextmanager
async def watching(root: Path) -> AsyncIterator[Watched]:
    async with Files() as files:
        watched = Watched(root, files)
        task = asyncio.create_task(watched.monitor.run())
        try:
            yield watched
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


POOL = f"{machine.POOLS}/hugepages-2048kB"


def test_files_that_change_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemwatch, "QUIET_SECONDS", 0.01)
    write(
        tmp_path,
        {
            "etc/os-release": "ID=debian\n",
            packages.DPKG: STATUS.format(name="ovmf"),
            f"{POOL}/nr_hugepages": "4\n",
        },
    )

    async def run() -> None:
        async with watching(tmp_path) as watched:
            first = await watched.until(lambda system: bool(system.packages))
            assert (first.release.id, first.package_manager, first.problem) == ("debian", "dpkg", "")
            write(tmp_path, {"etc/os-release": "ID=fedora\n"})
            await watched.until(lambda system: system.release.id == "fedora")
            write(tmp_path, {packages.DPKG: STATUS.format(name="swtpm")})
            await watched.until(lambda system: [package.name for package in system.packages] == ["swtpm"])
            write(tmp_path, {f"{POOL}/nr_hugepages": "9\n"})
            await watched.until(lambda system: system.hugepages[0].total == 9)
            (tmp_path / packages.DPKG).unlink()
            gone = await watched.until(lambda system: not system.packages)
            assert gone.packages_problem

    asyncio.run(run())


def test_a_look_is_as_new_as_its_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {f"{POOL}/nr_hugepages": "4\n"})
    reads, goes_on = 0, threading.Event()

    def facts(root: Path) -> System:
        nonlocal reads
        reads += 1
        found = systemwatch_facts(root)
        assert goes_on.wait(10)
        return found

    systemwatch_facts = systemwatch.facts
    monkeypatch.setattr(systemwatch, "facts", facts)

    async def run() -> None:
        async with Files() as files:
            picture = Picture()
            monitor = SystemMonitor(picture, files, root=tmp_path)
            async with asyncio.TaskGroup() as group:
                group.create_task(monitor.look())
                async with asyncio.timeout(10):
                    while not reads:
                        await asyncio.sleep(0.001)
                (tmp_path / POOL / "nr_hugepages").write_text("9\n")  # too late for the look that is under way
                later = [group.create_task(monitor.look()) for _ in range(5)]
                await asyncio.sleep(0)
                goes_on.set()
                await asyncio.gather(*later)
            assert picture.state.system.hugepages[0].total == 9
            assert reads == 2, "one look for all that asked together"

    asyncio.run(run())


def test_guests_that_start_and_refresh_are_looks(tmp_path: Path) -> None:
    write(tmp_path, {f"{POOL}/nr_hugepages": "4\n", f"{POOL}/free_hugepages": "4\n"})

    async def run() -> None:
        async with watching(tmp_path) as watched:
            await watched.until(lambda system: system.is_known)
            write(tmp_path, {f"{POOL}/free_hugepages": "1\n"})
            guest = cases.changed(cases.GUEST, state=GuestState.RUNNING)
            watched.picture.publish(HypervisorState(problem="", guests=(guest,)))
            await watched.until(lambda system: system.hugepages[0].free == 1)
            write(tmp_path, {f"{POOL}/free_hugepages": "2\n"})
            watched.monitor.refresh()
            await watched.until(lambda system: system.hugepages[0].free == 2)

    asyncio.run(run())
