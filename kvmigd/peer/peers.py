"""All configured peers and their links."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from kvmigd.config import Config, Peer
from kvmigd.errors import NoSuchPeer, SameHost
from kvmigd.model.peer import PeerView
from kvmigd.peer import wire
from kvmigd.peer.identity import Credentials
from kvmigd.peer.link import Pace, PeerLink


class Peers:
    """The links run in the group that is given, until `async with` ends or the group does."""

    def __init__(
        self,
        config: Config,
        group: asyncio.TaskGroup,
        *,
        protocols: tuple[int, ...] = wire.PROTOCOLS,
        pace: Pace = Pace(),  # noqa: B008  # frozen
    ) -> None:
        self._config = config
        self._group = group
        self._protocols = protocols
        self._pace = pace
        self._credentials = Credentials(config.pki)
        self._links: dict[str, tuple[PeerLink, asyncio.Task[None]]] = {}
        self._listeners: list[Callable[[str], None]] = []

    async def __aenter__(self) -> Self:
        await self.apply(self._config)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop(list(self._links))

    def get(self, name: str) -> PeerLink:
        """The link of that peer; raises SameHost and NoSuchPeer."""
        if name == self._config.name:
            raise SameHost(f"{name} is this host itself.")
        if name not in self._links:
            known = ", ".join(self._links) or "none"
            raise NoSuchPeer(
                f"No peer called {name!r} is configured; known peers: {known}.",
                hint=f"A peer is a file in {self._config.directory / 'peers.d'}.",
            )
        return self._links[name][0]

    @property
    def views(self) -> tuple[PeerView, ...]:
        """What is known of all peers now."""
        return tuple(link.view for link, _ in self._links.values())

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Call `listener(name)` when a peer's view has changed, or the peer came or went."""
        self._listeners.append(listener)

    def _changed(self, name: str) -> None:
        for listener in tuple(self._listeners):
            listener(name)

    async def apply(self, config: Config) -> None:
        """Take a new configuration: start and stop links; one that has not changed stays connected."""
        self._config = config
        self._credentials.apply(config.pki)
        await self._stop([name for name, (link, _) in self._links.items() if config.peers.get(name) != link.peer])
        for name, peer in config.peers.items():
            if name in self._links:
                self._links[name][0].retry_now()
            else:
                self._start(peer)

    def certificates_changed(self) -> None:
        """Certificate or key files may have changed: what failed with the old ones is tried again at once."""
        for link, _ in self._links.values():
            link.retry_now()

    def _start(self, peer: Peer) -> None:
        link = PeerLink(peer, self._credentials, on_change=self._changed, protocols=self._protocols, pace=self._pace)
        self._links[peer.name] = link, self._group.create_task(link.run(), name=f"peer-{peer.name}")
        self._changed(peer.name)

    async def _stop(self, names: list[str]) -> None:
        tasks = []
        for name in names:
            _, task = self._links.pop(name)
            task.cancel()
            tasks.append(task)
            self._changed(name)  # before anybody else's turn: who knows of a link asks for it
        if tasks:
            await asyncio.wait(tasks)
