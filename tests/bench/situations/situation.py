"""What a situation is: made for real in the lab, with what is known of it beforehand.

A situation is a generator: it starts a guest, makes its fault, yields once, and undoes all of it. While it is held,
kvmigd is asked and then `virsh migrate` is tried. Its docstring is what the table calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bench.situations.ground import Ground

Making = Callable[["Ground"], Iterator[None]]


class Truth(StrEnum):
    """What a plain `virsh migrate` does."""

    WORKS = "works"
    FAILS = "fails"
    BROKEN = "broken"
    """It says that all is well, and the guest has lost its network, or has other storage than before."""


WORKS, FAILS, BROKEN = Truth.WORKS, Truth.FAILS, Truth.BROKEN


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One situation, or the reason why the lab cannot have it."""

    name: str
    about: str
    make: Callable[[Ground], AbstractContextManager[None]] | None = None
    truth: Truth = WORKS
    """What virsh has been seen to do. What it does this time is what counts; a difference is told."""
    names: frozenset[str] = frozenset()
    """Checks one of which must speak: any of them names the cause. Empty where nothing is to be said."""
    may: frozenset[str] = frozenset()
    """Checks that may warn, too, where virsh works."""
    verdicts: frozenset[str] = frozenset()
    """The verdicts that are right, where they do not follow from what virsh does."""
    own: bool = False
    """Whether it is kvmigd that stands in the way: virsh knows nothing of it, and its success is no objection."""
    tls: bool = True
    """Whether the stream is encrypted."""
    back: bool = False
    """Whether virsh tries the way back, too, while the fault is there."""
    left_out: str = ""


ALL: list[Situation] = []
"""All situations, in the order in which they are told; the modules of this package fill it."""


def situation(
    truth: Truth,
    *names: str,
    may: tuple[str, ...] = (),
    verdicts: tuple[str, ...] = (),
    own: bool = False,
    tls: bool = True,
    back: bool = False,
) -> Callable[[Making], Making]:
    """Register a generator as a situation, called like its function."""

    def register(making: Making) -> Making:
        ALL.append(
            Situation(
                name=making.__name__.replace("_", "-"),
                about=(making.__doc__ or "").strip().rstrip("."),
                make=contextmanager(making),
                truth=truth,
                names=frozenset(names),
                may=frozenset(may),
                verdicts=frozenset(verdicts),
                own=own,
                tls=tls,
                back=back,
            )
        )
        return making

    return register


def left_out(name: str, about: str, *, reason: str) -> None:
    """Register a situation that the lab cannot have."""
    ALL.append(Situation(name=name, about=about, left_out=reason))
