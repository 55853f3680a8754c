"""Watching files, on a real inotify."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kvmigd.host.files import Files


class Told:
    """Counts the calls of a listener."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._event.set()

    async def again(self) -> None:
        async with asyncio.timeout(5):
            await self._event.wait()
        self._event.clear()

    async def quiet(self) -> bool:
        """Whether nothing is told for a while."""
        await asyncio.sleep(0.1)
        quiet = not self._event.is_set()
        self._event.clear()
        return quiet


@asynccontextmanager
async def watching(*paths: Path) -> AsyncIterator[Told]:
    told = Told()
    async with Files() as files:
        files.watch(paths, told)
        yield told


def rename_over(path: Path) -> None:
    fresh = path.with_name(".fresh")
    fresh.write_text("new")
    fresh.rename(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: path.write_text("new"), id="written"),
        pytest.param(rename_over, id="replaced by rename"),
        pytest.param(lambda path: path.unlink(), id="removed"),
        pytest.param(lambda path: path.chmod(0o600), id="mode changed"),
    ],
)
def test_a_file_that_changes_is_told(tmp_path: Path, change: Callable[[Path], object]) -> None:
    async def run() -> None:
        path = tmp_path / "kvmigd.toml"
        path.write_text("old")
        async with watching(path) as told:
            change(path)
            await told.again()
            assert await told.quiet()
            (tmp_path / "other").write_text("x")
            assert await told.quiet(), "another file in its folder is not its business"

    asyncio.run(run())


def test_after_a_rename_the_new_file_is_watched(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "status"
        path.write_text("old")
        async with watching(path) as told:
            for _ in range(3):
                rename_over(path)
                await told.again()

    asyncio.run(run())


def test_a_folder_that_vanishes_and_returns(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "etc" / "libvirt" / "qemu.conf"
        path.parent.mkdir(parents=True)
        path.write_text("old")
        async with watching(path) as told:
            path.unlink()
            path.parent.rmdir()
            path.parent.parent.rmdir()
            await told.again()
            assert await told.quiet()
            path.parent.parent.mkdir()
            await told.again()
            assert await told.quiet()
            path.parent.mkdir()
            await told.again()
            path.write_text("new")
            await told.again()

    asyncio.run(run())


def test_a_whole_folder_is_watched(tmp_path: Path) -> None:
    async def run() -> None:
        folder = tmp_path / "peers.d"
        async with watching(folder) as told:
            folder.mkdir()
            await told.again()
            (folder / "b.toml").write_text("x")
            await told.again()
            (folder / "b.toml").unlink()
            await told.again()

    asyncio.run(run())


def test_the_target_of_a_link_is_watched(tmp_path: Path) -> None:
    async def run() -> None:
        target = tmp_path / "usr" / "os-release"
        target.parent.mkdir()
        target.write_text("old")
        link = tmp_path / "os-release"
        link.symlink_to(target)
        async with watching(link) as told:
            target.write_text("new")
            await told.again()

    asyncio.run(run())


def test_many_writes_are_one_call(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "a"
        async with watching(path) as told:
            for number in range(50):
                path.write_text(str(number))
            await told.again()
            assert await told.quiet()
            assert told.count == 1

    asyncio.run(run())


def test_a_closed_watch_is_silent(tmp_path: Path) -> None:
    async def run() -> None:
        told = Told()
        async with Files() as files:
            watch = files.watch([tmp_path / "a"], told)
            (tmp_path / "a").write_text("x")
            watch.close()
            assert await told.quiet()

    asyncio.run(run())


def test_a_mount_over_a_watched_folder_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        told = Told()
        async with Files() as files:
            files.watch([tmp_path / "etc" / "a"], told)
            (tmp_path / "etc").mkdir()
            await told.again()
            files.mounts_changed([str(tmp_path / "other")])
            assert await told.quiet()
            for place in (tmp_path / "etc", tmp_path):
                files.mounts_changed([str(place)])
                await told.again()

    asyncio.run(run())
