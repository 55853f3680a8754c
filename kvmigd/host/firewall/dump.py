"""Has nft list the rules and judges them: small listings here, large ones in a process that ends afterwards.

10,000 rules are many megabytes of JSON, which would hold the event loop and stay in the daemon's memory. All of it
blocks and belongs in a thread.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from kvmigd.host.firewall import nftables, question
from kvmigd.host.firewall.child import ChildFailed, Children, TooLarge
from kvmigd.host.firewall.packet import Verdict
from kvmigd.host.firewall.question import Question

NFT = "nft"
SECONDS = 5.0
LARGE_SECONDS = 30.0
SMALL_BYTES = 192 << 10
LARGE_BYTES = 512 << 20
_CHAINS_BYTES = 8 << 20
MAX_COMMANDS = 6
"""More tables than that are listed by one nft, with all others."""
_START = "import sys; sys.path[:] = sys.argv[1].split(':'); from kvmigd.host.firewall.dump import main; main()"

Table = tuple[str, str]


class DumpFailed(Exception):
    """The rules cannot be had; the text says why."""


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
    """Reads the rules. It keeps nothing of them but how large they were."""

    def __init__(self, *, seconds: float = SECONDS, large_seconds: float = LARGE_SECONDS) -> None:
        self._seconds = seconds
        self._large_seconds = large_seconds
        self._whole = True
        """All rules together are few, so one nft lists them all. Once they were not, only tables that matter are."""
        self._large = False
        """Even those tables are large."""

    def read(self, questions: Sequence[Question], children: Children) -> Rules:
        """List the rules and judge them; raises DumpFailed."""
        try:
            if self._whole:
                try:
                    return self._read_whole(questions, children)
                except TooLarge:
                    self._whole = False
            return self._read_tables(questions, children)
        except ChildFailed as error:
            raise DumpFailed(str(error)) from error
        except nftables.NotARuleset as error:
            raise DumpFailed(f"what nft prints is not understood: {error}") from error
        except TooLarge as error:
            raise DumpFailed("there are more chains than kvmigd reads") from error

    def _read_whole(self, questions: Sequence[Question], children: Children) -> Rules:
        text = children.output((NFT, "-j", "list", "ruleset"), limit=SMALL_BYTES, seconds=self._seconds)
        return _judged([text], questions)

    def _read_tables(self, questions: Sequence[Question], children: Children) -> Rules:
        text = children.output((NFT, "-j", "list", "chains"), limit=_CHAINS_BYTES, seconds=self._seconds)
        tables = nftables.relevant_tables(nftables.split(text))
        if not self._large:
            try:
                return _judged(_list_tables(children, tables, limit=SMALL_BYTES, seconds=self._seconds), questions)
            except TooLarge:
                self._large = True
        return Rules(active=bool(tables), verdicts=self._read_large(tables, questions, children))

    def _read_large(
        self, tables: tuple[Table, ...], questions: Sequence[Question], children: Children
    ) -> tuple[Verdict, ...]:
        try:
            text = children.output(
                (sys.executable, "-I", "-c", _START, ":".join(sys.path)),
                name="the process that reads the rules",
                stdin=msgspec.json.encode(_Order(tables, tuple(questions))),
                limit=SMALL_BYTES << 4,
                seconds=self._large_seconds,
            )
            verdicts, size = msgspec.json.decode(text, type=tuple[tuple[Verdict, ...], int])
        except (TooLarge, msgspec.MsgspecError) as error:
            raise DumpFailed("the process that reads the rules has printed nonsense") from error
        # It may have become small again; not just below the limit, or changes there would be read twice.
        self._large = size > SMALL_BYTES // 2
        return verdicts


def _list_tables(children: Children, tables: Sequence[Table], *, limit: int, seconds: float) -> list[bytes]:
    """The listings of the tables; raises TooLarge if they are more than `limit` bytes together.

    One nft a table: several `list table` in one command fail with nft 1.0.6, which caches the last one's table only.
    """
    commands: list[tuple[str, ...]] = [(NFT, "-j", "list", "table", family, name) for family, name in tables]
    if len(commands) > MAX_COMMANDS:
        commands = [(NFT, "-j", "list", "ruleset")]
    texts = children.outputs(commands, limit=limit, seconds=seconds)
    if sum(map(len, texts)) > limit:
        raise TooLarge
    return texts


def _judged(texts: Sequence[bytes], questions: Sequence[Question]) -> Rules:
    parts = [part for text in texts for part in nftables.split(text)]
    active, verdicts = question.from_listing(parts, questions)
    return Rules(active=active, verdicts=tuple(verdicts))


def main() -> None:
    """The process for large listings: an order on stdin, verdicts and the listing's size on stdout."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=_Order)
    try:
        texts = _list_tables(Children(), order.tables, limit=LARGE_BYTES, seconds=LARGE_SECONDS)
        rules = _judged(texts, order.questions)
    except TooLarge:
        sys.exit("there are more rules than kvmigd reads")
    except (ChildFailed, nftables.NotARuleset) as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(msgspec.json.encode((rules.verdicts, sum(map(len, texts)))))
