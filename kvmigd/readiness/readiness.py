"""Readiness, put together: changes of this host and of the peers go to the board, what is doubted is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from time import perf_counter

import msgspec

from kvmigd.checks.catalogue import Judge
from kvmigd.checks.view import Case, Hosts, Local
from kvmigd.config import Config
from kvmigd.errors import KvmigdError, NoSuchPeer
from kvmigd.host.local import Host
from kvmigd.model.finding import Finding, Severity, Verdict, verdict_of
from kvmigd.model.guest import Guest
from kvmigd.model.host import HostFacts
from kvmigd.model.job import CheckOptions
from kvmigd.model.peer import PeerView
from kvmigd.model.proof import Proofs
from kvmigd.model.readiness import CheckResult, Standing
from kvmigd.model.state import HostState, StateChange
from kvmigd.peer.link import PeerLink
from kvmigd.peer.peers import Peers
from kvmigd.prove.prover import Prover
from kvmigd.readiness import changes
from kvmigd.readiness.board import SLICE, Board, silent
from kvmigd.readiness.check import check, unanswered
from kvmigd.readiness.evidence import HERE, Evidence
from kvmigd.readiness.inquiry import Inquiry
from kvmigd.readiness.looker import PEERS_AT_ONCE, Looker
from kvmigd.readiness.notice import SETTLED_SECONDS, Notices
from kvmigd.readiness.repeater import Repeater, Rhythm


class Readiness:
    """Whether each active guest could go to each peer. Answers are at hand; `run` keeps what they rest on true."""

    def __init__(
        self,
        host: Host,
        peers: Peers,
        *,
        prover: Callable[[PeerLink], Prover],
        rhythm: Rhythm = Rhythm(),  # noqa: B008  # frozen
        settled: float = SETTLED_SECONDS,
    ) -> None:
        self._host = host
        self._links = peers
        self._facts = host.facts
        self._views: dict[str, PeerView] = {}
        self._severities: dict[str, str] = {}
        self._evidence = Evidence(self._on_evidence)
        self._board = Board(self._evidence, host.facts, host.picture.state)
        self._inquiry = Inquiry(host, self._evidence, prover)
        self._looker = Looker(self._inquiry, self._evidence, guests=self._active, links=self._connected)
        self._repeater = Repeater(
            self._inquiry, self._evidence, guests=self._active, links=self._connected, rhythm=rhythm
        )
        self._notices = Notices(lambda: self.standings, worth=lambda: bool(self._views), settled=settled)
        self._board.on_standing(self._notices.changed)
        host.picture.subscribe(self._on_picture)
        host.on_facts(self._on_facts)
        peers.on_change(self._on_peer)
        self.apply(host.config)
        self._on_guests(host.picture.state)
        for view in peers.views:
            self._on_peer(view.name)

    def apply(self, config: Config) -> None:
        """Take a new configuration."""
        if config.checks != self._severities:
            self._severities = dict(config.checks)
            self._board.severities(self._severities)

    async def run(self) -> None:
        """Keep everything true, for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                self._looker.start(group)
                group.create_task(self._repeater.run(), name="readiness-proofs")
                try:
                    await self._board.run()
                finally:
                    self._looker.stop()  # a group that is ending takes no tasks, and peers go on telling of changes
        finally:
            self._notices.close()

    def catch_up(self) -> None:
        """Do now what changes have left to do, as far as nobody has to be asked for it."""
        self._board.work()

    # What is known

    @property
    def standings(self) -> Mapping[str, Standing]:
        """How the guests of this host stand, by UUID."""
        return self._board.standings

    @property
    def readiness(self) -> Verdict:
        """The worst readiness of the active guests."""
        return self._board.readiness

    @property
    def stuck(self) -> tuple[str, ...]:
        """Names of the active guests that can go nowhere."""
        return self._board.stuck

    def on_standing(self, listener: Callable[[str], None]) -> None:
        """Call `listener(uuid)` when a guest's standing changed, or the guest came or went."""
        self._board.on_standing(listener)

    def find(self, key: str) -> Guest | None:
        """The active guest of that name or UUID, as it is known."""
        return self._board.find(key)

    def proofs(self, peer: str) -> Proofs:
        """What was tried with a peer, when it was last tried."""
        return self._evidence.contact(peer).proofs

    @property
    def guests(self) -> tuple[Guest, ...]:
        """The active guests."""
        return tuple(self._active())

    async def rows(self, guests: Sequence[Guest], peers: Sequence[str], options: CheckOptions) -> list[CheckResult]:
        """A row for each guest, in any state, and each peer: what is known where that is enough, else it is asked now.

        Peers that are not connected are not asked; what is known of them is that they do not answer.
        """
        rows: dict[tuple[str, str], CheckResult | None] = {}
        began = perf_counter()
        for guest in guests:
            for name in peers:
                rows[guest.uuid, name] = self._known(guest, name, options)
                if perf_counter() - began > SLICE:
                    await asyncio.sleep(0)
                    began = perf_counter()
        missing = [pair for pair, row in rows.items() if row is None]
        if missing:
            uuids, names = {uuid for uuid, _ in missing}, dict.fromkeys(name for _, name in missing)
            links = [self._links.get(name) for name in names]
            wanted = [guest for guest in guests if guest.uuid in uuids]
            active = [guest for guest in wanted if self._is_on_board(guest)]
            rows.update(await self._ask_all(active, links, options))
            others = [(guest, link) for guest in wanted if guest not in active for link in links]
            found = await asyncio.gather(*(self._check_other(guest, link, options) for guest, link in others))
            rows.update({(guest.uuid, link.name): row for (guest, link), row in zip(others, found, strict=True)})
        return [row for row in rows.values() if row is not None]

    def _known(self, guest: Guest, peer: str, options: CheckOptions) -> CheckResult | None:
        """What is known of a guest and a peer; None where both hosts are to be asked (first)."""
        view = self._views.get(peer)
        if view is not None and not view.is_connected:
            row = self._judged(guest.uuid, peer, options)
            return row or _row(guest, peer, silent(view))
        uuid = guest.uuid
        if options.prove or self._evidence.look(uuid) is None or self._evidence.look(uuid, peer) is None:
            return None
        return self._judged(uuid, peer, options)

    def _judged(self, uuid: str, peer: str, options: CheckOptions) -> CheckResult | None:
        result = self._board.result(uuid, peer)
        if result is not None and (options.copy_disks or options.offline) and (case := self._board.case(uuid, peer)):
            findings = self._judge_for(*case, options)
            result = msgspec.structs.replace(result, verdict=verdict_of(findings), findings=findings)
        if result is not None and options.strict:
            result = msgspec.structs.replace(result, verdict=verdict_of(result.findings, strict=True))
        return result

    def _judge_for(self, local: Local, hosts: Hosts, options: CheckOptions) -> tuple[Finding, ...]:
        local = msgspec.structs.replace(local, options=options)
        look = self._evidence.look(local.guest.uuid, hosts.there)
        return Judge(self._severities).case(Case(local=local, hosts=hosts, look=look))

    # What is asked now

    async def check(self, guest: Guest, link: PeerLink, options: CheckOptions) -> CheckResult:
        """Ask both hosts about a guest, wherever it stands."""
        if self._is_on_board(guest):
            return (await self._ask_all((guest,), (link,), options))[guest.uuid, link.name]
        return await self._check_other(guest, link, options)

    async def _ask_all(
        self, guests: Sequence[Guest], links: Sequence[PeerLink], options: CheckOptions
    ) -> dict[tuple[str, str], CheckResult]:
        """Ask both hosts about active guests, and with `prove` try what can be tried.

        A peer that fails in the middle becomes a finding of severity `unknown`, after what blocks as far as is known.
        """
        few = asyncio.Semaphore(PEERS_AT_ONCE)

        async def one(link: PeerLink, here: Sequence[Guest]) -> KvmigdError | None:
            async with few:
                return await self._ask(guests, link, options, here=here)

        if not guests:
            return {}
        errors = await asyncio.gather(*(one(link, () if number else guests) for number, link in enumerate(links)))
        rows = {}
        for guest in guests:
            for link, error in zip(links, errors, strict=True):
                row = self._judged(guest.uuid, link.name, options)
                if row is not None and error is None:
                    rows[guest.uuid, link.name] = row
                    continue
                # Without an error the guest has left, or the peer was taken out of the configuration, meanwhile.
                error = error or NoSuchPeer(f"{guest.name} or {link.name} is gone.")
                finding = unanswered(self._host.config.name, link.name, error)
                # What was proved, or heard of the peer, may block all the same: who loses large packets does not answer
                # large questions.
                known = tuple(one for one in row.findings if one.severity is Severity.BLOCK) if row is not None else ()
                rows[guest.uuid, link.name] = _row(guest, link.name, *known, finding)
        return rows

    async def _ask(
        self, guests: Sequence[Guest], link: PeerLink, options: CheckOptions, *, here: Sequence[Guest]
    ) -> KvmigdError | None:
        work: list[Awaitable[object]] = [self._inquiry.look(link, here=here, there=guests, anew=options.prove)]
        if options.prove:
            work.append(self._inquiry.prove(link, self._inquiry.wanted(link, guests, disks=options.copy_disks)))
        for answer in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(answer, KvmigdError):
                return answer
            if isinstance(answer, BaseException):
                raise answer
        return None

    def _is_on_board(self, guest: Guest) -> bool:
        """It is active, and known as it is: of a job nothing but events tells, the rest may have changed just now."""
        known = self._board.find(guest.uuid)
        return known is not None and msgspec.structs.replace(guest, job=known.job) == known

    async def _check_other(self, guest: Guest, link: PeerLink, options: CheckOptions) -> CheckResult:
        """The same for a guest that is not active, or not known like this; what is said of it is not kept."""
        if options.prove:
            try:
                await self._inquiry.prove(link, self._inquiry.wanted(link, (guest,), disks=options.copy_disks))
            except KvmigdError as error:
                return _row(guest, link.name, unanswered(self._host.config.name, link.name, error))
        checked = await check(self._host, link, guest, options, proofs=self._evidence.contact(link.name).proofs)
        return CheckResult(guest=guest.name, peer=link.name, verdict=checked.verdict, findings=checked.findings)

    # What changes

    def _active(self) -> Iterable[Guest]:
        return self._board.active

    def _connected(self) -> dict[str, PeerLink]:
        return {name: self._links.get(name) for name, view in self._views.items() if view.is_connected}

    def _on_evidence(self, host: str, uuid: str, word: str) -> None:
        if not uuid:
            self._board.met(host, word)
        elif word == "age":
            self._board.stand((uuid,))
        else:
            self._board.looked(host, uuid)
            if host == HERE:
                self._repeater.needed()

    def _on_facts(self) -> None:
        before, self._facts = self._facts, self._host.facts
        self._board.own(self._facts, self._host.picture.state, changes.changed_facts(before, self._facts, here=True))
        if self._facts.hypervisor_alive and not before.hypervisor_alive:
            self._doubt(HERE)
        if _tls_of(before) != _tls_of(self._facts):
            self._reprove({"tls"})

    def _on_picture(self, change: StateChange) -> None:
        before, now = change.before, change.now
        self._board.own(self._host.facts, now, changes.changed_here(before, now))
        self._reprove(self._shaken(HERE, before, now))
        if "hypervisor" in change.subjects:
            self._on_guests(now)

    def _on_guests(self, state: HostState) -> None:
        """While libvirt is away its guests go on as they were; one that is arriving is not here yet."""
        if not state.hypervisor.is_known:
            return
        guests = state.hypervisor.guests
        active = [guest for guest in guests if guest.state.is_active and guest.job != "incoming"]
        uuids = {guest.uuid for guest in active}
        self._board.guests(active, others=(guest for guest in guests if guest.uuid not in uuids))
        self._evidence.guests(active)
        self._wake()
        self._repeater.needed()

    def _on_peer(self, name: str) -> None:
        try:
            view = self._links.get(name).view
        except NoSuchPeer:
            if self._views.pop(name, None) is not None:
                self._board.no_peer(name)
                self._evidence.forget(name)
                self._looker.forget(name)
                self._repeater.forget(name)
            return
        before = self._views.get(name)
        self._views[name] = view
        old, now = (before.picture if before else _NOTHING), view.picture
        facts = before.facts if before else None
        self._board.peer(view, changes.changed_facts(facts, view.facts) | changes.changed_there(old, now))
        if not view.is_connected:
            return
        if before is None or not before.is_connected:
            self._repeater.met(name)
            self._doubt(name)
            return
        if view.facts is not None and facts is not None:
            if view.facts.hypervisor_alive and not facts.hypervisor_alive:
                self._doubt(name)
            if _tls_of(view.facts) != _tls_of(facts):
                self._repeater.changed(name, {"tls"})
        if kinds := self._shaken(name, old, now):
            self._repeater.changed(name, kinds)

    def _shaken(self, host: str, before: HostState, now: HostState) -> set[str]:
        """A host's picture has changed: doubt the looks that rest on it; returns the kinds of proofs that do."""
        guests = tuple(self._active())
        if not guests:
            return {"ports", "storage", "frames"}  # for those that come: while there are none nothing is proved
        kinds = set()
        doubted: set[str] = set()
        points = changes.places(before, now)
        if changes.ROOT in points:
            doubted |= {guest.uuid for guest in guests}
        elif points:
            doubted |= {guest.uuid for guest in guests if changes.lies_below(guest.local_paths, points)}
        if doubted:
            kinds.add("storage")
        if changes.devices_changed(before.storage, now.storage):
            doubted |= {guest.uuid for guest in guests if any(disk.kind == "block" for disk in guest.disks)}
        if bridges := changes.segments(before.links, now.links):
            names = {name for guest in guests for nic in guest.nics for name in (nic.source, nic.bridge)}
            if names & bridges:
                kinds.add("frames")
        if changes.firewall_changed(before.firewall, now.firewall):
            kinds.add("ports")
        if host != HERE:
            if changes.machine_changed(before.hypervisor, now.hypervisor):
                doubted |= {guest.uuid for guest in guests}
            elif taken := changes.names_taken(before.hypervisor, now.hypervisor):
                doubted |= {guest.uuid for guest in guests if guest.name in taken or guest.uuid in taken}
        if doubted:
            self._doubt(host, doubted)
        return kinds

    def _doubt(self, host: str, uuids: Iterable[str] | None = None) -> None:
        self._evidence.doubt(host, uuids=uuids)
        if host == HERE:
            self._wake()
        else:
            self._looker.wake(host)

    def _wake(self) -> None:
        here = self._evidence.wanted(HERE)
        for name in self._connected():
            if here or self._evidence.wanted(name):
                self._looker.wake(name)

    def _reprove(self, kinds: set[str]) -> None:
        for name in self._connected() if kinds else ():
            self._repeater.changed(name, kinds)


_NOTHING = HostState()


def _row(guest: Guest, peer: str, *findings: Finding) -> CheckResult:
    return CheckResult(guest=guest.name, peer=peer, verdict=verdict_of(findings), findings=findings)


def _tls_of(facts: HostFacts) -> object:
    return facts.stream_tls, [(fact.path, fact.problem, fact.not_after) for fact in facts.certificates]
