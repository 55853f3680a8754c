"""What survives a restart of the daemon and a reboot of the host: SQLite in the state directory."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Self

from kvmigd.errors import ConfigurationInvalid

_SCHEMA = "CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"


class Store:
    """The state database. Writes are on the disk when the call returns."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.db"
        self._settings: dict[str, str] = {}
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(_SCHEMA)
            self._settings = dict(self._connection.execute("SELECT name, value FROM setting"))
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationInvalid(
                f"{self._path}: the state cannot be opened: {error}.",
                hint="Move the file away to begin with a new one.",
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    def get(self, name: str, default: str = "") -> str:
        """A setting, `default` where it was never put."""
        return self._settings.get(name, default)

    async def put(self, name: str, value: str) -> None:
        """Keep a setting."""
        if self._settings.get(name) == value:
            return
        await asyncio.to_thread(self._write, name, value)
        self._settings[name] = value

    def _write(self, name: str, value: str) -> None:
        assert self._connection is not None
        self._connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))
