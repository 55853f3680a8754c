"""Keeps the storage in the picture true, by the kernel's events and the mount table's changes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from kvmigd.host.files import Files
from kvmigd.host.picture import Picture
from kvmigd.host.storage import cluster, devices, fibrechannel, filesystems, iscsi, lvm, multipath, nvme
from kvmigd.host.storage.events import Events, Uevent
from kvmigd.model.mounts import MountFact
from kvmigd.model.state import StateChange
from kvmigd.model.storage import BlockDevice, FileSystemIdentity, Storage

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 0.02
"""Events come in bursts: a disk, its partitions, what udev has found on them."""
_TOGETHER = 100
"""File systems that one process asks for their names."""
_COROSYNC = ("/run/corosync.pid", "/var/run/corosync.pid")

Mounted = tuple[object, ...]
"""What of a mount its identity depends on."""


class _Reading(msgspec.Struct, frozen=True):
    """What a thread has read at one time."""

    storage: Storage
    devices: dict[str, BlockDevice]
    host: filesystems.Host


class StorageMonitor:
    """Publishes Storage. Reads in a thread, asks file systems by disposable processes."""

    def __init__(self, picture: Picture, files: Files, *, root: Path = Path("/")) -> None:
        self._picture = picture
        self._files = files
        self._root = root
        self._wake = asyncio.Event()
        self._all = True
        self._stale: set[str] = set()
        self._devices: dict[str, BlockDevice] = {}
        self._failed: set[tuple[str, str]] = set()
        self._reading: _Reading | None = None
        self._quorate: bool | None = None
        self._quorum_stale = True
        self._corosync = asyncio.Event()
        self._mounts_stale = True
        self._mounts: dict[Mounted, MountFact] = {}
        self._identities: dict[Mounted, FileSystemIdentity] = {}
        self._answers: dict[Mounted, filesystems.Answer] = {}
        self._asking: set[Mounted] = set()
        self._news: dict[Mounted, filesystems.Answer] = {}
        """Answers since the last refresh, during which identities are put together by a thread."""

    async def run(self) -> None:
        """Keep it true, for ever."""
        self._picture.subscribe(self._on_change)
        watch = self._files.watch([self._root / name.lstrip("/") for name in _COROSYNC], self._on_corosync)
        try:
            async with Events(self._heard), asyncio.TaskGroup() as group:
                group.create_task(self._watch_quorum(), name="quorum")
                while True:
                    await self._refresh(group)
                    await self._wake.wait()
                    await asyncio.sleep(SETTLE_SECONDS)
        except OSError as error:
            self._picture.unknown(Storage, f"the kernel's events about storage cannot be heard: {error.strerror}")
            await asyncio.get_running_loop().create_future()
        finally:
            watch.close()

    def _heard(self, event: Uevent | None) -> None:
        if event is None or event.subsystem != "block":
            self._all = True
            self._quorum_stale = self._quorum_stale or event is None or event.subsystem == "dlm"
        else:
            self._stale.add(event.name)
            self._note_path(event)
        self._wake.set()

    def _note_path(self, event: Uevent) -> None:
        """Keep what device-mapper tells of the paths of its multipath maps; it tells failures by event only."""
        path = event.properties.get("DM_PATH", "")
        match event.properties.get("DM_ACTION"):
            case "PATH_FAILED":
                self._failed.add((event.name, path))
            case "PATH_REINSTATED":
                self._failed.discard((event.name, path))
        if event.action in ("add", "remove"):
            self._failed = {(name, number) for name, number in self._failed if name != event.name}

    def _on_change(self, change: StateChange) -> None:
        if "mounts" in change.subjects:
            self._mounts_stale = True
            self._wake.set()

    def _on_corosync(self) -> None:
        self._corosync.set()
        self._quorum_stale = True
        self._wake.set()

    async def _refresh(self, group: asyncio.TaskGroup) -> None:
        """Read what is stale, publish, and have asked what only the file systems know."""
        self._wake.clear()
        everything, self._all = self._all, False
        stale, self._stale = self._stale, set()
        if self._quorum_stale:
            self._quorum_stale = False
            self._quorate = await cluster.quorate(self._root)
        if self._mounts_stale:
            self._mounts_stale = False
            mounts = await asyncio.to_thread(_storage_mounts, self._picture.state.mounts.mounts)
            new_mounts = mounts.keys() != self._mounts.keys()
            self._mounts = mounts
        else:
            new_mounts = False
        if everything or stale or new_mounts or self._reading is None:
            before = self._reading
            self._reading = await asyncio.to_thread(
                _read,
                self._root,
                None if everything else self._devices,
                stale=frozenset(stale),
                failed=frozenset(self._failed),
            )
            self._devices = self._reading.devices
            if before is None or before.host != self._reading.host:
                self._identities.clear()
        if everything:
            self._forget_failures()
        self._take_news()
        self._forget_gone()
        self._identities = await asyncio.to_thread(self._identify)
        self._picture.publish(
            msgspec.structs.replace(
                self._reading.storage,
                filesystems=tuple(self._identities[mounted] for mounted in self._mounts),
                quorate=self._quorate,
            )
        )
        self._ask(group)

    def _identify(self) -> dict[Mounted, FileSystemIdentity]:
        """Identities of all mounts; those of which nothing has changed are kept as they are."""
        assert self._reading is not None
        host = self._reading.host
        return {
            mounted: self._identities.get(mounted) or filesystems.identity(mount, host, self._answers.get(mounted))
            for mounted, mount in self._mounts.items()
        }

    def _forget_gone(self) -> None:
        for known in (self._answers, self._identities):
            for mounted in known.keys() - self._mounts.keys():
                del known[mounted]

    def _forget_failures(self) -> None:
        """Ask those again that have not answered."""
        for mounted in [mounted for mounted, answer in self._answers.items() if answer.problem]:
            del self._answers[mounted]
            self._identities.pop(mounted, None)

    def _ask(self, group: asyncio.TaskGroup) -> None:
        """Ask file systems on the network one by one, those on disks together."""
        wanted = [
            mounted
            for mounted, mount in self._mounts.items()
            if mounted not in self._answers
            and mounted not in self._asking
            and not mount.problem
            and filesystems.is_asked(mount, self._identities[mounted])
        ]
        local = [mounted for mounted in wanted if not self._mounts[mounted].kind.is_remote]
        parts = [[mounted] for mounted in wanted if self._mounts[mounted].kind.is_remote]
        parts += [local[at : at + _TOGETHER] for at in range(0, len(local), _TOGETHER)]
        for part in parts:
            self._asking.update(part)
            group.create_task(self._learn(part), name="identity")

    async def _learn(self, part: Sequence[Mounted]) -> None:
        mounts = [self._mounts[mounted] for mounted in part]
        answers = await filesystems.ask(mounts)
        self._news.update({mounted: answers[mount.point] for mounted, mount in zip(part, mounts, strict=True)})
        self._wake.set()

    def _take_news(self) -> None:
        news, self._news = self._news, {}
        self._answers.update(news)
        for mounted in news:
            self._asking.discard(mounted)
            self._identities.pop(mounted, None)

    async def _watch_quorum(self) -> None:
        """Have corosync tell when its quorum changes, for as long as it runs."""
        while True:
            self._corosync.clear()
            if await asyncio.to_thread(cluster.corosync_runs, self._root):
                async for _ in cluster.changes():
                    self._quorum_stale = True
                    self._wake.set()
                self._quorum_stale = True
                self._wake.set()
            await self._corosync.wait()
            await asyncio.sleep(1)  # its socket comes some time after its process
            self._quorum_stale = True
            self._wake.set()


def _storage_mounts(mounts: Sequence[MountFact]) -> dict[Mounted, MountFact]:
    """The mounts that can be storage of guests, by what their identity depends on: not their room, for example."""
    return {
        (
            *(mount.id, mount.point, mount.fs_type, mount.source, mount.root, mount.device, mount.super_options),
            *(mount.deleted, mount.problem),
        ): mount
        for mount in mounts
        if mount.is_storage and not mount.covered
    }


def _read(
    root: Path,
    known: dict[str, BlockDevice] | None,
    *,
    stale: frozenset[str],
    failed: frozenset[tuple[str, str]],
) -> _Reading:
    """Everything but mounts and quorum. Of block devices only those that are `stale`, unless none is `known`."""
    if known is None:
        found = {device.name: device for device in devices.read(root)}
    else:
        found = dict(known)
        above = {device.name for device in known.values() if stale.intersection(device.slaves)}
        for name in sorted(stale | above):
            device = devices.read_one(root, name)
            if device is not None:
                found[name] = device
            else:
                found.pop(name, None)
        found = dict(sorted(found.items()))
    spaces = cluster.lockspaces(root)
    told = tuple(found.values())
    return _Reading(
        Storage(
            problem="",
            devices=told,
            multipaths=multipath.maps(told, failed=failed) + nvme.multipaths(str(root)),
            iscsi=iscsi.sessions(root),
            fibre_channel=fibrechannel.ports(root),
            volume_groups=lvm.volume_groups(told, lockspaces=spaces),
            lockspaces=spaces,
        ),
        found,
        filesystems.read(root, told),
    )
