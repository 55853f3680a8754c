"""Keeps the mounts in the picture true: the kernel's events, the plans for the next boot, the storage's answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from kvmigd.host import persistence
from kvmigd.host.files import Files, Watch
from kvmigd.host.mounts import MountLines
from kvmigd.host.persistence import Plans
from kvmigd.host.picture import Picture
from kvmigd.host.probe import Answer, Probe, Target
from kvmigd.model.mounts import MountFact, MountKind, Mounts

log = structlog.get_logger(__name__)

TABLES = ("proc/1/mountinfo", "proc/self/mountinfo")
"""PID 1's is the host's. Our own is a copy whose options are those of the sandbox (ProtectSystem= makes all of it
read-only), but better than nothing where /proc is mounted with hidepid."""

PAUSE_SECONDS = (0.005, 0.06)
PAUSE_FACTOR = 4.0
"""After each reading so many times as long as it took nothing is read, within these limits: in a storm of mounts others
have the processor most of the time, and one mount is told at once."""
INLINE_SECONDS = 0.002
"""A table that is read and parsed in this time is read on the event loop; a thread would take longer to wake up."""
RETRY_SECONDS = (0.1, 10.0)

ASK_SECONDS = {MountKind.NETWORK: 2.0, MountKind.CLUSTER: 2.0, MountKind.DISK: 30.0}
"""How often storage is asked. A disk is asked for its space only, and hardly ever hangs."""
_FULL_TYPES = frozenset({"iso9660", "squashfs", "erofs", "cramfs", "romfs", "udf"})


class _Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The table as it was read, and which mounts in it are asked for under which key."""

    facts: tuple[MountFact, ...]
    members: tuple[tuple[int, str], ...]
    targets: Mapping[str, Target]


class MountTable:
    """Monitor of the mounts.

    An event of the kernel's is published within a few milliseconds. In a storm readings are put off, so that the loop
    turns and the processor is free; the truth is there within a fifth of a second after the last mount.
    """

    def __init__(
        self,
        picture: Picture,
        files: Files,
        *,
        root: Path = Path("/"),
        probe: Callable[[Callable[[], None]], Probe] = Probe,
    ) -> None:
        self._picture = picture
        self._files = files
        self._root = root
        self._probe = probe(self._on_answer)
        self._lines = MountLines()
        self._plans = Plans()
        self._plans_watch: Watch | None = None
        self._woken = asyncio.Event()
        self._table_changed = True
        self._plans_changed = True
        self._reading = _Reading(facts=(), members=(), targets={})
        self._took = 0.0
        self._answered: dict[int, tuple[MountFact, Answer, MountFact]] = {}

    async def run(self) -> None:
        """Keep the mounts true, for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._probe.run(), name="probe")
                await self._keep()
        finally:
            if self._plans_watch is not None:
                self._plans_watch.close()

    async def _keep(self) -> None:
        rest = RETRY_SECONDS[0]
        while True:
            self._table_changed = True
            try:
                with self._opened() as table:
                    while True:
                        await self._look(table)
                        rest = RETRY_SECONDS[0]
                        await self._next_event()
            except OSError as error:
                what = f"{self._root / TABLES[0]} cannot be read: {error.strerror or error}"
                self._picture.unknown(Mounts, what)
                self._probe.watch({})
            await asyncio.sleep(rest)
            rest = min(rest * 2, RETRY_SECONDS[1])

    async def _next_event(self) -> None:
        read_at = time.monotonic()
        await self._woken.wait()
        if self._table_changed:
            pause = min(max(PAUSE_FACTOR * self._took, PAUSE_SECONDS[0]), PAUSE_SECONDS[1])
            left = read_at + pause - time.monotonic()
            if left > 0:
                await asyncio.sleep(left)

    async def _look(self, table: int) -> None:
        """Read what has changed, and publish."""
        self._woken.clear()
        began = time.monotonic()
        if self._plans_changed:
            self._plans_changed = False
            await self._read_plans()
            self._table_changed = True
        if self._table_changed:
            self._table_changed = False
            began = time.monotonic()
            # One at a time: MountLines belongs to whoever reads.
            if 0 < self._took < INLINE_SECONDS:
                self._reading = self._read(table)
            else:
                self._reading = await asyncio.to_thread(self._read, table)
            self._took = time.monotonic() - began
            self._probe.watch(self._reading.targets)
        self._picture.publish(Mounts(problem="", mounts=self._with_answers()))
        if self._table_changed:  # while it was read
            self._picture.announce(Mounts)

    async def _read_plans(self) -> None:
        plans, paths = await asyncio.to_thread(persistence.read, self._root)
        if plans != self._plans:
            self._plans = plans
            self._lines.forget()
        if self._plans_watch is None or self._plans_watch.paths != paths:
            if self._plans_watch is not None:
                self._plans_watch.close()
            else:
                # What was written between the reading and this would not be told: read once more.
                self._plans_changed = True
                self._woken.set()
            self._plans_watch = self._files.watch(paths, self._on_plans)

    def _read(self, table: int) -> _Reading:
        os.lseek(table, 0, os.SEEK_SET)
        data = b"".join(iter(lambda: os.read(table, 1 << 18), b""))
        facts = self._lines.parse(data, judge=self._plans.persistence)
        members, targets = list[tuple[int, str]](), dict[str, Target]()
        for place, fact in enumerate(facts):
            if fact.kind in ASK_SECONDS and not fact.covered and not fact.deleted and fact.fs_type not in _FULL_TYPES:
                # One question for all mounts of the same file system; what a server exports can go stale by the folder.
                key = f"{fact.device} {fact.root}" if fact.kind.is_remote else fact.device
                members.append((place, key))
                if key not in targets:
                    targets[key] = _target(fact)
        return _Reading(facts=facts, members=tuple(members), targets=targets)

    def _with_answers(self) -> tuple[MountFact, ...]:
        """The mounts with what is known of the storage behind them; those of which nothing is new stay as they are."""
        facts, before, now = list(self._reading.facts), self._answered, dict[int, tuple[MountFact, Answer, MountFact]]()
        for place, key in self._reading.members:
            answer, fact = self._probe.answer(key), facts[place]
            if answer is None:
                continue
            entry = before.get(id(fact))
            if entry is None or entry[0] is not fact or entry[1] != answer:
                told = msgspec.structs.replace(
                    fact, space=answer.space, problem=answer.problem, problem_since_usec=answer.since_usec
                )
                entry = fact, answer, told
            now[id(fact)] = entry
            facts[place] = entry[2]
        self._answered = now
        return tuple(facts)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """The table, and events of it while it is open."""
        table = _open_first([self._root / name for name in TABLES])
        try:
            with contextlib.ExitStack() as stack:
                self._listen(table, stack)
                yield table
        finally:
            os.close(table)

    def _listen(self, table: int, stack: contextlib.ExitStack) -> None:
        """Have `_on_table` called.

        The kernel signals a change as POLLPRI | POLLERR and forgets it when it has been asked. The loop, which asks for
        reading, would spin on the file itself; through an epoll of its own it is woken once a change, as long as nobody
        else asks that epoll.
        """
        events = stack.enter_context(select.epoll())
        try:
            events.register(table, select.EPOLLPRI)
        except PermissionError:  # an ordinary file, in a tree that is not the kernel's
            watch = self._files.watch([self._root / name for name in TABLES], self._on_table)
            stack.callback(watch.close)
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(events.fileno(), self._on_table)
        stack.callback(loop.remove_reader, events.fileno())

    def _on_table(self) -> None:
        self._table_changed = True
        self._picture.announce(Mounts)
        self._woken.set()

    def _on_plans(self) -> None:
        self._plans_changed = True
        self._woken.set()

    def _on_answer(self) -> None:
        self._woken.set()


def _open_first(paths: Sequence[Path]) -> int:
    """Opens the first that can be opened; raises OSError of the first that cannot."""
    first: OSError | None = None
    for path in paths:
        try:
            table = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            first = first or error
            continue
        if first is not None:
            log.warning("mount table of another process", path=str(path), reason=str(first))
        return table
    assert first is not None
    raise first


def _target(fact: MountFact) -> Target:
    # Each subvolume of btrfs has a device number of its own that is not in the mount table.
    device = "-" if fact.fs_type == "btrfs" or not fact.device else fact.device
    return Target(point=fact.point, device=device, seconds=ASK_SECONDS[fact.kind], is_remote=fact.kind.is_remote)
