"""kvmigctl check."""

from __future__ import annotations

from typing import Any

import click

from kvmigd.cli import findings
from kvmigd.cli.client import Client
from kvmigd.cli.failure import finish
from kvmigd.cli.output import print_json, print_table, say
from kvmigd.errors import Exit

_SENTENCES = {
    "ready": ("{guest} can move to {peer} now.", "green"),
    "degraded": ("{guest} can move to {peer}, with warnings.", "yellow"),
    "blocked": ("{guest} cannot move to {peer} now.", "red"),
    "unknown": ("It is not known whether {guest} can move to {peer}.", "yellow"),
}
_BEST_FIRST = tuple(_SENTENCES)
_GOOD = ("ready", "degraded")


class Answer(dict[str, Any]):
    """What was found about one guest and one peer: guest, peer, verdict, findings."""

    @property
    def is_good(self) -> bool:
        """The guest could go."""
        return self["verdict"] in _GOOD

    @property
    def rank(self) -> tuple[int, str]:
        """The best answers first."""
        verdict = self["verdict"]
        return _BEST_FIRST.index(verdict) if verdict in _BEST_FIRST else len(_BEST_FIRST), self["peer"]


@click.command()
@click.argument("guest", default="")
@click.argument("peer", default="")
@click.option("--all", "every", is_flag=True, help="All guests of this host; with GUEST, all peers.")
@click.option("--no-proofs", is_flag=True, help="Try nothing: answer at once with what is known already.")
@click.option("--strict", is_flag=True, help="Take warnings for as bad as what blocks.")
@click.option("--copy-disks", is_flag=True, help="Disks that are not on shared storage are to be copied along.")
@click.option("--offline", is_flag=True, help="The guest may be paused or shut off for the move.")
@click.option("--explain", is_flag=True, help="Tell of each finding why it matters and how it is known.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --all one for each guest and peer.")
def check(guest: str, peer: str, *, every: bool, explain: bool, as_json: bool, **options: bool) -> None:
    """Tell whether GUEST could move to PEER now, and if not, what must change.

    GUEST is a name or UUID. Without PEER all peers are asked, and the best is told first. Exit status 0 if every guest
    that was asked for could go to at least one peer, 3 if not.
    """
    if not guest and not every:
        raise click.UsageError("Which guest? Give its name or UUID, or --all.")
    work = _one if guest and peer and not every else _all if every and not guest else _peers
    finish(work(guest, peer, _options(**options), explain=explain, as_json=as_json), as_json=as_json)


def _options(*, no_proofs: bool, strict: bool, copy_disks: bool, offline: bool) -> dict[str, bool]:
    """Options as the bus calls them; what is the default is left out."""
    wanted = {"prove": not no_proofs, "strict": strict, "copyDisks": copy_disks, "offline": offline}
    return {key: value for key, value in wanted.items() if value is not (key == "prove")}


async def _ask(guest: str, peer: str, options: dict[str, bool]) -> list[Answer]:
    """The answers about these guests and peers; empty names stand for all."""
    from dbus_next.signature import Variant

    body = {key: Variant(signature="b", value=value) for key, value in options.items()}
    async with Client() as client:
        if guest and peer:
            verdict, found = await client.manager("Check", "ssa{sv}", guest, peer, body)
            return [Answer(guest=guest, peer=peer, verdict=verdict, findings=findings.parse(found))]
        (rows,) = await client.manager("CheckAll", "ssa{sv}", guest, peer, body)
    answers = [
        Answer(guest=name, peer=other, verdict=verdict, findings=findings.parse(found))
        for name, other, verdict, found in rows
    ]
    return sorted(answers, key=lambda answer: (answer["guest"], *answer.rank))


async def _one(guest: str, peer: str, options: dict[str, bool], *, explain: bool, as_json: bool) -> int:
    (answer,) = await _ask(guest, peer, options)
    if as_json:
        print_json(answer)
    else:
        _show(answer, explain=explain)
    return Exit.OK if answer.is_good else Exit.BLOCKED


async def _peers(guest: str, peer: str, options: dict[str, bool], *, explain: bool, as_json: bool) -> int:
    """One guest, all peers."""
    answers = await _ask(guest, "", options)
    if as_json:
        best = answers[0] if answers else Answer(guest=guest, peer="", verdict="unknown", findings=[])
        print_json({**best, "peers": answers})
    elif not answers:
        say("No peers are configured; see kvmigd(8).", fg="yellow", bold=True)
    for number, answer in enumerate(answers if not as_json else ()):
        if number:
            say()
        _show(answer, explain=explain)
    return Exit.OK if any(answer.is_good for answer in answers) else Exit.BLOCKED


async def _all(guest: str, peer: str, options: dict[str, bool], *, explain: bool, as_json: bool) -> int:
    """All guests, and one peer or all."""
    answers = await _ask(guest, peer, options)
    names = {answer["guest"] for answer in answers}
    free = {answer["guest"] for answer in answers if answer.is_good}
    if as_json:
        for answer in answers:
            print_json(answer)
    elif not answers:
        say("No guest runs here, or there are no peers.")
    else:
        _overview(answers)
        stuck = sorted(names - free)
        where = f"to {peer}" if peer else "to some peer"
        say()
        if stuck:
            say(f"{len(free)} of {len(names)} guests can move {where}; not: {', '.join(stuck)}.", fg="red", bold=True)
        else:
            say(f"All {len(names)} guests can move {where}.", fg="green", bold=True)
        for answer in answers if explain else ():
            if answer["findings"]:
                say()
                _show(answer, explain=True)
    return Exit.OK if names == free else Exit.BLOCKED


def _overview(answers: list[Answer]) -> None:
    rows, colours = [], []
    for answer in answers:
        first = answer["findings"][0] if answer["findings"] else {}
        more = f" (and {len(answer['findings']) - 1} more)" if len(answer["findings"]) > 1 else ""
        rows.append([answer["guest"], answer["peer"], answer["verdict"], f"{first.get('summary', '')}{more}"])
        colours.append(_SENTENCES.get(answer["verdict"], ("", "yellow"))[1])
    print_table(["GUEST", "PEER", "VERDICT", "FIRST"], rows, colours=colours)


def _show(answer: Answer, *, explain: bool) -> None:
    verdict = answer["verdict"]
    sentence, colour = _SENTENCES.get(verdict, (f"{{guest}} to {{peer}}: {verdict}", "yellow"))
    say(f"{verdict}: {sentence.format(**answer)}", fg=colour, bold=True)
    findings.show(answer["findings"], explain=explain)
