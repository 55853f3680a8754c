"""kvmigctl explain: the catalogue of checks, which docs/checks.md is made of too."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from kvmigd.checks.catalogue import CHECKS, as_row
from kvmigd.checks.check import Check
from kvmigd.cli.output import print_json, print_table, say
from kvmigd.errors import Exit
from kvmigd.model.finding import Severity

_SEVERITIES = {
    Severity.BLOCK: "blocks",
    Severity.WARN: "warns",
    Severity.UNKNOWN: "says that something is not known",
}
_HEAD = """\
# The checks

What kvmigd looks at before a guest moves. Made from the rules by `make docs`; `kvmigctl explain ID` tells the same.

A check **blocks** where the migration would fail or leave the guest broken, and **warns** where it works, but. The
severity of most can be set in kvmigd.toml, for instance `software.release = "block"` under `[checks]`; the others
are marked fixed. A finding says whether it is *proved* (both daemons have tried it), *compared* or *assumed*.
"""


@click.command()
@click.argument("check", default="")
@click.option("--markdown", is_flag=True, help="Print the whole catalogue as Markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a check, each on a line.")
def explain(check: str, *, markdown: bool, as_json: bool) -> None:
    """Tell what CHECK is about, why it matters, how it is known and what mends it. Without CHECK, list all."""
    if check and check not in CHECKS:
        near = [name for name in CHECKS if check in name]
        say(f"kvmigctl: There is no check {check!r}.{_like(near)}", err=True)
        sys.exit(int(Exit.USAGE))
    chosen = [CHECKS[check]] if check else list(CHECKS.values())
    if as_json:
        for entry in chosen:
            print_json(as_row(entry))
    elif markdown:
        click.echo(catalogue_as_markdown(), nl=False)
    elif check:
        _show(chosen[0])
    else:
        print_table(["CHECK", "SEVERITY", "WHAT MUST BE TRUE"], [[e.id, str(e.severity), e.title] for e in chosen])
        say()
        say("kvmigctl explain CHECK tells more of one.")


def _like(near: list[str]) -> str:
    return f" Do you mean {', '.join(near)}?" if near else " `kvmigctl explain` lists all."


def _show(entry: Check) -> None:
    say(f"{entry.id}: {entry.title}", bold=True)
    for name, text in _lines(entry):
        say(f"  {name + ':':<12} {text}")


def _lines(entry: Check) -> Iterator[tuple[str, str]]:
    fixed = "; fixed" if entry.fixed else f"; {entry.id} under [checks] in kvmigd.toml changes that"
    yield "severity", f"{_SEVERITIES[entry.severity]}{fixed}"
    yield "why", entry.why
    yield "known by", entry.known
    yield "remedy", entry.remedy
    if entry.ways:
        yield "other ways", f"it does not stand in the way of: {', '.join(entry.ways)}"


def catalogue_as_markdown() -> str:
    """docs/checks.md."""
    parts = [_HEAD]
    subject = ""
    for entry in sorted(CHECKS.values(), key=lambda entry: entry.id.partition(".")[0]):
        if entry.id.partition(".")[0] != subject:
            subject = entry.id.partition(".")[0]
            parts.append(f"\n## {subject}\n")
        fixed = ", fixed" if entry.fixed else ""
        parts.append(f"\n### {entry.id}\n\n{entry.title} *({_SEVERITIES[entry.severity]}{fixed})*\n\n")
        parts.append(f"- Why: {entry.why}\n- Known by: {entry.known}\n- Remedy: {entry.remedy}\n")
        if entry.ways:
            parts.append(f"- Other ways to move the guest: {', '.join(entry.ways)}\n")
    return "".join(parts)
