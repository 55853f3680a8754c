"""The one place where findings are shown: what is wrong, what was expected and found, and the command that mends it."""

from __future__ import annotations

from typing import Any

from kvmigd.cli.output import say

_LABELS = {"block": ("BLOCKS ", "red"), "unknown": ("UNKNOWN", "yellow"), "warn": ("WARNING", "yellow")}
_BASIS = {"proved": "proved by trying it", "compared": "by comparing both hosts", "assumed": "assumed"}

Finding = dict[str, str]


def parse(body: list[list[Any]]) -> list[Finding]:
    """Findings as they come from the bus, each as one flat object."""
    return [
        {"check": check, "severity": severity, "summary": summary, **details}
        for check, severity, summary, details in body
    ]


def show(findings: list[Finding]) -> None:
    """Print findings."""
    for finding in findings:
        label, colour = _LABELS.get(finding["severity"], (finding["severity"].upper(), "yellow"))
        say()
        say(f"{label}  {finding['summary']}", fg=colour, bold=True)
        for name, value in _lines(finding):
            say(f"         {name:<9} {value}")


def _lines(finding: Finding) -> list[tuple[str, str]]:
    remedy = finding.get("remedy", "")
    lines = [
        ("expected:", finding.get("expected", "")),
        ("found:", finding.get("found", "")),
        ("remedy:", remedy),
        ("check:", f"{finding['check']}, {_BASIS.get(finding.get('basis', ''), 'unknown basis')}"),
    ]
    return [(name, value) for name, value in lines if value]
