"""The picture of this host, kept by its monitors and read by everybody else."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Protocol

import msgspec
import structlog

from kvmigd.model.state import SUBJECTS, HostState, StateChange
from kvmigd.model.subject import Subject

log = structlog.get_logger(__name__)

_NAMES: dict[type[Subject], str] = {type(HostState().subject(name)): name for name in SUBJECTS}


class Monitor(Protocol):
    """Keeps one subject of the picture true.

    `run` works for ever: it publishes what is true, then waits for an event and publishes again. What goes wrong on the
    host (a service away, a file that cannot be read) becomes the subject's `problem`, or the `problem` of the part that
    it touches; an exception that leaves `run` is a defect and takes the daemon down.
    """

    async def run(self) -> None:
        """Keep the subject true, for ever."""


class Picture:
    """Holds the HostState. All calls belong on the event loop."""

    def __init__(self, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._state = HostState()
        self._listeners: list[Callable[[StateChange], None]] = []
        self._announced: set[str] = set()
        self._published = asyncio.Event()

    @property
    def state(self) -> HostState:
        """The present snapshot."""
        return self._state

    def subscribe(self, listener: Callable[[StateChange], None]) -> None:
        """Call `listener` after each change, in the order of the changes."""
        self._listeners.append(listener)

    def announce(self, kind: type[Subject]) -> None:
        """Something of that subject has changed, and will be published soon."""
        self._announced.add(_NAMES[kind])

    async def settled(self, *kinds: type[Subject], seconds: float = 0.5) -> HostState:
        """The snapshot with everything in it that was announced of these subjects; in a storm the one after `seconds`.

        What the kernel told before the question was asked is in the answer.
        """
        await asyncio.sleep(0)  # events that are there already are heard first
        names = {_NAMES[kind] for kind in kinds}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not names.isdisjoint(self._announced):
                    self._published.clear()
                    await self._published.wait()
        return self._state

    def publish(self, subject: Subject) -> bool:
        """Replace the subject of that type; returns whether anything has changed.

        `since_usec` is set here: the moment when the subject became known or unknown.
        """
        name = _NAMES[type(subject)]
        self._announced.discard(name)
        self._published.set()
        before = self._state.subject(name)
        same = bool(subject.problem) == bool(before.problem)
        since = before.since_usec if same and before.since_usec else self._clock() // 1000
        subject = msgspec.structs.replace(subject, since_usec=since)
        if subject == before:
            return False
        if subject.problem != before.problem:
            log.info("subject changed", subject=name, problem=subject.problem)
        now = msgspec.structs.replace(self._state, generation=self._state.generation + 1, **{name: subject})
        self._tell(StateChange(before=self._state, now=now, subjects=(name,)))
        return True

    def unknown(self, kind: type[Subject], problem: str) -> bool:
        """A subject is no longer known, and nothing of it is told any longer."""
        return self.publish(kind(problem=problem))

    def shift(self, seconds: float) -> None:
        """The wall clock was set forward (or back) by so much: what began at a moment began at another one by it."""
        state = self._state
        moved = {
            name: msgspec.structs.replace(subject, since_usec=subject.since_usec + int(seconds * 1e6))
            for name in SUBJECTS
            if (subject := state.subject(name)).since_usec
        }
        now = msgspec.structs.replace(state, generation=state.generation + 1, **moved)
        self._tell(StateChange(before=state, now=now, subjects=tuple(moved)))

    def _tell(self, change: StateChange) -> None:
        self._state = change.now
        for listener in tuple(self._listeners):
            listener(change)
