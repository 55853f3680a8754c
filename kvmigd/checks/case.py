"""What a rule looks at, and how it says what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.guest import Guest
from kvmigd.model.host import Examination


class PortProof(msgspec.Struct, frozen=True, kw_only=True):
    """A real connection to the port that the migration will use. `problem` is empty when it succeeded."""

    address: str
    port: int
    problem: str = ""
    text: str = ""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One guest, seen by the host it runs on and by the host it shall run on."""

    guest: Guest
    source: Examination
    destination: Examination
    memory_needed: int
    """Bytes that the guest and its QEMU take on the destination."""
    port: PortProof | None = None
    """None where no proof was asked for."""

    @property
    def here(self) -> str:
        """Name of the source."""
        return self.source.facts.name

    @property
    def there(self) -> str:
        """Name of the destination."""
        return self.destination.facts.name


Rule = Callable[[Case], Iterable[Finding]]


def blocks(
    check: str,
    summary: str,
    *,
    host: str,
    subject: str = "",
    expected: str = "",
    found: str = "",
    remedy: str = "",
    basis: Basis = Basis.COMPARED,
) -> Finding:
    """A finding that stands in the way."""
    return Finding(
        check=check,
        severity=Severity.BLOCK,
        summary=summary,
        host=host,
        subject=subject,
        expected=expected,
        found=found,
        remedy=remedy,
        basis=basis,
    )


def warns(check: str, summary: str, *, host: str, expected: str = "", found: str = "", remedy: str = "") -> Finding:
    """A finding that does not stand in the way."""
    return Finding(
        check=check, severity=Severity.WARN, summary=summary, host=host, expected=expected, found=found, remedy=remedy
    )
