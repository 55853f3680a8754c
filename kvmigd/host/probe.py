"""The daemon's side of the prober: the process that asks file systems how they are, and may be lost to one of them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from kvmigd.model.mounts import Space

log = structlog.get_logger(__name__)

COMMAND = (sys.executable, "-I", "-S", str(Path(__file__).with_name("prober.py")))
REST_SECONDS = (0.2, 60.0)
"""Between the end of a prober and the next one: from, to; doubled each time that one did not live for a minute."""
STEADY_SECONDS = 60.0
LEAVE_SECONDS = 0.5
"""So long a prober that was killed is waited for. One that is stuck in the kernel is left to it."""

_REMEDIES = {
    errno.ESTALE: "the server no longer knows what was mounted; `umount -l {point}` and mount it again",
    errno.ENOTCONN: "the process that serves it has died; `umount {point}` and mount it again",
    errno.EIO: "see the kernel's messages (`journalctl -k`)",
    errno.EHOSTDOWN: "its server does not answer",
}


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A mount to be asked for."""

    point: str
    device: str = "-"
    """major:minor that must be seen there, so that not another file system answers; `-` where that says nothing."""
    seconds: float = 2.0
    """Between two questions."""
    is_remote: bool = True


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How a mount is."""

    space: Space | None = None
    problem: str = ""
    since_usec: int = 0


class Probe:
    """Keeps a prober running while there is something to ask, and remembers what it said last.

    `on_news` is called on the event loop after each answer that differs.
    """

    def __init__(self, on_news: Callable[[], None], *, command: Sequence[str] = COMMAND) -> None:
        self._on_news = on_news
        self._command = command
        self._numbers: dict[str, int] = {}
        self._targets: dict[str, Target] = {}
        self._keys: dict[int, str] = {}
        self._answers: dict[str, Answer] = {}
        self._next = 1
        self._wanted = asyncio.Event()
        self._orders: asyncio.WriteTransport | None = None

    def watch(self, targets: Mapping[str, Target]) -> None:
        """Ask for these from now on, and for no others. What is known of one that has not changed stays known."""
        orders = []
        for key, target in tuple(self._targets.items()):
            if targets.get(key) != target:
                orders.append(f"- {self._numbers[key]}\n")
                self._forget(key)
        for key, target in targets.items():
            if key not in self._targets:
                self._targets[key] = target
                self._numbers[key] = self._next
                self._keys[self._next] = key
                orders.append(_order(self._next, target))
                self._next += 1
        if self._targets:
            self._wanted.set()
        if self._orders is not None and orders:
            self._orders.write("".join(orders).encode())

    def _forget(self, key: str) -> None:
        del self._targets[key]
        del self._keys[self._numbers.pop(key)]
        self._answers.pop(key, None)

    def answer(self, key: str) -> Answer | None:
        """What was said last about a target; None where nothing was said yet."""
        return self._answers.get(key)

    async def run(self) -> None:
        """Start a prober when there is something to ask, and another one when it ends. For ever."""
        rest = REST_SECONDS[0]
        while True:
            self._wanted.clear()
            if not self._targets:
                await self._wanted.wait()
            began = time.monotonic()
            why = await self._serve()
            log.warning("prober ended", reason=why)
            self._unwatched(why)
            if time.monotonic() - began > STEADY_SECONDS:
                rest = REST_SECONDS[0]
            await asyncio.sleep(rest)
            rest = min(rest * 2, REST_SECONDS[1])

    async def _serve(self) -> str:
        """Run one prober to its end; returns why it ended."""
        loop = asyncio.get_running_loop()
        try:
            transport, process = await loop.subprocess_exec(
                lambda: _Process(self._on_line), *self._command, stderr=None, env={"LC_ALL": "C.UTF-8"}
            )
        except OSError as error:
            return f"the process that asks cannot be started: {error.strerror or error}"
        try:
            orders = transport.get_pipe_transport(0)
            assert isinstance(orders, asyncio.WriteTransport)
            self._orders = orders
            orders.write("".join(_order(self._numbers[key], it) for key, it in self._targets.items()).encode())
            await process.ended.wait()
            return "the process that asks has ended"
        finally:
            self._orders = None
            transport.close()
            # Threads in the kernel can keep it from dying; then it is left to itself.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await process.exited.wait()

    def _unwatched(self, why: str) -> None:
        """Nothing is known any longer. For storage on a network that is worth a word."""
        now = time.time_ns() // 1000
        unknown = Answer(problem=f"whether it answers is not known: {why}", since_usec=now)
        self._answers = {key: unknown for key, target in self._targets.items() if target.is_remote}
        self._on_news()

    def _on_line(self, line: bytes) -> None:
        number, _, said = line.decode(errors="replace").partition(" ")
        key = self._keys.get(int(number)) if number.isascii() and number.isdigit() else None
        if key is None:
            return  # it was asked for no longer when this was on its way
        answer = understood(said, self._targets[key])
        if answer is not None and answer != self._answers.get(key):
            if answer.problem:
                log.warning("storage does not answer", point=self._targets[key].point, problem=answer.problem)
            self._answers[key] = answer
            self._on_news()


def understood(said: str, target: Target) -> Answer | None:
    """What a line of the prober's means, without its key; None where it means nothing."""
    word, *rest = said.split() or [""]
    if not all(value.isascii() and value.isdigit() and len(value) < 20 for value in rest):
        return None
    match word, *map(int, rest):
        case "ok", int(total), int(free), int(files):
            return Answer(space=Space(total=total, free=free, files_free=files))
        case "late", int(usec):
            return Answer(problem=f"it has not answered since {_moment(usec)}", since_usec=usec)
        case "error", int(number), int(usec):
            name = errno.errorcode.get(number, str(number))
            problem = f"it answers with an error: {os.strerror(number) if number < 4096 else number} ({name})"
            remedy = _REMEDIES.get(number, "").format(point=target.point)
            return Answer(problem=f"{problem}; {remedy}" if remedy else problem, since_usec=usec)
        case "elsewhere", *_ if target.is_remote:
            return Answer(problem="whether it answers is not known: kvmigd's unit sees something else at its place")
        case "elsewhere", *_:
            return Answer()
    return None


def _moment(usec: int) -> str:
    try:
        return datetime.fromtimestamp(usec // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{usec} µs"


def _order(number: int, target: Target) -> str:
    return f"+ {number} {target.seconds} {target.device or '-'} {os.fsencode(target.point).hex()}\n"


class _Process(asyncio.SubprocessProtocol):
    """Splits what the prober writes into lines, and tells when it has ended."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self.ended = asyncio.Event()
        self.exited = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._on_line(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.ended.set()

    def process_exited(self) -> None:
        self.ended.set()
        self.exited.set()
