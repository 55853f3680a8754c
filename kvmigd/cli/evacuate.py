"""kvmigctl evacuate, and what the unit does that empties the host before it goes down."""

from __future__ import annotations

from typing import Any

import click

from kvmigd.cli.client import QUICK, Client
from kvmigd.cli.failure import finish
from kvmigd.cli.migrate import started
from kvmigd.cli.output import say
from kvmigd.errors import Exit

_SYSTEMD = "org.freedesktop.systemd1"


@click.command()
@click.option("--deadline", type=click.IntRange(1, 2**31), metavar="SECONDS", help="What has not left by then stays.")
@click.option("--no-wait", is_flag=True, help="Only start it and tell the job's number.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line each time the job changes.")
@click.option("--shutdown", is_flag=True, hidden=True)
def evacuate(*, deadline: int | None, no_wait: bool, as_json: bool, shutdown: bool) -> None:
    """Switch maintenance on and move every running guest to a peer.

    Exit status 0 only if every guest left. Maintenance stays on; see kvmigctl maintenance.
    """
    finish(_evacuate(deadline=deadline, no_wait=no_wait, as_json=as_json, shutdown=shutdown), as_json=as_json)


@click.command(hidden=True)
def shutdown_evacuate() -> None:
    """Evacuate if the host goes down, do nothing otherwise; for kvmigd-evacuate.service."""
    finish(_shutdown_evacuate())


async def _evacuate(*, deadline: int | None, no_wait: bool, as_json: bool, shutdown: bool) -> int:
    from dbus_next.signature import Variant

    options: dict[str, Any] = {}
    if deadline is not None:
        options["deadlineUSec"] = Variant("t", deadline * 1_000_000)
    if shutdown:
        options["shutdown"] = Variant(signature="b", value=True)
    # To start a service while systemd stops all of them would wait for ever.
    async with Client(may_start=not shutdown) as client:
        await client.listen()
        (place,) = await client.manager("Evacuate", "a{sv}", options)
        return await started(client, place, no_wait=no_wait, as_json=as_json)


async def _shutdown_evacuate() -> int:
    async with Client(may_start=False) as client:
        reply = await client.connection.call(
            _SYSTEMD,
            "/org/freedesktop/systemd1",
            "org.freedesktop.DBus.Properties",
            "Get",
            "ss",
            [f"{_SYSTEMD}.Manager", "SystemState"],
            timeout=QUICK,
        )
    state = reply.body[0].value
    if state != "stopping":
        say(f"The host stays up ({state}): nothing to do.")
        return Exit.OK
    return await _evacuate(deadline=None, no_wait=False, as_json=False, shutdown=True)
