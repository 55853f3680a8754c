"""Looks and proofs in the background: when they are asked for, how often, and that nothing happens at rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kvmigd.errors import HypervisorUnavailable, PeerUnreachable
from kvmigd.model.finding import Verdict
from kvmigd.model.guest import Guest, GuestState
from kvmigd.model.host import Examination, Look, ResolvedName
from kvmigd.model.job import CheckOptions
from kvmigd.model.proof import FrameProof, PortProof, Proofs, StorageProof, TlsProof
from kvmigd.peer.link import PeerLink
from kvmigd.prove.prover import Prover
from kvmigd.prove.wanted import Segment, Wanted
from kvmigd.readiness.evidence import HERE, Evidence
from kvmigd.readiness.looker import Looker
from kvmigd.readiness.readiness import Readiness
from kvmigd.readiness.repeater import Repeater, Rhythm
from kvmigd.readiness.wanted import KINDS
from tests.simulated import guest
from tests.unit.cases import SOURCE, changed
from tests.unit.daemon_lab import Side, until

Run = Callable[..., None]
FAST = Rhythm(every=60.0, settle=0.01, meet=0.02, least=0.02, failed=0.03)
ALL = Wanted(
    ports=("stream",),
    back=("stream",),
    storage=("/srv/guests",),
    frames=(Segment(bridge="br0"),),
    tls=True,
    throughput=True,
)


class Link:
    """A peer's link, of which nothing but the name is used."""

    def __init__(self, name: str) -> None:
        self.name = name


class FakeInquiry:
    """Answers at once what is asked, and notes it."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.looked: list[tuple[str, set[str], set[str]]] = []
        self.proved: list[tuple[str, Wanted]] = []
        self.failing = 0
        self.problem = ""
        self.needs = ALL

    def _answer(self) -> None:
        if self.failing:
            self.failing -= 1
            raise PeerUnreachable("It is away.")

    async def look(self, link: Link, *, here: list[Guest], there: list[Guest]) -> None:
        self.looked.append((link.name, {it.name for it in here}, {it.name for it in there}))
        await asyncio.sleep(0)
        self._answer()
        self.evidence.took(HERE, here, [Look(guest=it.uuid) for it in here])
        self.evidence.took(link.name, there, [Look(guest=it.uuid) for it in there])
        other = ResolvedName(name=link.name)
        self.evidence.met(link.name, Examination(facts=SOURCE.facts, other=other), None)

    async def prove(self, link: Link, wanted: Wanted) -> Proofs:
        self.proved.append((link.name, wanted))
        await asyncio.sleep(0)
        self._answer()
        proofs = Proofs(
            ports=tuple(PortProof(to=to, problem=self.problem) for to in (link.name, "hosta")[: 2 * len(wanted.ports)]),
            storage=tuple(StorageProof(folder=folder) for folder in wanted.storage),
            frames=tuple(FrameProof(bridge=it.bridge, vlan=it.vlan, mtu=it.mtu) for it in wanted.frames),
            tls=(TlsProof(to=link.name),) if wanted.tls else (),
        )
        self.evidence.proved(link.name, proofs)
        return proofs

    def wanted(self, _link: Link | None, _guests: Any, **_how: bool) -> Wanted:
        return self.needs


class World:
    """A host with peers, and what is asked of them."""

    def __init__(self, *peers: str) -> None:
        self.evidence = Evidence()
        self.inquiry: Any = FakeInquiry(self.evidence)
        self.guests: list[Guest] = []
        self.links: Any = {name: Link(name) for name in peers}
        self.looker = Looker(self.inquiry, self.evidence, guests=lambda: self.guests, links=lambda: self.links)
        self.repeater = Repeater(
            self.inquiry, self.evidence, guests=lambda: self.guests, links=lambda: self.links, rhythm=FAST
        )

    def have(self, *guests: Guest) -> None:
        """These guests are here."""
        self.guests = list(guests)
        self.evidence.guests(guests)
        for name in self.links:
            self.looker.wake(name)
        self.repeater.needed()

    def kinds(self) -> list[tuple[str, frozenset[str]]]:
        """Who was asked to prove what."""
        return [(name, _kinds(wanted)) for name, wanted in self.inquiry.proved]

    async def rest(self) -> None:
        """Everything that is to be done soon is done."""
        await asyncio.sleep(0.25)


def _kinds(wanted: Wanted) -> frozenset[str]:
    return frozenset(kind for kind in KINDS if getattr(wanted, kind))


@asynccontextmanager
async def at_work(world: World) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        world.looker.start(group)
        running = group.create_task(world.repeater.run())
        yield
        running.cancel()
        for name in list(world.links):
            world.looker.forget(name)


def run_(body: Callable[[World], Awaitable[None]], *peers: str) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            world = World(*peers)
            async with at_work(world):
                await body(world)

    asyncio.run(run())


# Looks


def test_both_hosts_look_once_and_this_one_for_all_peers() -> None:
    async def body(world: World) -> None:
        world.have(guest("web", 1), guest("db", 2))
        await until(lambda: len(world.inquiry.looked) == 2)
        await world.rest()
        looked = sorted(world.inquiry.looked)
        assert [(name, there) for name, _here, there in looked] == [("b", {"web", "db"}), ("c", {"web", "db"})]
        assert sorted(map(len, (here for _name, here, _there in looked))) == [0, 2]

    run_(body, "b", "c")


def test_only_what_is_doubted_is_looked_at_again() -> None:
    async def body(world: World) -> None:
        web = guest("web", 1)
        world.have(web, guest("db", 2))
        await until(lambda: len(world.inquiry.looked) == 1)
        await world.rest()
        world.evidence.doubt("b", uuids=[web.uuid])
        world.looker.wake("b")
        await until(lambda: len(world.inquiry.looked) == 2)
        await world.rest()
        assert world.inquiry.looked[1:] == [("b", set(), {"web"})]
        world.looker.wake("b")
        await world.rest()
        assert len(world.inquiry.looked) == 2, "nothing is missing"

    run_(body, "b")


def test_a_failure_is_tried_again(monkeypatch: Any) -> None:
    monkeypatch.setattr("kvmigd.readiness.looker.FIRST_PAUSE", 0.01)

    async def body(world: World) -> None:
        world.inquiry.failing = 2
        world.have(guest("web", 1))
        await until(lambda: not world.evidence.wanted("b"))
        assert len(world.inquiry.looked) == 3

    run_(body, "b")


def test_a_peer_that_is_lost_is_not_asked() -> None:
    async def body(world: World) -> None:
        world.links.clear()
        world.looker.wake("b")
        await world.rest()
        assert world.inquiry.looked == []

    run_(body, "b")


# Proofs


def test_a_peer_that_comes_is_proved_once() -> None:
    async def body(world: World) -> None:
        world.have(guest("web", 1))
        world.repeater.met("b")
        await until(lambda: len(world.inquiry.proved) == 1)
        await world.rest()
        assert world.kinds() == [("b", KINDS)]

    run_(body, "b")


def test_without_guests_nothing_is_proved() -> None:
    async def body(world: World) -> None:
        world.repeater.met("b")
        await world.rest()
        assert world.inquiry.proved == []
        world.have(guest("web", 1))
        await until(lambda: len(world.inquiry.proved) == 1)

    run_(body, "b")


def test_what_has_changed_is_proved_again_and_changes_are_gathered() -> None:
    async def body(world: World) -> None:
        world.have(guest("web", 1))
        world.repeater.met("b")
        world.repeater.met("c")
        await until(lambda: len(world.inquiry.proved) == 2)
        for _ in range(10):
            world.repeater.changed("b", {"ports"})
        world.repeater.changed("b", {"storage"})
        await until(lambda: len(world.inquiry.proved) == 3)
        await world.rest()
        assert world.kinds()[2:] == [("b", {"ports", "storage"})]

    run_(body, "b", "c")


def test_what_a_new_guest_needs_is_proved() -> None:
    async def body(world: World) -> None:
        world.have(guest("web", 1))
        world.repeater.met("b")
        await until(lambda: len(world.inquiry.proved) == 1)
        world.inquiry.needs = Wanted(
            ports=("stream",), storage=("/srv/guests", "/srv/more"), frames=ALL.frames, tls=True
        )
        world.repeater.needed()
        await until(lambda: len(world.inquiry.proved) == 2)
        await world.rest()
        assert world.kinds()[1:] == [("b", {"storage"})]
        assert {proof.folder for proof in world.evidence.contact("b").proofs.storage} == {"/srv/guests", "/srv/more"}

    run_(body, "b")


def test_a_peer_that_fails_or_is_busy_is_tried_again_later() -> None:
    async def body(world: World) -> None:
        world.inquiry.failing = 1
        world.inquiry.problem = "busy"
        world.have(guest("web", 1))
        world.repeater.met("b")
        await until(lambda: len(world.inquiry.proved) == 1)
        world.inquiry.problem = ""
        await until(lambda: len(world.inquiry.proved) == 2)
        await world.rest()
        assert world.kinds() == [("b", KINDS), ("b", {"ports"})]
        assert all(proof.is_proved for proof in world.evidence.contact("b").proofs.ports)

    run_(body, "b")


def test_what_went_wrong_is_tried_again_by_itself_and_that_alone() -> None:
    async def body(world: World) -> None:
        world.inquiry.problem = "timeout"
        world.have(guest("web", 1))
        world.repeater.met("b")
        await until(lambda: len(world.inquiry.proved) == 3)
        world.inquiry.problem = ""
        await until(lambda: all(proof.is_proved for proof in world.evidence.contact("b").proofs.ports))
        count = len(world.inquiry.proved)
        await world.rest()
        assert len(world.inquiry.proved) == count
        assert set(world.kinds()[1:]) == {("b", frozenset({"ports"}))}

    run_(body, "b")


def test_proofs_are_repeated() -> None:
    async def body(world: World) -> None:
        world.repeater._rhythm = Rhythm(every=0.05, settle=0.01, meet=0.02, least=0.01)
        world.have(guest("web", 1))
        world.repeater.met("b")
        await until(lambda: len(world.inquiry.proved) >= 3)
        assert set(world.kinds()) == {("b", KINDS)}

    run_(body, "b")


# Together, between real daemons


def test_readiness_comes_by_itself_and_check_is_answered_from_it(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a, b = sides["hosta"], sides["hostb"]
        web = a.hypervisor.add(guest("web"))
        standings = a.service.standings
        await until(lambda: web.uuid in standings and standings[web.uuid].readiness is Verdict.DEGRADED)
        assert [it.peer for it in standings[web.uuid].destinations] == ["hostb"]
        known = CheckOptions(prove=False)
        b.hypervisor.missing_cpu = "missing features: avx512f"  # nobody hears of that
        (result,) = await a.service.check("web", "hostb", known)
        assert result.verdict is Verdict.DEGRADED
        (again,) = await a.service.check(web.uuid, "", known)
        assert again is result, "nothing was asked, and nothing put together anew"
        (strict,) = await a.service.check("web", "hostb", CheckOptions(prove=False, strict=True))
        assert strict.verdict is Verdict.BLOCKED
        (fresh,) = await a.service.check("web", "hostb", CheckOptions())
        assert (fresh.verdict, fresh.findings[0].check) == (Verdict.BLOCKED, "cpu.model")
        await until(lambda: a.service.stuck == ("web",))
        (offline,) = await a.service.check("web", "hostb", CheckOptions(prove=False, offline=True))
        assert {it.check for it in offline.findings} >= {"cpu.model"}

    run(body)


def test_while_libvirt_is_away_its_guests_are_known_and_blocked(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        web = a.hypervisor.add(guest("web"))
        await until(lambda: web.uuid in a.service.standings)
        a.hypervisor.set_alive(alive=False)
        for options in (CheckOptions(prove=False), CheckOptions()):
            (result,) = await a.service.check("web", "hostb", options)
            assert (result.verdict, result.findings[0].check) == (Verdict.BLOCKED, "hypervisor.alive")
        await until(lambda: a.service.stuck == ("web",))
        a.hypervisor.set_alive(alive=True)
        await until(lambda: a.service.stuck == ())

    run(body)


@pytest.mark.parametrize("which", ["hosta", "hostb"])
def test_a_libvirt_that_hangs_is_unknown_by_its_name(run: Run, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        web = a.hypervisor.add(guest("web"))
        await until(lambda: web.uuid in a.service.standings)
        silence = f"libvirt on {which} has not answered for 10 s."

        async def hangs(*_guests: object) -> None:
            raise HypervisorUnavailable(silence, hint="systemctl status libvirtd")

        monkeypatch.setattr(sides[which].host, "_look", hangs)
        (result,) = await a.service.check("web", "hostb", CheckOptions())
        (finding,) = result.findings
        assert (result.verdict, finding.check, finding.host) == (Verdict.UNKNOWN, "peer.answers", which)
        assert (finding.found, finding.remedy) == (silence, "systemctl status libvirtd")
        assert finding.summary.endswith(silence)

    run(body)


def test_what_is_known_to_block_is_told_by_a_peer_that_could_not_look(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a, b = sides["hosta"], sides["hostb"]
        web = a.hypervisor.add(guest("web"))
        b.hypervisor.missing_cpu = "missing features: avx512f"
        await until(lambda: web.uuid in a.service.standings)
        await until(lambda: a.service.standings[web.uuid].readiness is Verdict.BLOCKED)

        async def fails(*_guests: object) -> None:
            raise HypervisorUnavailable("libvirt on hostb has not answered for 10 s.")

        monkeypatch.setattr(b.host, "_look", fails)
        (result,) = await a.service.check("web", "hostb", CheckOptions())
        assert result.verdict is Verdict.BLOCKED
        assert [finding.check for finding in result.findings] == ["cpu.model", "peer.answers"]

    run(body)


def test_check_all_tells_of_all_guests_and_peers(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        for number, name in enumerate(("web", "db"), start=1):
            a.hypervisor.add(guest(name, number))
        await until(lambda: len(a.service.standings) == 2)
        for options in (CheckOptions(prove=False), CheckOptions()):
            rows = await a.service.check_all("", "", options)
            assert [(row.guest, row.peer) for row in rows] == [
                ("db", "hostb"),
                ("db", "hostc"),
                ("web", "hostb"),
                ("web", "hostc"),
            ]
            assert {row.verdict for row in rows} == {Verdict.DEGRADED}
        assert len(await a.service.check_all("", "hostc", CheckOptions(prove=False))) == 2

    run(body, hosts=3)


def test_a_guest_that_is_off_can_be_checked_too(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        off = a.hypervisor.add(changed(guest("off"), state=GuestState.SHUTOFF))
        await until(lambda: off.uuid in a.service.standings)
        assert a.service.standings[off.uuid].readiness is None
        for options in (CheckOptions(prove=False), CheckOptions()):
            (result,) = await a.service.check("off", "hostb", options)
            assert (result.verdict, result.findings[0].check) == (Verdict.BLOCKED, "guest.state")

    run(body)


def test_what_happens_after_its_end_is_asked_of_nobody(run: Run) -> None:
    async def body(sides: dict[str, Side]) -> None:
        a = sides["hosta"]
        readiness = Readiness(a.host, a.service._peers, prover=no_prover)
        running = asyncio.ensure_future(readiness.run())
        await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        before = asyncio.all_tasks()
        readiness._looker.wake("hostb")
        assert asyncio.all_tasks() == before

    run(body)


def no_prover(link: PeerLink) -> Prover:
    """Nothing is to be proved."""
    raise AssertionError(f"{link.name} is asked")
