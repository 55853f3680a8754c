"""How long readiness takes to be right again for 200 guests and 16 peers: after a change of all, and of one guest.

Everything is simulated but the board itself, which runs on an event loop as in the daemon: hosts, guests and looks are
data, and nobody is asked. The change that touches everything is new severities: every rule is asked again about every
peer, guest and pair. Beside it stands what a single subject costs, this host's links. The loop's lag is that of a timer
that is due each millisecond; what the machine adds to it is told beside.

The baseline is judging each pair from nothing, one after the other, as a check without a board does.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable

import msgspec

from kvmigd.checks.catalogue import RULES, Judge
from kvmigd.checks.view import Case, Hosts, HostView, Local
from kvmigd.model.guest import Guest, Nic
from kvmigd.model.host import Examination, Look
from kvmigd.model.mounts import MountFact, MountKind, Mounts
from kvmigd.model.peer import PeerState, PeerView
from kvmigd.model.proof import FrameProof, PortProof, Proofs, StorageProof, TlsProof
from kvmigd.readiness.board import Board
from kvmigd.readiness.evidence import HERE, Evidence
from tests.bench.report import median, percentile, tell
from tests.unit.cases import DESTINATION, GOOD, GUEST, PATHS, SOURCE, changed

GUESTS = int(os.environ.get("GUESTS", "200"))
PEERS = int(os.environ.get("PEERS", "16"))
MOUNTS = int(os.environ.get("MOUNTS", "1000"))
ROUNDS = int(os.environ.get("ROUNDS", "9"))
NOW = 1_700_000_000_000_000


def guests() -> list[Guest]:
    """Guests with two disks' files and two interfaces each."""
    return [
        msgspec.structs.replace(
            GUEST,
            name=f"guest{number}",
            uuid=f"{number:08d}-1111-4111-8111-111111111111",
            nics=(
                Nic(mac=f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}", kind="bridge", source="br0"),
                GUEST.nics[1],
            ),
        )
        for number in range(1, GUESTS + 1)
    ]


def mounts() -> tuple[MountFact, ...]:
    """The guests' storage, and much that is no matter of theirs."""
    many = (
        MountFact(
            point=f"/run/mounts/{number}", fs_type="tmpfs", source="tmpfs", id=1000 + number, kind=MountKind.MEMORY
        )
        for number in range(MOUNTS)
    )
    return (*SOURCE.state.mounts.mounts, *many)


def proofs(peer: str) -> Proofs:
    """Everything has been tried with a peer, and went well."""
    return Proofs(
        ports=tuple(PortProof(to=to, address="192.0.2.2", port=49152, taken_usec=NOW) for to in (peer, "hosta")),
        storage=(StorageProof(folder="/srv/guests", user="qemu (64055:64055)", peer_can_write=True, taken_usec=NOW),),
        frames=(FrameProof(bridge="br0", mtu=1500, taken_usec=NOW),),
        tls=tuple(TlsProof(to=to, taken_usec=NOW) for to in (peer, "hosta")),
    )


class Site:
    """The host, its board and everything that it is told."""

    def __init__(self) -> None:
        self.source: HostView = changed(SOURCE, state__mounts=Mounts(problem="", mounts=mounts()))
        self.guests = guests()
        self.evidence = Evidence(self._on_evidence)
        self.board = Board(self.evidence, self.source.facts, self.source.state)
        self.views: dict[str, PeerView] = {}
        for number in range(1, PEERS + 1):
            name = f"peer{number}"
            other = changed(DESTINATION, facts__name=name, facts__host_id=f"{number:08d}-2222-4000-8000-000000000000")
            view = PeerView(name=name, address=name, state=PeerState.CONNECTED, facts=other.facts, picture=other.state)
            self.views[name] = view
            self.board.peer(view, frozenset())
        self.board.guests(self.guests)
        self.evidence.guests(self.guests)
        here, there = GOOD.local.look, GOOD.look
        assert here is not None
        assert there is not None
        mine = [self._look(guest, here) for guest in self.guests]
        theirs = [self._look(guest, there) for guest in self.guests]
        self.evidence.took(HERE, self.guests, mine)
        assert SOURCE.other is not None
        for name in self.views:
            self.evidence.took(name, self.guests, theirs)
            named = msgspec.structs.replace(SOURCE.other, name=name)
            meeting = Examination(facts=self.source.facts, other=named, remote=SOURCE.remote)
            self.evidence.met(name, meeting, Examination(facts=DESTINATION.facts, other=DESTINATION.other))
            self.evidence.proved(name, proofs(name))

    @staticmethod
    def _look(guest: Guest, like: Look) -> Look:
        names = like.names
        if names.uuid_of_name:
            names = msgspec.structs.replace(names, uuid_of_name=guest.uuid, name_of_uuid=guest.name)
        return msgspec.structs.replace(like, guest=guest.uuid, names=names, paths=PATHS, taken_usec=NOW)

    def _on_evidence(self, host: str, uuid: str, word: str) -> None:
        if not uuid:
            self.board.met(host, word)
        elif word == "look":
            self.board.looked(host, uuid)

    @property
    def is_quiet(self) -> bool:
        """Nothing is left to be done."""
        board = self.board
        return not (board._todo_peers or board._todo_guests or board._todo_pairs or board._dirty)


class Lag:
    """How late a timer of the loop is that is due each millisecond."""

    def __init__(self) -> None:
        self.worst = 0.0
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            self.worst = max(self.worst, time.perf_counter() - due)

    async def stop(self) -> float:
        """The worst, in milliseconds."""
        self._task.cancel()
        await asyncio.wait({self._task})
        return self.worst * 1000


async def settled_ms(site: Site, change: Callable[[], None]) -> tuple[float, float, float]:
    """Milliseconds until everything is right after a change, the loop's worst lag meanwhile, and CPU time."""
    await asyncio.sleep(0.05)
    lag = Lag()
    await asyncio.sleep(0.02)
    lag.worst = 0.0
    began, worked = time.perf_counter(), time.process_time()
    change()
    while not site.is_quiet:
        await asyncio.sleep(0)
    took, cpu = (time.perf_counter() - began) * 1000, (time.process_time() - worked) * 1000
    await asyncio.sleep(0.005)
    return took, await lag.stop(), cpu


async def lag_of_nothing(seconds: float) -> float:
    """The loop's worst lag while it only turns: what this machine does to any process, in milliseconds."""
    lag = Lag()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        await asyncio.sleep(0)
    return await lag.stop()


def judged_ms(site: Site) -> float:
    """Milliseconds to judge each pair from nothing."""
    judge, evidence = Judge({}), site.evidence
    began = time.perf_counter()
    for name, view in site.views.items():
        assert view.facts is not None
        contact = evidence.contact(name)
        source = msgspec.structs.replace(site.source, other=contact.named, remote=contact.remote)
        destination = HostView(facts=view.facts, state=view.picture, other=contact.naming)
        hosts = Hosts(source=source, destination=destination, proofs=contact.proofs)
        for guest in site.guests:
            local = Local(guest=guest, source=source, look=evidence.look(guest.uuid))
            judge.case(Case(local=local, hosts=hosts, look=evidence.look(guest.uuid, name)))
    return (time.perf_counter() - began) * 1000


async def measure() -> None:
    """Measure and tell."""
    site = Site()
    running = asyncio.create_task(site.board.run())
    everything, everything_cpu, lags, links, link_lags, one = [], [], [], [], [], []
    await settled_ms(site, lambda: None)
    gc.collect()
    gc.freeze()  # as the daemon does
    for number in range(ROUNDS):
        took, lag, cpu = await settled_ms(site, lambda: site.board.severities({}))
        everything.append(took)
        everything_cpu.append(cpu)
        lags.append(lag)
        bridges = tuple(changed(it, mtu=9000 - number) for it in site.source.state.links.bridges)
        state = changed(site.source.state, links__bridges=bridges)
        words = frozenset({"links"})
        took, lag, _cpu = await settled_ms(site, lambda: site.board.own(site.source.facts, state, words))  # noqa: B023
        links.append(took)
        link_lags.append(lag)
        again = [msgspec.structs.replace(site.guests[0], memory=(1 << 30) + number), *site.guests[1:]]
        took, _lag, _cpu = await settled_ms(site, lambda: site.board.guests(again))  # noqa: B023
        one.append(took)
    running.cancel()
    await asyncio.wait({running})
    nothing = await lag_of_nothing(sum(everything + links) / 1000)
    tell(
        "readiness",
        figures={
            "all_ms": median(everything),
            "loop_lag_ms_max": percentile([*lags, *link_lags], 100),
            "one_ms": median(one),
            "links_ms": median(links),
            "all_cpu_ms": median(everything_cpu),
            "guests": GUESTS,
            "peers": PEERS,
            "rules": len(RULES),
        },
        baseline={
            "judged_one_by_one_ms": round(judged_ms(site), 1),
            "loop_lag_of_nothing_ms_max": round(nothing, 1),
        },
        aims={"all_ms": "≤ 200", "loop_lag_ms_max": "≤ 25", "one_ms": "≤ 10"},
        note="all_ms: every rule is asked again about every pair. links_ms: those rules that read links.",
    )


if __name__ == "__main__":
    asyncio.run(measure())
