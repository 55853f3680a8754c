"""Disposable processes: what may hang in the kernel for ever is done by them, and they are given up."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from typing import NamedTuple

ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


class Outcome(NamedTuple):
    """What a process has printed until its end, or until it was given up."""

    output: bytes
    errors: str
    in_time: bool
    status: int
    """Its exit status; negative for a signal, which is also how one that was given up ends."""


async def run(command: Sequence[str], *, seconds: float) -> Outcome:
    """Run a command; what it has printed counts also when it does not end within `seconds`.

    Raises OSError if it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        env=ENVIRONMENT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = bytearray(), bytearray()
    in_time = True
    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(_drain(process.stdout, output), _drain(process.stderr, errors))
            await process.wait()
    except TimeoutError:
        in_time = False
    finally:
        if process.returncode is None:
            await _give_up(process)
    status = -signal.SIGKILL if process.returncode is None else process.returncode
    return Outcome(bytes(output), errors.decode(errors="replace").strip(), in_time, status)


async def _drain(stream: asyncio.StreamReader | None, into: bytearray) -> None:
    while stream is not None and (part := await stream.read(1 << 16)):
        into += part


async def _give_up(process: asyncio.subprocess.Process) -> None:
    # In the kernel it may be unkillable, so it is not waited for for long; the loop reaps it when it ends after all.
    with contextlib.suppress(ProcessLookupError, TimeoutError):
        process.kill()
        async with asyncio.timeout(0.5):
            await process.wait()
