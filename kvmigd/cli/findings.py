"""The one place where findings are shown: what is wrong, what was expected and found, and the command that mends it."""

from __future__ import annotations

from typing import Any

from kvmigd.cli.output import say
from kvmigd.cli.picture import clock

_LABELS = {"block": ("BLOCKS ", "red"), "unknown": ("UNKNOWN", "yellow"), "warn": ("WARNING", "yellow")}
_BASIS = {"proved": "proved by trying it", "compared": "by comparing both hosts", "assumed": "assumed"}

Finding = dict[str, Any]


def parse(body: list[list[Any]]) -> list[Finding]:
    """Findings as they come from the bus, each as one flat object."""
    return [
        {"check": check, "severity": severity, "summary": summary, **details}
        for check, severity, summary, details in body
    ]


def show(findings: list[Finding], *, explain: bool = False) -> None:
    """Print findings; with `explain`, also what the catalogue says of each check."""
    for finding in findings:
        label, colour = _LABELS.get(finding["severity"], (finding["severity"].upper(), "yellow"))
        say()
        say(f"{label}  {finding['summary']}", fg=colour, bold=True)
        for name, value in (*_lines(finding), *(_explanation(finding) if explain else ())):
            say(f"         {name:<9} {value}")


def _lines(finding: Finding) -> list[tuple[str, str]]:
    lines = [
        ("expected:", finding.get("expected", "")),
        ("found:", finding.get("found", "")),
        ("said:", finding.get("raw", "")),
        ("remedy:", finding.get("remedy", "")),
        ("or:", _other_ways(finding)),
        ("check:", f"{finding['check']}, {_BASIS.get(finding.get('basis', ''), 'unknown basis')}{_age(finding)}"),
    ]
    return [(name, value) for name, value in lines if value]


def _other_ways(finding: Finding) -> str:
    ways = finding.get("ways", [])
    return f"this does not stand in the way of: {', '.join(ways)}" if ways and finding["severity"] == "block" else ""


def _age(finding: Finding) -> str:
    proved = finding.get("provedUSec", 0)
    return f" at {clock(proved)}" if proved else ""


def _explanation(finding: Finding) -> list[tuple[str, str]]:
    # Only who asks for it waits for the catalogue to be loaded.
    from kvmigd.checks.catalogue import CHECKS

    check = CHECKS.get(finding["check"])
    return [("must be:", check.title), ("because:", check.why), ("known by:", check.known)] if check else []
