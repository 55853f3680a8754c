"""Findings on the bus: `a(sssa{sv})`, that is check, severity, summary, and the rest by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from dbus_next.signature import Variant

from kvmigd.bus.body import Typed
from kvmigd.model.finding import Finding


def findings_rows(findings: Iterable[Finding], *, peer: str) -> list[list[Any]]:
    """For a Body, which takes them without checking each again."""
    return [
        [
            finding.check,
            finding.severity,
            finding.summary,
            {name: Typed(*typed) for name, typed in _rest(finding, peer)},
        ]
        for finding in findings
    ]


def findings_body(findings: Iterable[Finding], *, peer: str) -> list[list[Any]]:
    """For dbus-next's own marshaller."""
    return [
        [
            finding.check,
            str(finding.severity),
            finding.summary,
            {name: Variant(*typed) for name, typed in _rest(finding, peer)},
        ]
        for finding in findings
    ]


def _rest(finding: Finding, peer: str) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Names, signatures and values. The first ones are always there, the others where they say something."""
    yield "expected", ("s", finding.expected)
    yield "found", ("s", finding.found)
    yield "remedy", ("s", finding.remedy)
    yield "subject", ("s", finding.subject)
    yield "host", ("s", finding.host)
    yield "basis", ("s", str(finding.basis))
    yield "peer", ("s", peer)
    if finding.proved_usec:
        yield "provedUSec", ("t", finding.proved_usec)
    if finding.way:
        yield "way", ("s", finding.way)
    if finding.ways:
        yield "ways", ("as", list(finding.ways))
    if finding.raw:
        yield "raw", ("s", finding.raw)
