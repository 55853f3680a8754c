"""What kvmigctl prints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from kvmigd.cli.output import clean, duration, print_table, size


@given(some.text())
def test_nothing_that_steers_a_terminal_gets_through(text: str) -> None:
    assert all(sign.isprintable() for sign in clean(text))
    assert len(clean(text)) == len(text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (100 << 20, "100 MiB"),
        (8 << 30, "8.0 GiB"),
        (3 << 40, "3.0 TiB"),
    ],
)
def test_sizes(amount: int, text: str) -> None:
    assert size(amount) == text


@pytest.mark.parametrize(
    ("usec", "text"),
    [
        (200, "0.2 ms"),
        (12_400, "12 ms"),
        (3_250_000, "3.2 s"),
        (61_000_000, "1 min 1 s"),
        (3_600_000_000, "60 min 0 s"),
    ],
)
def test_durations(usec: int, text: str) -> None:
    assert duration(usec) == text


def test_tables_are_aligned_and_never_have_an_empty_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["PEER", "STATE"], [["hostb", "connected"], ["a", ""]])
    assert capsys.readouterr().out == "PEER   STATE\nhostb  connected\na      -\n"
