"""What survives a restart of the daemon and a reboot of the host: SQLite in the state directory."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from kvmigd.errors import ConfigurationInvalid, StateNotKept

_SCHEMA = """
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS record (kind TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (kind, key)) STRICT;
"""


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
            self._connection.executescript(_SCHEMA)
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
        """Keep a setting; of several at the same time, the last one asked for stays. Raises StateNotKept."""
        async with self._writing:
            if self._settings.get(name) == value:
                return
            await self._do(name, "INSERT OR REPLACE INTO setting VALUES (?, ?)", name, value)
            self._settings[name] = value

    def records(self, kind: str) -> dict[str, str]:
        """All records of a kind, by their keys. Raises StateNotKept."""
        with self._use:
            try:
                return dict(self._open.execute("SELECT key, value FROM record WHERE kind = ? ORDER BY rowid", (kind,)))
            except sqlite3.Error as error:
                raise StateNotKept(f"{self._path}: the {kind} records cannot be read: {error}.") from error

    async def put_record(self, kind: str, key: str, value: str) -> None:
        """Keep a record, in the place of an older one. Raises StateNotKept."""
        await self._do(f"{kind} {key}", "INSERT OR REPLACE INTO record VALUES (?, ?, ?)", kind, key, value)

    async def drop_record(self, kind: str, key: str) -> None:
        """Keep a record no longer; harmless if there is none. Raises StateNotKept."""
        await self._do(f"{kind} {key}", "DELETE FROM record WHERE kind = ? AND key = ?", kind, key)

    @property
    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the daemon has ended")
        return self._connection

    async def _do(self, what: str, statement: str, *values: str) -> None:
        def do() -> None:
            with self._use:
                self._open.execute(statement, values)

        try:
            await asyncio.to_thread(do)
        except sqlite3.Error as error:
            raise StateNotKept(
                f"{self._path}: {what} cannot be kept: {error}.", hint=f"df {self._path.parent} shows the room there."
            ) from error
