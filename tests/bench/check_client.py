"""Runs on a lab host: times Check with proofs, with the host's Python and kvmigd's libraries."""

from __future__ import annotations

import asyncio
import json
import sys
import time

sys.path.insert(0, "/usr/lib/kvmigd/site")

from dbus_next.signature import Variant

from kvmigd.bus.connection import Connection

NAME, ROOT = "org.kvmigd1", "/org/kvmigd1"


async def main(guest: str, peer: str, calls: int) -> None:
    """Call, and print what it took as one line of JSON."""
    connection = await Connection.open()
    took = []
    verdict, findings = "", []
    for _ in range(calls):
        began = time.perf_counter()
        reply = await connection.call(
            NAME,
            ROOT,
            NAME + ".Manager",
            "Check",
            "ssa{sv}",
            (guest, peer, {"prove": Variant("b", True)}),  # noqa: FBT003
        )
        took.append((time.perf_counter() - began) * 1000)
        verdict, findings = reply.body
        await asyncio.sleep(0.3)
    await connection.close()
    print(json.dumps({"took": took, "verdict": verdict, "findings": [each[0] for each in findings]}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
