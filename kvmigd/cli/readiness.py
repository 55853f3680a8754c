"""kvmigctl readiness."""

from __future__ import annotations

from typing import Any

import click

from kvmigd.bus import path
from kvmigd.bus.interface import snake
from kvmigd.cli.client import Client
from kvmigd.cli.failure import finish
from kvmigd.cli.output import print_json, print_table, say
from kvmigd.cli.picture import clock
from kvmigd.errors import Exit, NoSuchGuest

_COLOURS = {"ready": "green", "degraded": "yellow", "blocked": "red", "unknown": "yellow"}
_GOOD = ("ready", "degraded")
_SENTENCES = {
    "ready": "All guests can leave.",
    "degraded": "All guests can leave, some with warnings.",
    "blocked": "Not all guests can leave: {stuck}.",
    "unknown": "It is not known of all guests whether they can leave: {stuck}.",
}


@click.command()
@click.argument("guest", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a guest, each on a line.")
def readiness(guest: str, *, as_json: bool) -> None:
    """Tell which guests could leave this host now, as far as it is known without trying anything.

    It is kept up to date all the time; what rests on proofs says when they were made. With GUEST (a name or UUID), its
    way to each peer. Exit status 0 if all could leave, 3 if not.
    """
    finish(_readiness(guest, as_json=as_json), as_json=as_json)


async def _readiness(wanted: str, *, as_json: bool) -> int:
    async with Client() as client:
        host = await client.properties(path.ROOT, path.MANAGER)
        guests = [parts[path.GUEST] for parts in (await client.objects(path.GUEST)).values()]
    if wanted:
        guests = [guest for guest in guests if wanted in (guest["Name"], guest["UUID"])]
        if not guests:
            raise NoSuchGuest(f"No guest {wanted!r} is here.", hint="kvmigctl readiness lists those that are.")
    guests.sort(key=lambda guest: guest["Name"])
    if as_json:
        for guest in guests:
            print_json(_as_json(guest))
    elif wanted:
        _show_one(guests[0])
    else:
        _show_all(guests, host)
    active = [guest for guest in guests if guest["Readiness"]]
    return Exit.OK if all(guest["Readiness"] in _GOOD for guest in active) else Exit.BLOCKED


def _as_json(guest: dict[str, Any]) -> dict[str, Any]:
    ways = [
        {"peer": peer, "verdict": verdict, "proved_usec": proved} for peer, verdict, proved in guest["Destinations"]
    ]
    return {**{snake(key): value for key, value in guest.items()}, "destinations": ways}


def _show_one(guest: dict[str, Any]) -> None:
    state = guest["Readiness"] or guest["State"]
    say(f"{guest['Name']}: {state}", fg=_COLOURS.get(state), bold=True)
    if guest["Obstacle"]:
        say(guest["Obstacle"])
    rows = [[peer, verdict, clock(proved)] for peer, verdict, proved in guest["Destinations"]]
    if rows:
        print_table(["PEER", "VERDICT", "PROVED"], rows, colours=[_COLOURS.get(row[1]) for row in rows])
        say()
        say(f"kvmigctl check {guest['Name']} tells what must change.")


def _show_all(guests: list[dict[str, Any]], host: dict[str, Any]) -> None:
    if not guests:
        say("There are no guests here.")
        return
    rows, colours = [], []
    for guest in guests:
        good = [peer for peer, verdict, _proved in guest["Destinations"] if verdict in _GOOD]
        rows.append([guest["Name"], guest["State"], guest["Readiness"], " ".join(good), guest["Obstacle"]])
        colours.append(_COLOURS.get(guest["Readiness"]))
    print_table(["GUEST", "STATE", "READINESS", "COULD GO TO", "FIRST"], rows, colours=colours)
    say()
    stuck = ", ".join(host["Stuck"])
    state = host["Readiness"]
    say(_SENTENCES.get(state, state).format(stuck=stuck), fg=_COLOURS.get(state), bold=True)
