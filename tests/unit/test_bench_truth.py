"""How the bench of truth judges: what counts as missed, as a false alarm, and as named."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from tests.bench import truth
from tests.bench.situations import SITUATIONS, Situation, Truth
from tests.bench.truth_row import Answer, Row
from tests.bench.truth_virsh import Outcome
from tests.lab.daemon import Finding


def row(
    seen: Truth,
    verdict: str,
    *findings: str,
    expected: Truth | None = None,
    names: tuple[str, ...] = ("port.open",),
    may: tuple[str, ...] = (),
    own: bool = False,
) -> Row:
    """A row in which virsh did `seen`, and Check gave that verdict with findings `check` or `check!`, which block."""
    situation = Situation(
        name="it",
        about="",
        make=lambda _ground: nullcontext(),
        truth=expected or seen,
        names=frozenset(names),
        may=frozenset(may),
        own=own,
    )
    told = tuple(Finding(each.rstrip("!"), "block" if each.endswith("!") else "warn", "", {}) for each in findings)
    return Row(situation, proved=Answer(verdict, told), outcome=Outcome(seen, "", 1.0))


@pytest.mark.parametrize(
    ("made", "judged"),
    [
        (row(Truth.WORKS, "ready", names=()), "right"),
        (row(Truth.FAILS, "blocked", "port.open!"), "right"),
        (row(Truth.BROKEN, "blocked", "port.open!"), "right"),
        (row(Truth.FAILS, "blocked", "storage.path!"), "not named"),
        (row(Truth.FAILS, "ready"), "MISSED, not named"),
        (row(Truth.BROKEN, "degraded", "port.open"), "MISSED"),
        (row(Truth.FAILS, "unknown", "peer.answers!"), "MISSED, not named"),
        (row(Truth.WORKS, "blocked", "port.open!", names=()), "FALSE ALARM, not named"),
        (row(Truth.WORKS, "blocked", "port.open!"), "FALSE ALARM"),
        (row(Truth.WORKS, "degraded", "port.open"), "right"),
        (row(Truth.WORKS, "ready"), "not named"),
        (row(Truth.WORKS, "degraded", "port.open", "cpu.tsc"), "needless"),
        (row(Truth.WORKS, "degraded", "port.open", "cpu.tsc", may=("cpu.tsc",)), "right"),
        (row(Truth.WORKS, "degraded", "cpu.tsc", names=(), may=("cpu.tsc",)), "right"),
        (row(Truth.WORKS, "blocked", "host.accepting!", names=("host.accepting",), own=True), "right"),
        (row(Truth.WORKS, "ready", names=(), expected=Truth.FAILS), "virsh: fails expected"),
    ],
)
def test_judged(made: Row, judged: str) -> None:
    assert made.judged() == judged


def test_figures_count_each_kind_and_name_it() -> None:
    figures, baseline = truth.figures(
        [
            row(Truth.FAILS, "ready"),
            row(Truth.WORKS, "blocked", "port.open!"),
            row(Truth.BROKEN, "blocked", "port.open!"),
        ]
    )
    assert (figures["situations"], figures["missed"], figures["false_alarms"], figures["named_right"]) == (3, 1, 1, 2)
    assert figures["missed_names"] == "it"
    assert (baseline["virsh_works"], baseline["virsh_fails"], baseline["virsh_broken"]) == (1, 1, 1)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without what the caller has set."""
    for name in ("ONLY", "SHARD"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_shards_add_up(environment: pytest.MonkeyPatch) -> None:
    parts = []
    for number in range(1, 5):
        environment.setenv("SHARD", f"{number}/4")
        parts += truth.chosen()
    environment.delenv("SHARD")
    assert sorted(each.name for each in parts) == sorted(each.name for each in truth.chosen())


def test_only_some(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ONLY", "nothing,bridge-down")
    assert {each.name for each in truth.chosen()} == {"nothing", "bridge-down"}
    environment.setenv("ONLY", "nonsense")
    with pytest.raises(SystemExit, match="nonsense"):
        truth.chosen()


def test_names_are_unique_and_each_situation_says_what_it_is() -> None:
    assert len({each.name for each in SITUATIONS}) == len(SITUATIONS)
    assert all(each.about and (each.make is not None) != bool(each.left_out) for each in SITUATIONS)
    assert sum(not each.left_out for each in SITUATIONS) >= 36
