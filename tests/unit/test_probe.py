"""Asking storage how it is: what the prober asks and tells, and what becomes of it when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host import probe, prober
from kvmigd.host.probe import Answer, Probe, Target, understood
from kvmigd.model.mounts import Space

NAS = Target(point="/srv/vm")
SOON = 10.0


class Storage:
    """Stands for statvfs: answers, fails, or hangs until it is let go."""

    def __init__(self) -> None:
        self.errors: dict[bytes, int] = {}
        self.hanging: dict[bytes, threading.Event] = {}
        self.free = 500
        self.asked: list[bytes] = []

    def __call__(self, path: bytes) -> os.statvfs_result:
        self.asked.append(path)
        if path in self.hanging:
            self.hanging[path].wait(SOON)
        if path in self.errors:
            raise OSError(self.errors[path], "x")
        return os.statvfs_result((4096, 4096, 1000, self.free, self.free, 0, 0, 0, 0, 255))


class Bench:
    """A prober in this process, turned by hand."""

    def __init__(self) -> None:
        self.storage = Storage()
        self.told: list[str] = []
        self.prober = prober.Prober(self.told.append, statvfs=self.storage)

    def watch(self, key: str, path: bytes, *, device: str = "-") -> None:
        self.prober.order(f"+ {key} 0.02 {device} {path.hex()}".encode())

    def until(self, wanted: Callable[[], bool]) -> None:
        end = time.monotonic() + SOON
        while not wanted():
            assert time.monotonic() < end, self.told
            self.prober.turn()
            time.sleep(0.002)

    def last(self, key: str) -> str:
        return next((line.split()[1] for line in reversed(self.told) if line.startswith(f"{key} ")), "")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(prober, "LATE_SECONDS", 0.05)
    monkeypatch.setattr(prober, "RELIEF_SECONDS", 0.005)
    bench = Bench()
    yield bench
    for event in bench.storage.hanging.values():
        event.set()


def test_only_what_changes_is_told(bench: Bench) -> None:
    bench.watch("1", b"/srv/vm")
    bench.until(lambda: len(bench.storage.asked) > 3)
    assert bench.told == ["1 ok 4096000 2048000 0\n"]
    bench.storage.free = 495  # less than a hundredth
    asked = len(bench.storage.asked)
    bench.until(lambda: len(bench.storage.asked) > asked + 2)
    assert len(bench.told) == 1
    bench.storage.free = 300
    bench.until(lambda: len(bench.told) == 2)


def test_errors_are_told_once(bench: Bench) -> None:
    bench.storage.errors[b"/srv/vm"] = errno.ESTALE
    bench.watch("1", b"/srv/vm")
    bench.until(lambda: len(bench.storage.asked) > 3)
    assert [line.split()[:3] for line in bench.told] == [["1", "error", str(errno.ESTALE)]]
    del bench.storage.errors[b"/srv/vm"]
    bench.until(lambda: bench.last("1") == "ok")


def test_one_that_hangs_is_late_and_holds_up_no_other(bench: Bench) -> None:
    for number in range(5):
        bench.storage.hanging[b"/hung%d" % number] = threading.Event()
        bench.watch(f"h{number}", b"/hung%d" % number)
    bench.watch("good", b"/good")
    bench.until(lambda: bench.last("good") == "ok")
    bench.until(lambda: all(bench.last(f"h{number}") == "late" for number in range(5)))
    asked = bench.storage.asked.count(b"/hung0")
    good = bench.storage.asked.count(b"/good")
    bench.until(lambda: bench.storage.asked.count(b"/good") > good + 2)
    assert bench.storage.asked.count(b"/hung0") == asked == 1, "one that hangs is not asked again"
    bench.storage.hanging.pop(b"/hung0").set()
    bench.until(lambda: bench.last("h0") == "ok")
    bench.until(lambda: bench.storage.asked.count(b"/hung0") > 1)


def test_one_that_is_dropped_while_it_hangs_is_told_no_longer(bench: Bench) -> None:
    hung = bench.storage.hanging[b"/hung"] = threading.Event()
    bench.watch("1", b"/hung")
    bench.until(lambda: bench.last("1") == "late")
    bench.prober.order(b"- 1")
    hung.set()
    bench.watch("2", b"/good")
    bench.until(lambda: bench.last("2") == "ok")
    assert bench.last("1") == "late"


def test_too_many_threads_stuck_in_what_is_gone_end_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(prober, "ORPHANS_LIMIT", 2)
    for number in range(3):
        path = b"/hung%d" % number
        bench.storage.hanging[path] = threading.Event()
        bench.watch("1", path)
        bench.until(lambda path=path: path in bench.storage.asked)  # type: ignore[misc]
        bench.prober.order(b"- 1")
    bench.prober.turn()
    assert ended == [prober.EXIT_STUCK]


def test_another_file_system_at_the_place(bench: Bench, tmp_path: Path) -> None:
    bench.watch("1", os.fsencode(tmp_path), device="0:0")
    bench.until(lambda: bench.last("1") == "elsewhere")
    number = tmp_path.stat().st_dev
    bench.watch("2", os.fsencode(tmp_path), device=f"{os.major(number)}:{os.minor(number)}")
    bench.until(lambda: bench.last("2") == "ok")


@given(st.binary(max_size=100))
def test_odd_orders_never_raise(line: bytes) -> None:
    prober.Prober(lambda _line: None).order(line)
    prober.Prober(lambda _line: None).order(b"+ " + line)


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(["ok", "late", "error", "9" * 19, "7"])).map(" ".join)))
def test_odd_answers_never_raise(said: str) -> None:
    understood(said, NAS)


def test_answers() -> None:
    assert understood("ok 100 50 7", NAS) == Answer(space=Space(total=100, free=50, files_free=7))
    assert understood("late 1764087738000000", NAS) == Answer(
        problem="it has not answered since 2025-11-25 16:22:18 UTC", since_usec=1764087738000000
    )
    stale = understood(f"error {errno.ESTALE} 5", NAS)
    assert stale is not None
    assert "(ESTALE)" in stale.problem
    assert "umount -l /srv/vm" in stale.problem
    assert stale.since_usec == 5


class Watched:
    """A Probe that runs, and waiting for what it says."""

    def __init__(self, *command: str) -> None:
        self._news = asyncio.Event()
        self.probe = Probe(self._news.set, command=command or probe.COMMAND)

    async def until(self, wanted: Callable[[Answer | None], bool], key: str = "a") -> Answer:
        async with asyncio.timeout(SOON):
            while not wanted(self.probe.answer(key)):
                self._news.clear()
                await self._news.wait()
        answer = self.probe.answer(key)
        assert answer is not None
        return answer


@contextlib.asynccontextmanager
async def watched(*command: str) -> AsyncIterator[Watched]:
    it = Watched(*command)
    task = asyncio.create_task(it.probe.run())
    yield it
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def stub(path: Path, text: str) -> tuple[str, str]:
    path.write_text(text)
    return sys.executable, str(path)


def test_a_real_process_asks_a_real_file_system(tmp_path: Path) -> None:
    async def run() -> None:
        async with watched() as it:
            it.probe.watch({"a": Target(point=str(tmp_path)), "b": Target(point=str(tmp_path / "missing\n é"))})
            answer = await it.until(lambda answer: answer is not None)
            assert answer.space is not None
            assert answer.space.total > answer.space.free > 0
            problem = (await it.until(lambda answer: answer is not None, "b")).problem
            assert "(ENOENT)" in problem
            it.probe.watch({})
            assert it.probe.answer("a") is None

    asyncio.run(run())


def test_a_prober_that_dies_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "REST_SECONDS", (0.05, 0.1))
    died = tmp_path / "died"
    command = stub(
        tmp_path / "stub.py",
        f"""
import os, sys
order = sys.stdin.readline().split()
print(order[1], "ok 100 50 0", flush=True)
if not os.path.exists({str(died)!r}):
    open({str(died)!r}, "w").close()
    sys.exit(3)
print(order[1], "late 7", flush=True)
sys.stdin.read()
""",
    )

    async def run() -> None:
        async with watched(*command) as it:
            it.probe.watch({"a": NAS})
            await it.until(lambda answer: answer is not None and "has ended" in answer.problem)
            answer = await it.until(lambda answer: answer is not None and answer.since_usec == 7)
            assert "has not answered" in answer.problem

    asyncio.run(run())


def test_a_prober_that_cannot_be_started(tmp_path: Path) -> None:
    async def run() -> None:
        async with watched(str(tmp_path / "missing")) as it:
            it.probe.watch({"a": NAS, "disk": Target(point="/", is_remote=False)})
            answer = await it.until(lambda answer: answer is not None)
            assert "cannot be started: No such file" in answer.problem
            assert it.probe.answer("disk") is None

    asyncio.run(run())


def test_the_prober_ends_when_its_input_does() -> None:
    async def run() -> None:
        process = await asyncio.create_subprocess_exec(*probe.COMMAND, stdin=asyncio.subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(SOON):
            assert await process.wait() == 0

    asyncio.run(run())
