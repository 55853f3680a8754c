"""What a check found: what is wrong, where, what was expected, what was found, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec


class Severity(StrEnum):
    """What a finding does to a migration."""

    BLOCK = "block"
    WARN = "warn"
    UNKNOWN = "unknown"
    """The question could not be answered, so nothing is promised."""


class Basis(StrEnum):
    """How a finding is known."""

    PROVED = "proved"
    COMPARED = "compared"
    ASSUMED = "assumed"


class Verdict(StrEnum):
    """Could this guest leave now?"""

    READY = "ready"
    DEGRADED = "degraded"
    BLOCKED = "blocked"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One finding. `check` is the stable id, `subject` the thing that it is about, `host` where it is to be mended."""

    check: str
    severity: Severity
    summary: str
    host: str = ""
    subject: str = ""
    expected: str = ""
    found: str = ""
    remedy: str = ""
    basis: Basis = Basis.COMPARED
    proved_usec: int = 0
    """When what it rests on was tried, wall clock, microseconds since 1970; 0 where it was not, or just now."""
    way: str = ""
    """`back` where it is about the guest's way back, empty for the way there."""
    ways: tuple[str, ...] = ()
    """Other ways to move the guest that it does not stand in: offline, copy, shutdown."""
    raw: str = ""
    """What libvirt or QEMU said, where the finding was made of that."""


_RANK = {Severity.BLOCK: 0, Severity.UNKNOWN: 1, Severity.WARN: 2}


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """What blocks comes first; within a severity the order of the catalogue stays."""
    return tuple(sorted(findings, key=lambda finding: _RANK[finding.severity]))


def verdict_of(findings: Iterable[Finding], *, strict: bool = False) -> Verdict:
    """The verdict is that of the worst finding; `strict` takes a warning for as bad as what blocks."""
    severities = {finding.severity for finding in findings}
    if Severity.BLOCK in severities or (strict and Severity.WARN in severities):
        return Verdict.BLOCKED
    if Severity.UNKNOWN in severities:
        return Verdict.UNKNOWN
    return Verdict.DEGRADED if Severity.WARN in severities else Verdict.READY
