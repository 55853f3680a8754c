"""The one table of errors: complete, without doubles, and true in both directions."""

from __future__ import annotations

import re

import pytest

from kvmigd import errors
from kvmigd.errors import (
    TABLE,
    Exit,
    InternalError,
    KvmigdError,
    NoSuchGuest,
    PeerFailed,
    Row,
    exit_status,
    from_dbus,
    from_wire,
    row_of,
)
from kvmigd.model.finding import Finding, Severity

OURS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, KvmigdError) and kind is not KvmigdError
]


def test_every_error_has_one_row() -> None:
    assert [row.error for row in TABLE] == OURS


def test_names_are_unique_and_well_formed() -> None:
    assert len({row.dbus for row in TABLE}) == len({row.wire for row in TABLE}) == len(TABLE)
    for row in TABLE:
        assert re.fullmatch(r"org\.(kvmigd1\.Error|freedesktop\.DBus\.Error)\.[A-Z][A-Za-z]+", row.dbus)
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", row.wire)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.wire)
def test_names_on_the_wire_and_the_bus_are_the_classes_own(row: Row) -> None:
    words = "".join(part.capitalize() for part in row.wire.split("-"))
    assert row.error.__name__ in (words, f"{words}Error")
    if row.dbus.startswith("org.kvmigd1."):
        assert row.dbus.rpartition(".")[2] == words


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.wire)
def test_round_trips(row: Row) -> None:
    assert row_of(row.error("What happened.")) is row
    by_bus = from_dbus(row.dbus, "What happened. Do this.")
    assert (type(by_bus), str(by_bus)) == (row.error, "What happened. Do this.")
    by_wire = from_wire(row.wire, "What happened.", hint="Do this.")
    assert (type(by_wire), by_wire.message, by_wire.hint) == (row.error, "What happened.", "Do this.")
    assert exit_status(row.dbus) is row.exit
    assert row.exit not in (Exit.OK, None)


def test_foreign_names_lose_nothing() -> None:
    assert str(from_dbus("com.example.Odd", "Text.")) == "com.example.Odd: Text."
    assert isinstance(from_dbus("com.example.Odd", ""), InternalError)
    later = from_wire("of-a-later-version", "Text.", hint="Do this.")
    assert (type(later), later.message, later.hint) == (PeerFailed, "of-a-later-version: Text.", "Do this.")
    assert exit_status("com.example.Odd") is Exit.FAILED


def test_an_error_without_a_row_is_internal() -> None:
    class Odd(KvmigdError):
        """Of a module that forgot the table."""

    assert row_of(Odd("Text.")).error is InternalError


def test_an_error_is_its_sentence_and_its_hint() -> None:
    assert str(NoSuchGuest("No guest.", hint="virsh list")) == "No guest. virsh list"
    assert str(NoSuchGuest("No guest.")) == "No guest."
    finding = Finding(check="a.b", severity=Severity.BLOCK, summary="No.")
    assert NoSuchGuest("No guest.", findings=[finding]).findings == (finding,)


def test_every_error_says_what_it_means() -> None:
    for kind in (KvmigdError, *OURS):
        assert (kind.__doc__ or "").rstrip().endswith("."), kind
