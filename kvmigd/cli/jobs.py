"""kvmigctl jobs and cancel."""

from __future__ import annotations

import click

from kvmigd.bus import path
from kvmigd.cli.client import Client, number_of
from kvmigd.cli.failure import finish
from kvmigd.cli.job import as_object
from kvmigd.cli.output import print_json, print_table, say
from kvmigd.errors import Exit


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a job, each on a line.")
def jobs(*, as_json: bool) -> None:
    """List jobs that run, and those that ended within 15 minutes."""
    finish(_jobs(as_json=as_json), as_json=as_json)


async def _jobs(*, as_json: bool) -> int:
    async with Client() as client:
        found = sorted((await client.objects(path.JOB)).items(), key=lambda item: number_of(item[0]))
    if as_json:
        for place, parts in found:
            print_json(as_object(place, parts))
        return Exit.OK
    if not found:
        say("No jobs.")
        return Exit.OK
    rows = []
    for place, parts in found:
        job = parts[path.JOB]
        state = job["State"] if job["Result"] or job["Kind"] == "evacuate" else f"{job['State']}, {job['Phase']}"
        progress = "" if job["Kind"] == "evacuate" else f"{job['Progress']:.0%}"
        rows.append(
            [str(number_of(place)), job["Kind"], job["Guest"], job["Peer"], state, progress, job["ErrorMessage"]]
        )
    print_table(["JOB", "KIND", "GUEST", "PEER", "STATE", "DONE", "MESSAGE"], rows)
    return Exit.OK


@click.command()
@click.argument("job", type=click.IntRange(min=1))
def cancel(job: int) -> None:
    """Cancel the JOB of that number. The guest stays where it runs."""
    finish(_cancel(job))


async def _cancel(number: int) -> int:
    async with Client() as client:
        await client.job_call(number, "Cancel", "a{sv}", {})
    say(f"Job {number} is being cancelled.")
    return Exit.OK
