"""kvmigctl migrate."""

from __future__ import annotations

import click

from kvmigd.cli import job
from kvmigd.cli.client import Client, number_of
from kvmigd.cli.failure import finish
from kvmigd.cli.output import print_json, say
from kvmigd.errors import Exit


@click.command()
@click.argument("guest")
@click.argument("peer", default="")
@click.option("--bandwidth", type=click.IntRange(0, 2**30), metavar="MIB/S", help="Limit; 0 for none.")
@click.option("--no-wait", is_flag=True, help="Only start it and tell the job's number.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line each time the job changes.")
def migrate(guest: str, peer: str, *, bandwidth: int | None, no_wait: bool, as_json: bool) -> None:
    """Move the running GUEST to PEER, live.

    GUEST is a name or UUID. Without PEER the best peer is taken. Ctrl-C leaves the migration running.
    """
    finish(_migrate(guest, peer, bandwidth=bandwidth, no_wait=no_wait, as_json=as_json), as_json=as_json)


async def _migrate(guest: str, peer: str, *, bandwidth: int | None, no_wait: bool, as_json: bool) -> int:
    from dbus_next.signature import Variant

    options = {} if bandwidth is None else {"bandwidth": Variant("t", bandwidth << 20)}
    async with Client() as client:
        await client.listen()
        (place,) = await client.manager("Migrate", "ssa{sv}", guest, peer, options)
        return await started(client, place, no_wait=no_wait, as_json=as_json)


async def started(client: Client, place: str, *, no_wait: bool, as_json: bool) -> int:
    """Follow a job that was just started, or only tell its number."""
    if not no_wait:
        return await job.follow(client, place, as_json=as_json)
    if as_json:
        print_json({"job": number_of(place)})
    else:
        say(f"Job {number_of(place)} started. To see it: kvmigctl jobs")
    return Exit.OK
