"""Has both hosts look at guests as soon as a look is missing or stale; nothing happens while none is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

import structlog

from kvmigd.errors import KvmigdError
from kvmigd.model.guest import Guest
from kvmigd.peer.link import PeerLink
from kvmigd.readiness.evidence import HERE, Evidence
from kvmigd.readiness.inquiry import Inquiry

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 0.1
"""What changes together is looked at together."""
PEERS_AT_ONCE = 4
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 60.0


class Looker:
    """One task for each peer that has something to be asked, until it is answered. This host's own looks go along with
    the first of them: without a peer nobody needs them.
    """

    def __init__(
        self,
        inquiry: Inquiry,
        evidence: Evidence,
        *,
        guests: Callable[[], Iterable[Guest]],
        links: Callable[[], Mapping[str, PeerLink]],
    ) -> None:
        self._inquiry = inquiry
        self._evidence = evidence
        self._guests = guests
        self._links = links
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._few = asyncio.Semaphore(PEERS_AT_ONCE)
        self._looking_here: set[str] = set()

    def start(self, group: asyncio.TaskGroup) -> None:
        """From now on tasks run in this group."""
        self._group = group
        for name in self._links():
            self.wake(name)

    def stop(self) -> None:
        """The group is about to end, and nothing is asked any longer."""
        self._group = None

    def wake(self, peer: str) -> None:
        """Something may have to be asked of a peer, or of this host; a peer that has just come is asked in any case."""
        if self._group is None:
            return
        task = self._tasks.get(peer)
        if task is None or task.done():
            self._tasks[peer] = self._group.create_task(self._look(peer), name=f"look-{peer}")
        else:
            self._again.add(peer)

    def forget(self, peer: str) -> None:
        """The peer is configured no longer."""
        if (task := self._tasks.pop(peer, None)) is not None:
            task.cancel()

    async def _look(self, name: str) -> None:
        pause = 0.0
        while True:
            self._again.discard(name)
            await asyncio.sleep(pause or SETTLE_SECONDS)
            link = self._links().get(name)
            if link is None:
                return
            try:
                async with self._few:
                    met = await self._once(link)
                pause = 0.0
            except KvmigdError as error:
                pause = min(pause * 2, LONGEST_PAUSE) or FIRST_PAUSE
                log.info("guests not looked at", peer=name, error=error.message, again_seconds=pause)
                continue
            if not met and name not in self._again:
                return

    async def _once(self, link: PeerLink) -> bool:
        """Ask what is wanted; false if there was nothing to ask."""
        guests = {guest.uuid: guest for guest in self._guests()}
        mine = (self._evidence.wanted(HERE) & guests.keys()) - self._looking_here
        theirs = self._evidence.wanted(link.name) & guests.keys()
        if not guests or (not mine and not theirs and self._evidence.contact(link.name).named is not None):
            return False
        self._looking_here |= mine
        try:
            await self._inquiry.look(
                link, here=[guests[uuid] for uuid in mine], there=[guests[uuid] for uuid in theirs]
            )
        finally:
            self._looking_here -= mine
        return True
