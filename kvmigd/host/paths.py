"""Looking at paths that may lie on storage that hangs.

A stat(2) on a dead NFS server blocks in the kernel for ever and takes its thread along, so it is done by a process
that can be given up: coreutils' stat, one for each mount, so that one that hangs hides nothing of the others.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence

from kvmigd.host import process
from kvmigd.host.mounts import containing
from kvmigd.model.mounts import MountFact
from kvmigd.model.storage import PathFact

DEADLINE_SECONDS = 5.0
_FORMAT = "%d %i %s %f %t %T %.6W %.6Y %u %g %n\\0"
_IFMT, _IFBLK, _PERMISSIONS = 0xF000, 0x6000, 0o7777
_COMMAND_LIMIT = 500
"""Paths that one process is asked for: a command line has an end (ARG_MAX), a path up to 4 kB."""


async def look(
    paths: Sequence[str], *, mounts: Iterable[MountFact], seconds: float = DEADLINE_SECONDS
) -> tuple[PathFact, ...]:
    """What each path is, as root sees it; a path on storage that does not answer within `seconds` says so."""
    mounts = tuple(mounts)
    wanted = list(dict.fromkeys(paths))
    found: dict[str, PathFact] = {}
    for facts in await asyncio.gather(*(_stat(group, seconds) for group in by_mount(wanted, mounts))):
        found.update(facts)
    return tuple(_on_mount(found[path], containing(path, mounts)) for path in wanted)


def by_mount(paths: Iterable[str], mounts: Iterable[MountFact]) -> list[list[str]]:
    """The paths in groups that lie on one mount."""
    mounts = tuple(mounts)
    groups: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths):
        mount = containing(path, mounts)
        groups.setdefault(mount.key if mount else "", []).append(path)
    return [group[at : at + _COMMAND_LIMIT] for group in groups.values() for at in range(0, len(group), _COMMAND_LIMIT)]


async def _stat(group: Sequence[str], seconds: float) -> dict[str, PathFact]:
    outcome = await process.run(("stat", "--dereference", f"--printf={_FORMAT}", "--", *group), seconds=seconds)
    seen = {fact.path: fact for fact in parse(outcome.output)}
    lines = outcome.errors.splitlines()
    for path in group:
        if path not in seen:
            mine = next((line for line in lines if path in line), outcome.errors)
            problem = mine.rpartition(": ")[2] or "missing"
            hangs = not outcome.in_time and not mine
            if hangs:
                problem = f"did not answer for {seconds:.0f} s"
            seen[path] = PathFact(path=path, exists=False, problem=problem, hangs=hangs)
    return seen


def parse(output: bytes) -> Iterable[PathFact]:
    """What stat(1) has printed; records that are cut off are left out."""
    for record in output.split(b"\0")[:-1]:
        fields = os.fsdecode(record).split(" ", 10)
        try:
            device, inode, size = (int(field) for field in fields[:3])
            mode, major, minor = (int(field, 16) for field in fields[3:6])
            uid, gid = int(fields[8]), int(fields[9])
            path = fields[10]
            is_block = mode & _IFMT == _IFBLK
            of_device = (major, minor) if is_block else (os.major(device), os.minor(device))
        except (ValueError, IndexError, OverflowError):
            continue
        yield PathFact(
            path=path,
            exists=True,
            device=f"{of_device[0]}:{of_device[1]}",
            inode=inode,
            born_usec=_microseconds(fields[6]),
            changed_usec=_microseconds(fields[7]),
            size=size,
            is_block=is_block,
            uid=uid,
            gid=gid,
            mode=mode & _PERMISSIONS,
        )


def _microseconds(text: str) -> int:
    """Seconds with six digits after the point, as stat(1) prints them in the C locale; 0 for `-` and the like."""
    seconds, _, fraction = text.partition(".")
    digits = seconds + fraction.ljust(6, "0")[:6]
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def _on_mount(fact: PathFact, mount: MountFact | None) -> PathFact:
    return PathFact(
        path=fact.path,
        exists=fact.exists,
        problem=fact.problem,
        mount=mount,
        device=fact.device,
        inode=fact.inode,
        born_usec=fact.born_usec,
        changed_usec=fact.changed_usec,
        size=fact.size,
        is_block=fact.is_block,
        uid=fact.uid,
        gid=fact.gid,
        mode=fact.mode,
        hangs=fact.hangs,
    )
