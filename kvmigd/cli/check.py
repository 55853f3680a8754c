"""kvmigctl check."""

from __future__ import annotations

import click

from kvmigd.cli import findings
from kvmigd.cli.client import Client
from kvmigd.cli.failure import finish
from kvmigd.cli.output import print_json, say
from kvmigd.errors import Exit

_SENTENCES = {
    "ready": ("{guest} can move to {peer} now.", "green"),
    "degraded": ("{guest} can move to {peer}, with warnings.", "yellow"),
    "blocked": ("{guest} cannot move to {peer} now.", "red"),
    "unknown": ("It is not known whether {guest} can move to {peer}.", "yellow"),
}


@click.command()
@click.argument("guest")
@click.argument("peer", default="")
@click.option("--no-proofs", is_flag=True, help="Make no real connections to the peer's migration port.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(guest: str, peer: str, *, no_proofs: bool, as_json: bool) -> None:
    """Tell whether GUEST could move to PEER now, and if not, what must change.

    GUEST is a name or UUID. Without PEER the best peer is taken. Exit status 0 if it could, 3 if not.
    """
    finish(_check(guest, peer, no_proofs=no_proofs, as_json=as_json), as_json=as_json)


async def _check(guest: str, peer: str, *, no_proofs: bool, as_json: bool) -> int:
    from dbus_next.signature import Variant

    options = {"prove": Variant(signature="b", value=False)} if no_proofs else {}
    async with Client() as client:
        verdict, body = await client.manager("Check", "ssa{sv}", guest, peer, options)
    found = findings.parse(body)
    # Who left the choice to kvmigd learns from the findings for whom they are.
    chosen = next((finding["peer"] for finding in found if finding.get("peer")), peer)
    if as_json:
        print_json({"guest": guest, "peer": chosen, "verdict": verdict, "findings": found})
    else:
        sentence, colour = _SENTENCES.get(verdict, (f"{{guest}} to {{peer}}: {verdict}", "yellow"))
        say(f"{verdict}: {sentence.format(guest=guest, peer=chosen or 'a peer')}", fg=colour, bold=True)
        findings.show(found)
    return Exit.OK if verdict in ("ready", "degraded") else Exit.BLOCKED
