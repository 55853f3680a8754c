"""Proofs as a daemon makes them, driven from a host of the lab by a process beside its daemon."""

from __future__ import annotations

import json
from typing import Any

from tests.lab import daemon
from tests.lab.host import Host

_SCRIPT = """
import asyncio, json, sys, time, types
sys.path.insert(0, "/usr/lib/kvmigd/site")
import msgspec
from kvmigd import config
from kvmigd.errors import KvmigdError
from kvmigd.host.local import Host
from kvmigd.model.links import BridgeFact
from kvmigd.peer.admission import AdmissionDesk
from kvmigd.peer.burst import Bursts
from kvmigd.peer.client import PeerClient
from kvmigd.peer.identity import Credentials
from kvmigd.prove.prover import Prover
from kvmigd.prove.wanted import Wanted

async def main(peer, wanted, bridges, times):
    settings = config.load()
    links = types.SimpleNamespace(bridges=msgspec.convert(bridges, tuple[BridgeFact, ...]))
    picture = types.SimpleNamespace(state=types.SimpleNamespace(links=links))
    host = types.SimpleNamespace(config=settings, picture=picture)
    async with PeerClient(settings.peers[peer], Credentials(settings.pki)) as link:
        took = []
        for _ in range(times):
            prover = Prover(host, link, desk=AdmissionDesk(settings.migration), bursts=Bursts())
            began = time.perf_counter()
            try:
                proofs = msgspec.to_builtins(await prover.prove(msgspec.convert(wanted, Wanted)))
            except KvmigdError as error:
                proofs = {"error": type(error).__name__, "message": error.message}
            took.append(round((time.perf_counter() - began) * 1e3, 1))
        print(json.dumps({**proofs, "took_ms": took}))

asyncio.run(main(*json.loads(sys.argv[1])))
"""


def prove(host: Host, peer: Host, *, times: int = 1, **wanted: Any) -> dict[str, Any]:
    """The Proofs of what is wanted (prove.wanted.Wanted); with `times`, the last ones, and how long each took."""
    bridges = daemon.things(host, "links", "bridges") if wanted.get("frames") else []
    words = json.dumps([peer.name, wanted, bridges, times])
    found: dict[str, Any] = json.loads(host.run("python3", "-I", "-c", _SCRIPT, words).stdout)
    return found


def problems(proofs: dict[str, Any], kind: str) -> dict[str, str]:
    """The problems of one kind of proof, by what it was about."""
    return {_subject(kind, it): it["problem"] for it in proofs[kind]}


def _subject(kind: str, proof: dict[str, Any]) -> str:
    match kind:
        case "ports":
            return f"{proof['to']}/{proof['purpose']}"
        case "storage":
            return str(proof["folder"])
        case "frames":
            return f"{proof['bridge']}/{proof['vlan']}"
    return str(proof["to"])
