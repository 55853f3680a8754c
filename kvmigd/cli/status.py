"""kvmigctl status and peers."""

from __future__ import annotations

import click

from kvmigd.bus import path
from kvmigd.bus.interface import snake
from kvmigd.cli.client import Client, number_of
from kvmigd.cli.failure import finish
from kvmigd.cli.job import title
from kvmigd.cli.output import duration, print_json, print_table, say, size
from kvmigd.errors import Exit

_STATES = {
    "ready": "ready",
    "maintenance": "in maintenance: takes no guests",
    "draining": "going down: takes no guests",
    "no-hypervisor": "libvirt does not answer",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(*, as_json: bool) -> None:
    """Show this host, its peers, and the jobs that run."""
    finish(_status(as_json=as_json), as_json=as_json)


async def _status(*, as_json: bool) -> int:
    async with Client() as client:
        host = await client.properties(path.ROOT, path.MANAGER)
        peers = [parts[path.PEER] for parts in (await client.objects(path.PEER)).values()]
        jobs = await client.objects(path.JOB)
    running = {place: parts for place, parts in jobs.items() if not parts[path.JOB]["Result"]}
    if as_json:
        more = {"peers": [peer["Name"] for peer in peers], "jobs": [number_of(place) for place in running]}
        print_json({**{snake(key): value for key, value in host.items()}, **more})
        return Exit.OK
    good = host["State"] == "ready"
    say(f"{host['HostName']}: {_STATES.get(host['State'], host['State'])}", fg="green" if good else "yellow", bold=True)
    if host["Maintenance"] and host["State"] != "maintenance":
        say("Maintenance:  on")
    say(f"Version:      {host['Version']}")
    say(f"Host UUID:    {host['HostId'] or 'not known yet'}")
    connected = [peer["Name"] for peer in peers if peer["State"] == "connected"]
    say(f"Peers:        {len(connected)} of {len(peers)} connected")
    for peer in peers:
        if peer["Problem"]:
            say(f"              {peer['Name']}: {peer['Problem']}", fg="yellow")
    say(f"Running jobs: {len(running)}")
    for place, parts in running.items():
        say(f"              {number_of(place)}: {title(parts)}, {parts[path.JOB]['State']}")
    return Exit.OK


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a peer, each on a line.")
def peers(*, as_json: bool) -> None:
    """List the configured peers."""
    finish(_peers(as_json=as_json), as_json=as_json)


async def _peers(*, as_json: bool) -> int:
    async with Client() as client:
        found = sorted(
            (parts[path.PEER] for parts in (await client.objects(path.PEER)).values()), key=lambda peer: peer["Name"]
        )
    if as_json:
        for peer in found:
            print_json({snake(key): value for key, value in peer.items()})
        return Exit.OK
    if not found:
        say("No peers are configured; see kvmigd(8).")
        return Exit.OK
    rows = []
    for peer in found:
        trip = duration(peer["RoundTripUSec"]) if peer["RoundTripUSec"] else ""
        free = size(peer["MemoryFree"]) if peer["MemoryFree"] else ""
        takes = "yes" if peer["Accepting"] else "no"
        rows.append([peer["Name"], peer["Address"], peer["State"], takes, free, trip, peer["Problem"]])
    print_table(["PEER", "ADDRESS", "STATE", "TAKES GUESTS", "FREE", "ROUND TRIP", "PROBLEM"], rows)
    return Exit.OK
