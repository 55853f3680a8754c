"""What kvmigctl prints: text that cannot harm a terminal, tables, sizes, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click


def clean(text: str) -> str:
    """Text from elsewhere (a guest's name, a peer's message) without control characters, which steer terminals."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def say(text: str = "", *, err: bool = False, **style: Any) -> None:
    """Print a line; colours are dropped where no terminal shows them."""
    click.secho(clean(text), err=err, **style)


def print_json(value: Any) -> None:
    """Print one JSON object as one line, at once: others read it while we run."""
    click.echo(json.dumps(value, ensure_ascii=False))


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, colours: Sequence[str | None] = ()) -> None:
    """Print aligned columns; `colours` are those of the rows."""
    lines = [list(head), *([clean(cell) or "-" for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for number, line in enumerate(lines):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        click.secho(text, bold=number == 0, fg=colours[number - 1] if colours and number else None)


def size(amount: float) -> str:
    """A number of bytes as people write it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def duration(usec: int) -> str:
    """A time as people write it."""
    if usec < 1_000_000:
        return f"{usec / 1000:.{0 if usec >= 10_000 else 1}f} ms"
    if usec < 60_000_000:
        return f"{usec / 1e6:.1f} s"
    return f"{usec // 60_000_000} min {usec // 1_000_000 % 60} s"
