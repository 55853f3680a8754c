"""Looking at paths that may lie on storage that hangs.

A stat(2) on a dead NFS server blocks in the kernel for ever and takes its thread along, so it is done by a process
that can be given up: coreutils' stat.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence

from kvmigd.host.mounts import containing
from kvmigd.model.mounts import MountFact
from kvmigd.model.storage import PathFact

DEADLINE_SECONDS = 5.0
_FORMAT = "%d %i %s %f %n\\0"
_IFMT, _IFBLK = 0xF000, 0x6000


async def look(
    paths: Sequence[str], *, mounts: Iterable[MountFact], seconds: float = DEADLINE_SECONDS
) -> tuple[PathFact, ...]:
    """What each path is, as root sees it; a path on storage that does not answer within `seconds` says so."""
    mounts = tuple(mounts)
    seen: dict[str, tuple[int, int, bool]] = {}
    problem = ""
    wanted = list(dict.fromkeys(paths))
    if wanted:
        process = await asyncio.create_subprocess_exec(
            *("stat", "--dereference", f"--printf={_FORMAT}", "--", *wanted),
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(seconds):
                output, errors = await process.communicate()
        except TimeoutError:
            # In the kernel it may be unkillable, so it is not waited for for long.
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                process.kill()
                async with asyncio.timeout(0.5):
                    await process.wait()
            problem = f"did not answer for {seconds:.0f} s"
        else:
            for record in output.split(b"\0"):
                if record:
                    _device, inode, size, mode, name = record.decode(errors="surrogateescape").split(" ", 4)
                    seen[name] = (int(inode), int(size), int(mode, 16) & _IFMT == _IFBLK)
            problem = errors.decode(errors="replace").strip()
    return tuple(_fact(path, seen.get(path), mounts, problem) for path in wanted)


def _fact(path: str, seen: tuple[int, int, bool] | None, mounts: tuple[MountFact, ...], problem: str) -> PathFact:
    mount = containing(path, mounts)
    if seen is None:
        mine = [line for line in problem.splitlines() if path in line] or [problem]
        return PathFact(path=path, exists=False, problem=mine[0].rpartition(": ")[2] or "missing", mount=mount)
    inode, size, is_block = seen
    return PathFact(path=path, exists=True, inode=inode, size=size, is_block=is_block, mount=mount)
