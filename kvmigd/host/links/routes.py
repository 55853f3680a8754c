"""The ways to the peers: names resolved, and the kernel asked where packets to them would go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from kvmigd.config import Config
from kvmigd.host import system
from kvmigd.host.files import Files
from kvmigd.host.links.composition import Composition
from kvmigd.host.links.rtnetlink import RouteSocket, RtnetlinkFailed
from kvmigd.model.links import RouteFact

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 5.0, 300.0
_LOCAL = 2
"""RTN_LOCAL: the address is one of this host itself."""


class Routes:
    """Knows the addresses of the peers; `changed` is called when they have become others.

    A name is resolved once, and again with a new configuration, when /etc/hosts changes, and after a failure with
    growing pauses. That a name server says something else by now is no event; libvirt resolves by itself each time.
    """

    def __init__(self, files: Files, config: Config, changed: Callable[[], None], *, root: Path = Path("/")) -> None:
        self._files = files
        self._config = config
        self._changed = changed
        self._names = root / "etc/hosts", root / "etc/resolv.conf"
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._problems: dict[str, str] = {}
        self._wake = asyncio.Event()

    def apply(self, config: Config) -> None:
        """Other peers, or the same at other addresses."""
        self._config = config
        self._wake.set()

    async def run(self) -> None:
        """Keep the addresses true, for ever."""
        watch = self._files.watch(self._names, self._wake.set)
        pause = FIRST_RETRY_SECONDS
        try:
            while True:
                self._wake.clear()
                await self._resolve()
                try:
                    async with asyncio.timeout(pause if self._problems else None):
                        await self._wake.wait()
                        pause = FIRST_RETRY_SECONDS
                except TimeoutError:
                    pause = min(2 * pause, LAST_RETRY_SECONDS)
        finally:
            watch.close()

    async def _resolve(self) -> None:
        hosts = {name: peer.host for name, peer in self._config.peers.items()}
        found = await asyncio.gather(*(system.resolve(host) for host in hosts.values()))
        addresses = {name: answer.addresses for name, answer in zip(hosts, found, strict=True)}
        problems = {
            name: f"{host} does not resolve: {answer.problem or 'no address'}"
            for (name, host), answer in zip(hosts.items(), found, strict=True)
            if not answer.addresses
        }
        if (addresses, problems) != (self._addresses, self._problems):
            self._addresses, self._problems = addresses, problems
            self._changed()

    def facts(self, ask: RouteSocket, known: Composition) -> tuple[RouteFact, ...]:
        """The ways as they are now."""
        return tuple(self._fact(name, ask, known) for name in sorted(self._addresses))

    def _fact(self, peer: str, ask: RouteSocket, known: Composition) -> RouteFact:
        """The way to the first of its addresses to which there is one."""
        problem = self._problems.get(peer, "")
        for address in self._addresses[peer]:
            try:
                route = ask.ask(address)
            except RtnetlinkFailed as error:
                problem = problem or f"there is no way to {address}: {error}"
                continue
            if route.kind == _LOCAL:
                problem = problem or f"{address} is an address of this host itself"
                continue
            return RouteFact(
                peer=peer,
                address=address,
                link=known.name(route.link),
                source=route.source,
                gateway=route.gateway,
                mtu=route.mtu or known.mtu(route.link),
                speed=known.speed(route.link),
            )
        return RouteFact(peer=peer, address=(*self._addresses[peer], "")[0], problem=problem)
