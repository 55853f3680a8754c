"""Keeps the subject Links true: by the kernel's messages about links, Open vSwitch's about its bridges."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from kvmigd.config import Config
from kvmigd.host.files import Files
from kvmigd.host.links import ovsdb
from kvmigd.host.links.composition import Composition, Openvswitch, has_own_speed
from kvmigd.host.links.ovsdb import Database
from kvmigd.host.links.routes import Routes
from kvmigd.host.links.rtnetlink import LinkSocket, Lost, RouteSocket, RtnetlinkFailed
from kvmigd.host.links.table import LinkTable, Touched
from kvmigd.host.picture import Picture
from kvmigd.model.links import LinkFact, Links

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 0.003
"""A change of a link is several messages; they are published together."""
REST_FACTOR, REST_SECONDS = 4.0, 0.1
"""After publishing, so many times as long as it took belong to others, but at most so long."""
RETRY_SECONDS = (0.5, 30.0)


class LinkMonitor:
    """The links of this host and the ways to its peers."""

    def __init__(
        self,
        picture: Picture,
        files: Files,
        config: Config,
        *,
        root: Path = Path("/"),
        make_links: Callable[[], LinkSocket] = LinkSocket,
        make_routes: Callable[[], RouteSocket] = RouteSocket,
    ) -> None:
        self._picture = picture
        self._root = root
        self._make_links = make_links
        self._make_routes = make_routes
        self._routes = Routes(files, config, self._touch, root=root)
        self._database = Database(files, self._touch, root=root)
        self._changed = asyncio.Event()
        self._lost = False
        self._broken: RtnetlinkFailed | None = None
        self._speeds: dict[int, tuple[str, int]] = {}
        self._facts: Mapping[int, LinkFact] = {}

    def apply(self, config: Config) -> None:
        """Take a new configuration: other peers."""
        self._routes.apply(config)

    def _touch(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Keep it true, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._routes.run(), name="routes")
            group.create_task(self._database.run(), name="openvswitch")
            rest = RETRY_SECONDS[0]
            while True:
                try:
                    links, routes = self._make_links(), self._make_routes()
                    try:
                        await self._follow(links, routes)
                    finally:
                        asyncio.get_running_loop().remove_reader(links.fileno())
                        links.close()
                        routes.close()
                except RtnetlinkFailed as error:
                    rest = RETRY_SECONDS[0] if self._picture.state.links.is_known else min(2 * rest, RETRY_SECONDS[1])
                    self._picture.unknown(Links, str(error))
                await asyncio.sleep(rest)

    async def _follow(self, links: LinkSocket, routes: RouteSocket) -> None:
        """Publish what is, and each change. Raises RtnetlinkFailed."""
        loop = asyncio.get_running_loop()
        while True:
            self._lost, self._broken = False, None
            self._changed.clear()
            table = await asyncio.to_thread(links.load)
            loop.add_reader(links.fileno(), self._read, links, table)
            while not self._lost and self._broken is None:
                began = loop.time()
                await self._publish(table, routes)
                took = loop.time() - began
                await self._changed.wait()
                await asyncio.sleep(max(SETTLE_SECONDS, min(REST_FACTOR * took, REST_SECONDS)))
                self._changed.clear()
            loop.remove_reader(links.fileno())
            if self._broken is not None:
                raise self._broken
            log.warning("link events lost", reason="the socket's buffer was full")

    def _read(self, links: LinkSocket, table: LinkTable) -> None:
        try:
            if links.read(table) is not Touched.NOTHING:
                self._picture.announce(Links)
                self._changed.set()
        except Lost:
            self._lost = True
            self._picture.announce(Links)
            self._changed.set()
        except RtnetlinkFailed as error:
            self._broken = error
            self._changed.set()

    async def _publish(self, table: LinkTable, routes: RouteSocket) -> None:
        await self._read_speeds(table)
        known = Composition(table, {index: speed for index, (_, speed) in self._speeds.items()}, before=self._facts)
        self._facts = known.links()
        switch = Openvswitch(problem=self._database.problem)
        if not self._database.problem:
            switch = ovsdb.facts(self._database.tables, known)
        self._picture.publish(
            Links(
                problem="",
                links=tuple(self._facts.values()),
                bridges=tuple(sorted((*known.bridges(), *switch.bridges), key=lambda bridge: bridge.name)),
                bonds=tuple(sorted((*known.bonds(), *switch.bonds), key=lambda bond: bond.name)),
                routes=self._routes.facts(routes, known),
                openvswitch=switch.problem,
            )
        )

    async def _read_speeds(self, table: LinkTable) -> None:
        """Ask the drivers of links that have got a carrier. A driver can take its time, so in a thread."""
        wanted = {link.index: link.name for link in table.links.values() if has_own_speed(link)}
        for index in [index for index, (name, _) in self._speeds.items() if wanted.get(index) != name]:
            del self._speeds[index]
        new = {index: name for index, name in wanted.items() if index not in self._speeds}
        if new:
            speeds = await asyncio.to_thread(lambda: {index: _speed(self._root, name) for index, name in new.items()})
            self._speeds.update({index: (new[index], speed) for index, speed in speeds.items()})


def _speed(root: Path, name: str) -> int:
    """Mbit/s by the driver (Documentation/ABI/testing/sysfs-class-net); 0 where it does not say: EINVAL, or -1."""
    try:
        return max(0, int((root / "sys/class/net" / name / "speed").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return 0
