"""The state: kept over restarts, and a clear word where it cannot be kept."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from pathlib import Path

import pytest

from kvmigd.errors import ConfigurationInvalid, InternalError
from kvmigd.store import Store
from tests.unit.peer_lab import asynchronous


@asynchronous
async def test_settings_survive(tmp_path: Path) -> None:
    folder = tmp_path / "lib/kvmigd"
    with Store(folder) as store:
        assert store.get("maintenance") == ""
        assert store.get("maintenance", "off") == "off"
        await store.put("maintenance", "on")
        assert store.get("maintenance", "off") == "on"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with Store(folder) as store:
        assert store.get("maintenance") == "on"
        await store.put("maintenance", "off")
        await store.put("other", "ä'\n")
    with Store(folder) as store:
        assert (store.get("maintenance"), store.get("other")) == ("off", "ä'\n")


@asynchronous
async def test_a_write_is_on_the_disk_when_it_returns(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        await store.put("maintenance", "on")
        with Store(tmp_path) as other:  # as after a crash: nothing was closed
            assert other.get("maintenance") == "on"


@asynchronous
async def test_the_last_one_asked_for_stays(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        await asyncio.gather(*(store.put("maintenance", value) for value in ("on", "off", "on", "off", "on")))
        assert store.get("maintenance") == "on"
    with Store(tmp_path) as store:
        assert store.get("maintenance") == "on"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for folder in (tmp_path / "file", tmp_path / "file/kvmigd"):
        with pytest.raises(ConfigurationInvalid, match="state directory cannot be made") as caught, Store(folder):
            pass
        assert str(folder) in str(caught.value)


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_text("something else, which is long enough to be looked at\n" * 20, encoding="utf-8")
    with pytest.raises(ConfigurationInvalid, match=r"state\.db: the state cannot be opened: .*move the file away"):
        Store(tmp_path).__enter__()
    assert path.read_text(encoding="utf-8").startswith("something else")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    with pytest.raises(ConfigurationInvalid, match=r"Make .* writable"):
        Store(tmp_path).__enter__()


@asynchronous
async def test_a_write_that_fails_is_told_and_not_believed(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        await store.put("maintenance", "on")
        with sqlite3.connect(tmp_path / "state.db") as other:
            other.execute("DROP TABLE setting")
        other.close()
        with pytest.raises(InternalError, match="maintenance cannot be kept: no such table"):
            await store.put("maintenance", "off")
        assert store.get("maintenance") == "on"


@asynchronous
async def test_a_write_whose_task_has_ended_does_not_meet_a_closed_database(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store:
        store._use.acquire()  # the thread is about to write
        writing = asyncio.ensure_future(store.put("maintenance", "on"))
        await asyncio.sleep(0.05)
        writing.cancel()
        closing = asyncio.create_task(asyncio.to_thread(store._close))
        await asyncio.sleep(0.05)
        assert store._connection is not None, "it is waited for"
        store._use.release()
        await closing
    with Store(tmp_path) as again:
        assert again.get("maintenance") in ("", "on")


@asynchronous
async def test_nothing_is_written_after_the_end(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        pass
    with pytest.raises(InternalError, match="cannot be kept: the daemon has ended"):
        await store.put("maintenance", "on")
