"""Entries of the catalogue: what a check is about, why it matters, how it is known and what mends it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from kvmigd.model.finding import Basis, Finding, Severity


class Way(StrEnum):
    """How a guest can be moved, beside live."""

    OFFLINE = "offline"
    """It is suspended, transferred and resumed."""
    COPY = "copy"
    """Its disks are copied along."""
    SHUTDOWN = "shutdown"
    """It is shut down, its definition moved, and it is started there."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the catalogue. All texts are for people; docs/checks.md and `kvmigctl explain` are made of them."""

    id: str
    """Stable: `subject.thing`."""
    severity: Severity
    """Unless the configuration says something else."""
    title: str
    """What must be true, as one sentence."""
    why: str
    """What happens where it is not."""
    known: str
    """How it is known: what is tried, asked or compared."""
    remedy: str
    """What mends it, in general; a finding has the exact command."""
    ways: tuple[Way, ...] = ()
    """Other ways to move the guest that it does not stand in."""
    fixed: bool = False
    """Its severity cannot be changed: what it finds makes a migration impossible, or a danger to the guest."""

    def finding(
        self,
        summary: str,
        *,
        host: str,
        expected: str,
        found: str,
        remedy: str,
        subject: str = "",
        basis: Basis = Basis.COMPARED,
        severity: Severity | None = None,
        proved_usec: int = 0,
    ) -> Finding:
        """A finding of this check, of its own severity where no other is given."""
        return Finding(
            check=self.id,
            severity=severity or self.severity,
            summary=summary,
            host=host,
            subject=subject,
            expected=expected,
            found=found,
            remedy=remedy,
            basis=basis,
            proved_usec=proved_usec,
            ways=tuple(map(str, self.ways)),
        )
