"""The catalogue as a whole: complete, in order, and never at a loss."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import types
import typing
from enum import Enum
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from kvmigd import checks
from kvmigd.checks.case import Case
from kvmigd.checks.catalogue import RULES, judge
from kvmigd.model.finding import Basis, Finding, Severity, Verdict, ordered, verdict_of
from tests.unit.cases import GOOD, changed

_WORDS = some.sampled_from(
    ["", "web", "hosta", "hostb", "br0", "lan", "bridge", "network", "file", "block", "/srv/a", "/srv", "127.0.0.1"]
)


def anything(kind: Any) -> some.SearchStrategy[Any]:
    """Values of a field's type; words are few, so that they often meet each other."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return some.lists(anything(arguments[0]), max_size=2).map(tuple)
    if origin in (typing.Union, types.UnionType):
        return some.one_of([some.none() if part is types.NoneType else anything(part) for part in arguments])
    if issubclass(kind, msgspec.Struct):
        return some.builds(kind, **{field.name: anything(field.type) for field in msgspec.structs.fields(kind)})
    if issubclass(kind, Enum):
        return some.sampled_from(list(kind))
    simple = {str: _WORDS, bool: some.booleans(), int: some.sampled_from([0, 1, 1500, 49152, 1 << 40])}
    return simple[kind]


def rules_of_the_modules() -> set[Any]:
    """All public generators that take a case."""
    found = set()
    for module in pkgutil.iter_modules(checks.__path__):
        loaded = importlib.import_module(f"kvmigd.checks.{module.name}")
        for name, value in inspect.getmembers(loaded, inspect.isgeneratorfunction):
            if not name.startswith("_") and list(inspect.signature(value).parameters) == ["case"]:
                found.add(value)
    return found


def test_every_rule_is_in_the_catalogue_once() -> None:
    assert len(set(RULES)) == len(RULES)
    assert set(RULES) == rules_of_the_modules()


def test_a_good_case_has_no_finding() -> None:
    for rule in RULES:
        assert list(rule(GOOD)) == [], rule
    assert judge(GOOD) == ()
    assert verdict_of(judge(GOOD)) is Verdict.READY


def test_what_blocks_comes_first() -> None:
    findings = judge(
        changed(
            GOOD,
            destination__bridges=tuple(changed(bridge, mtu=9000) for bridge in GOOD.destination.bridges),
            destination__facts__memory_free=0,
            destination__facts__software__qemu=1,
        )
    )
    assert [finding.check for finding in findings] == ["memory.fits", "network.mtu", "network.mtu", "software.qemu"]


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(anything(Case))
def test_whatever_two_hosts_say_is_judged(case: Case) -> None:
    findings = judge(case)
    ranks = [(Severity.BLOCK, Severity.UNKNOWN, Severity.WARN).index(finding.severity) for finding in findings]
    assert ranks == sorted(ranks)
    for finding in findings:
        assert re.fullmatch(r"[a-z]+\.[a-z]+", finding.check)
        assert finding.summary.endswith(".")
        assert finding.remedy
        assert finding.host in (case.here, case.there)
        assert finding.expected


_FINDINGS = some.lists(
    some.builds(
        Finding, check=_WORDS, severity=some.sampled_from(Severity), summary=_WORDS, basis=some.just(Basis.PROVED)
    )
)


@given(_FINDINGS)
def test_order_and_verdict_go_together(findings: list[Finding]) -> None:
    verdicts = {
        Severity.BLOCK: Verdict.BLOCKED,
        Severity.UNKNOWN: Verdict.UNKNOWN,
        Severity.WARN: Verdict.DEGRADED,
    }
    sorted_ones = ordered(findings)
    assert verdict_of(findings) is (verdicts[sorted_ones[0].severity] if findings else Verdict.READY)
    for severity in Severity:
        assert [one for one in sorted_ones if one.severity is severity] == [
            one for one in findings if one.severity is severity
        ], "within a severity nothing changes places"
