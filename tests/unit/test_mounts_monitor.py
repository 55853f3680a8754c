"""The monitor of mounts, on a tree that is not the kernel's, and once on the kernel's own table."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from kvmigd.host import mounttable
from kvmigd.host.files import Files
from kvmigd.host.mounttable import MountTable
from kvmigd.host.picture import Picture
from kvmigd.host.probe import Answer, Probe, Target
from kvmigd.model.mounts import Mounts, Persistence, Space

ROOT = "22 1 254:0 / / rw shared:1 - ext4 /dev/vda1 rw\n"
NFS = "40 22 0:36 / /srv/vm rw - nfs4 nas:/vm rw,vers=4.2\n"
PROC = "41 22 0:37 / /proc rw - proc proc rw\n"
BTRFS = "42 22 0:38 /@ /data rw - btrfs /dev/vdb rw\n"
ISO = "43 22 7:0 / /iso ro - iso9660 /dev/loop0 ro\n"


class Asked(Probe):
    """A probe that asks nobody."""

    def __init__(self, on_news: Callable[[], None]) -> None:
        super().__init__(on_news)
        self.news = on_news
        self.targets: dict[str, Target] = {}
        self.answers: dict[str, Answer] = {}

    def watch(self, targets: object) -> None:
        assert isinstance(targets, dict)
        self.targets = targets

    def answer(self, key: str) -> Answer | None:
        return self.answers.get(key)

    async def run(self) -> None:
        await asyncio.Event().wait()


class Running:
    """A monitor that runs on a tree."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.picture = Picture()
        self.published = 0
        self._told = asyncio.Event()
        self.picture.subscribe(self._on_change)
        self.probe = Asked(lambda: None)

    def _on_change(self, _change: object) -> None:
        self.published += 1
        self._told.set()

    def probe_for(self, on_news: Callable[[], None]) -> Probe:
        self.probe = Asked(on_news)
        return self.probe

    def write(self, text: str) -> None:
        path = self.root / "proc/1/mountinfo"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    async def until(self, wanted: Callable[[Mounts], bool]) -> Mounts:
        async with asyncio.timeout(10):
            while not wanted(self.picture.state.mounts):
                self._told.clear()
                await self._told.wait()
        return self.picture.state.mounts


@contextlib.asynccontextmanager
async def running(root: Path, *, text: str = "") -> AsyncIterator[Running]:
    it = Running(root)
    if text:
        it.write(text)
    async with Files() as files:
        task = asyncio.create_task(MountTable(it.picture, files, root=root, probe=it.probe_for).run())
        yield it
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def points(mounts: Mounts) -> list[str]:
    return [mount.point for mount in mounts.mounts]


def test_mounts_come_and_go(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path, text=ROOT + NFS) as it:
            before = await it.until(lambda mounts: points(mounts) == ["/", "/srv/vm"])
            it.write(ROOT + NFS + PROC)
            after = await it.until(lambda mounts: points(mounts) == ["/", "/srv/vm", "/proc"])
            assert after.mounts[1] is before.mounts[1], "what stays is the same object"
            it.write(ROOT)
            await it.until(lambda mounts: points(mounts) == ["/"])

    asyncio.run(run())


def test_a_table_that_cannot_be_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounttable, "RETRY_SECONDS", (0.02, 0.05))

    async def run() -> None:
        async with running(tmp_path) as it:
            unknown = await it.until(lambda mounts: "cannot be read" in mounts.problem)
            assert "No such file" in unknown.problem
            assert unknown.mounts == ()
            it.write(ROOT)
            await it.until(lambda mounts: mounts.is_known and points(mounts) == ["/"])

    asyncio.run(run())


def test_where_the_first_process_is_hidden_the_own_table_is_read(tmp_path: Path) -> None:
    async def run() -> None:
        own = tmp_path / "proc/self/mountinfo"
        own.parent.mkdir(parents=True)
        own.write_text(ROOT)
        async with running(tmp_path) as it:
            await it.until(lambda mounts: points(mounts) == ["/"])

    asyncio.run(run())


def test_plans_for_the_next_boot_are_read_again(tmp_path: Path) -> None:
    async def run() -> None:
        fstab = tmp_path / "etc/fstab"
        fstab.parent.mkdir()
        fstab.write_text("")
        async with running(tmp_path, text=ROOT + NFS) as it:
            mounts = await it.until(lambda mounts: len(mounts.mounts) == 2)
            assert mounts.mounts[1].persistence is Persistence.HAND
            fstab.write_text("nas:/vm /srv/vm nfs4 defaults 0 0\n")
            await it.until(lambda mounts: mounts.mounts[1].persistence is Persistence.FSTAB)
            wants = tmp_path / "etc/systemd/system/remote-fs.target.wants"
            wants.mkdir(parents=True)
            (wants.parent / "srv-vm.mount").write_text("[Mount]\n")
            fstab.unlink()
            await it.until(lambda mounts: mounts.mounts[1].persistence is Persistence.HAND)
            (wants / "srv-vm.mount").symlink_to("../srv-vm.mount")
            await it.until(lambda mounts: mounts.mounts[1].persistence is Persistence.UNIT)

    asyncio.run(run())


def test_storage_is_asked_for_and_its_answer_published(tmp_path: Path) -> None:
    async def run() -> None:
        again = "50 22 0:36 / /again rw - nfs4 nas:/vm rw,vers=4.2\n"
        covered = "51 22 0:50 / /c rw - nfs4 nas:/c rw\n52 51 0:51 / /c rw - tmpfs x rw\n"
        async with running(tmp_path, text=ROOT + NFS + PROC + BTRFS + ISO + again + covered) as it:
            await it.until(lambda mounts: len(mounts.mounts) == 8)
            assert it.probe.targets == {
                "254:0": Target(point="/", device="254:0", seconds=30.0, is_remote=False),
                "0:36 /": Target(point="/srv/vm", device="0:36"),
                "0:38": Target(point="/data", device="-", seconds=30.0, is_remote=False),
            }
            it.probe.answers["0:36 /"] = Answer(problem="it hangs", since_usec=5)
            it.probe.news()
            mounts = await it.until(lambda mounts: bool(mounts.mounts[1].problem))
            assert [mount.point for mount in mounts.mounts if mount.problem == "it hangs"] == ["/srv/vm", "/again"]
            assert mounts.mounts[1].problem_since_usec == 5
            it.probe.answers["0:36 /"] = Answer(space=Space(total=2, free=1))
            it.probe.news()
            await it.until(lambda mounts: mounts.mounts[1].space == Space(total=2, free=1))
            assert not it.picture.state.mounts.mounts[1].problem
            published = it.published
            it.probe.news()
            await asyncio.sleep(0.05)
            assert it.published == published, "what changes nothing is no change"

    asyncio.run(run())


def test_the_kernels_own_table() -> None:
    async def run() -> None:
        async with running(Path("/")) as it:
            mounts = await it.until(lambda mounts: mounts.is_known)
            assert "/" in points(mounts)
            published = it.published
            await asyncio.sleep(0.1)
            assert it.published <= published + 1, "it does not spin"

    asyncio.run(run())
