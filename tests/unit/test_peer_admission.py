"""The admission desk: what it gives, what it refuses, and that nothing stays when a source dies."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmigd.config import Migration
from kvmigd.errors import AdmissionBusy, InvalidArguments, NoLease, NotAuthorised
from kvmigd.peer.admission import AdmissionDesk, Reservation, can_bind
from kvmigd.peer.wire import AdmissionRequest, Busy, Claim, Refused
from tests.unit.peer_lab import GIB, GUEST, JOB, OTHER_JOB

SMALL = Migration(port_min=100, port_max=103, incoming_limit=2, lease_seconds=30)
OTHER_GUEST = msgspec.structs.replace(GUEST, name="web2", uuid="bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def desk(clock: Clock | None = None, *, bindable: Callable[[int], bool] = lambda _port: True) -> AdmissionDesk:
    return AdmissionDesk(SMALL, clock=clock or Clock(), bindable=bindable)


def ask(
    at: AdmissionDesk,
    *,
    job: str = JOB,
    peer: str = "hosta",
    guest: Any = GUEST,
    memory: int = GIB,
    free: int = 4 * GIB,
    no: str = "",
) -> Reservation | Busy | Refused:
    request = AdmissionRequest(job=job, guest=guest, memory=memory)
    return at.admit(request, peer=peer, not_accepting=no, memory_free=free)


def test_ports_from_the_top() -> None:
    at = desk()
    first, second = ask(at), ask(at, job=OTHER_JOB, guest=OTHER_GUEST)
    assert isinstance(first, Reservation)
    assert isinstance(second, Reservation)
    assert (first.port, second.port) == (103, 102)
    assert at.reserved_memory == 2 * GIB


def test_a_port_in_use_is_passed_over() -> None:
    answer = ask(desk(bindable=lambda port: port < 102))
    assert isinstance(answer, Reservation)
    assert answer.port == 101


def test_no_port_at_all() -> None:
    at = desk(bindable=lambda _port: False)
    answer = ask(at)
    assert isinstance(answer, Refused)
    assert answer.reason == "No port of the migration range 100-103 is free."
    with pytest.raises(AdmissionBusy):
        at.proof_port(None, peer="hosta")


def test_again_is_the_same_answer() -> None:
    clock = Clock()
    at = desk(clock)
    first = ask(at)
    clock.now += 29
    again = ask(at, no="In maintenance by now.", free=0)
    assert isinstance(again, Reservation)
    assert isinstance(first, Reservation)
    assert (again.port, again.memory) == (first.port, first.memory)
    clock.now += 29
    assert len(at.reservations) == 1
    with pytest.raises(InvalidArguments):
        ask(at, memory=2 * GIB)


def test_leases_end_by_themselves() -> None:
    clock = Clock()
    at = desk(clock)
    heard: list[int] = []
    at.on_change(lambda: heard.append(at.reserved_memory))
    ask(at)
    assert at.seconds_to_expiry == 30
    clock.now += 30
    assert at.reserved_memory == 0
    assert heard == [GIB, 0]
    assert at.seconds_to_expiry is None
    with pytest.raises(NoLease):
        at.lease(JOB, peer="hosta")


def test_refusals() -> None:
    at = desk()
    assert ask(at, no="hostb is in maintenance.") == Refused(reason="hostb is in maintenance.")
    answer = ask(at, memory=5 * GIB)
    assert isinstance(answer, Refused)
    assert answer.reason == "Guest 'web1' needs 5120 MiB of memory; 4096 MiB are free."
    assert at.reservations == ()


def test_promised_memory_makes_busy() -> None:
    at = desk()
    ask(at, memory=3 * GIB)
    answer = ask(at, job=OTHER_JOB, guest=OTHER_GUEST, memory=2 * GIB)
    assert isinstance(answer, Busy)
    assert answer.reason == "Guest 'web2' needs 2048 MiB of memory; 4096 MiB are free, 3072 MiB of them are promised."
    assert 1 <= answer.retry_after <= 10


def test_limit_of_guests_at_once() -> None:
    at = desk()
    ask(at)
    ask(at, job=OTHER_JOB, guest=OTHER_GUEST)
    third = msgspec.structs.replace(GUEST, name="web3", uuid="cccccccc-cccc-cccc-cccc-cccccccccccc")
    answer = ask(at, job="33333333-3333-3333-3333-333333333333", guest=third)
    assert isinstance(answer, Busy)
    assert answer.reason == "2 guests are on their way here; the limit is 2."


def test_one_guest_comes_once() -> None:
    at = desk()
    ask(at)
    assert isinstance(ask(at, job=OTHER_JOB), Busy)
    assert isinstance(ask(at, job=OTHER_JOB, peer="hostc"), Refused)


def test_a_lease_is_its_peers() -> None:
    at = desk()
    ask(at)
    claim = Claim(uuid=GUEST.uuid, guest=GUEST.name, memory=GIB, port=103)
    attempts: list[Callable[[], object]] = [
        lambda: ask(at, peer="hostc"),
        lambda: at.renew(JOB, None, peer="hostc"),
        lambda: at.renew(JOB, claim, peer="hostc"),
        lambda: at.release(JOB, peer="hostc"),
        lambda: at.check_settle(JOB, GUEST.uuid, peer="hostc"),
        lambda: at.proof_port(JOB, peer="hostc"),
    ]
    for attempt in attempts:
        with pytest.raises(NotAuthorised):
            attempt()
    at.release(JOB, peer="hosta")
    for attempt in (attempts[0], attempts[2], attempts[4]):  # nor afterwards
        with pytest.raises(NotAuthorised):
            attempt()


def test_release_and_settle_again_and_again() -> None:
    at = desk()
    with pytest.raises(NoLease):
        at.check_settle(JOB, GUEST.uuid, peer="hosta")
    ask(at)
    for _ in range(2):
        at.check_settle(JOB, GUEST.uuid, peer="hosta")
        at.release(JOB, peer="hosta")
        assert at.reserved_memory == 0
    with pytest.raises(InvalidArguments):
        at.check_settle(JOB, OTHER_GUEST.uuid, peer="hosta")


def test_settle_after_the_lease_ran_out() -> None:
    clock = Clock()
    at = desk(clock)
    ask(at)
    clock.now += 3600
    at.check_settle(JOB, GUEST.uuid, peer="hosta")


def test_a_restarted_daemon_takes_a_lease_up_again() -> None:
    claim = Claim(uuid=GUEST.uuid, guest=GUEST.name, memory=GIB, port=103)
    at = desk()
    with pytest.raises(NoLease):
        at.renew(JOB, None, peer="hosta")
    # The port is in use by then: QEMU receives the guest on it.
    lease = desk(bindable=lambda _port: False).renew(JOB, claim, peer="hosta")
    assert (lease.port, lease.memory, lease.peer) == (103, GIB, "hosta")
    ask(at, job=OTHER_JOB, guest=OTHER_GUEST)
    with pytest.raises(NoLease, match="given away"):
        at.renew(JOB, claim, peer="hosta")
    with pytest.raises(NoLease):
        at.renew(JOB, Claim(uuid=GUEST.uuid, guest="web1", memory=GIB, port=22), peer="hosta")


def test_proof_ports() -> None:
    at = desk()
    assert at.proof_port(None, peer="hosta") == 103
    ask(at)
    assert at.proof_port(JOB, peer="hosta") == 103
    assert at.proof_port(None, peer="hosta") == 102


def test_proof_ports_of_disks() -> None:
    listening: set[int] = set()
    at = desk(bindable=lambda port: port not in listening)
    assert at.proof_port(None, peer="hosta", purpose="disks") == 102
    listening.add(103)  # the proof of the stream's
    assert at.proof_port(None, peer="hosta", purpose="disks") == 102
    assert at.proof_port(None, peer="hosta") == 102
    listening.clear()
    assert at.proof_port(None, peer="hosta", purpose="burst") == 101
    listening |= {101, 100}
    assert at.proof_port(None, peer="hosta", purpose="burst") == 103, "better that than none"
    listening.clear()
    ask(at)
    assert at.proof_port(JOB, peer="hosta", purpose="disks") == 102
    assert at.proof_port(None, peer="hosta", purpose="disks") == 101


def test_new_limits() -> None:
    at = desk()
    ask(at)
    at.apply(msgspec.structs.replace(SMALL, incoming_limit=1))
    assert isinstance(ask(at, job=OTHER_JOB, guest=OTHER_GUEST), Busy)


def test_past_leases_are_bounded() -> None:
    at = desk()
    for number in range(300):
        job = f"00000000-0000-0000-0000-{number:012x}"
        ask(at, job=job)
        at.release(job, peer="hosta")
    with pytest.raises(NoLease):
        at.check_settle("00000000-0000-0000-0000-000000000000", GUEST.uuid, peer="hosta")


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1"])
def test_can_bind(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as taken:
        try:
            taken.bind((address, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        taken.listen()
        port = taken.getsockname()[1]
        assert not can_bind(port)
    assert can_bind(port)


NUMBERS = st.integers(0, 5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), NUMBERS, NUMBERS, st.integers(0, 4 * GIB)),
        st.tuples(st.just("release"), NUMBERS),
        st.tuples(st.just("renew"), NUMBERS),
        st.tuples(st.just("pass"), st.floats(0, 40)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_happens(steps: list[tuple[Any, ...]]) -> None:
    """Never two jobs on a port or for a guest, never more promised than there is; and time frees everything."""
    clock = Clock()
    at = desk(clock)
    for verb, *values in steps:
        job = f"00000000-0000-0000-0000-00000000000{int(values[0])}"
        if verb == "admit":
            guest = msgspec.structs.replace(GUEST, uuid=f"aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaa{values[1]}")
            try:
                answer = ask(at, job=job, guest=guest, memory=values[2])
            except InvalidArguments:
                continue
            if isinstance(answer, Reservation):
                assert answer in at.reservations
        elif verb == "release":
            at.release(job, peer="hosta")
        elif verb == "renew":
            try:
                at.renew(job, None, peer="hosta")
            except NoLease:
                assert job not in {lease.job for lease in at.reservations}
        else:
            clock.now += values[0]
        leases = at.reservations
        assert len({lease.port for lease in leases}) == len(leases) <= SMALL.incoming_limit
        assert len({lease.uuid for lease in leases}) == len(leases)
        assert at.reserved_memory == sum(lease.memory for lease in leases) <= 4 * GIB
        assert all(clock.now < lease.expires <= clock.now + 30 for lease in leases)
    clock.now += 30
    assert at.reservations == ()
    assert at.reserved_memory == 0
    assert at.proof_port(None, peer="hosta") == 103
