"""The board: what is found about each active guest and each peer, kept by asking only what a change touches.

Three kinds of parts are kept apart, as the rules are: one for each peer, one for each guest, one for each pair. A part
knows what each question has found; a change makes it ask those questions again that read what has changed. The work is
done in slices, and whoever wants to know sooner has the parts that he needs done at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter

from kvmigd.checks.catalogue import Judge, questions
from kvmigd.checks.knowledge import ANSWERS
from kvmigd.checks.rule import Scope
from kvmigd.checks.view import Case, Hosts, HostView, Local
from kvmigd.model.finding import Basis, Finding, Verdict
from kvmigd.model.guest import Guest
from kvmigd.model.host import HostFacts
from kvmigd.model.peer import PeerView
from kvmigd.model.readiness import BEST_FIRST, CheckResult, Destination, Standing, worst_of
from kvmigd.model.state import HostState
from kvmigd.readiness.evidence import HERE, Evidence
from kvmigd.readiness.parts import EVERYTHING, GuestPart, PairPart, PeerPart, verdict_of_parts

SLICE = 0.004
"""Seconds that the board holds the loop at a time."""


class Board:
    """All calls belong on the event loop. `run` does what changes have left to do."""

    def __init__(self, evidence: Evidence, facts: HostFacts, state: HostState) -> None:
        self._evidence = evidence
        self._judge = Judge()
        self._source = HostView(facts=facts, state=state)
        self._peers: dict[str, PeerPart] = {}
        self._guests: dict[str, GuestPart] = {}
        self._standings: dict[str, Standing] = {}
        self._todo_peers: dict[str, None] = {}
        self._todo_guests: dict[str, None] = {}
        self._todo_pairs: dict[tuple[str, str], None] = {}
        self._dirty: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._listeners: list[Callable[[str], None]] = []

    # What has changed

    def severities(self, settings: Mapping[str, str]) -> None:
        """The configuration has these severities."""
        self._judge = Judge(settings)
        self._touch_all(EVERYTHING)

    def own(self, facts: HostFacts, state: HostState, words: frozenset[str]) -> None:
        """This host is another one than before, in what the words say."""
        self._source = HostView(facts=facts, state=state)
        for peer in self._peers.values():
            peer.hosts = None
        for guest in self._guests.values():
            guest.local = None
        if words:
            self._touch_all(words)

    def peer(self, view: PeerView, words: frozenset[str]) -> None:
        """A peer came, or is another one than before, in what the words say."""
        name = view.name
        part = self._peers.get(name)
        if part is None:
            self._peers[name] = PeerPart(view)
            for guest in self._guests.values():
                guest.pairs[name] = PairPart()
            words = EVERYTHING
        else:
            if part.view.is_connected != view.is_connected or (not view.is_connected and part.view != view):
                words = EVERYTHING
            part.view = view
            if words:
                part.hosts = None
        if words:
            self._touch_peer(name, words)

    def no_peer(self, name: str) -> None:
        """A peer is configured no longer."""
        if self._peers.pop(name, None) is not None:
            for uuid, guest in self._guests.items():
                guest.pairs.pop(name, None)
                self._dirty[uuid] = None
            self._wake.set()

    def guests(self, guests: Iterable[Guest], *, others: Iterable[Guest] = ()) -> None:
        """These guests are active here, and those others are not."""
        now = {guest.uuid: guest for guest in guests}
        for uuid, guest in now.items():
            part = self._guests.get(uuid)
            if part is None:
                self._guests[uuid] = part = GuestPart(guest)
                part.pairs = {name: PairPart() for name in self._peers}
            elif part.guest is guest or part.guest == guest:
                continue
            part.guest, part.local = guest, None
            self._touch_guest(uuid, _GUEST)
            self._dirty[uuid] = None
        rest = {guest.uuid: Standing(name=guest.name, uuid=guest.uuid, state=guest.state) for guest in others}
        gone = [uuid for uuid in self._standings if uuid not in now and uuid not in rest]
        for uuid in [uuid for uuid in self._guests if uuid not in now]:
            del self._guests[uuid]
        for uuid in gone:
            del self._standings[uuid]
            self._tell(uuid)
        for uuid, standing in rest.items():
            if self._standings.get(uuid) != standing:
                self._standings[uuid] = standing
                self._tell(uuid)

    def looked(self, host: str, uuid: str) -> None:
        """There is another look of a host at a guest."""
        guest = self._guests.get(uuid)
        if guest is None:
            return
        if host == HERE:
            guest.local = None
            self._touch_guest(uuid, _LOOK)
        elif host in guest.pairs:
            self._touch_pair(uuid, host, guest.pairs[host], _LOOK)
        self.stand((uuid,))

    def met(self, peer: str, word: str) -> None:
        """What is known of a peer is something else: `facts` or `proofs`."""
        part = self._peers.get(peer)
        if part is not None:
            part.hosts = None
            self._touch_peer(peer, frozenset({word}))
            if word == "proofs":
                self.stand(self._guests)

    def _touch_all(self, words: frozenset[str]) -> None:
        for name in self._peers:
            self._touch_peer(name, words, pairs=False)
        for uuid in self._guests:
            self._touch_guest(uuid, words)

    def _touch_peer(self, name: str, words: frozenset[str], *, pairs: bool = True) -> None:
        if words is EVERYTHING or questions(Scope.HOSTS, words):
            self._peers[name].touch(words)
            self._todo_peers[name] = None
            self._wake.set()
        if pairs and (words is EVERYTHING or questions(Scope.PAIR, words)):
            for uuid, guest in self._guests.items():
                self._touch_pair(uuid, name, guest.pairs[name], words)

    def _touch_guest(self, uuid: str, words: frozenset[str]) -> None:
        guest = self._guests[uuid]
        if words is EVERYTHING or questions(Scope.GUEST, words):
            guest.touch(words)
            self._todo_guests[uuid] = None
        if words is EVERYTHING or questions(Scope.PAIR, words):
            for name, pair in guest.pairs.items():
                self._touch_pair(uuid, name, pair, words)
        self._wake.set()

    def _touch_pair(self, uuid: str, name: str, pair: PairPart, words: frozenset[str]) -> None:
        pair.touch(words)
        self._todo_pairs[uuid, name] = None
        self._wake.set()

    # The work

    async def run(self) -> None:
        """Do what changes have left to do, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while not self.work(SLICE):
                await asyncio.sleep(0)

    def work(self, seconds: float = float("inf")) -> bool:
        """Work for about so long; returns whether everything is done."""
        end = perf_counter() + seconds
        while perf_counter() < end:
            if not self._step():
                return True
        return False

    def _step(self) -> bool:
        """The next piece of work; false if there is none."""
        if self._todo_peers:
            self._ask_peer(next(iter(self._todo_peers)))
        elif self._todo_guests:
            self._ask_guest(next(iter(self._todo_guests)))
        elif self._todo_pairs:
            self._ask_pair(*next(iter(self._todo_pairs)))
        elif self._dirty:
            uuid = next(iter(self._dirty))
            del self._dirty[uuid]
            self._stand(uuid)
        else:
            return False
        return True

    def settle(self, uuid: str, peer: str) -> None:
        """Do what concerns this guest and this peer now."""
        if peer in self._todo_peers:
            self._ask_peer(peer)
        if uuid in self._todo_guests:
            self._ask_guest(uuid)
        if (uuid, peer) in self._todo_pairs:
            self._ask_pair(uuid, peer)

    def _ask_peer(self, name: str) -> None:
        del self._todo_peers[name]
        peer = self._peers.get(name)
        if peer is None:
            return
        if peer.view.is_connected:
            hosts = self._hosts(peer)
            changed = peer.ask(self._judge, Scope.HOSTS, hosts, hosts.source.unknown | hosts.destination.unknown)
        else:
            peer.touched = frozenset()
            found: dict[int, tuple[Finding, ...]] = {SILENCE: (silent(peer.view),)}
            changed, peer.found = peer.found != found, found
            if changed:
                peer.tell(found[SILENCE])
        if changed:
            self._dirty.update(dict.fromkeys(self._guests))
            self._wake.set()

    def _ask_guest(self, uuid: str) -> None:
        del self._todo_guests[uuid]
        guest = self._guests.get(uuid)
        if guest is not None and guest.ask(self._judge, Scope.GUEST, self._local(guest), self._source.unknown):
            self._dirty[uuid] = None
            self._wake.set()

    def _ask_pair(self, uuid: str, name: str) -> None:
        del self._todo_pairs[uuid, name]
        guest, peer = self._guests.get(uuid), self._peers.get(name)
        pair = guest.pairs.get(name) if guest is not None else None
        if guest is None or peer is None or pair is None or not peer.view.is_connected:
            return  # a peer that comes back has everything asked again
        hosts = self._hosts(peer)
        case = Case(local=self._local(guest), hosts=hosts, look=self._evidence.look(uuid, name))
        if pair.ask(self._judge, Scope.PAIR, case, hosts.source.unknown | hosts.destination.unknown):
            self._dirty[uuid] = None
            self._wake.set()

    def _hosts(self, peer: PeerPart) -> Hosts:
        if peer.hosts is None:
            view, contact = peer.view, self._evidence.contact(peer.view.name)
            assert view.facts is not None
            source = HostView(
                facts=self._source.facts, state=self._source.state, other=contact.named, remote=contact.remote
            )
            # What one view of this host has put in order is in the same order in the next.
            source.__dict__.update(self._source.__dict__)
            destination = peer.destination
            if (
                destination is None
                or destination.facts is not view.facts
                or destination.state is not view.picture
                or destination.other is not contact.naming
            ):
                destination = HostView(facts=view.facts, state=view.picture, other=contact.naming)
            peer.destination, self._source = destination, source
            peer.hosts = Hosts(source=source, destination=destination, proofs=contact.proofs)
        return peer.hosts

    def _local(self, guest: GuestPart) -> Local:
        if guest.local is None:
            look = self._evidence.look(guest.guest.uuid)
            guest.local = Local(guest=guest.guest, source=self._source, look=look)
        return guest.local

    # What is known

    @property
    def standings(self) -> Mapping[str, Standing]:
        """How each guest stands, by UUID."""
        return self._standings

    @property
    def readiness(self) -> Verdict:
        """The worst readiness of the active guests."""
        return worst_of(tuple(it.readiness for it in self._standings.values() if it.readiness is not None))

    @property
    def stuck(self) -> tuple[str, ...]:
        """Names of the active guests that can go nowhere, sorted."""
        return tuple(sorted(it.name for it in self._standings.values() if it.is_stuck))

    @property
    def active(self) -> Iterable[Guest]:
        """The guests that are judged."""
        return (part.guest for part in self._guests.values())

    @property
    def peers(self) -> tuple[str, ...]:
        """Names of all peers."""
        return tuple(self._peers)

    def on_standing(self, listener: Callable[[str], None]) -> None:
        """Call `listener(uuid)` when a guest's standing is another one, or the guest came or went."""
        self._listeners.append(listener)

    def find(self, key: str) -> Guest | None:
        """The active guest of that name or UUID."""
        if (part := self._guests.get(key)) is not None:
            return part.guest
        return next((part.guest for part in self._guests.values() if part.guest.name == key), None)

    def case(self, uuid: str, peer: str) -> tuple[Local, Hosts] | None:
        """What is judged of an active guest and a connected peer; None where one of them is not."""
        guest, part = self._guests.get(uuid), self._peers.get(peer)
        if guest is None or part is None or not part.view.is_connected:
            return None
        return self._local(guest), self._hosts(part)

    def result(self, uuid: str, peer: str) -> CheckResult | None:
        """What is found about an active guest and a peer now; None where there is no such pair."""
        guest, part = self._guests.get(uuid), self._peers.get(peer)
        if guest is None or part is None:
            return None
        self.settle(uuid, peer)
        return self._result(guest, part)

    def _result(self, guest: GuestPart, peer: PeerPart) -> CheckResult:
        pair = guest.pairs[peer.view.name]
        stamp = (guest.version, peer.version, pair.version)
        if pair.result is None or pair.stamp != stamp:
            beside = pair.findings if peer.view.is_connected else ()
            pair.stamp = stamp
            pair.result = CheckResult(
                guest=guest.guest.name,
                peer=peer.view.name,
                verdict=verdict_of_parts(guest, peer),
                findings=self._judge.sorted((*peer.findings, *guest.findings, *beside)),
            )
        return pair.result

    def _stand(self, uuid: str) -> None:
        """See how a guest stands, and tell if that is news."""
        guest = self._guests.get(uuid)
        if guest is None:
            return
        proved = self._evidence.proved_usec
        destinations = [
            Destination(peer=name, verdict=verdict_of_parts(guest, peer), proved_usec=proved(uuid, name))
            for name, peer in self._peers.items()
        ]
        destinations.sort(key=lambda it: BEST_FIRST.index(it.verdict))
        best = destinations[0] if destinations else None
        findings = self._result(guest, self._peers[best.peer]).findings if best else ()
        now = Standing(
            name=guest.guest.name,
            uuid=uuid,
            state=guest.guest.state,
            readiness=best.verdict if best else Verdict.UNKNOWN,
            destinations=tuple(destinations),
            obstacle=findings[0].summary if findings else "" if best else "No peer is configured.",
        )
        if self._standings.get(uuid) != now:
            self._standings[uuid] = now
            self._tell(uuid)

    def stand(self, uuids: Iterable[str]) -> None:
        """Something of these guests that no question reads has changed, like the age of what was proved.

        What is proved anew is told with its time, also where it changes no finding.
        """
        self._dirty.update((uuid, None) for uuid in uuids if uuid in self._guests)
        self._wake.set()

    def _tell(self, uuid: str) -> None:
        for listener in tuple(self._listeners):
            listener(uuid)


SILENCE = -1
"""The number of a question that is no rule's: whether the peer is connected."""
_GUEST = frozenset({"guest"})
_LOOK = frozenset({"look"})


def silent(view: PeerView) -> Finding:
    """What is said of a peer that is not connected."""
    return ANSWERS.finding(
        f"{view.name} does not answer.",
        host=view.name,
        subject=view.name,
        expected="a connection between the two daemons",
        found=view.problem or str(view.state),
        remedy=f"On {view.name}: systemctl status kvmigd; here: kvmigctl status",
        basis=Basis.PROVED,
    )
