"""What QEMU's user may do with paths: tried by a process of its own (noncekeeper.py), as that user."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from kvmigd.host import paths
from kvmigd.host.nonce import Keeper, connect
from kvmigd.host.noncekeeper import FOLDERS_LIMIT
from kvmigd.host.qemuuser import QemuUser
from kvmigd.model.mounts import MountFact
from kvmigd.model.storage import PathFact

DEADLINE_SECONDS = 3.0
"""From the keeper's start on; what has not been answered by then is not known."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What QEMU's user may do with a path."""

    readable: bool
    writable: bool
    barred: str = ""
    """The folder on the way to it that the user may not enter."""


async def tried(
    wanted: Sequence[str],
    *,
    mounts: Iterable[MountFact],
    user: QemuUser | None = None,
    seconds: float = DEADLINE_SECONDS,
    keeper: Keeper = connect,
) -> dict[str, Access]:
    """What QEMU's user may do with these paths, those on one mount asked by one process.

    Raises nothing: a path that is not there, does not answer or could not be tried is left out. `user` is QEMU's as
    `QemuUser.find` sees it where it is not given.
    """
    groups = paths.by_mount([path for path in wanted if path.startswith("/") and "\0" not in path], mounts)
    # In a thread, because names may come from a directory server.
    user = user or (await asyncio.to_thread(QemuUser.find) if groups else None)
    if user is None:
        return {}
    parts = [groups[at : at + FOLDERS_LIMIT] for at in range(0, len(groups), FOLDERS_LIMIT)]
    found: dict[str, Access] = {}
    await asyncio.gather(*(_ask(user, part, found, seconds, keeper) for part in parts))
    return found


async def _ask(
    user: QemuUser, groups: Sequence[Sequence[str]], found: dict[str, Access], seconds: float, keeper: Keeper
) -> None:
    """One keeper; what it has answered until the end of the time counts."""
    orders = [
        f"access {key} {' '.join(os.fsencode(path).hex() for path in group)}\n" for key, group in enumerate(groups)
    ]
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await keeper()
            groups_of_user = ",".join(map(str, sorted(user.groups)))
            writer.write(f"user {user.uid} {user.gid} {groups_of_user}\n{''.join(orders)}go\n".encode())
            writer.write_eof()
            while line := await reader.readline():
                _hear(line.decode("ascii", "replace").split(), groups, found)
    except (OSError, ValueError):  # TimeoutError is an OSError; ValueError is a line without an end
        return
    finally:
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()


def _hear(words: Sequence[str], groups: Sequence[Sequence[str]], found: dict[str, Access]) -> None:
    match words:
        case [key, "access", number, reads, writes, bar] if key.isdecimal() and number.isdecimal():
            with contextlib.suppress(IndexError, ValueError):
                found[groups[int(key)][int(number)]] = Access(
                    readable=reads == "r",
                    writable=writes == "w",
                    barred="" if bar == "-" else os.fsdecode(bytes.fromhex(bar)),
                )


def joined(facts: Iterable[PathFact], tried_ones: Mapping[str, Access]) -> tuple[PathFact, ...]:
    """The facts, with what QEMU's user may do."""
    return tuple(
        fact
        if (access := tried_ones.get(fact.path)) is None
        else msgspec.structs.replace(fact, readable=access.readable, writable=access.writable, barred=access.barred)
        for fact in facts
    )
