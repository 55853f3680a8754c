"""Repeats proofs in the background: rarely and one peer at a time, soon where something they rest on has changed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
import structlog

from kvmigd.errors import KvmigdError
from kvmigd.model.guest import Guest
from kvmigd.model.proof import FrameProof
from kvmigd.peer.link import PeerLink
from kvmigd.prove.wanted import Segment, Wanted
from kvmigd.readiness.evidence import Contact, Evidence
from kvmigd.readiness.inquiry import Inquiry
from kvmigd.readiness.wanted import KINDS

log = structlog.get_logger(__name__)


class Rhythm(msgspec.Struct, frozen=True, kw_only=True):
    """When proofs are made, seconds."""

    every: float = 1800.0
    jitter: float = 0.25
    """Of `every`: so that not all hosts of a site do it together."""
    settle: float = 1.0
    """After a change: it is seldom the only one."""
    meet: float = 4.0
    """A peer that has come is proved within so long after that."""
    least: float = 5.0
    """Between two proofs with one peer."""
    failed: float = 60.0
    """After a proof that did not go as it must; twice as long each time, up to a third of `every`."""


class _Due:
    """What is to be proved with a peer, and when (loop time)."""

    __slots__ = ("failures", "kinds", "proved_at", "when")

    def __init__(self) -> None:
        self.failures = 0
        self.kinds: set[str] = set()
        self.when = float("inf")
        self.proved_at = float("-inf")


class Repeater:
    """`run` proves with one peer at a time, for ever. At rest it has one timer: that of the next proof."""

    def __init__(
        self,
        inquiry: Inquiry,
        evidence: Evidence,
        *,
        guests: Callable[[], Iterable[Guest]],
        links: Callable[[], Mapping[str, PeerLink]],
        rhythm: Rhythm = Rhythm(),  # noqa: B008  # frozen
        dice: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._inquiry = inquiry
        self._evidence = evidence
        self._guests = guests
        self._links = links
        self._rhythm = rhythm
        self._dice = dice
        self._due: dict[str, _Due] = {}
        self._wake = asyncio.Event()
        self._look_for_needs = False

    def met(self, peer: str) -> None:
        """A peer has come: everything is proved soon."""
        self._plan(peer, KINDS, self._dice(self._rhythm.settle, self._rhythm.meet))

    def changed(self, peer: str, kinds: Iterable[str]) -> None:
        """Something that these kinds of proofs rest on has changed."""
        self._plan(peer, kinds, self._rhythm.settle)

    def needed(self) -> None:
        """Guests may need something that was not proved yet."""
        self._look_for_needs = True
        self._wake.set()

    def forget(self, peer: str) -> None:
        """The peer is configured no longer."""
        self._due.pop(peer, None)

    def _plan_needs(self) -> None:
        """Plan what guests need and nobody has tried yet."""
        self._look_for_needs = False
        guests = tuple(self._guests())
        wanted = self._inquiry.wanted(None, guests) if guests else None
        for name in self._links() if wanted is not None else ():
            proofs = self._evidence.contact(name).proofs
            if wanted is not None and name in self._due and (proofs.ports or proofs.tls):
                kinds = set()
                if set(wanted.storage) - {proof.folder for proof in proofs.storage}:
                    kinds.add("storage")
                if set(_keys(wanted.frames)) - set(_keys(proofs.frames)):
                    kinds.add("frames")
                if kinds:
                    self._plan(name, kinds, self._rhythm.settle)

    def _plan(self, peer: str, kinds: Iterable[str], seconds: float) -> None:
        due = self._due.setdefault(peer, _Due())
        new = set(kinds) - due.kinds
        due.kinds |= new
        now = asyncio.get_running_loop().time()
        when = max(now + seconds, due.proved_at + self._rhythm.least)
        if when < due.when or new:
            due.when = min(when, due.when)
            self._wake.set()

    async def run(self) -> None:
        """Prove what is due, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            if self._look_for_needs:
                self._plan_needs()
            name, when = self._next()
            if when > loop.time():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(None if when == float("inf") else when):
                        await self._wake.wait()
                continue
            await self._prove(name)

    def _next(self) -> tuple[str, float]:
        """The peer whose proofs are due first, of those that are connected; nobody while there are no guests."""
        links = self._links()
        if not any(True for _ in self._guests()):
            return "", float("inf")
        times = [(due.when, name) for name, due in self._due.items() if name in links]
        when, name = min(times, default=(float("inf"), ""))
        return name, when

    def wake(self) -> None:
        """Guests or peers are others than before."""
        self._wake.set()

    async def _prove(self, name: str) -> None:
        due, link, rhythm = self._due[name], self._links()[name], self._rhythm
        kinds, due.kinds, due.when = due.kinds or set(KINDS), set(), float("inf")
        wanted = self._inquiry.wanted(link, tuple(self._guests()), throughput=True)
        try:
            if "ports" in kinds:  # libvirt's port, and what names resolve to, change without a word
                await self._inquiry.look(link, here=(), there=())
            await self._inquiry.prove(link, only(wanted, kinds))
        except KvmigdError as error:
            log.info("nothing proved", peer=name, error=error.message)
            bad = kinds
        else:
            bad = bad_kinds(self._evidence.contact(name))
            if kinds >= KINDS:
                self._evidence.limit(
                    name,
                    folders=frozenset(wanted.storage),
                    segments=frozenset(f"{segment.bridge}/{segment.vlan}" for segment in wanted.frames),
                )
        again = rhythm.every
        due.failures = due.failures + 1 if bad else 0
        if bad:
            # What was mended outside of both hosts tells nobody.
            due.kinds |= bad
            again = min(rhythm.failed * 2 ** (due.failures - 1), rhythm.every / 3)
        now = asyncio.get_running_loop().time()
        due.proved_at = now
        due.when = min(
            max(due.when, now + rhythm.least), now + again * self._dice(1 - rhythm.jitter, 1 + rhythm.jitter)
        )


def bad_kinds(contact: Contact) -> set[str]:
    """Kinds of proofs of which one did not go as it must; that QEMU may not write proves nothing of storage."""
    proofs = contact.proofs
    kinds = {
        "ports": proofs.ports,
        "storage": [proof for proof in proofs.storage if proof.problem != "unwritable"],
        "frames": proofs.frames,
        "tls": proofs.tls,
    }
    bad = {kind for kind, tried in kinds.items() if not all(proof.is_proved for proof in tried)}
    if contact.remote is not None and contact.remote.problem:
        bad.add("ports")
    return bad


def _keys(segments: Iterable[Segment | FrameProof]) -> Iterator[tuple[str, int, int]]:
    return ((it.bridge, it.vlan, it.mtu) for it in segments)


def only(wanted: Wanted, kinds: Iterable[str]) -> Wanted:
    """Of what is wanted, these kinds of proofs."""
    kinds = set(kinds)
    return Wanted(
        ports=wanted.ports if "ports" in kinds else (),
        back=wanted.back if "ports" in kinds else (),
        storage=wanted.storage if "storage" in kinds else (),
        frames=wanted.frames if "frames" in kinds else (),
        tls=wanted.tls and "tls" in kinds,
        throughput=wanted.throughput and "throughput" in kinds,
    )
