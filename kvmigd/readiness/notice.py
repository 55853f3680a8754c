"""Entries in the journal when a guest becomes stuck and when it is free again; not for what passes by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from kvmigd.model.readiness import Standing

log = structlog.get_logger(__name__)

SETTLED_SECONDS = 10.0
"""So long a guest has stood as it stands. A restart of a peer's daemon takes less."""

STUCK = "12af75b5b0ef4c838d1362d114b8613c"
FREE = "f71455001bca4fd987662c8495a6d6b3"
"""Message IDs; data/systemd/kvmigd.catalog explains them."""


class Notices:
    """Told of standings, it tells the journal. `worth` says whether anything is to be told at all."""

    def __init__(
        self,
        standings: Callable[[], Mapping[str, Standing]],
        *,
        worth: Callable[[], bool] = lambda: True,
        settled: float = SETTLED_SECONDS,
    ) -> None:
        self._standings = standings
        self._worth = worth
        self._settled = settled
        self._told: set[str] = set()
        """UUIDs of the guests that were told to be stuck."""
        self._since: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def changed(self, uuid: str) -> None:
        """A guest may stand otherwise than before."""
        standing = self._standings().get(uuid)
        if standing is None or standing.readiness is None:  # it has ended, or has left
            self._told.discard(uuid)
            self._since.pop(uuid, None)
        elif standing.is_stuck == (uuid in self._told):
            self._since.pop(uuid, None)
        elif uuid not in self._since:
            loop = asyncio.get_running_loop()
            self._since[uuid] = loop.time()
            if self._timer is None:
                self._timer = loop.call_later(self._settled, self._look)

    def close(self) -> None:
        """Tell nothing any longer."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        standings = self._standings()
        for uuid, since in list(self._since.items()):
            if since + self._settled > loop.time() + 0.001:
                continue
            del self._since[uuid]
            if uuid in standings and self._worth():
                self._tell(standings[uuid])
        if self._since:
            self._timer = loop.call_at(min(self._since.values()) + self._settled, self._look)

    def _tell(self, standing: Standing) -> None:
        fields = {"guest": standing.name, "uuid": standing.uuid, "readiness": str(standing.readiness)}
        if standing.is_stuck:
            self._told.add(standing.uuid)
            log.warning("guest stuck", message_id=STUCK, **fields, obstacle=standing.obstacle)
        else:
            self._told.discard(standing.uuid)
            peers = [it.peer for it in standing.destinations if it.verdict == standing.readiness]
            log.info("guest free again", message_id=FREE, **fields, peers=", ".join(peers))
