"""The cluster that shared disks belong to: DLM lockspaces, and corosync's word on its quorum."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from kvmigd.host import process
from kvmigd.host.storage import attributes
from kvmigd.model.storage import Lockspace

QUORUM_SECONDS = 3.0
_DONE_ALL = 0x80
"""DLM_RS_DONE_ALL in fs/dlm/dlm_internal.h: all members have come to the end of the last recovery."""


def lockspaces(root: Path) -> tuple[Lockspace, ...]:
    """Lockspaces that this host has joined; members are known once dlm_controld has told the kernel (by configfs)."""
    folder = f"{root}/sys/kernel/dlm"
    return tuple(
        Lockspace(
            name=name,
            id=attributes.text(f"{folder}/{name}/id"),
            control=_control(attributes.text(f"{folder}/{name}/recover_status")),
            members=_members(f"{root}/sys/kernel/config/dlm/cluster/spaces/{name}/nodes"),
        )
        for name in attributes.names(folder)
    )


def _control(status: str) -> str:
    """`recovering` until all members are done; the status is a hexadecimal set of flags, 0 while locking is stopped."""
    try:
        return "" if int(status, 16) & _DONE_ALL else "recovering"
    except ValueError:
        return ""


def _members(folder: str) -> tuple[str, ...]:
    nodes = (attributes.text(f"{folder}/{name}/nodeid") or name for name in attributes.names(folder))
    return tuple(sorted(nodes, key=lambda node: (len(node), node)))


def name(root: Path) -> str:
    """The cluster's name as dlm_controld, or OCFS2's own cluster stack, has told the kernel; empty without one."""
    told = attributes.text(f"{root}/sys/kernel/config/dlm/cluster/cluster_name")
    return told or next(iter(attributes.names(f"{root}/sys/kernel/config/cluster")), "")


def corosync_runs(root: Path) -> bool:
    """Whether corosync answers for the quorum: its socket has a name of the abstract kind, or one in /run."""
    for line in attributes.text(f"{root}/proc/net/unix").splitlines():
        place = line.rpartition(" ")[2].strip("@")
        if place == "quorum" or place.endswith("/quorum"):
            return True
    return False


def parse_quorum(text: str) -> bool | None:
    """The word of corosync-quorumtool(8); None where it says nothing of it."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() == "quorate":
            return {"yes": True, "no": False}.get(value.strip().lower())
    return None


async def quorate(root: Path, *, seconds: float = QUORUM_SECONDS) -> bool | None:
    """Whether the cluster has quorum; None where corosync does not run or does not answer in time."""
    if not await asyncio.to_thread(corosync_runs, root):
        return None
    try:
        outcome = await process.run(("corosync-quorumtool", "-s"), seconds=seconds)
    except OSError:
        return None
    return parse_quorum(outcome.output.decode(errors="replace")) if outcome.in_time else None


async def changes() -> AsyncIterator[None]:
    """Yields whenever corosync tells something of its quorum, until corosync ends or its tool cannot be had."""
    try:
        # into a pipe it would keep its lines back until there are 4 kB of them
        told = await asyncio.create_subprocess_exec(
            *("stdbuf", "-oL", "corosync-quorumtool", "-m"),
            env=process.ENVIRONMENT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return
    assert told.stdout is not None
    try:
        while await told.stdout.read(1 << 16):
            yield
    finally:
        if told.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                told.kill()
        await told.wait()
