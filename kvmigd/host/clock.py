"""The host's clock: whether it is synchronised, and when it is set. Both come from the kernel, without polling."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from kvmigd.host import process
from kvmigd.host.files import Files, Watch
from kvmigd.model.system import Clock

log = structlog.get_logger(__name__)

JUMP_SECONDS = 0.001
"""What is less is no jump: nothing that is told is that exact."""

FILES: tuple[str, ...] = (
    *("run/systemd/timesync/synchronized", "run/chrony/chronyd.pid", "run/chronyd.pid", "run/ntpd.pid"),
    *("var/lib/chrony/chrony.drift", "var/lib/chrony/drift", "var/lib/ntp/ntp.drift", "var/lib/ntp/drift"),
    *("var/lib/ntpsec/ntp.drift", "var/db/ntpd.drift"),
)
"""What timesyncd, chronyd, ntpd and ntpsec write when they start or have set the clock's rate."""

LOOKS_SECONDS: tuple[float, ...] = tuple(float(1 << step) for step in range(11))
"""After an event that finds the clock not synchronised it is looked at again so much later each: chronyd and ntpd write
nothing when they get there, which takes them seconds to minutes. Then only the next event counts."""

_TICK_USEC = 500
"""The kernel adds so much to the error each second (MAXFREQ), and at 16 s calls the clock unsynchronised
(NTP_PHASE_LIMIT, kernel/time/ntp.c): that moment is known beforehand."""
_LIMIT_USEC = 16_000_000
_TIMEDATED = ("timedatectl", "show", "--property=NTPSynchronized", "--value")
_TIMEDATED_SECONDS = 5.0
_STA_UNSYNC = 0x40
_TIME_ERROR = 5
_CLOCK_REALTIME = 0
_ABSTIME, _CANCEL_ON_SET = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), up to what is read here; the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_char * 256),
    )


class _Timerspec(ctypes.Structure):
    """struct itimerspec."""

    _fields_ = tuple(
        (name, ctypes.c_long) for name in ("interval_seconds", "interval_nanoseconds", "seconds", "nanoseconds")
    )


class Discipline(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel says of its clock."""

    synchronised: bool | None
    seconds_left: float = 0.0
    """How long it will go on saying so if nothing disciplines the clock any longer."""


def judge(state: int, status: int, maxerror: int) -> Discipline:
    """The result of adjtimex(2), the status it fills in, and the greatest possible error in microseconds."""
    if status & _STA_UNSYNC or state == _TIME_ERROR:
        return Discipline(synchronised=False)
    return Discipline(synchronised=True, seconds_left=max(1.0, (_LIMIT_USEC - maxerror) / _TICK_USEC + 1))


async def discipline() -> Discipline:
    """Ask the kernel, changing nothing, or timedated where a filter of system calls forbids the question.

    ProtectClock= of systemd.exec(5) does: it knows no difference between reading and setting. `synchronised` is None
    where neither answers.
    """
    timex = _Timex()
    state = _libc.adjtimex(ctypes.byref(timex))
    if state >= 0:
        return judge(state, timex.status, timex.maxerror)
    try:
        told = await process.run(_TIMEDATED, seconds=_TIMEDATED_SECONDS)
    except OSError:
        return Discipline(synchronised=None)
    return told_by_timedated(told.output)


def told_by_timedated(output: bytes) -> Discipline:
    """What `timedatectl show` prints of NTPSynchronized; how long the kernel will go on it does not tell."""
    match output.strip():
        case b"yes":
            return Discipline(synchronised=True, seconds_left=_LIMIT_USEC / _TICK_USEC)
        case b"no":
            return Discipline(synchronised=False)
        case _:
            return Discipline(synchronised=None)


def offset() -> float:
    """Wall clock less boot time, in seconds. It changes only when the clock is set: both are slewed alike, and the time
    asleep counts in both."""
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    wall = time.clock_gettime_ns(time.CLOCK_REALTIME)
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return (wall - (before + after) // 2) / 1e9


class SetTimer:
    """A file descriptor that is readable when the wall clock was set (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).

    It is a timer for a day that nobody sees. By ctypes, since os.timerfd_create is new in Python 3.13.
    """

    def __init__(self) -> None:
        self.fd: int = _libc.timerfd_create(_CLOCK_REALTIME, os.O_CLOEXEC | os.O_NONBLOCK)
        if self.fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.arm()

    def arm(self) -> None:
        """Set it; ECANCELED says that the clock was set just now, and it is set all the same."""
        day = 1 << 32 if ctypes.sizeof(ctypes.c_long) == 8 else (1 << 31) - 1
        spec = _Timerspec(seconds=day)
        if _libc.timerfd_settime(self.fd, _ABSTIME | _CANCEL_ON_SET, ctypes.byref(spec), None) < 0:
            number = ctypes.get_errno()
            if number != errno.ECANCELED:
                raise OSError(number, os.strerror(number))

    def clear(self) -> None:
        """Take note; it is not readable any longer."""
        with contextlib.suppress(OSError):  # ECANCELED is what is read; EAGAIN if nothing was
            os.read(self.fd, 8)
        self.arm()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


class ClockWatch:
    """Keeps a Clock true while it is entered and runs; `changed` is called on the event loop after each change."""

    def __init__(
        self,
        files: Files,
        *,
        changed: Callable[[], None],
        root: Path = Path("/"),
        ask: Callable[[], Awaitable[Discipline]] = discipline,
        offset: Callable[[], float] = offset,
    ) -> None:
        self.clock = Clock()
        self._files = files
        self._changed = changed
        self._root = root
        self._ask = ask
        self._offset = offset
        self._known_offset = offset()
        self._listeners: list[Callable[[float], None]] = []
        self._looks = 0
        self._due = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._timer: SetTimer | None = None
        self._watch: Watch | None = None

    def on_jump(self, listener: Callable[[float], None]) -> None:
        """Call `listener` with the seconds by which the wall clock was set forward (or, negative, back)."""
        self._listeners.append(listener)

    async def __aenter__(self) -> ClockWatch:
        self._known_offset = self._offset()
        self._timer = SetTimer()
        asyncio.get_running_loop().add_reader(self._timer.fd, self._on_set)
        self._watch = self._files.watch([self._root / name for name in FILES], self.look)
        self.look()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._watch is not None:
            self._watch.close()
        if self._timer is not None:
            asyncio.get_running_loop().remove_reader(self._timer.fd)
            self._timer.close()

    async def run(self) -> None:
        """Look whenever it is due, for ever."""
        while True:
            await self._due.wait()
            self._due.clear()
            await self._look()

    def look(self) -> None:
        """Something has happened that can have changed it."""
        self._looks = 0
        self._due.set()

    async def _look(self) -> None:
        found = await self._ask()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        after = found.seconds_left
        if found.synchronised is False and self._looks < len(LOOKS_SECONDS):
            after = LOOKS_SECONDS[self._looks]
            self._looks += 1
        if after:
            self._alarm = asyncio.get_running_loop().call_later(after, self._due.set)
        self._tell(msgspec.structs.replace(self.clock, synchronised=found.synchronised))

    def _on_set(self) -> None:
        """The clock was set, or the host has slept."""
        if self._timer is not None:
            self._timer.clear()
        self.check_jump()
        self.look()

    def check_jump(self) -> None:
        """Compare the wall clock with what it should say, and tell a jump."""
        now = self._offset()
        jump, self._known_offset = now - self._known_offset, now
        if abs(jump) < JUMP_SECONDS:
            return
        log.info("clock set", seconds=round(jump, 3))
        for listener in tuple(self._listeners):
            listener(jump)
        self._tell(msgspec.structs.replace(self.clock, jumps=self.clock.jumps + 1))

    def _tell(self, clock: Clock) -> None:
        if clock != self.clock:
            self.clock = clock
            self._changed()
