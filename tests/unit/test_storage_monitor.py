"""The monitor of storage, on a tree, with events as the kernel would send them."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from kvmigd.host.files import Files
from kvmigd.host.picture import Picture
from kvmigd.host.storage import cluster, devices, filesystems, monitor
from kvmigd.host.storage.events import Events, Uevent
from kvmigd.host.storage.monitor import StorageMonitor
from kvmigd.model.mounts import MountFact, MountKind, Mounts, Space
from kvmigd.model.storage import Storage
from tests.unit.storage_trees import block, san, write

GLUSTER = MountFact(point="/srv/vm", source="store:/vm", fs_type="fuse.glusterfs", id=7, kind=MountKind.CLUSTER)
NFS = MountFact(point="/srv/nas", source="nas:/vm", fs_type="nfs4", id=8, device="0:52", kind=MountKind.NETWORK)
TMPFS = MountFact(point="/run", source="tmpfs", fs_type="tmpfs", id=9, kind=MountKind.MEMORY)


class Bench:
    """A monitor at work, and what a test does to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.picture = Picture()
        self.told: list[Storage] = []
        self.picture.subscribe(
            lambda change: self.told.append(change.now.storage) if "storage" in change.subjects else None
        )

    @property
    def storage(self) -> Storage:
        return self.picture.state.storage

    def mounts(self, *mounts: MountFact) -> None:
        self.picture.publish(Mounts(problem="", mounts=mounts))

    def uevent(self, name: str, *, action: str = "change", subsystem: str = "block", **properties: str) -> None:
        self.heard(Uevent(action, f"/devices/virtual/block/{name}", {"SUBSYSTEM": subsystem, **properties}))

    def heard(self, event: Uevent | None) -> None:
        self.monitor._heard(event)

    async def until(self, true: Callable[[Storage], object]) -> Storage:
        async with asyncio.timeout(20):
            while not true(self.storage):
                await asyncio.sleep(0.01)
        return self.storage

    async def work(self, test: Callable[[Bench], Awaitable[None]]) -> None:
        async with Files() as files:
            self.monitor = StorageMonitor(self.picture, files, root=self.root)
            task = asyncio.create_task(self.monitor.run())
            try:
                await self.until(lambda storage: storage.is_known)
                await test(self)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """On a host with a SAN. What the kernel of this machine tells is not heard."""

    def deaf(_self: Events, _family: int, _groups: int) -> None:
        pass

    async def quorate(_root: Path) -> bool | None:
        return None

    monkeypatch.setattr(Events, "_open", deaf)
    monkeypatch.setattr(cluster, "quorate", quorate)
    monkeypatch.setattr(monitor, "SETTLE_SECONDS", 0.0)
    san(tmp_path)
    return Bench(tmp_path)


def test_everything_is_told_at_first(bench: Bench) -> None:
    async def test(bench: Bench) -> None:
        storage = bench.storage
        assert len(storage.devices) == 6
        assert storage.multipaths[0].active == ("sda", "sdb")
        assert [session.luns for session in storage.iscsi] == [("7=sdc",)]
        assert [port.state for port in storage.fibre_channel] == ["Online", "Linkdown"]
        assert [group.name for group in storage.volume_groups] == ["vg-a"]
        assert storage.quorate is None

    asyncio.run(bench.work(test))


def test_devices_come_and_go(bench: Bench) -> None:
    async def test(bench: Bench) -> None:
        folder = block(bench.root, "vdz", "254:9", at="virtio9")
        bench.uevent("vdz", action="add")
        await bench.until(lambda storage: any(device.name == "vdz" for device in storage.devices))
        write(bench.root / "run/udev/data/b254:9", b"E:ID_FS_UUID=u-1\n")
        bench.uevent("vdz")
        await bench.until(lambda storage: any(device.fs_uuid == "u-1" for device in storage.devices))
        shutil.rmtree(folder)
        bench.uevent("vdz", action="remove")
        await bench.until(lambda storage: len(storage.devices) == 6)

    asyncio.run(bench.work(test))


def test_only_devices_with_events_are_read_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        read: list[str] = []
        real = devices.read_one

        def noted(root: Path, name: str) -> object:
            read.append(name)
            return real(root, name)

        monkeypatch.setattr(devices, "read_one", noted)
        write(bench.root / "sys/class/block/sda/size", "8")
        bench.uevent("sda")
        await bench.until(lambda storage: any(device.size == 4096 for device in storage.devices))
        assert read == ["dm-0", "sda"], "it, and what is made of it"

    asyncio.run(bench.work(test))


def test_paths_that_device_mapper_has_given_up(bench: Bench) -> None:
    async def test(bench: Bench) -> None:
        bench.uevent("dm-0", DM_ACTION="PATH_FAILED", DM_PATH="8:16")
        await bench.until(lambda storage: storage.multipaths[0].active == ("sda",))
        bench.heard(None)
        await asyncio.sleep(0.1)
        assert bench.storage.multipaths[0].active == ("sda",), "reading everything again does not know better"
        bench.uevent("dm-0", DM_ACTION="PATH_REINSTATED", DM_PATH="8:16")
        await bench.until(lambda storage: storage.multipaths[0].active == ("sda", "sdb"))

    asyncio.run(bench.work(test))


def test_lost_events_have_everything_read_again(bench: Bench) -> None:
    async def test(bench: Bench) -> None:
        write(bench.root / "sys/class/fc_host/host3/port_state", "Linkdown")
        write(bench.root / "sys/class/block/sda/size", "8")
        bench.heard(None)
        storage = await bench.until(lambda storage: storage.fibre_channel[0].state == "Linkdown")
        assert any(device.size == 4096 for device in storage.devices)

    asyncio.run(bench.work(test))


def test_mounts_are_identified_and_asked_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def ask(mounts: list[MountFact]) -> dict[str, filesystems.Answer]:
        asked.extend(mount.point for mount in mounts)
        await asyncio.sleep(0.05)
        return {mount.point: filesystems.Answer(uuid="volume") for mount in mounts}

    monkeypatch.setattr(filesystems, "ask", ask)
    write(bench.root / "proc/fs/nfsfs/volumes", "v4 0a000004 801 0:52 abc:1 no\n")

    async def test(bench: Bench) -> None:
        bench.mounts(TMPFS, GLUSTER, NFS)
        storage = await bench.until(lambda storage: storage.filesystems)
        assert [found.point for found in storage.filesystems] == ["/srv/vm", "/srv/nas"]
        assert storage.filesystems[0].problem == "/srv/vm is being asked what it is"
        assert storage.filesystems[1].uuid == "abc:1"
        storage = await bench.until(lambda storage: storage.filesystems[0].uuid)
        assert (storage.filesystems[0].uuid, storage.filesystems[0].problem) == ("volume", "")
        count = len(bench.told)
        roomier = msgspec.structs.replace(GLUSTER, space=Space(total=2, free=1))
        bench.mounts(TMPFS, roomier, NFS)
        bench.uevent("sda")
        await asyncio.sleep(0.1)
        assert asked == ["/srv/vm"]
        assert len(bench.told) == count, "room is no part of what a file system is"
        bench.mounts(TMPFS, NFS)
        await bench.until(lambda storage: len(storage.filesystems) == 1)
        bench.mounts(TMPFS, GLUSTER)
        await bench.until(lambda storage: storage.filesystems and storage.filesystems[0].uuid == "volume")
        assert asked == ["/srv/vm", "/srv/vm"], "what was mounted anew can be something else"

    asyncio.run(bench.work(test))


def test_a_file_system_that_hangs_is_asked_when_it_has_recovered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(mounts: list[MountFact]) -> dict[str, filesystems.Answer]:
        return {mount.point: filesystems.Answer(uuid="volume") for mount in mounts}

    monkeypatch.setattr(filesystems, "ask", ask)

    async def test(bench: Bench) -> None:
        hanging = msgspec.structs.replace(GLUSTER, problem="it hangs")
        bench.mounts(hanging)
        storage = await bench.until(lambda storage: storage.filesystems)
        assert storage.filesystems[0].problem == "/srv/vm cannot be asked what it is: it hangs"
        bench.mounts(GLUSTER)
        await bench.until(lambda storage: storage.filesystems[0].uuid == "volume")

    asyncio.run(bench.work(test))


def test_an_answer_that_comes_while_identities_are_put_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(mounts: list[MountFact]) -> dict[str, filesystems.Answer]:
        return {mount.point: filesystems.Answer(uuid="volume") for mount in mounts}

    monkeypatch.setattr(filesystems, "ask", ask)
    real = StorageMonitor._identify

    def slowly(self: StorageMonitor) -> object:
        found = real(self)
        time.sleep(0.02)
        return found

    monkeypatch.setattr(StorageMonitor, "_identify", slowly)

    async def test(bench: Bench) -> None:
        for number in range(5):
            bench.mounts(*(msgspec.structs.replace(GLUSTER, id=at, point=f"/srv/{at}") for at in range(number + 1)))
            await asyncio.sleep(0.005)
        await bench.until(
            lambda storage: len(storage.filesystems) == 5 and all(one.uuid for one in storage.filesystems)
        )

    asyncio.run(bench.work(test))


def test_corosync_tells_of_its_quorum(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [None, True, False]
    again = asyncio.Event()

    async def quorate(_root: Path) -> bool | None:
        return words.pop(0) if len(words) > 1 else words[0]

    async def changes() -> object:
        yield
        await again.wait()
        yield
        await asyncio.Event().wait()

    monkeypatch.setattr(cluster, "quorate", quorate)
    monkeypatch.setattr(cluster, "changes", changes)
    write(bench.root / "proc/net/unix", "0: 2 0 1 1 01 17 @quorum")

    async def test(bench: Bench) -> None:
        await bench.until(lambda storage: storage.quorate is True)
        again.set()
        await bench.until(lambda storage: storage.quorate is False)

    asyncio.run(bench.work(test))


def test_without_events_nothing_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_self: Events, _family: int, _groups: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Events, "_open", refused)

    async def body() -> None:
        async with Files() as files:
            task = asyncio.create_task(StorageMonitor(bench.picture, files, root=bench.root).run())
            await bench.until(lambda storage: "cannot be heard" in storage.problem)
            assert not bench.storage.devices
            assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(body())
