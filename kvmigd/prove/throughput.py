"""How fast the path to a peer is, or was a short while ago."""

from __future__ import annotations

import asyncio
import random
import time

from kvmigd.errors import AdmissionBusy
from kvmigd.model.proof import Throughput
from kvmigd.peer import burst
from kvmigd.peer.burst import Bursts
from kvmigd.peer.client import PeerClient
from kvmigd.peer.proof import ProofFailed

BURST_SECONDS = 1.2
"""The longest that a burst takes with everything: the connection, and 0.15 s of sending."""
ATTEMPTS = 4
"""Two hosts that ask each other at the same moment are both busy, so both wait for a time of their own."""


async def measure(link: PeerClient, bursts: Bursts) -> Throughput:
    """One burst to the peer, or what the last one told if that is less than ten minutes ago."""
    for attempt in range(ATTEMPTS):
        known = bursts.known("to", link.name)
        if known is not None:
            return _told(known.rate, known.size, age=bursts.age(known))
        try:
            return await _once(link, bursts)
        except AdmissionBusy as error:
            if attempt + 1 == ATTEMPTS or error.retry_after > 1.0:
                return Throughput(problem="busy", text=error.message.rstrip("."))
        await asyncio.sleep(random.uniform(0.1, 0.5))
    raise AssertionError("the last attempt returns")


async def _once(link: PeerClient, bursts: Bursts) -> Throughput:
    bursts.begin("to", link.name)
    rate = size = 0
    age: float | None = None
    try:
        answer = await link.burst()
        if answer.offer is None:
            rate, size, age = answer.rate, answer.received, answer.age_seconds
            return _told(rate, size, age=age)
        offer = answer.offer
        async with link.closing(offer.token):
            age = 0.0
            await burst.send(offer.address, offer.port, offer.nonce, timeout=BURST_SECONDS)
            end = await link.close_proof(offer.token)
        rate, size = end.rate, end.received
    except ProofFailed as error:
        return Throughput(problem="failed", text=error.text.rstrip("."))
    finally:
        if age is None:
            bursts.abandon()
        else:
            bursts.end("to", link.name, rate=rate, size=size, age=age)
    if not rate:
        # A connection stood, so small packets arrive: something on the way loses the large ones.
        problem = "failed" if size else "lost"
        return Throughput(problem=problem, text=f"only {size} bytes of a burst arrived at {link.name}")
    return _told(rate, size, age=0.0)


def _told(rate: int, size: int, *, age: float) -> Throughput:
    return Throughput(rate=rate, sent=size, taken_usec=time.time_ns() // 1000 - int(age * 1e6))
