"""The catalogue: all checks and all rules, in the order of what to do first, and the judge who asks them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

import msgspec

from kvmigd.checks import (
    access,
    cpu,
    devices,
    fabric,
    firmware,
    guest,
    hostdevices,
    hypervisor,
    identity,
    images,
    machine,
    macvtap,
    memory,
    mounting,
    network,
    networks,
    ports,
    route,
    security,
    segment,
    sharing,
    software,
    storage,
    supplies,
    tls,
)
from kvmigd.checks.check import Check
from kvmigd.checks.knowledge import ANSWERS, LOOKED, PICTURE, unknown_subjects, unseen
from kvmigd.checks.refusals import REFUSALS
from kvmigd.checks.rule import Rule, Scope
from kvmigd.checks.view import Case, Hosts, Local
from kvmigd.model.finding import Finding, Severity, ordered
from kvmigd.model.state import SUBJECTS

_MODULES = (
    *(hypervisor, identity, route, ports, tls, software, security),
    *(guest, storage, mounting, access, sharing, images, fabric, supplies, firmware),
    *(networks, network, segment, macvtap),
    *(machine, cpu, memory, hostdevices, devices),
)

RULES: tuple[Rule, ...] = tuple(
    value for module in _MODULES for value in vars(module).values() if isinstance(value, Rule)
)
"""All rules. Within a severity, findings are told in this order: what others depend on is mended first."""

CHECKS: dict[str, Check] = {
    check.id: check
    for check in (ANSWERS, PICTURE, LOOKED, *(check for rule in RULES for check in rule.tells), *REFUSALS)
}
"""All checks by id, in the same order."""

SETTABLE = frozenset(check.id for check in CHECKS.values() if not check.fixed)
"""Ids of the checks whose severity the configuration may set."""

_RANK = {check: rank for rank, check in enumerate(CHECKS)}


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A rule, the way back of one, or what is asked beside the rules: what is not known."""

    number: int
    scope: Scope
    reads: frozenset[str]
    subjects: frozenset[str]
    """Subjects of the pictures that must be known for it to be asked."""
    back: bool
    ask: Callable[[Any], Iterable[Finding]]


def _questions() -> Iterator[Question]:
    numbers = itertools.count()
    unknown = frozenset({*SUBJECTS, "facts"})
    yield Question(
        number=next(numbers), scope=Scope.HOSTS, reads=unknown, subjects=frozenset(), back=False, ask=_unknown_subjects
    )
    seen = frozenset({"look", "facts"})
    yield Question(number=next(numbers), scope=Scope.PAIR, reads=seen, subjects=frozenset(), back=False, ask=unseen)
    for rule in RULES:
        for back in (False, True) if rule.back and rule.scope is not Scope.GUEST else (False,):
            yield Question(
                number=next(numbers),
                scope=rule.scope,
                reads=rule.reads | _MEMORY if back and "facts" in rule.reads else rule.reads,
                subjects=rule.subjects,
                back=back,
                ask=partial(_way_back, rule) if back else rule.judge,
            )


def _unknown_subjects(hosts: Hosts) -> Iterator[Finding]:
    yield from unknown_subjects(hosts.source)
    yield from unknown_subjects(hosts.destination)


def _way_back(rule: Rule, given: Hosts | Case) -> Iterator[Finding]:
    return _warnings(rule.judge(given.reversed))


def _warnings(findings: Iterable[Finding]) -> Iterator[Finding]:
    """What stands in the guest's way back warns of going."""
    for finding in findings:
        if finding.severity is Severity.BLOCK:
            yield msgspec.structs.replace(
                finding,
                severity=Severity.WARN,
                way="back",
                summary=f"The guest could not come back: {finding.summary[:1].lower()}{finding.summary[1:]}"
                if finding.summary.startswith(("The ", "There ", "A "))
                else f"The guest could not come back: {finding.summary}",
            )


_MEMORY = frozenset({"memory-here"})
"""The source's free memory, which changes all the time, matters to nobody but a guest on its way back."""

QUESTIONS = tuple(_questions())
"""Everything that is asked."""


@lru_cache(maxsize=256)
def questions(scope: Scope, touching: frozenset[str] | None = None) -> tuple[Question, ...]:
    """The questions of a scope, of those only that read one of what is touched; None stands for everything."""
    return tuple(
        question
        for question in QUESTIONS
        if question.scope is scope and (touching is None or not question.reads.isdisjoint(touching))
    )


class Judge:
    """Asks the rules, and gives findings the severities that the configuration has for them."""

    def __init__(self, severities: Mapping[str, str] | None = None) -> None:
        self._severities = dict(severities or {})

    def case(self, case: Case) -> tuple[Finding, ...]:
        """Everything about a guest and two hosts, what to do first comes first."""
        return self.sorted((*self.hosts(case.hosts), *self.local(case.local), *self.pair(case)))

    def hosts(self, hosts: Hosts) -> tuple[Finding, ...]:
        """What is said about two hosts, whatever the guest."""
        return self._all(Scope.HOSTS, hosts, hosts.source.unknown | hosts.destination.unknown)

    def local(self, local: Local) -> tuple[Finding, ...]:
        """What is said about a guest on its host, whatever the peer."""
        return self._all(Scope.GUEST, local, local.source.unknown)

    def pair(self, case: Case) -> tuple[Finding, ...]:
        """What is said about a guest and two hosts, beside what `hosts` and `local` say."""
        return self._all(Scope.PAIR, case, case.hosts.source.unknown | case.hosts.destination.unknown)

    def _all(self, scope: Scope, given: Any, unknown: frozenset[str]) -> tuple[Finding, ...]:
        answers = self.answers(questions(scope), given, unknown=unknown)
        return tuple(finding for found in answers.values() for finding in found)

    def answers(
        self, asked: Iterable[Question], given: Any, *, unknown: frozenset[str]
    ) -> dict[int, tuple[Finding, ...]]:
        """What these questions find about what their scope says, by number; those that find nothing are left out.

        A question that needs an `unknown` subject is not asked.
        """
        if unknown:
            asked = (question for question in asked if question.subjects.isdisjoint(unknown))
        answers = {question.number: found for question in asked if (found := tuple(question.ask(given)))}
        if self._severities and answers:
            settled = ((number, tuple(self._settled(found))) for number, found in answers.items())
            return {number: found for number, found in settled if found}
        return answers

    def _settled(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        for finding in findings:
            how = self._severities.get(finding.check, "")
            if not how or finding.severity is Severity.UNKNOWN or finding.check not in SETTABLE:
                yield finding
            elif how != "ignore":
                yield msgspec.structs.replace(finding, severity=Severity(how))

    @staticmethod
    def sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """What blocks first, then what is not known, then warnings; each in the order of the catalogue."""
        return ordered(sorted(findings, key=lambda finding: _RANK.get(finding.check, len(_RANK))))


def judge(case: Case, severities: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
    """All findings about a case."""
    return Judge(severities).case(case)


def explain(check: str) -> Check:
    """The catalogue's entry of a check; raises KeyError."""
    return CHECKS[check]


def as_row(check: Check) -> dict[str, Any]:
    """An entry as plain values, for the bus and for JSON."""
    return {**msgspec.to_builtins(check), "ways": list(map(str, check.ways))}
