"""How a benchmark tells its figures: a table for people, and one line of JSON at the very end."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

Figure = float | int | str | None


def tell(
    name: str, *, figures: Mapping[str, Figure], baseline: Mapping[str, Figure], aims: Mapping[str, str], note: str = ""
) -> None:
    """Print the table and the line."""
    table = Table(title=name, title_justify="left")
    for heading in ("figure", "value", "aim"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for key, value in figures.items():
        table.add_row(key, str(value), aims.get(key, ""))
    for key, value in baseline.items():
        table.add_row(f"baseline: {key}", str(value), "")
    Console(width=100).print(table)
    if note:
        print(note)
    print(json.dumps({"name": name, "figures": dict(figures), "baseline": dict(baseline)}))


def median(values: Sequence[float]) -> float:
    """The median, rounded to a tenth."""
    return round(statistics.median(values), 1)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all are not above (nearest rank), rounded to a tenth."""
    ranked = sorted(values)
    return round(ranked[max(0, math.ceil(percent / 100 * len(ranked)) - 1)], 1)
