"""Keeps the firewall in the picture true: ports, filters, and what their rules say about each peer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import structlog

from kvmigd.config import Config
from kvmigd.host.files import Files
from kvmigd.host.firewall import generation, iptables, legacy, ports
from kvmigd.host.firewall.child import Children
from kvmigd.host.firewall.dump import DumpFailed, Reader, Rules
from kvmigd.host.firewall.firewalld import Bus, Firewalld
from kvmigd.host.firewall.generation import Generations
from kvmigd.host.firewall.packet import Packet, Verdict, together
from kvmigd.host.firewall.question import Question
from kvmigd.host.picture import Picture
from kvmigd.model.firewall import Answer, Duration, Firewall, FirewallBackend, PortHint, PortUse
from kvmigd.model.links import RouteFact
from kvmigd.model.state import StateChange

T = TypeVar("T")

__all__ = ["Bus", "FirewallMonitor"]

log = structlog.get_logger(__name__)

RETRY_SECONDS = 30.0
"""nft that has failed is run again after that time, if nothing else makes it run: its remedy need not be an event."""
_PROGRAMS = ("usr/sbin/nft", "usr/sbin/iptables-legacy-save")
_UNHEARD = "changes of nftables cannot be heard"


class FirewallMonitor:
    """Publishes Firewall.

    nftables' rules are the kernel's truth, whoever made them, so openness is theirs (and iptables-legacy's); firewalld
    tells the zone and whether that is for good.
    """

    def __init__(
        self,
        picture: Picture,
        files: Files,
        config: Config,
        *,
        bus: Callable[[], Awaitable[Bus]],
        root: Path = Path("/"),
        reader: Reader | None = None,
    ) -> None:
        """`bus` opens a connection of its own to the system bus; `reader` reads nftables."""
        self._picture = picture
        self._files = files
        self._config = config
        self._root = root
        self._reader = reader or Reader()
        self._firewalld = Firewalld(bus, self._publish)
        self._wake = asyncio.Event()
        self._generations = Generations(self._wake.set)
        self._ports: tuple[PortUse, ...] | None = None
        self._ports_stale = True
        self._legacy_stale = True
        self._legacy = legacy.Legacy()
        self._unheard = ""
        self._generation = 0
        self._problem = ""
        self._problem_since = 0
        self._active = False
        self._failed = False
        self._dumped: tuple[int, list[Question], Rules] | None = None
        self._read_for: tuple[tuple[RouteFact, PortUse, Question], ...] = ()
        self._verdicts: tuple[Verdict, ...] = ()
        self._next_read = asyncio.Event()
        """Set when the read that begins next has been published."""

    def apply(self, config: Config) -> None:
        """Take a new configuration."""
        self._config = config
        self._ports_stale = True
        self._wake.set()

    @property
    def has_untold(self) -> bool:
        """Rules are in use of which the kernel tells no changes: iptables-legacy's."""
        return bool(iptables.tables(self._root))

    async def refresh(self) -> None:
        """Read again, and publish, the rules of which the kernel tells no changes, and what else has changed."""
        published = self._next_read
        self._legacy_stale = True
        self._wake.set()
        await published.wait()

    async def run(self) -> None:
        """Keep it true, for ever."""
        self._picture.subscribe(self._on_change)
        watched = (*ports.sources(self._root), *(self._root / name for name in _PROGRAMS))
        watch = self._files.watch(watched, self._on_files)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._firewalld.run(), name="firewalld")
                try:
                    async with self._generations:
                        await self._follow()
                except PermissionError as error:
                    # Read when something else changes; what stands there may be old, so it is not told as known.
                    self._unheard = f"{_UNHEARD}: {error.strerror} (CAP_NET_ADMIN is needed)"
                except OSError as error:
                    self._unheard = f"{_UNHEARD}: {error.strerror}"
                log.warning("nftables not followed", problem=self._unheard)
                await self._follow()
        finally:
            watch.close()

    def _on_files(self) -> None:
        self._ports_stale = True
        self._wake.set()

    def _on_change(self, change: StateChange) -> None:
        if "links" not in change.subjects:
            return
        before, now = change.before.links, change.now.links
        if before.routes != now.routes or before.links != now.links:
            self._legacy_stale = True
        if before.routes != now.routes:
            self._wake.set()

    async def _follow(self) -> None:
        """Read, publish, wait. What comes while it reads makes it read once more."""
        while True:
            self._wake.clear()
            published, self._next_read = self._next_read, asyncio.Event()
            await self._read()
            self._publish()
            published.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS if self._failed else None):
                    await self._wake.wait()

    async def _read(self) -> None:
        if self._ports_stale or self._ports is None:
            self._ports_stale = False
            self._ports = await asyncio.to_thread(ports.read, self._config, root=self._root)
        wanted = self._questions()
        questions = [one for _route, _port, one in wanted]
        if self._legacy_stale:
            self._legacy_stale = False
            self._legacy = await _with_children(lambda children: legacy.read(self._root, children, before=self._legacy))
        number = self._generations.current if not self._unheard else 0
        problem, rules = self._unheard, Rules(active=not self._unheard, verdicts=())
        self._failed = False
        if not problem and number == generation.FIRST:
            rules = Rules(active=False, verdicts=(Verdict(answer=Answer.OPEN),) * len(questions))
        elif not problem:
            try:
                rules = await self._dump(number, questions)
            except DumpFailed as error:
                problem, self._failed = f"nftables' rules are not known: {error}", True
        if bool(problem) != bool(self._problem):
            self._problem_since = time.time_ns() // 1000 if problem else 0
        self._problem, self._generation, self._active = problem, number, rules.active
        unknown = [Verdict(answer=Answer.UNKNOWN, by=problem)] * len(questions)
        nftables = list(rules.verdicts) if not problem else unknown
        self._read_for = wanted
        self._verdicts = tuple(together(both) for both in zip(nftables, self._legacy_verdicts(questions), strict=True))

    async def _dump(self, number: int, questions: list[Question]) -> Rules:
        """What the rules of that generation say; read once, and never kept where the generation is not known (0)."""
        if self._dumped is None or self._dumped[:2] != (number, questions):
            self._dumped = None
            rules = await _with_children(lambda children: self._reader.read(questions, children))
            if not number:
                return rules
            self._dumped = (number, questions, rules)
        return self._dumped[2]

    def _legacy_verdicts(self, questions: Sequence[Question]) -> list[Verdict]:
        if self._legacy.problem:
            return [Verdict(answer=Answer.UNKNOWN, by=self._legacy.problem)] * len(questions)
        return self._legacy.answers(questions)

    def _questions(self) -> tuple[tuple[RouteFact, PortUse, Question], ...]:
        links = self._picture.state.links
        found = []
        for route in links.routes if links.is_known else ():
            for port in self._ports or ():
                one = Question(
                    source=route.address, first=port.first, last=port.last, link=route.link, destination=route.source
                )
                found.append((route, port, one))
        return tuple(found)

    def _publish(self) -> None:
        """Tell what was read last, with what firewalld says now."""
        if self._ports is None:
            return
        hints = tuple(
            self._hint(route, port, one, verdict)
            for (route, port, one), verdict in zip(self._read_for, self._verdicts, strict=True)
        )
        self._picture.publish(Firewall(problem="", ports=self._ports, backends=self._backends(), hints=hints))

    def _backends(self) -> tuple[FirewallBackend, ...]:
        firewalld = self._firewalld.known
        return (
            FirewallBackend(
                name="firewalld",
                active=firewalld.active,
                problem=firewalld.problem,
                problem_since_usec=firewalld.problem_since_usec,
            ),
            FirewallBackend(
                name="nftables",
                active=self._active,
                generation=self._generation,
                problem=self._problem,
                problem_since_usec=self._problem_since,
            ),
            FirewallBackend(
                name="iptables-legacy",
                active=self._legacy.active,
                problem=self._legacy.problem,
                problem_since_usec=self._legacy.problem_since_usec,
            ),
        )

    def _hint(self, route: RouteFact, port: PortUse, one: Question, verdict: Verdict) -> PortHint:
        by, duration = verdict.by, Duration.UNKNOWN
        if verdict.answer is not Answer.UNKNOWN:
            zone, duration = self._zone(one, verdict.answer)
            if zone:
                by = f"zone {zone}" + (f" ({by})" if by else "")
        return PortHint(
            peer=route.peer,
            address=route.address,
            purpose=port.purpose,
            answer=verdict.answer,
            duration=duration,
            by=by,
        )

    def _zone(self, one: Question, answer: Answer) -> tuple[str, Duration]:
        """firewalld's zone of the peer, if it says the same as the kernel, and whether it will after a reload."""
        firewalld = self._firewalld.known
        if not firewalld.active or firewalld.problem:
            return "", Duration.UNKNOWN
        # Zones name ports and ranges; the two ends of the range stand for it, as the kernel's answer is for all of it.
        ends = [
            Packet(source=one.source, port=end, link=one.link, destination=one.destination)
            for end in dict.fromkeys((one.first, one.last))
        ]
        zone = firewalld.runtime.of(ends[0])
        if zone is None or together(_zone_verdict(zone.judge(end)) for end in ends).answer is not answer:
            return "", Duration.UNKNOWN
        stored = next((it for it in firewalld.permanent.zones if it.name == zone.name), None)
        if stored is None:
            return zone.name, Duration.RUNTIME
        later = together(_zone_verdict(stored.judge(end)) for end in ends).answer
        if later is Answer.UNKNOWN:
            return zone.name, Duration.UNKNOWN
        same = later is answer and set(zone.sources) == set(stored.sources)
        return zone.name, Duration.PERMANENT if same else Duration.RUNTIME


async def _with_children(work: Callable[[Children], T]) -> T:
    """Do it in a thread; its programs are ended if this is cancelled, and the thread with them."""
    children = Children()
    try:
        return await asyncio.to_thread(work, children)
    finally:
        children.cancel()


def _zone_verdict(answer: Answer) -> Verdict:
    return Verdict(answer=answer)
