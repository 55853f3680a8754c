"""The parts of the board: what the questions of one scope have found about one peer, one guest, or both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvmigd.checks.catalogue import Judge, questions
from kvmigd.checks.rule import Scope
from kvmigd.checks.view import Hosts, HostView, Local
from kvmigd.model.finding import Finding, Severity, Verdict
from kvmigd.model.guest import Guest
from kvmigd.model.peer import PeerView
from kvmigd.model.readiness import CheckResult

EVERYTHING = frozenset({"everything"})
"""In place of words: all questions are to be asked again."""
_BIT = {Severity.WARN: 1, Severity.UNKNOWN: 2, Severity.BLOCK: 4}
_VERDICTS = tuple(
    Verdict.BLOCKED if bits & 4 else Verdict.UNKNOWN if bits & 2 else Verdict.DEGRADED if bits else Verdict.READY
    for bits in range(8)
)


class Part:
    """What the questions of one scope have found about one thing."""

    __slots__ = ("findings", "found", "severities", "touched", "version")

    def __init__(self) -> None:
        self.found: dict[int, tuple[Finding, ...]] = {}
        self.findings: tuple[Finding, ...] = ()
        self.severities = 0
        self.touched = EVERYTHING
        self.version = 0

    def touch(self, words: frozenset[str]) -> None:
        """Something that questions read has changed."""
        if self.touched is not EVERYTHING:
            self.touched = words if words is EVERYTHING or not self.touched else self.touched | words

    def ask(self, judge: Judge, scope: Scope, given: Any, unknown: frozenset[str]) -> bool:
        """Ask what is to be asked again; returns whether anything is found that was not before."""
        words, self.touched = self.touched, frozenset()
        before = self.found
        asked = questions(scope, None if words is EVERYTHING else words)
        now = judge.answers(asked, given, unknown=unknown)
        if before and words is not EVERYTHING:
            again = {question.number for question in asked}
            now |= {number: found for number, found in before.items() if number not in again}
        if now == before and self.version:
            return False
        self.found = now
        self.tell(finding for found in now.values() for finding in found)
        return True

    def tell(self, findings: Iterable[Finding]) -> None:
        """Something else is found than before."""
        self.version += 1
        self.findings = tuple(findings)
        self.severities = 0
        for finding in self.findings:
            self.severities |= _BIT[finding.severity]


class PeerPart(Part):
    """One peer, whatever the guest."""

    __slots__ = ("destination", "hosts", "view")

    def __init__(self, view: PeerView) -> None:
        super().__init__()
        self.view = view
        self.destination: HostView | None = None
        self.hosts: Hosts | None = None


class PairPart(Part):
    """One guest and one peer, beside what is said of each."""

    __slots__ = ("result", "stamp")

    def __init__(self) -> None:
        super().__init__()
        self.result: CheckResult | None = None
        self.stamp = (0, 0, 0)


class GuestPart(Part):
    """One guest, whatever the peer, and its pairs by peer."""

    __slots__ = ("guest", "local", "pairs")

    def __init__(self, guest: Guest) -> None:
        super().__init__()
        self.guest = guest
        self.local: Local | None = None
        self.pairs: dict[str, PairPart] = {}


def verdict_of_parts(guest: GuestPart, peer: PeerPart) -> Verdict:
    """The verdict about a guest and a peer, by the parts of both and of the pair."""
    pair = guest.pairs[peer.view.name]
    beside = pair.severities if peer.view.is_connected else 0
    return _VERDICTS[guest.severities | peer.severities | beside]
