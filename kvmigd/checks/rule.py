"""Rules: pure functions that look at hosts and guests and tell findings, with what they look at and what they tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import msgspec

from kvmigd.checks.check import Check
from kvmigd.model.finding import Finding
from kvmigd.model.state import SUBJECTS


class Scope(StrEnum):
    """What a rule is given, and so how often it has to be asked."""

    HOSTS = "hosts"
    """`Hosts`: two hosts, whatever the guest."""
    GUEST = "guest"
    """`Local`: a guest on its host, whatever the peer."""
    PAIR = "pair"
    """`Case`: a guest, and two hosts."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A rule of the catalogue. Call it with what its scope says."""

    name: str
    scope: Scope
    reads: frozenset[str]
    """What it looks at: subjects of the pictures, `guest`, `facts`, `look`, `proofs`. Nothing else may change what it
    tells: readiness asks it again only when one of these has changed."""
    tells: tuple[Check, ...]
    back: bool
    """It is asked for the way back too, where what blocks is a warning."""
    judge: Callable[[Any], Iterator[Finding]]

    def __call__(self, case: Any) -> Iterator[Finding]:
        return self.judge(case)

    @property
    def subjects(self) -> frozenset[str]:
        """Subjects of the pictures that must be known for it to say anything."""
        return self.reads & _SUBJECTS


_SUBJECTS = frozenset(SUBJECTS)
_OTHERS = frozenset({"guest", "facts", "look", "proofs"})


def rule(
    scope: Scope, *, reads: str, tells: tuple[Check, ...], back: bool = False
) -> Callable[[Callable[[Any], Iterator[Finding]]], Rule]:
    """Make a rule of a generator. `reads` are words, separated by blanks."""

    def made(judge: Callable[[Any], Iterator[Finding]]) -> Rule:
        words = frozenset(reads.split())
        if unknown := words - _SUBJECTS - _OTHERS:
            raise ValueError(f"{judge.__name__} reads {', '.join(sorted(unknown))}")
        return Rule(name=judge.__name__, scope=scope, reads=words, tells=tells, back=back, judge=judge)

    return made
