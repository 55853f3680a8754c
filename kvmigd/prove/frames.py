"""Proofs that bridges of the same name are one segment: a frame sent here is caught there."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from kvmigd.errors import KvmigdError
from kvmigd.host import frames
from kvmigd.host.frames import SMALL, FrameFailed
from kvmigd.model.links import BridgeFact
from kvmigd.model.proof import FrameProof
from kvmigd.peer.client import PeerClient
from kvmigd.peer.framewatch import sizes
from kvmigd.peer.proofwire import SEGMENTS_LIMIT, CatchRequest, Caught, FramesAnswer
from kvmigd.prove.wanted import Segment


async def cross(
    link: PeerClient, segments: Sequence[Segment], *, here: str, bridges: Sequence[BridgeFact]
) -> tuple[FrameProof, ...]:
    """Send frames on each bridge and hear what the peer has caught; at most SEGMENTS_LIMIT segments.

    `here` is this host's name, `bridges` are those of its picture. Raises what the peer's daemon answers.
    """
    assert len(segments) <= SEGMENTS_LIMIT
    known = {bridge.name: bridge for bridge in bridges if bridge.is_bridge}
    asked = [
        CatchRequest(bridge=it.bridge, vlan=it.vlan, mtu=it.mtu, nonce=secrets.token_hex(16))
        for it in segments
        if it.bridge in known
    ]
    found = dict(zip(asked, await _exchanged(link, asked, known), strict=True)) if asked else {}
    by_segment = {(it.bridge, it.vlan, it.mtu): proof for it, proof in found.items()}
    return tuple(
        by_segment.get((it.bridge, it.vlan, it.mtu))
        or FrameProof(
            bridge=it.bridge,
            vlan=it.vlan,
            mtu=it.mtu,
            problem="no-bridge",
            text=f"there is no bridge {it.bridge} on {here}",
        )
        for it in segments
    )


async def _exchanged(link: PeerClient, asked: Sequence[CatchRequest], known: dict[str, BridgeFact]) -> list[FrameProof]:
    opened = await link.catch_frames(asked)
    if len(opened.segments) != len(asked):
        return [judged(request, Caught(problem="failed", text="the peer did not say"), None) for request in asked]
    over = asyncio.Event()
    answer: FramesAnswer | KvmigdError
    async with asyncio.TaskGroup() as group:
        sending = [
            group.create_task(_send(request, there, known[request.bridge], over))
            for request, there in zip(asked, opened.segments, strict=True)
        ]
        try:
            answer = await link.caught_frames(opened.token)
        except KvmigdError as error:  # a group would wrap it
            answer = error
        finally:
            over.set()
    if isinstance(answer, KvmigdError):
        raise answer
    caught = answer.segments
    return [judged(request, there, sent.result()) for request, there, sent in zip(asked, caught, sending, strict=False)]


async def _send(
    request: CatchRequest, there: Caught, bridge: BridgeFact, over: asyncio.Event
) -> frozenset[int] | FrameFailed | None:
    """The sizes that this host does not send, or why none at all; None where the peer does not listen."""
    if there.problem:
        return None
    try:
        return await frames.send(
            bridge.name,
            destination_mac=there.mac,
            nonce=bytes.fromhex(request.nonce),
            sizes=sizes(request.mtu),
            vlan=request.vlan,
            through=frames.places(bridge, request.vlan),
            until=over,
        )
    except FrameFailed as error:
        return error


def judged(request: CatchRequest, caught: Caught, sent: frozenset[int] | FrameFailed | None) -> FrameProof:
    """What it means that these sizes were caught, of those that this host has sent."""
    problem = text = ""
    if caught.problem:
        problem, text = caught.problem, caught.text
    elif isinstance(sent, FrameFailed):
        problem, text = sent.problem, sent.text
    elif sent:
        problem, text = "too-large", f"this host does not send frames of {max(sent)} bytes on {request.bridge}"
    elif not caught.sizes:
        problem, text = "lost", f"no frame sent on {request.bridge} arrived"
    elif request.mtu not in caught.sizes:
        problem = "too-large"
        text = f"frames of {SMALL} bytes sent on {request.bridge} arrive, those of {request.mtu} bytes do not"
    return FrameProof(bridge=request.bridge, vlan=request.vlan, mtu=request.mtu, problem=problem, text=text)
