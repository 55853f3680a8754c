"""Catching a peer's frames on bridges of this host, for a few seconds at most."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from contextlib import AsyncExitStack

from kvmigd.host.frames import SMALL, Catcher, FrameFailed, places
from kvmigd.model.links import BridgeFact
from kvmigd.peer.proofwire import CatchRequest, Caught
from kvmigd.peer.sessions import SESSION_SECONDS


class FrameWatch:
    """Listens while `run` runs: until `end` is called, or the time of a session has passed."""

    def __init__(
        self,
        segments: Sequence[CatchRequest],
        bridges: Sequence[BridgeFact],
        *,
        host: str,
        seconds: float = SESSION_SECONDS,
    ) -> None:
        self._segments = segments
        self._bridges = {bridge.name: bridge for bridge in bridges if bridge.is_bridge}
        self._host = host
        self._seconds = seconds
        self._catchers: list[Catcher | Caught] = []
        self._open = asyncio.Event()
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Open what can be opened, and wait for the end."""
        try:
            async with AsyncExitStack() as stack:
                for segment in self._segments:
                    self._catchers.append(await self._enter(stack, segment))
                self._open.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._seconds):
                        await self._over.wait()
        finally:
            self._open.set()

    async def _enter(self, stack: AsyncExitStack, segment: CatchRequest) -> Catcher | Caught:
        bridge = self._bridges.get(segment.bridge)
        if bridge is None:  # nothing else of the host is ever listened on
            return Caught(problem="no-bridge", text=f"there is no bridge {segment.bridge} on {self._host}")
        catcher = Catcher(
            bridge.name,
            nonce=bytes.fromhex(segment.nonce),
            sizes=sizes(segment.mtu),
            vlan=segment.vlan,
            through=places(bridge, segment.vlan),
        )
        try:
            return await stack.enter_async_context(catcher)
        except FrameFailed as error:
            return Caught(problem=error.problem, text=f"on {self._host}, {error.text}"[:1000])

    async def opened(self) -> tuple[Caught, ...]:
        """Where to send to, for each segment, as soon as it is listened on."""
        await self._open.wait()
        return tuple(it if isinstance(it, Caught) else Caught(mac=it.mac) for it in self._catchers)

    async def caught(self) -> tuple[Caught, ...]:
        """What has come: as soon as all of it has, else after a part of a second."""
        return tuple(await asyncio.gather(*map(_result, self._catchers)))

    def end(self) -> None:
        """Listen no more."""
        self._over.set()


def sizes(mtu: int) -> frozenset[int]:
    """Payloads to try: one that passes anywhere, and the largest that guests send."""
    return frozenset({SMALL, mtu})


async def _result(catcher: Catcher | Caught) -> Caught:
    if isinstance(catcher, Caught):
        return catcher
    return Caught(mac=catcher.mac, sizes=tuple(sorted(await catcher.caught())))
