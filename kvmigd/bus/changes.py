"""Tells what changes in the picture of the host, as it changes: the signal org.kvmigd1.Host.Changed."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import structlog

from kvmigd.bus.pace import Pace
from kvmigd.host.picture import Picture
from kvmigd.model.encoding import to_json
from kvmigd.model.state import SUBJECTS, HostState, StateChange
from kvmigd.model.subject import ItemChange, Subject, item_changes

log = structlog.get_logger(__name__)

CHANGES = 100
"""Most changes in one signal."""
BYTES = 256 << 10
"""A signal that has so many bytes of values takes no further change: the bus carries some MiB, but others wait."""
REST = 2.0
"""After telling, so many times as long as it took belong to others; at rest nobody notices."""
LONGEST_REST = 0.05
"""Seconds."""

_WORTH_TRIMMING = 50
_STRETCH = 500

Row = tuple[str, str, str, bytes]
"""kind, field, key and the value as JSON."""

Tell = Callable[[int, str, list[Row]], "asyncio.Future[None] | None"]
"""Sends one signal: generation, subject, changes. The future is done when the bus has taken it."""


class Teller:
    """Keeps the bus told. What is told is always the difference between what was told last and what is true now.

    One signal is under way at a time. If the picture changes faster than it can be told, generations are merged.
    """

    def __init__(self, picture: Picture, tell: Tell) -> None:
        self._picture = picture
        self._tell = tell
        self._told = picture.state
        self._steps: Iterator[asyncio.Future[None] | None] | None = None
        self._handle: asyncio.Handle | None = None
        self._took = 0.0
        self._rest_until = 0.0
        self._waiting: list[asyncio.Future[None]] = []
        self._closed = False
        picture.subscribe(self._on_change)

    def close(self) -> None:
        """Tell nothing any more."""
        self._closed = True
        if self._handle:
            self._handle.cancel()

    async def caught_up(self) -> HostState:
        """A state that has been told of in full, and is not older than this call.

        Who hears the signals that come after it has the whole truth: differences to a state that was never told would
        leave out what had changed and changed back.
        """
        wanted = self._picture.state.generation
        while self._told.generation < wanted:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
        return self._told

    def _on_change(self, _change: StateChange) -> None:
        self._begin()

    def _begin(self) -> None:
        if self._closed or self._steps is not None:
            return
        loop = asyncio.get_running_loop()
        self._steps = self._all_steps()
        self._took = 0.0
        wait = self._rest_until - loop.time()
        self._handle = loop.call_later(wait, self._step) if wait > 0 else loop.call_soon(self._step)

    def _all_steps(self) -> Iterator[asyncio.Future[None] | None]:
        """Signal after signal, until what is told is what was true when the first one was made."""
        target = self._picture.state
        for name in SUBJECTS:
            for rows in _signals(self._told.subject(name), target.subject(name)):
                yield self._tell(target.generation, name, rows) if rows else None
        self._told = target

    def _step(self) -> None:
        """Work for one slice, then let the loop turn, or wait until the bus has taken what was sent."""
        if self._closed or self._steps is None:
            return
        loop = asyncio.get_running_loop()
        pace, began = Pace(), loop.time()
        sent: asyncio.Future[None] | None = None
        try:
            for sent in self._steps:
                if pace.is_due or (sent is not None and not sent.done()):
                    break
            else:
                self._steps = None
        except Exception:
            log.exception("changes cannot be told")
            self._told, self._steps = self._picture.state, None
        self._took += loop.time() - began
        if self._steps is None:
            self._ended(loop)
        elif sent is not None and not sent.done():
            sent.add_done_callback(lambda _: self._step())
        else:
            self._handle = loop.call_soon(self._step)

    def _ended(self, loop: asyncio.AbstractEventLoop) -> None:
        self._rest_until = loop.time() + min(REST * self._took, LONGEST_REST)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
        if self._told is not self._picture.state:
            self._begin()


def _signals(before: Subject, now: Subject) -> Iterator[list[Row]]:
    """The rows of one signal after another; an empty list now and then, where the work is long."""
    if before is now:
        return
    before, now = trimmed(before, now)
    yield []
    rows: list[Row] = []
    size = 0
    for change in item_changes(before, now):
        rows.append(_row(change))
        size += len(rows[-1][3])
        if len(rows) == CHANGES or size >= BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _row(change: ItemChange) -> Row:
    return change.kind, change.field, change.key, b"" if change.kind == "removed" else to_json(change.value)


def trimmed(before: Subject, now: Subject) -> tuple[Subject, Subject]:
    """Both without what long tuples have in common at their beginning and end.

    One mount of 10,000 comes or goes at a time; to look at all of them by key each time would take ten times as long.
    """
    olds: dict[str, Any] = {}
    news: dict[str, Any] = {}
    for field in now.__struct_fields__:
        old, new = getattr(before, field), getattr(now, field)
        if isinstance(old, tuple) and isinstance(new, tuple) and min(len(old), len(new)) > _WORTH_TRIMMING:
            first = _alike(old, new)
            old, new = old[first:], new[first:]
            last = _alike(old[::-1], new[::-1])
            if hasattr((old or new or (None,))[0], "key"):
                olds[field], news[field] = old[: len(old) - last], new[: len(new) - last]
    return msgspec.structs.replace(before, **olds), msgspec.structs.replace(now, **news)


def _alike(some: tuple[Any, ...], others: tuple[Any, ...]) -> int:
    """How many elements at the beginning are equal; whole stretches are compared first, which is fast."""
    shorter = min(len(some), len(others))
    stretch = range(0, shorter, _STRETCH)
    first = next((at for at in stretch if some[at : at + _STRETCH] != others[at : at + _STRETCH]), shorter)
    pairs = enumerate(map(operator.eq, some[first:], others[first:]), first)
    return next((number for number, same in pairs if not same), shorter)
