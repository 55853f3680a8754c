"""Has nft list the rules and judges them: small listings here, large ones in a process that ends afterwards.

10,000 rules are many megabytes of JSON, which would hold the event loop and stay in the daemon's memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence

import msgspec

from kvmigd.host.firewall import nftables, question
from kvmigd.host.firewall.packet import Verdict
from kvmigd.host.firewall.question import Question

NFT = "nft"
SECONDS = 5.0
LARGE_SECONDS = 30.0
SMALL_BYTES = 192 << 10
LARGE_BYTES = 512 << 20
MAX_COMMANDS = 6
"""More tables than that are listed by one nft, with all others."""
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_START = "import sys; sys.path[:] = sys.argv[1].split(':'); from kvmigd.host.firewall.dump import main; main()"

Table = tuple[str, str]


class DumpFailed(Exception):
    """The rules cannot be had; the text says why."""


class _TooLarge(Exception):
    """More was printed than shall be read here."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules say."""

    active: bool
    """There is a chain that connections to this host pass through."""
    verdicts: tuple[Verdict, ...]


class _Order(msgspec.Struct, frozen=True):
    """What the process for large listings is told."""

    tables: tuple[Table, ...]
    questions: tuple[Question, ...]


class Reader:
    """Reads the rules. It keeps nothing of them but the names of the tables that mattered last."""

    def __init__(self, *, seconds: float = SECONDS, large_seconds: float = LARGE_SECONDS) -> None:
        self._seconds = seconds
        self._large_seconds = large_seconds
        self._tables: tuple[Table, ...] = ()
        self._large = False

    async def read(self, questions: Sequence[Question]) -> Rules:
        """List the rules and judge them; raises DumpFailed."""
        listed = asyncio.create_task(self._list_chains())
        guessed = asyncio.create_task(self._list(self._tables))
        # Both at once: which tables matter seldom changes, and each start of nft takes some milliseconds.
        tables, parts = await asyncio.gather(listed, guessed, return_exceptions=True)
        if isinstance(tables, BaseException):
            raise tables
        if tables != self._tables or isinstance(parts, DumpFailed):
            self._tables, self._large = tables, False
            parts = await self._list(tables)
        if isinstance(parts, BaseException):
            raise parts
        if parts is None:
            verdicts = await self._read_large(tables, questions)
        else:
            verdicts = await asyncio.to_thread(question.from_listing, parts, questions)
        return Rules(active=bool(tables), verdicts=tuple(verdicts))

    async def _list_chains(self) -> tuple[Table, ...]:
        try:
            text = await _run((NFT, "-j", "list", "chains"), limit=LARGE_BYTES >> 6, seconds=self._seconds)
        except _TooLarge as error:
            raise DumpFailed("there are more chains than kvmigd reads") from error
        return await asyncio.to_thread(_tables_of, text) if len(text) > SMALL_BYTES else _tables_of(text)

    async def _list(self, tables: Sequence[Table]) -> list[msgspec.Raw] | None:
        """The objects in those tables; None if they are too large to be read here."""
        if not tables:
            return []
        if self._large:
            return None
        try:
            text = await _list_tables(tables, limit=SMALL_BYTES, seconds=self._seconds)
        except _TooLarge:
            self._large = True
            return None
        return _objects(text)

    async def _read_large(self, tables: tuple[Table, ...], questions: Sequence[Question]) -> list[Verdict]:
        order = msgspec.json.encode(_Order(tables, tuple(questions)))
        command = (sys.executable, "-I", "-c", _START, ":".join(sys.path))
        try:
            text = await _run(command, stdin=order, limit=SMALL_BYTES << 4, seconds=self._large_seconds)
            verdicts, size = msgspec.json.decode(text, type=tuple[list[Verdict], int])
        except (_TooLarge, msgspec.MsgspecError) as error:
            raise DumpFailed("the process that reads the rules has printed nonsense") from error
        # It may have become small again; not at once, or each change at the limit would be read twice.
        self._large = size > SMALL_BYTES // 2
        return verdicts


async def _list_tables(tables: Sequence[Table], *, limit: int, seconds: float) -> bytes:
    """The listings of the tables, one after the other; raises _TooLarge if they are more than `limit` bytes.

    One nft a table: several `list table` in one command fail with nft 1.0.6, which caches the last one's table only.
    """
    commands = [(NFT, "-j", "list", "table", family, name) for family, name in tables]
    if len(commands) > MAX_COMMANDS:
        commands = [(NFT, "-j", "list", "ruleset")]
    told = await asyncio.gather(
        *(_run(command, limit=limit, seconds=seconds) for command in commands), return_exceptions=True
    )
    texts = []
    for one in told:
        if isinstance(one, BaseException):
            raise one
        texts.append(one)
    text = b"\n".join(texts)
    if len(text) > limit:
        raise _TooLarge
    return text


def _tables_of(text: bytes) -> tuple[Table, ...]:
    return nftables.relevant_tables(_objects(text))


def _objects(text: bytes) -> list[msgspec.Raw]:
    """All objects of a listing; a document a line."""
    try:
        return [part for line in text.splitlines() if line.strip() for part in nftables.split(line)]
    except nftables.NotARuleset as error:
        raise DumpFailed(f"what nft prints is not understood: {error}") from error


async def _run(command: Sequence[str], *, limit: int, seconds: float, stdin: bytes = b"") -> bytes:
    """What a command prints; raises _TooLarge if it is more than `limit` bytes, or DumpFailed."""
    name = "nft" if command[0] == NFT else "the process that reads the rules"
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=ENVIRONMENT,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
    except OSError as error:
        hint = " (install nftables)" if isinstance(error, FileNotFoundError) else ""
        raise DumpFailed(f"{name} cannot be run: {error.strerror}{hint}") from error
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(seconds):
            if process.stdin is not None:
                with contextlib.suppress(ConnectionError):
                    process.stdin.write(stdin)
                    await process.stdin.drain()
                process.stdin.close()
            output, errors = await asyncio.gather(_take(process.stdout, limit), _last(process.stderr))
            status = await process.wait()
    except TimeoutError as error:
        raise DumpFailed(f"{name} has not answered within {seconds:g} s") from error
    finally:
        if process.returncode is None:
            await _give_up(process)
    if status != 0:
        raise DumpFailed(f"{name} has failed: {errors or f'exit status {status}'}")
    return output


async def _take(stream: asyncio.StreamReader, limit: int) -> bytes:
    parts, size = [], 0
    while part := await stream.read(1 << 18):
        size += len(part)
        if size > limit:
            raise _TooLarge
        parts.append(part)
    return b"".join(parts)


async def _last(stream: asyncio.StreamReader) -> str:
    """The first line of what is said there, all of it read."""
    said = b""
    while part := await stream.read(1 << 16):
        said = (said + part)[:4096]
    lines = said.decode(errors="replace").split("\n")
    return next((line.strip() for line in lines if line.strip()), "")


async def _give_up(process: asyncio.subprocess.Process) -> None:
    # What hangs in the kernel cannot be killed, so it is not waited for for long; the loop reaps it when it ends.
    with contextlib.suppress(ProcessLookupError, TimeoutError):
        process.kill()
        async with asyncio.timeout(0.5):
            await process.wait()


def main() -> None:
    """The process for large listings: an order on stdin, verdicts and the listing's size on stdout."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=_Order)

    async def run() -> bytes:
        return await _list_tables(order.tables, limit=LARGE_BYTES, seconds=LARGE_SECONDS)

    os.nice(5)
    try:
        text = asyncio.run(run())
        verdicts = question.from_listing(_objects(text), order.questions)
    except (DumpFailed, _TooLarge) as error:
        sys.exit(str(error) or "there are more rules than kvmigd reads")
    sys.stdout.buffer.write(msgspec.json.encode((verdicts, len(text))))
