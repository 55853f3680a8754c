"""kvmigctl maintenance and reload."""

from __future__ import annotations

import click

from kvmigd.bus import path
from kvmigd.cli.client import Client
from kvmigd.cli.failure import finish
from kvmigd.cli.output import say
from kvmigd.errors import Exit


@click.command()
@click.argument("action", type=click.Choice(["on", "off", "status"]), default="status")
def maintenance(action: str) -> None:
    """Switch maintenance on or off, or tell whether it is on. A host in maintenance takes no guests."""
    finish(_maintenance(action))


async def _maintenance(action: str) -> int:
    async with Client() as client:
        if action != "status":
            await client.manager("SetMaintenance", "ba{sv}", action == "on", {})
        host = await client.properties(path.ROOT, path.MANAGER)
    say(f"Maintenance of {host['HostName']} is {'on' if host['Maintenance'] else 'off'}.")
    return Exit.OK


@click.command()
def reload() -> None:
    """Let the daemon read its configuration and certificates again."""
    finish(_reload())


async def _reload() -> int:
    async with Client() as client:
        await client.manager("Reload")
    say("Configuration reloaded.")
    return Exit.OK
