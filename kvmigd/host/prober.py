"""A process of its own that asks file systems how they are, and can be given up when one of them never answers.

statvfs(2) on a dead NFS server or a stopped FUSE daemon blocks in the kernel for ever and takes its thread along. Run
as a script, `python -I -S prober.py`: it imports nothing of kvmigd and next to nothing else, to stay small.

It reads orders on standard input, a line each: `+ KEY SECONDS MAJOR:MINOR PATH` (ask every so many seconds; the path in
hex; `-` for a device that is not to be compared) and `- KEY`. It writes a line on standard output whenever an answer
differs from the one before, and nothing otherwise:

    KEY ok TOTAL FREE FILES     bytes, bytes, number of files, in steps of a hundredth of the size
    KEY late USEC               no answer since then, microseconds since 1970
    KEY error ERRNO USEC        this error since then
    KEY elsewhere               another file system is seen at that place from here

It ends when its standard input does.
"""

from __future__ import annotations

import _thread
import os
import select
import sys
import time
from collections.abc import Callable

LATE_SECONDS = 2.5
"""An answer that takes longer is told as late: with a question every two seconds, within 4.5 s of the last good one."""
RELIEF_SECONDS = 0.05
"""Questions that wait so long for a thread get more of them: those that there are may be stuck."""
IDLE_THREADS = 2
ORPHANS_LIMIT = 32
"""So many threads stuck in mounts that nobody asks for any longer are too many: a fresh process is needed."""
EXIT_STUCK = 3
_STEPS = 100


class Place:
    """A mount to be asked for. Its state belongs to the lock of the Prober."""

    def __init__(self, key: str, seconds: float, device: str, path: bytes) -> None:
        self.key, self.seconds, self.device, self.path = key, seconds, device, path
        self.due = 0.0
        self.waiting = False
        self.started = 0.0
        """Monotonic; 0 while nothing is asked."""
        self.started_usec = 0
        self.is_late = False
        self.dropped = False
        self.told = ""
        self.space = (0, 0, 0)


class Prober:
    """Asks and tells. `tell` gets each line; it is called with the lock held, so that lines keep their order."""

    def __init__(
        self, tell: Callable[[str], None], *, statvfs: Callable[[bytes], os.statvfs_result] = os.statvfs
    ) -> None:
        self._tell = tell
        self._statvfs = statvfs
        self._lock = _thread.allocate_lock()
        self._work = _thread.allocate_lock()  # held while there is nothing to do: a semaphore of one
        self._work.acquire()
        self._places: dict[str, Place] = {}
        self._queue: list[Place] = []
        self._idle = 0
        self._orphans = 0

    def order(self, line: bytes) -> None:
        """Take an order; one that makes no sense is left out."""
        words = line.split()
        try:
            if words[0] == b"+":
                key = words[1].decode()
                self._drop(key)
                place = Place(key, float(words[2]), words[3].decode(), bytes.fromhex(words[4].decode()))
                with self._lock:
                    self._places[key] = place
            elif words[0] == b"-":
                self._drop(words[1].decode())
        except (ValueError, IndexError):
            sys.stderr.write(f"prober: strange order {line!r}\n")

    def _drop(self, key: str) -> None:
        with self._lock:
            place = self._places.pop(key, None)
            if place is not None:
                place.dropped = True
                self._orphans += bool(place.started)

    def turn(self) -> float | None:
        """Ask whom it is time to ask, tell who is late; returns in how many seconds to come again, None for never."""
        now = time.monotonic()
        soonest: float | None = None
        with self._lock:
            if self._orphans > ORPHANS_LIMIT:
                os._exit(EXIT_STUCK)
            starved = len(self._queue)
            for place in self._places.values():
                if place.started:
                    late = place.started + LATE_SECONDS
                    if late <= now and not place.is_late:
                        place.is_late = True
                        self._say(place, f"late {place.started_usec}")
                    wake = now + place.seconds if place.is_late else late
                elif place.waiting:
                    wake = now + RELIEF_SECONDS
                else:
                    if place.due <= now:
                        place.waiting = True
                        # All with the same interval are asked in one go, so that this process wakes up seldom.
                        place.due = (now // place.seconds + 1) * place.seconds
                        self._queue.append(place)
                        wake = now + RELIEF_SECONDS
                    else:
                        wake = place.due
                if soonest is None or wake < soonest:
                    soonest = wake
            threads = min(starved, 16) or (1 if self._queue and not self._idle else 0)
            if self._queue:
                self._wake()
        for _ in range(threads):
            _thread.start_new_thread(self._run, ())
        return None if soonest is None else max(0.0, soonest - time.monotonic()) + 0.001

    def _wake(self) -> None:
        if self._work.locked():
            self._work.release()

    def _run(self) -> None:
        while True:
            with self._lock:
                place = self._next()
                if place is None:
                    if self._idle >= IDLE_THREADS:
                        return
                    self._idle += 1
            if place is None:
                self._work.acquire()
                with self._lock:
                    self._idle -= 1
                    if len(self._queue) > 1:
                        self._wake()
                continue
            said, space = self._ask(place)
            with self._lock:
                place.started = 0.0
                place.is_late = False
                if place.dropped:
                    self._orphans -= 1
                elif space is None:
                    self._say(place, said)
                else:
                    self._say_space(place, *space)

    def _next(self) -> Place | None:
        while self._queue:
            place = self._queue.pop(0)
            place.waiting = False
            if not place.dropped:
                place.started = time.monotonic()
                place.started_usec = time.time_ns() // 1000
                return place
        return None

    def _ask(self, place: Place) -> tuple[str, tuple[int, int, int] | None]:
        try:
            if place.device != "-":
                number = os.stat(place.path).st_dev
                if f"{os.major(number)}:{os.minor(number)}" != place.device:
                    return "elsewhere", None
                place.device = "-"  # once is enough: as long as it is mounted, it is mounted there
            found = self._statvfs(place.path)
        except OSError as error:
            return f"error {error.errno} {place.started_usec}", None
        unit = found.f_frsize or found.f_bsize
        files = found.f_favail if found.f_files else 0
        return "ok", (found.f_blocks * unit, found.f_bavail * unit, min(files, 1 << 62))

    def _say_space(self, place: Place, total: int, free: int, files: int) -> None:
        """Told again when it has moved by a step since it was told last, so that it cannot flap around a border."""
        step, files_step = max(1, total // _STEPS), max(1, files // _STEPS)
        told_total, told_free, told_files = place.space
        moved = abs(free - told_free) >= step or (not free) != (not told_free) or abs(files - told_files) > files_step
        if not place.told.startswith("ok") or total != told_total or moved:
            place.space = total, free, files
            self._say(place, f"ok {total} {free // step * step} {files // files_step * files_step}")

    def _say(self, place: Place, said: str) -> None:
        word = said.split(" ", 1)[0]
        same = said.rsplit(" ", 1)[0] == place.told.rsplit(" ", 1)[0] if word == "error" else said == place.told
        if not same:
            place.told = said
            self._tell(f"{place.key} {said}\n")


def main() -> None:
    """Serve orders until standard input ends."""

    def tell(line: str) -> None:
        try:
            os.write(1, line.encode())
        except OSError:
            os._exit(0)  # nobody listens any longer

    prober = Prober(tell)
    rest = b""
    seconds: float | None = None
    while True:
        readable, _, _ = select.select([0], [], [], seconds)
        if readable:
            data = os.read(0, 1 << 16)
            if not data:
                os._exit(0)  # threads that are stuck are not waited for
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                prober.order(line)
        seconds = prober.turn()


if __name__ == "__main__":
    _thread.stack_size(256 << 10)
    main()
