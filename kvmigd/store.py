"""What survives a restart of the daemon and a reboot of the host: SQLite in the state directory."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from kvmigd.errors import ConfigurationInvalid, InternalError

_SCHEMA = "CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"


class Store:
    """The state database. Writes are on the disk when the call returns."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.db"
        self._settings: dict[str, str] = {}
        self._connection: sqlite3.Connection | None = None
        self._writing = asyncio.Lock()
        # A thread goes on when the task that waits for it is cancelled: SQLite must not be closed under it.
        self._use = threading.Lock()

    def __enter__(self) -> Self:
        directory = self._path.parent
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationInvalid(f"{directory}: the state directory cannot be made: {error.strerror}.") from error
        try:
            self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(_SCHEMA)
            self._settings = dict(self._connection.execute("SELECT name, value FROM setting"))
        except sqlite3.Error as error:
            self._close()
            raise ConfigurationInvalid(
                f"{self._path}: the state cannot be opened: {error}.",
                hint=f"Make {directory} writable; if it is, move the file away to begin with a new one.",
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        with self._use:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def get(self, name: str, default: str = "") -> str:
        """A setting, `default` where it was never put."""
        return self._settings.get(name, default)

    async def put(self, name: str, value: str) -> None:
        """Keep a setting; of several at the same time, the last one asked for stays. Raises InternalError."""
        async with self._writing:
            if self._settings.get(name) == value:
                return
            try:
                await asyncio.to_thread(self._write, name, value)
            except sqlite3.Error as error:
                raise InternalError(f"{self._path}: {name} cannot be kept: {error}.") from error
            self._settings[name] = value

    def _write(self, name: str, value: str) -> None:
        with self._use:
            if self._connection is None:
                raise sqlite3.ProgrammingError("the daemon has ended")
            self._connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))
