"""Things that take long to make and are kept: each in a folder named after a hash of what it is made from.

Whoever makes or removes an entry holds its lock alone; whoever uses it (a running lab does, all its life) shares it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.places import CACHE

_LOCKS = CACHE / "locks"
_KEPT = 3
"""Entries of a kind that stay; older ones go when a new one is made, if no lab uses them."""


def digest(*parts: str | bytes) -> str:
    """Return a short name for what something is made from."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big") + data)
    return state.hexdigest()[:12]


@contextmanager
def lock(name: str, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold a named lock; yields whether it is held, which is in doubt only with `wait=False`."""
    _LOCKS.mkdir(parents=True, exist_ok=True)
    handle = os.open(_LOCKS / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def hold(entries: list[Path]) -> None:
    """Share the locks of cache entries until this process ends."""
    for entry in entries:
        handle = os.open(_LOCKS / entry.name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_SH)


def obtain(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the cache entry of that kind and key; `make` fills a folder that becomes it when whole."""
    entry = CACHE / f"{kind}-{key}"
    if entry.is_dir():
        os.utime(entry)
        return entry
    with lock(entry.name):
        if not entry.is_dir():
            partial = CACHE / f"{kind}-{key}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            try:
                make(partial)
                partial.rename(entry)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    _forget(kind, keep=_KEPT)
    return entry


def purge() -> list[str]:
    """Remove every entry that no running lab uses, and return the names of those that are used and stay."""
    return [] if not CACHE.is_dir() else _forget("", keep=0)


def _forget(kind: str, *, keep: int) -> list[str]:
    entries = [entry for entry in CACHE.iterdir() if entry.is_dir() and entry != _LOCKS and entry.name.startswith(kind)]
    stay = []
    for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime, reverse=True)[keep:]:
        # a folder that is still being made is guarded by the lock of the entry that it will become
        with lock(entry.name.removesuffix(".partial"), wait=False) as held:
            if held:
                shutil.rmtree(entry, ignore_errors=True)
            else:
                stay.append(entry.name)
    return stay
