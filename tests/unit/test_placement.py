"""Which peer takes a guest."""

from __future__ import annotations

from kvmigd.evacuate.placement import candidates, why_none
from kvmigd.model.host import HostFacts
from kvmigd.model.peer import PeerState, PeerView
from kvmigd.model.system import Release, Software

SOFTWARE = Software(kvmigd="1", kernel="6.1", release=Release(id="debian"))
GIB = 1 << 30


def peer(
    name: str, *, free: int, state: PeerState = PeerState.CONNECTED, accepting: bool = True, problem: str = ""
) -> PeerView:
    facts = HostFacts(
        name=name,
        hypervisor_alive=True,
        accepting=accepting,
        not_accepting_reason="" if accepting else f"{name} is in maintenance",
        memory_free=free,
        software=SOFTWARE,
    )
    return PeerView(name=name, address=name, state=state, facts=facts, problem=problem)


def test_the_most_free_memory_comes_first_and_equals_by_name() -> None:
    views = [peer("c", free=4 * GIB), peer("b", free=8 * GIB), peer("a", free=4 * GIB)]
    assert candidates(views, memory=GIB) == ("b", "a", "c")


def test_peers_that_take_nobody_are_left_out_and_told() -> None:
    views = [
        peer("small", free=GIB // 2),
        peer("away", free=8 * GIB, state=PeerState.UNREACHABLE, problem="no answer"),
        peer("resting", free=8 * GIB, accepting=False),
    ]
    assert candidates(views, memory=GIB) == ()
    told = why_none(views)
    assert "small: 512 MiB" in told
    assert "away: no answer" in told
    assert "resting is in maintenance" in told
    assert why_none([]) == "no peer is configured"
