"""The board: whatever changes, in whatever order, it tells what asking everything anew would tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as some

from kvmigd.checks import catalogue
from kvmigd.checks.catalogue import Judge, Question
from kvmigd.checks.view import Case, Hosts, HostView, Local
from kvmigd.model.finding import Finding, Severity, Verdict, verdict_of
from kvmigd.model.guest import Guest, GuestState
from kvmigd.model.host import Examination, HostFacts
from kvmigd.model.peer import PeerState, PeerView
from kvmigd.model.proof import PortProof, Proofs
from kvmigd.model.state import HostState
from kvmigd.readiness import changes
from kvmigd.readiness.board import Board, silent
from kvmigd.readiness.evidence import HERE, Evidence
from tests.unit.cases import DESTINATION, GOOD, GUEST, SOURCE, changed

PEERS = ("hostb", "hostc")
GUESTS = tuple(
    msgspec.structs.replace(GUEST, name=f"web{number}", uuid=f"{number:08d}-1111-4111-8111-111111111111")
    for number in (1, 2, 3)
)


class Site:
    """A host, its guests and its peers, with the board that is told of each change, as Readiness tells it."""

    def __init__(self) -> None:
        self.facts: HostFacts = SOURCE.facts
        self.state: HostState = SOURCE.state
        self.severities: dict[str, str] = {}
        self.guests: dict[str, Guest] = {}
        self.views: dict[str, PeerView] = {}
        self.now_usec = 1
        self.evidence = Evidence(self._on_evidence)
        self.board = Board(self.evidence, self.facts, self.state)
        self.told: list[str] = []
        self.board.on_standing(self.told.append)
        for name in PEERS:
            self.meet(name)
        self.have(*GUESTS)
        for guest in GUESTS:
            self.look(guest)
        self.board.work()

    def _on_evidence(self, host: str, uuid: str, word: str) -> None:
        if not uuid:
            self.board.met(host, word)
        elif word == "look":
            self.board.looked(host, uuid)
        else:
            self.board.stand((uuid,))

    def have(self, *guests: Guest) -> None:
        self.guests = {guest.uuid: guest for guest in guests}
        self.board.guests(guests)
        self.evidence.guests(guests)

    def own(self, **how: Any) -> None:
        """This host's facts or picture change."""
        view = changed(HostView(facts=self.facts, state=self.state), **how)
        words = changes.changed_facts(self.facts, view.facts, here=True) | changes.changed_here(self.state, view.state)
        self.facts, self.state = view.facts, view.state
        self.board.own(self.facts, self.state, words)

    def meet(self, name: str, *, state: PeerState = PeerState.CONNECTED, **how: Any) -> None:
        """A peer comes, goes or changes."""
        before = self.views.get(name)
        other = changed(DESTINATION, facts__name=name)
        if before is not None and before.is_connected and before.facts is not None:
            other = HostView(facts=before.facts, state=before.picture)
        other = changed(other, **how)
        picture = other.state if state is PeerState.CONNECTED else HostState()
        view = PeerView(name=name, address=name, state=state, facts=other.facts, picture=picture)
        words = changes.changed_facts(before.facts if before else None, view.facts) | changes.changed_there(
            before.picture if before else HostState(), picture
        )
        self.views[name] = view
        self.board.peer(view, words)

    def look(self, guest: Guest, *hosts: str, **how: Any) -> None:
        """Hosts look at a guest."""
        for host in hosts or (HERE, *PEERS):
            look = GOOD.local.look if host == HERE else GOOD.look
            assert look is not None
            fresh = changed(look, guest=guest.uuid, names__uuid_of_name="", names__name_of_uuid="", **how)
            if host != HERE:
                fresh = msgspec.structs.replace(fresh, names=type(fresh.names)())
            fresh = msgspec.structs.replace(fresh, taken_usec=self.now_usec)
            self.evidence.took(host, [guest], [fresh])

    def expected(self, uuid: str, peer: str) -> tuple[Finding, ...]:
        """What asking everything tells."""
        judge, view, contact = Judge(self.severities), self.views[peer], self.evidence.contact(peer)
        source = HostView(facts=self.facts, state=self.state, other=contact.named, remote=contact.remote)
        local = Local(guest=self.guests[uuid], source=source, look=self.evidence.look(uuid))
        if not view.is_connected:
            return judge.sorted((silent(view), *judge.local(local)))
        assert view.facts is not None
        destination = HostView(facts=view.facts, state=view.picture, other=contact.naming)
        hosts = Hosts(source=source, destination=destination, proofs=contact.proofs)
        return judge.case(Case(local=local, hosts=hosts, look=self.evidence.look(uuid, peer)))

    def is_right(self) -> None:
        """The board knows what asking everything would tell, and how the guests stand."""
        for uuid in self.guests:
            for peer in self.views:
                result = self.board.result(uuid, peer)
                assert result is not None
                assert _set(result.findings) == _set(self.expected(uuid, peer))
                assert result.verdict is verdict_of(result.findings)
        self.board.work()
        assert self.board.standings.keys() == self.guests.keys()
        for uuid, standing in self.board.standings.items():
            verdicts = {peer: verdict_of(self.expected(uuid, peer)) for peer in self.views}
            assert {it.peer: it.verdict for it in standing.destinations} == verdicts
            proved = {peer: self.evidence.proved_usec(uuid, peer) for peer in self.views}
            assert {it.peer: it.proved_usec for it in standing.destinations} == proved
            assert standing.readiness is standing.destinations[0].verdict


def _set(findings: tuple[Finding, ...]) -> set[Finding]:
    assert len(set(findings)) == len(findings)
    return set(findings)


def _proof(site: Site, problem: str) -> None:
    proof = PortProof(to="hostb", address="192.0.2.2", port=49152, problem=problem, text="it was tried")
    proof = msgspec.structs.replace(proof, taken_usec=site.now_usec)
    site.evidence.proved("hostb", Proofs(ports=(proof,)))


def _met(site: Site, problem: str) -> None:
    other, remote = SOURCE.other, SOURCE.remote
    assert other is not None
    assert remote is not None
    here = Examination(facts=site.facts, other=other, remote=msgspec.structs.replace(remote, problem=problem))
    there = Examination(facts=DESTINATION.facts, other=msgspec.structs.replace(other, name="hosta", addresses=()))
    site.evidence.met("hostb", here, there if problem else None)


def _bridges(site: Site, mtu: int) -> dict[str, Any]:
    return {"state__links__bridges": tuple(changed(it, mtu=mtu) for it in site.state.links.bridges)}


def _severities(site: Site, **how: str) -> None:
    site.severities = {name.replace("_", ".", 1): value for name, value in how.items()}
    site.board.severities(site.severities)


EVENTS: dict[str, Callable[[Site], None]] = {
    "own memory": lambda site: site.own(facts__memory_free=site.facts.memory_free + 1),
    "own maintenance": lambda site: site.own(facts__accepting=not site.facts.accepting),
    "own libvirt": lambda site: site.own(facts__hypervisor_alive=not site.facts.hypervisor_alive),
    "own mtu": lambda site: site.own(**_bridges(site, 9000)),
    "own mtu again": lambda site: site.own(**_bridges(site, 1500)),
    "own networks": lambda site: site.own(state__hypervisor__networks=()),
    "own links unknown": lambda site: site.own(state__links__problem="it hangs"),
    "own links known": lambda site: site.own(state__links__problem=""),
    "peer memory": lambda site: site.meet("hostb", facts__memory_free=0),
    "peer memory again": lambda site: site.meet("hostb", facts__memory_free=1 << 40),
    "peer qemu": lambda site: site.meet("hostc", facts__software__qemu=1),
    "peer bridges": lambda site: site.meet("hostc", state__links__bridges=()),
    "peer system unknown": lambda site: site.meet("hostb", state__system__problem="it is away"),
    "peer lost": lambda site: site.meet("hostb", state=PeerState.UNREACHABLE),
    "peer back": lambda site: site.meet("hostb"),
    "guest paused": lambda site: site.have(changed(site.guests[GUESTS[0].uuid], state=GuestState.PAUSED), *GUESTS[1:]),
    "guest moved": lambda site: site.have(GUESTS[0], changed(GUESTS[1], nics=()), GUESTS[2]),
    "guests": lambda site: site.have(*GUESTS),
    "look missing path": lambda site: site.look(GUESTS[1], "hostb", paths=()),
    "look no cpu": lambda site: site.look(GUESTS[2], "hostc", cpu__compatible=False, machine_problem="none"),
    "look again": lambda site: [site.look(guest) for guest in site.guests.values()] and None,
    "port closed": lambda site: _proof(site, "timeout"),
    "port open": lambda site: _proof(site, ""),
    "remote closed": lambda site: _met(site, "refused"),
    "remote open": lambda site: _met(site, ""),
    "later": lambda site: setattr(site, "now_usec", site.now_usec + 1),
    "severities": lambda site: _severities(site, software_qemu="block", network_mtu="ignore"),
    "no severities": lambda site: _severities(site),
    "work a little": lambda site: [site.board._step() for _ in range(3)] and None,
    "work": lambda site: site.board.work() and None,
}


def test_nothing_is_wrong_at_first() -> None:
    site = Site()
    site.is_right()
    assert {standing.readiness for standing in site.board.standings.values()} == {Verdict.READY}
    assert (site.board.readiness, site.board.stuck) == (Verdict.READY, ())


@settings(max_examples=40, deadline=None)
@given(some.lists(some.sampled_from(sorted(EVENTS)), max_size=12))
def test_asking_what_a_change_touches_tells_what_asking_everything_tells(names: list[str]) -> None:
    site = Site()
    for name in names:
        EVENTS[name](site)
        if name.startswith("own") or name == "work":
            site.board.result(GUESTS[0].uuid, "hostb")  # who asks in the middle is answered, and changes nothing
    site.is_right()


def test_every_event_is_right_by_itself() -> None:
    for event in EVENTS.values():
        site = Site()
        event(site)
        site.is_right()


def _asked(site: Site, event: str) -> list[Question]:
    """The questions that an event has asked."""
    asked: list[Question] = []
    answers = Judge.answers

    def counting(judge: Judge, some: Iterable[Question], *given_to: Any, **how: Any) -> dict[int, tuple[Finding, ...]]:
        asked.extend(some)
        return answers(judge, some, *given_to, **how)

    site.board._judge.answers = counting.__get__(site.board._judge)  # type: ignore[method-assign]
    EVENTS[event](site)
    site.board.work()
    return asked


def test_only_what_a_change_touches_is_asked() -> None:
    for event, words in (
        ("peer memory", {"facts"}),
        ("peer qemu", {"facts"}),
        ("own mtu", {"links"}),
        ("port closed", {"proofs"}),
        ("look missing path", {"look"}),
    ):
        asked = _asked(Site(), event)
        assert asked
        assert all(question.reads & words for question in asked), event


def test_one_guest_s_change_asks_of_no_other() -> None:
    asked = _asked(Site(), "guest paused")
    assert len(asked) <= len(catalogue.QUESTIONS) * len(PEERS)
    quiet = {question.number for question in _asked(Site(), "own memory")}
    assert quiet == {question.number for question in catalogue.QUESTIONS if "memory-here" in question.reads}
    assert all(catalogue.QUESTIONS[number].back for number in quiet), "the source's memory concerns the way back alone"


def test_a_change_of_which_rules_see_nothing_is_not_told() -> None:
    site = Site()
    site.told.clear()
    EVENTS["own memory"](site)
    EVENTS["look again"](site)
    site.board.work()
    assert site.told == []


def test_what_is_proved_is_told_with_its_time_also_where_nothing_else_is_found() -> None:
    site = Site()
    assert [it.proved_usec for it in site.board.standings[GUESTS[0].uuid].destinations] == [0, 0]
    site.told.clear()
    EVENTS["port open"](site)
    site.board.work()
    assert site.told == [guest.uuid for guest in GUESTS]
    proved = {it.peer: it.proved_usec for it in site.board.standings[GUESTS[0].uuid].destinations}
    assert proved == {"hostb": 1, "hostc": 0}


def test_who_stands_otherwise_is_told() -> None:
    site = Site()
    site.told.clear()
    EVENTS["look missing path"](site)
    site.board.work()
    assert site.told == [GUESTS[1].uuid]
    assert [(it.peer, it.verdict) for it in site.board.standings[GUESTS[1].uuid].destinations] == [
        ("hostc", Verdict.READY),
        ("hostb", Verdict.BLOCKED),
    ]
    assert not site.board.standings[GUESTS[1].uuid].is_stuck
    site.look(GUESTS[1], "hostc", paths=())
    site.board.work()
    standing = site.board.standings[GUESTS[1].uuid]
    assert (standing.is_stuck, site.board.stuck, site.board.readiness) == (True, ("web2",), Verdict.BLOCKED)
    assert "web.qcow2" in standing.summary


def test_guests_come_and_go() -> None:
    site = Site()
    site.told.clear()
    off = changed(GUESTS[0], state=GuestState.SHUTOFF)
    site.board.guests(GUESTS[1:], others=(off,))
    site.board.work()
    standing = site.board.standings[off.uuid]
    assert (standing.readiness, standing.destinations, standing.is_stuck) == (None, (), False)
    assert site.told == [off.uuid]
    assert site.board.result(off.uuid, "hostb") is None
    site.board.guests(GUESTS[1:])
    assert (site.told, off.uuid in site.board.standings) == ([off.uuid] * 2, False)
    site.board.guests(())
    site.board.work()
    assert (site.board.standings, site.board.readiness) == ({}, Verdict.READY)


def test_peers_come_and_go() -> None:
    site = Site()
    for name in PEERS:
        site.meet(name, state=PeerState.UNREACHABLE)
    site.board.work()
    assert site.board.readiness is Verdict.UNKNOWN
    result = site.board.result(GUESTS[0].uuid, "hostb")
    assert result is not None
    assert [(it.check, it.severity) for it in result.findings] == [("peer.answers", Severity.UNKNOWN)]
    for name in PEERS:
        site.board.no_peer(name)
    site.board.work()
    assert site.board.standings[GUESTS[0].uuid].obstacle == "No peer is configured."
    assert site.board.result(GUESTS[0].uuid, "hostb") is None


def test_a_peer_that_comes_back_is_as_good_as_before() -> None:
    site = Site()
    for event in ("peer lost", "work", "peer back", "work"):
        EVENTS[event](site)
    site.is_right()
    assert site.board.readiness is Verdict.READY
    assert all(it.verdict is Verdict.READY for it in site.board.standings[GUESTS[0].uuid].destinations)


def test_the_work_is_done_in_the_background() -> None:
    async def body() -> None:
        site = Site()
        running = asyncio.create_task(site.board.run())
        EVENTS["peer lost"](site)
        while len(site.told) < 6:
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait({running})

    asyncio.run(body())


def test_a_judge_asks_everything_once() -> None:
    numbers = [question.number for question in catalogue.QUESTIONS]
    assert numbers == list(range(len(numbers)))
