"""The catalogue as a whole: complete, in order, and never at a loss."""

from __future__ import annotations

import importlib
import pkgutil
import re
import types
import typing
from enum import Enum
from random import Random
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from kvmigd import checks
from kvmigd.checks.catalogue import CHECKS, RULES, judge
from kvmigd.checks.rule import Rule, Scope
from kvmigd.checks.view import Case, Hosts, HostView, Local
from kvmigd.model.finding import Basis, Finding, Severity, Verdict, ordered, verdict_of
from kvmigd.model.state import SUBJECTS, HostState
from kvmigd.model.subject import Subject
from tests.unit.cases import GOOD, case, changed, told

_WORDS = (
    "",
    "web",
    "hosta",
    "hostb",
    "br0",
    "lan",
    "bridge",
    "network",
    "file",
    "block",
    "/srv/a",
    "/srv",
    "127.0.0.1",
)
_NUMBERS = (0, 1, 1500, 49152, 1 << 40)


def anything(kind: Any, dice: Random) -> Any:
    """A value of a field's type; words are few, so that they often meet each other.

    Drawn with dice of one seed, not by hypothesis: a case has hundreds of fields.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return tuple(anything(arguments[0], dice) for _ in range(dice.choice((0, 0, 1, 2))))
    if origin in (typing.Union, types.UnionType):
        part = dice.choice(arguments)
        return None if part is types.NoneType else anything(part, dice)
    if issubclass(kind, Subject):
        return msgspec.structs.replace(_struct(kind, dice), problem="")
    if issubclass(kind, msgspec.Struct):
        return _struct(kind, dice)
    if issubclass(kind, Enum):
        return dice.choice(list(kind))
    return dice.choice({str: _WORDS, bool: (False, True), int: _NUMBERS}[kind])


def _struct(kind: type[msgspec.Struct], dice: Random) -> Any:
    return kind(**{field.name: anything(field.type, dice) for field in msgspec.structs.fields(kind)})


def some_case(seed: int) -> Case:
    """A case in which anything may be, of two hosts."""
    dice = Random(seed)
    drawn: Case = anything(Case, dice)
    hosts = msgspec.structs.replace(
        drawn.hosts,
        source=changed(drawn.source, facts__name="hosta"),
        destination=changed(drawn.destination, facts__name="hostb"),
    )
    return Case(local=msgspec.structs.replace(drawn.local, source=hosts.source), hosts=hosts, look=drawn.look)


def rules_of_the_modules() -> set[str]:
    """Names of all rules that a module of the package has."""
    found = set()
    for module in pkgutil.iter_modules(checks.__path__):
        loaded = importlib.import_module(f"kvmigd.checks.{module.name}")
        found |= {value.name for value in vars(loaded).values() if isinstance(value, Rule)}
    return found


def test_every_rule_is_in_the_catalogue_once() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert set(names) == rules_of_the_modules()


def test_every_check_is_explained() -> None:
    for name, check in CHECKS.items():
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", name)
        assert name == check.id
        for text in (check.title, check.why, check.known):
            assert text.endswith("."), (name, text)
        assert check.remedy, name


def test_a_good_case_has_no_finding() -> None:
    assert judge(GOOD) == ()
    assert verdict_of(judge(GOOD)) is Verdict.READY


def test_what_blocks_comes_first() -> None:
    findings = told(
        destination__bridges=tuple(changed(bridge, mtu=9000) for bridge in GOOD.destination.bridges.values()),
        destination__facts__memory_free=0,
        destination__facts__software__qemu=1,
    )
    assert findings[0].check == "memory.fits"
    assert {finding.severity for finding in findings[1:]} == {Severity.WARN}
    assert verdict_of(findings) is Verdict.BLOCKED


def test_warnings_block_who_is_strict() -> None:
    findings = told(destination__facts__software__qemu=1)
    assert verdict_of(findings) is Verdict.DEGRADED
    assert verdict_of(findings, strict=True) is Verdict.BLOCKED


def test_the_owner_has_the_last_word_on_severities() -> None:
    worse = case(destination__facts__software__qemu=1)
    assert [finding.severity for finding in judge(worse, {"software.qemu": "block"})] == [Severity.BLOCK]
    assert judge(worse, {"software.qemu": "ignore"}) == ()
    gone = case(there__names__name_of_uuid="web", there__names__uuid_is_active=True)
    assert [finding.severity for finding in judge(gone, {"guest.uuid": "ignore"})] == [Severity.BLOCK], "it is fixed"


def test_a_subject_that_is_not_known_promises_nothing() -> None:
    for name in SUBJECTS:
        empty = type(GOOD.source.state.subject(name))(problem="it hangs")
        findings = told(**{f"destination__state__{name}": empty})
        assert [(finding.check, finding.subject, finding.host) for finding in findings] == [
            ("picture.known", name, "hostb")
        ]
        assert verdict_of(findings) is Verdict.UNKNOWN


def test_a_guest_that_nobody_has_looked_at_promises_nothing() -> None:
    for place in ("here", "there"):
        findings = told(**{place: None})
        assert {finding.check for finding in findings} == {"guest.looked"}
        assert verdict_of(findings) is Verdict.UNKNOWN


_CASES = some.integers(0, 1 << 32).map(some_case)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(_CASES)
def test_whatever_two_hosts_say_is_judged(odd: Case) -> None:
    findings = judge(odd)
    ranks = [(Severity.BLOCK, Severity.UNKNOWN, Severity.WARN).index(finding.severity) for finding in findings]
    assert ranks == sorted(ranks)
    for finding in findings:
        assert finding.check in CHECKS
        assert finding.summary.endswith(".")
        assert finding.remedy
        assert finding.host in (odd.here, odd.there)
        assert finding.expected


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(_CASES, _CASES)
def test_rules_read_what_they_say(one: Case, other: Case) -> None:
    """Readiness asks a rule again only when something has changed that it reads: the rest may be anything."""
    for rule in RULES:
        mixed = _mixed(one, other, rule.reads)
        given_to = {Scope.HOSTS: lambda case: case.hosts, Scope.GUEST: lambda case: case.local}
        part = given_to.get(rule.scope, lambda case: case)
        assert list(rule(part(one))) == list(rule(part(mixed))), rule.name


def _mixed(one: Case, other: Case, reads: frozenset[str]) -> Case:
    """The case with everything but what is read taken from another; names of hosts and guests stay."""

    def host(mine: HostView, theirs: HostView) -> HostView:
        state = {name: (mine if name in reads else theirs).state.subject(name) for name in SUBJECTS}
        if "facts" in reads:
            return msgspec.structs.replace(mine, state=HostState(**state))
        return HostView(facts=msgspec.structs.replace(theirs.facts, name=mine.name), state=HostState(**state))

    source = host(one.source, other.source)
    guest = one.guest
    if "guest" not in reads:
        guest = msgspec.structs.replace(other.guest, name=guest.name, uuid=guest.uuid)
    return Case(
        local=Local(
            guest=guest,
            source=source,
            look=(one if "look" in reads else other).local.look,
            options=one.options,
        ),
        hosts=Hosts(
            source=source,
            destination=host(one.destination, other.destination),
            proofs=(one if "proofs" in reads else other).hosts.proofs,
        ),
        look=(one if "look" in reads else other).look,
    )


_FINDINGS = some.lists(
    some.builds(
        Finding,
        check=some.sampled_from(_WORDS),
        severity=some.sampled_from(Severity),
        summary=some.just(""),
        basis=some.just(Basis.PROVED),
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
