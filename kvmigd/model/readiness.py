"""Readiness: whether a guest could leave now, and whereto, as it is always known."""

from __future__ import annotations

import msgspec

from kvmigd.model.finding import Finding, Verdict
from kvmigd.model.guest import GuestState

BEST_FIRST = (Verdict.READY, Verdict.DEGRADED, Verdict.UNKNOWN, Verdict.BLOCKED)
"""Verdicts, the best one first: what is not known may turn out well, what is blocked needs somebody."""

GOOD = frozenset({Verdict.READY, Verdict.DEGRADED})
"""The guest could go."""


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was found about one guest and one peer."""

    guest: str
    """Its name."""
    peer: str
    verdict: Verdict
    findings: tuple[Finding, ...]


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """A peer, as one guest's destination."""

    peer: str
    verdict: Verdict
    proved_usec: int = 0
    """When the oldest of what the verdict rests on was tried, wall clock, microseconds since 1970; 0 where something
    has not been tried yet."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How one guest of this host stands."""

    name: str
    uuid: str
    state: GuestState
    readiness: Verdict | None = None
    """The best verdict of its destinations; None for a guest that is not active."""
    destinations: tuple[Destination, ...] = ()
    """All peers, the best one first."""
    obstacle: str = ""
    """The first finding about the best destination, a sentence; empty where there is none."""

    @property
    def key(self) -> str:
        """Its UUID."""
        return self.uuid

    @property
    def is_stuck(self) -> bool:
        """It is active and cannot go anywhere, as far as is known."""
        return self.readiness is not None and self.readiness not in GOOD

    @property
    def summary(self) -> str:
        """One sentence for a person."""
        if self.readiness is None:
            return f"{self.name} is not running."
        if self.is_stuck:
            return self.obstacle or f"{self.name} can go nowhere."
        peers = ", ".join(it.peer for it in self.destinations if it.verdict in GOOD)
        return f"{self.name} can go to {peers}."


def best_of(verdicts: tuple[Verdict, ...]) -> Verdict:
    """The best of several verdicts; unknown where there is none."""
    return min(verdicts, key=BEST_FIRST.index, default=Verdict.UNKNOWN)


def worst_of(verdicts: tuple[Verdict, ...]) -> Verdict:
    """The worst of several verdicts; ready where there is none."""
    return max(verdicts, key=BEST_FIRST.index, default=Verdict.READY)
