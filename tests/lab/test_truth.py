"""A handful of the situations of `make bench NAME=truth`: Check says beforehand what virsh then does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bench import truth
from tests.bench.situations import SITUATIONS
from tests.bench.situations.ground import Ground
from tests.lab.lab import Lab

# one of each kind: virsh works, fails, and leaves the guest broken; known by comparing, and by proof
CHOSEN = ("nothing", "strict-firewall", "mount-missing", "bridge-without-uplink", "streams-rejected", "name-taken")


@pytest.fixture(scope="module")
def ground(lab: Lab) -> Iterator[Ground]:
    """The lab as the situations want it."""
    ground = Ground(lab)
    ground.reset()
    yield ground
    lab.reset()


@pytest.mark.parametrize("name", CHOSEN)
def test_check_tells_the_truth(ground: Ground, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "SETTLE", 30.0)  # how long it takes is what the bench tells
    (situation,) = (each for each in SITUATIONS if each.name == name)
    row = truth.run(ground, situation)
    assert row.error == ""
    assert row.outcome is not None
    assert row.outcome.truth is situation.truth, row.outcome.words
    assert row.judged() == "right", row.proved
