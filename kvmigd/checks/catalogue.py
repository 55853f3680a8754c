"""The catalogue: all checks and all rules, in the order of what to do first, and the judge who asks them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from kvmigd.checks import guest, identity, machine, network, software, storage
from kvmigd.checks.check import Check
from kvmigd.checks.knowledge import ANSWERS, LOOKED, PICTURE, unknown_subjects, unseen
from kvmigd.checks.rule import Rule, Scope
from kvmigd.checks.view import Case, Hosts, Local
from kvmigd.model.finding import Finding, Severity, ordered

_MODULES = (identity, software, guest, storage, network, machine)

RULES: tuple[Rule, ...] = tuple(
    value for module in _MODULES for value in vars(module).values() if isinstance(value, Rule)
)
"""All rules. Within a severity, findings are told in this order: what others depend on is mended first."""

CHECKS: dict[str, Check] = {
    check.id: check for check in (ANSWERS, PICTURE, LOOKED, *(check for rule in RULES for check in rule.tells))
}
"""All checks by id, in the same order."""

SETTABLE = frozenset(check.id for check in CHECKS.values() if not check.fixed)
"""Ids of the checks whose severity the configuration may set."""

_RULES = {scope: tuple(rule for rule in RULES if rule.scope is scope) for scope in Scope}
_BACK = tuple(rule for rule in RULES if rule.back)
_RANK = {check: rank for rank, check in enumerate(CHECKS)}


class Judge:
    """Asks the rules, and gives findings the severities that the configuration has for them.

    `touching` limits the question to rules that read one of these; None asks all.
    """

    def __init__(self, severities: Mapping[str, str] | None = None) -> None:
        self._severities = dict(severities or {})

    def case(self, case: Case) -> tuple[Finding, ...]:
        """Everything about a guest and two hosts, what to do first comes first."""
        return self.sorted((*self.hosts(case.hosts), *self.local(case.local), *self.pair(case)))

    def hosts(self, hosts: Hosts, *, touching: frozenset[str] | None = None) -> tuple[Finding, ...]:
        """What is said about two hosts, whatever the guest."""
        found = list(unknown_subjects(hosts.source)) + list(unknown_subjects(hosts.destination))
        for rule in _RULES[Scope.HOSTS]:
            if _is_asked(rule, touching) and _is_known(rule, hosts):
                found += rule(hosts)
        for rule in _BACK:
            if rule.scope is Scope.HOSTS and _is_asked(rule, touching) and _is_known(rule, hosts):
                found += _warnings(rule(hosts.reversed))
        return self._judged(found)

    def local(self, local: Local, *, touching: frozenset[str] | None = None) -> tuple[Finding, ...]:
        """What is said about a guest on its host, whatever the peer."""
        unknown = local.source.state.unknown
        found: list[Finding] = []
        for rule in _RULES[Scope.GUEST]:
            if _is_asked(rule, touching) and (not unknown or rule.subjects.isdisjoint(unknown)):
                found += rule(local)
        return self._judged(found)

    def pair(self, case: Case, *, touching: frozenset[str] | None = None) -> tuple[Finding, ...]:
        """What is said about a guest and two hosts, beside what `hosts` and `local` say."""
        found = list(unseen(case))
        for rule in _RULES[Scope.PAIR]:
            if _is_asked(rule, touching) and _is_known(rule, case.hosts):
                found += rule(case)
        for rule in _BACK:
            if rule.scope is Scope.PAIR and _is_asked(rule, touching) and _is_known(rule, case.hosts):
                found += _warnings(rule(case.reversed))
        return self._judged(found)

    def _judged(self, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        if not self._severities:
            return tuple(findings)
        return tuple(self._settled(findings))

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


def _is_asked(rule: Rule, touching: frozenset[str] | None) -> bool:
    return touching is None or not rule.reads.isdisjoint(touching)


def _is_known(rule: Rule, hosts: Hosts) -> bool:
    source, destination = hosts.source.unknown, hosts.destination.unknown
    return (not source and not destination) or (
        rule.subjects.isdisjoint(source) and rule.subjects.isdisjoint(destination)
    )


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


def judge(case: Case, severities: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
    """All findings about a case."""
    return Judge(severities).case(case)


def explain(check: str) -> Check:
    """The catalogue's entry of a check; raises KeyError."""
    return CHECKS[check]


def as_row(check: Check) -> dict[str, Any]:
    """An entry as plain values, for the bus and for JSON."""
    return {**msgspec.to_builtins(check), "ways": list(map(str, check.ways))}
