"""All monitors of the host, put together: who keeps which subject of the picture true."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from kvmigd.config import Config
from kvmigd.host.files import Files
from kvmigd.host.firewall.monitor import Bus, FirewallMonitor
from kvmigd.host.hypervisor import Hypervisor
from kvmigd.host.inventory import InventoryMonitor
from kvmigd.host.links import LinkMonitor
from kvmigd.host.mounttable import MountTable
from kvmigd.host.picture import Monitor, Picture
from kvmigd.host.snapshots import SnapshotFiles
from kvmigd.host.storage.monitor import StorageMonitor
from kvmigd.host.systemwatch import SystemMonitor
from kvmigd.model.guest import Guest
from kvmigd.model.mounts import MountFact
from kvmigd.model.state import StateChange

log = structlog.get_logger(__name__)


class Monitors:
    """The monitors of one picture. `run` runs them all, for ever."""

    def __init__(
        self,
        picture: Picture,
        files: Files,
        config: Config,
        hypervisor: Hypervisor,
        *,
        bus: Callable[[], Awaitable[Bus]],
        root: Path = Path("/"),
    ) -> None:
        self._picture = picture
        self._files = files
        self._system = SystemMonitor(picture, files, root=root)
        self._system.on_jump(picture.shift)
        self._links = LinkMonitor(picture, files, config, root=root)
        self._firewall = FirewallMonitor(picture, files, config, bus=bus, root=root)
        self._inventory = InventoryMonitor(picture, hypervisor)
        self._snapshots = SnapshotFiles(picture, files, self._inventory.changed, root=root)
        self._all: dict[str, Monitor] = {
            "mounts": MountTable(picture, files, root=root),
            "storage": StorageMonitor(picture, files, root=root),
            "links": self._links,
            "firewall": self._firewall,
            "system": self._system,
            "hypervisor": self._inventory,
        }
        self._told = asyncio.Event()
        self._waiting = set(self._all)
        picture.subscribe(self._on_change)

    def _on_change(self, change: StateChange) -> None:
        self._waiting.difference_update(change.subjects)
        if not self._waiting:
            self._told.set()
        if "mounts" in change.subjects:
            self._files.mounts_changed(_touched(change.before.mounts.mounts, change.now.mounts.mounts))

    async def run(self) -> None:
        """Keep the whole picture true, for ever. A monitor that breaks ends all of them."""
        self._snapshots.start()
        async with asyncio.TaskGroup() as group:
            for name, monitor in self._all.items():
                group.create_task(monitor.run(), name=f"monitor-{name}")

    async def read_for(self, guests: Sequence[Guest]) -> None:
        """Read anew what these guests need and no event tells of, and publish it; as slow as libvirt is.

        Of huge pages inotify tells only what is written through this daemon's own mount of sysfs, and nothing of pages
        that processes take or give back. libvirt has no events of network filters, nor the kernel of iptables-legacy.
        """
        reads: list[Awaitable[None]] = []
        if guests and self._firewall.has_untold:
            reads.append(self._firewall.refresh())
        if any(guest.ram.hugepages for guest in guests):
            reads.append(self._system.look())
        if any(nic.filter for guest in guests for nic in guest.nics):
            reads.append(self._inventory.read("filters"))
        await asyncio.gather(*reads)

    def apply(self, config: Config) -> None:
        """Take a new configuration: other peers, other ports."""
        self._links.apply(config)
        self._firewall.apply(config)

    async def first_look(self, seconds: float) -> None:
        """Wait until each monitor has told what it sees, or that it sees nothing, but at most that long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._told.wait()
        if self._waiting:
            log.warning("subjects not looked at in time", subjects=", ".join(sorted(self._waiting)))


def _touched(before: tuple[MountFact, ...], now: tuple[MountFact, ...]) -> set[str]:
    """Where something was mounted or unmounted. What stayed is the same object, so that 10,000 mounts cost little."""
    olds, news = {id(mount): mount for mount in before}, {id(mount): mount for mount in now}
    return {
        mount.point
        for these, others in ((olds, news), (news, olds))
        for number, mount in these.items()
        if number not in others
    }
