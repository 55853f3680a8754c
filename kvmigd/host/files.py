"""Tells when files change: configuration, certificates, package databases. inotify(7), by way of pyinotify."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import structlog

with warnings.catch_warnings():
    # pyinotify imports asyncore, which Python 3.11 calls deprecated and 3.12 has no longer (then: pyasyncore).
    warnings.simplefilter("ignore", DeprecationWarning)
    import pyinotify

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 0.01
"""A file that is written in several steps is told once."""

_MASK = (
    pyinotify.IN_CLOSE_WRITE
    | pyinotify.IN_CREATE
    | pyinotify.IN_DELETE
    | pyinotify.IN_MOVED_FROM
    | pyinotify.IN_MOVED_TO
    | pyinotify.IN_ATTRIB
    | pyinotify.IN_DELETE_SELF
    | pyinotify.IN_MOVE_SELF
    | pyinotify.IN_ONLYDIR
)
_GONE = pyinotify.IN_DELETE_SELF | pyinotify.IN_MOVE_SELF | pyinotify.IN_IGNORED | pyinotify.IN_UNMOUNT


class Watch:
    """One listener and its paths, until `close`."""

    def __init__(self, files: Files, paths: tuple[Path, ...], listener: Callable[[], None]) -> None:
        self._files = files
        self.paths = paths
        self._listener = listener
        self._timer: asyncio.TimerHandle | None = None
        self.wanted: dict[Path, set[str]] = {}
        """Folders to watch, with the names in them that matter; an empty set means all of them."""

    def look(self) -> None:
        """Find out which folders have to be watched for the paths: what is there now, links followed."""
        self.wanted = {}
        for path in self.paths:
            for one in {path, Path(os.path.realpath(path))}:
                self._want(one)

    def _want(self, path: Path) -> None:
        if path.is_dir():
            self.wanted[path] = set()
        folder, name = path.parent, path.name
        while not folder.is_dir() and folder != folder.parent:
            folder, name = folder.parent, folder.name
        if self.wanted.get(folder) != set():
            self.wanted.setdefault(folder, set()).add(name)

    def cares(self, folder: Path, name: str) -> bool:
        """Whether something with that name in that folder matters."""
        names = self.wanted.get(folder)
        return names is not None and (not names or name in names)

    def fire(self) -> None:
        """Call the listener soon."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._call)

    def _call(self) -> None:
        self._timer = None
        self._files.arm(self)
        self._listener()

    def close(self) -> None:
        """Listen no longer."""
        if self._timer is not None:
            self._timer.cancel()
        self._files.forget(self)


class Files:
    """All watches of the daemon. `async with` opens inotify and closes it.

    A path is watched through its folder, so that a file that is replaced by a rename, removed or made again is noticed;
    where the folder is not there either, through the nearest one that is.
    """

    def __init__(self) -> None:
        self._watches: list[Watch] = []
        self._folders: dict[Path, int] = {}
        self._manager: Any = None
        self._notifier: Any = None

    async def __aenter__(self) -> Files:
        self._manager = pyinotify.WatchManager()
        # pyinotify reads on the loop when the descriptor is readable, and calls us for each event.
        self._notifier = pyinotify.AsyncioNotifier(
            self._manager, asyncio.get_running_loop(), default_proc_fun=self._on_event
        )
        for watch in self._watches:
            self.arm(watch)
        return self

    async def __aexit__(self, *_: object) -> None:
        for watch in tuple(self._watches):
            watch.close()
        self._notifier.stop()
        self._manager = self._notifier = None

    def watch(self, paths: Iterable[Path], listener: Callable[[], None]) -> Watch:
        """Call `listener` some milliseconds after any of the paths was made, written, replaced or removed.

        A folder stands for everything directly in it. Calls come on the event loop, several changes as one.
        """
        watch = Watch(self, tuple(paths), listener)
        self._watches.append(watch)
        if self._manager is not None:
            self.arm(watch)
        return watch

    def arm(self, watch: Watch) -> None:
        """Watch what has to be watched for it, as the file system is now."""
        if self._manager is None or watch not in self._watches:
            return
        watch.look()
        for folder in watch.wanted:
            number = self._manager.add_watch(str(folder), _MASK, quiet=True).get(str(folder), -1)
            if number >= 0:
                self._folders[folder] = number
            else:  # it vanished this moment, or max_user_watches is used up
                log.debug("folder not watched", folder=str(folder))
        self._drop_unwanted()

    def mounts_changed(self, points: Iterable[str]) -> None:
        """Something was mounted or unmounted at these places: what is watched there may be something else now."""
        places = frozenset(points)  # as they come: there can be thousands, and few folders are watched
        for watch in tuple(self._watches):
            if any(not places.isdisjoint(map(str, (folder, *folder.parents))) for folder in watch.wanted):
                watch.fire()

    def forget(self, watch: Watch) -> None:
        """Drop a watch."""
        if watch in self._watches:
            self._watches.remove(watch)
            self._drop_unwanted()

    def _drop_unwanted(self) -> None:
        wanted = {folder for watch in self._watches for folder in watch.wanted}
        for folder in self._folders.keys() - wanted:
            number = self._folders.pop(folder)
            if number not in self._folders.values():
                self._manager.rm_watch(number, quiet=True)

    def _on_event(self, event: Any) -> None:
        if event.mask & pyinotify.IN_Q_OVERFLOW:
            log.warning("file events lost", reason="the kernel's queue was full")
            for watch in tuple(self._watches):
                watch.fire()
            return
        folder = Path(event.path)
        gone = bool(event.mask & _GONE)
        if gone and self._folders.get(folder) == event.wd:
            del self._folders[folder]
        for watch in tuple(self._watches):
            if watch.cares(folder, event.name or "") if not gone else folder in watch.wanted:
                watch.fire()
