"""Long work on the event loop, in slices between which the loop turns."""

from __future__ import annotations

import asyncio
import time

SLICE = 0.003
"""Seconds that one piece of work may hold the loop.

A thread would not be kinder to it: what is long here is Python code, which keeps the interpreter's lock for 5 ms at a
time (sys.getswitchinterval), and each time that the loop comes back from a system call it would wait for that lock.
"""


class Pace:
    """`await turn()` between any two small steps of the work."""

    def __init__(self, slice_seconds: float = SLICE) -> None:
        self._slice = slice_seconds
        self._began = time.perf_counter()

    @property
    def is_due(self) -> bool:
        """The slice is used up."""
        return time.perf_counter() - self._began > self._slice

    async def turn(self) -> None:
        """Let others run, if it is time."""
        if self.is_due:
            await asyncio.sleep(0)
            self.begin()

    def begin(self) -> None:
        """A new slice begins."""
        self._began = time.perf_counter()
