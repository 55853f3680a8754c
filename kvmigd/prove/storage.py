"""Proofs that folders are the same storage on both hosts: what is written here is read there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from kvmigd.errors import KvmigdError
from kvmigd.host import nonce
from kvmigd.model.proof import StorageProof
from kvmigd.peer.client import PeerClient
from kvmigd.peer.proofwire import FOLDERS_LIMIT, NonceAt, NonceRead

WRITE_SECONDS = 0.8
"""A folder of this host that has not answered by then hangs."""


async def compare(link: PeerClient, folders: Sequence[str]) -> tuple[StorageProof, ...]:
    """Write a nonce into each folder, and have the peer read it; at most FOLDERS_LIMIT folders.

    Raises what the peer's daemon answers.
    """
    assert len(folders) <= FOLDERS_LIMIT
    async with AsyncExitStack() as stack:
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(_opened(link))
            written = await stack.enter_async_context(nonce.written(folders, seconds=WRITE_SECONDS))
        sound = [it for it in written if not it.problem and _can_be_told(it.folder)]
        asked = [NonceAt(folder=it.folder, name=it.name) for it in sound]
        answers = (await link.read_nonces(asked, starting.result())).nonces if asked else ()
    heard = {it.folder: (it, answer) for it, answer in zip(sound, answers, strict=False)}
    return tuple(
        judged(*heard[it.folder])
        if it.folder in heard
        else StorageProof(
            folder=it.folder, problem=it.problem or "failed", text=it.text or f"{link.name} cannot be told"
        )
        for it in written
    )


async def _opened(link: PeerClient) -> str | None:
    """The peer needs as long as this host to get ready, so it begins now. Where it cannot, the next request tells."""
    try:
        return await link.open_storage()
    except KvmigdError:
        return None


def _can_be_told(folder: str) -> bool:
    """A name that is no UTF-8 does not fit into JSON."""
    try:
        folder.encode()
    except UnicodeEncodeError:
        return False
    return True


def judged(written: nonce.Written, answer: NonceRead) -> StorageProof:
    """What the peer's answer to one nonce means."""
    problem, text = answer.problem, answer.text
    if not problem and answer.content != written.content:
        problem, text = "different", "what was read there is not what was written here"
    return StorageProof(
        folder=written.folder, user=answer.user, peer_can_write=answer.can_write, problem=problem, text=text
    )
