"""Where a guest is, decided from what both hosts say."""

from __future__ import annotations

import itertools

import pytest

from kvmigd.migrate.outcome import Outcome, decide
from kvmigd.model.guest import GuestState, Whereabouts


def at(state: GuestState | None) -> Whereabouts:
    if state is None:
        return Whereabouts(host="h", known=False)
    return Whereabouts(host="h", known=True, state=state)


R, P, S = GuestState.RUNNING, GuestState.PAUSED, GuestState.SHUTOFF


@pytest.mark.parametrize(
    ("source", "destination", "outcome"),
    [
        (None, R, Outcome.ARRIVED),
        (P, R, Outcome.ARRIVED),  # the answer to Finish was lost
        (S, R, Outcome.ARRIVED),
        (R, None, Outcome.STAYED),
        (R, S, Outcome.STAYED),
        (R, P, Outcome.PENDING),  # the destination's QEMU is on its way out
        (P, None, Outcome.PENDING),
        (P, P, Outcome.PENDING),
        (None, P, Outcome.PENDING),
        (R, R, Outcome.BOTH),
        (None, None, Outcome.LOST),
        (S, None, Outcome.LOST),
        (None, S, Outcome.LOST),
    ],
)
def test_what_both_hosts_say(source: GuestState | None, destination: GuestState | None, outcome: Outcome) -> None:
    assert decide(at(source), at(destination)) is outcome


def test_a_silent_destination_decides_nothing() -> None:
    for state in (*GuestState, None):
        assert decide(at(state), None) is Outcome.PENDING


def test_arrived_and_stayed_are_only_said_of_a_guest_that_runs_on_exactly_one_host() -> None:
    states = (*GuestState, None)
    for source, destination in itertools.product(states, states):
        outcome = decide(at(source), at(destination))
        running = at(source).is_executing, at(destination).is_executing
        if outcome is Outcome.ARRIVED:
            assert running == (False, True)
        if outcome is Outcome.STAYED:
            assert running == (True, False)
        if outcome is Outcome.LOST:
            assert running == (False, False)
