"""Lists of CPUs and NUMA nodes, as libvirt and the kernel write them: `0-3,^2,8`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

LIMIT = 1 << 14
"""No kernel has more CPUs (CONFIG_NR_CPUS is at most 8192), and a definition can say anything."""


@lru_cache(maxsize=1024)
def numbers(text: str) -> tuple[int, ...]:
    """The numbers of a list, sorted; what is no number is passed over."""
    found: set[int] = set()
    for part in text.split(","):
        word = part.strip()
        first, _, last = word.lstrip("^").partition("-")
        if not (_is_number(first) and _is_number(last or first)):
            continue
        span = range(min(int(first), LIMIT), min(int(last or first), LIMIT - 1) + 1)
        if word.startswith("^"):
            found.difference_update(span)
        else:
            found.update(span)
    return tuple(sorted(found))


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 10


def written(some: Iterable[int]) -> str:
    """Numbers as a list: `0-3,8`."""
    spans: list[list[int]] = []
    for number in sorted(some):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in spans)
