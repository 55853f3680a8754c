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


_RANK = {Severity.BLOCK: 0, Severity.UNKNOWN: 1, Severity.WARN: 2}


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """What blocks comes first; within a severity the order of the catalogue stays."""
    return tuple(sorted(findings, key=lambda finding: _RANK[finding.severity]))


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """The verdict is that of the worst finding."""
    severities = {finding.severity for finding in findings}
    if Severity.BLOCK in severities:
        return Verdict.BLOCKED
    if Severity.UNKNOWN in severities:
        return Verdict.UNKNOWN
    return Verdict.DEGRADED if Severity.WARN in severities else Verdict.READY
