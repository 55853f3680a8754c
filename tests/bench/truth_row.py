"""One line of the table: what Check said, what virsh did, and how that is judged."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.bench.situations import Situation, Truth
from tests.bench.truth_virsh import Outcome
from tests.lab.daemon import Finding


@dataclass(frozen=True)
class Answer:
    """What Check said."""

    verdict: str
    findings: tuple[Finding, ...] = ()
    ms: float = 0.0

    @property
    def first(self) -> str:
        """The first finding, in short."""
        return f"{self.findings[0].check}: {self.findings[0].summary}" if self.findings else ""

    @property
    def checks(self) -> set[str]:
        """The checks that spoke."""
        return {found.check for found in self.findings}


@dataclass
class Row:
    """One line of the table."""

    situation: Situation
    proved: Answer = field(default_factory=lambda: Answer(""))
    compared: Answer = field(default_factory=lambda: Answer(""))
    """Without proofs."""
    settled_ms: float = 0.0
    outcome: Outcome | None = None
    error: str = ""
    """Why the situation could not be made."""
    lingering: str = ""
    """What was still in the way 12 s after the situation before this one had been undone."""

    @property
    def truth(self) -> Truth:
        """What virsh did this time; before it has, what it did before."""
        return self.outcome.truth if self.outcome else self.situation.truth

    @property
    def right_verdicts(self) -> frozenset[str]:
        """The verdicts that are right."""
        if self.situation.verdicts:
            return self.situation.verdicts
        if self.truth is not Truth.WORKS or self.situation.own:
            return frozenset({"blocked"})
        return frozenset({"degraded"}) if self.situation.names else frozenset({"ready", "degraded"})

    @property
    def missed(self) -> bool:
        """Whether Check lets a guest go that does not arrive whole."""
        return self.truth is not Truth.WORKS and self.proved.verdict not in self.right_verdicts

    @property
    def false_alarm(self) -> bool:
        """Whether Check stands in the way of a guest that arrives whole."""
        return self.truth is Truth.WORKS and self.proved.verdict == "blocked" and not self.situation.own

    @property
    def named(self) -> bool:
        """Whether a finding names the cause; where there is none, whether nothing but what may be said is said."""
        if self.situation.names:
            return bool(self.proved.checks & self.situation.names)
        return all(found.severity == "warn" for found in self.proved.findings)

    @property
    def needless(self) -> bool:
        """Whether Check warns of what does no harm."""
        allowed = self.situation.names | self.situation.may | {"call.failed"}
        return self.truth is Truth.WORKS and bool(self.proved.checks - allowed)

    @property
    def right(self) -> bool:
        """Whether everything is as it should be."""
        return self.proved.verdict in self.right_verdicts and self.named and not self.false_alarm and not self.needless

    def judged(self) -> str:
        """All that is to be said, in short."""
        if self.situation.left_out:
            return "left out"
        if self.error:
            return "NOT MADE"
        words = []
        if self.missed:
            words.append("MISSED")
        if self.false_alarm:
            words.append("FALSE ALARM")
        if not self.named:
            words.append("not named")
        elif self.proved.verdict not in self.right_verdicts and not self.missed and not self.false_alarm:
            words.append("other verdict")
        if self.needless and not self.false_alarm:
            words.append("needless")
        if self.outcome and self.outcome.truth is not self.situation.truth:
            words.append(f"virsh: {self.situation.truth} expected")
        return ", ".join(words) or "right"
