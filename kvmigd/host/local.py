"""This host: what it says of itself to its peers, and what it sees when it looks at a guest."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import structlog

from kvmigd import __version__
from kvmigd.config import Config
from kvmigd.errors import HostUnknown, HypervisorFailed, HypervisorUnavailable
from kvmigd.host import access, guestdevices, guestpaths, remote, servers, system
from kvmigd.host.hypervisor import Hypervisor
from kvmigd.host.picture import Picture
from kvmigd.host.storage import images
from kvmigd.model.guest import Guest, Whereabouts
from kvmigd.model.host import CertificateFact, Examination, HostFacts, Look, NameFact, RemoteFact
from kvmigd.model.job import Progress
from kvmigd.model.links import Links
from kvmigd.model.mounts import Mounts
from kvmigd.model.state import HostState, StateChange
from kvmigd.model.subject import Subject
from kvmigd.model.system import Software

log = structlog.get_logger(__name__)

CERTIFICATES_SECONDS = 3600.0
"""So often certificates are judged again although their files have not changed: they expire."""
ANEW_SECONDS = 1.0
"""So long a look waits for what no event tells of to be read."""
K = TypeVar("K")
T = TypeVar("T")

GRANULE = 16 << 20
"""Peers see free memory in steps of this many bytes, so that noise is no change."""


class Host:
    """The host as a whole. Its facts are replaced as one when anything in them changes."""

    def __init__(
        self,
        config: Config,
        hypervisor: Hypervisor,
        *,
        certificates: Callable[[Config], tuple[CertificateFact, ...]],
        promised: Callable[[], int],
        proc: Path = Path("/proc"),
    ) -> None:
        self.config = config
        self.hypervisor = hypervisor
        self.picture = Picture()
        self.remotes = remote.RemoteHypervisors(lambda: self.config.pki)
        self.draining = False
        self.maintenance = False
        self._certificates = certificates
        self._promised = promised
        self._proc = proc
        self._certificates_changed = asyncio.Event()
        self._certificates_changed.set()
        self._judging = asyncio.Lock()
        self._addresses: tuple[str, ...] = ()
        self._certificate_facts: tuple[CertificateFact, ...] = ()
        self._listeners: list[Callable[[], None]] = []
        self._read_anew: Callable[[Sequence[Guest]], Awaitable[None]] | None = None
        self._facts = self._gather()
        hypervisor.on_change(self.refresh)
        self.picture.subscribe(self._on_picture)

    def apply(self, config: Config) -> None:
        """Take a new configuration."""
        self.config = config
        self.certificates_changed()
        self.refresh()

    def _on_picture(self, change: StateChange) -> None:
        """A guest that starts or ends takes or leaves memory, and the software is among the facts."""
        if "hypervisor" in change.subjects or "system" in change.subjects:
            self.refresh()

    @property
    def facts(self) -> HostFacts:
        """The facts as peers have them."""
        return self._facts

    def on_facts(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the facts have changed."""
        self._listeners.append(listener)

    def before_look(self, read: Callable[[Sequence[Guest]], Awaitable[None]]) -> None:
        """Before guests are looked at, `read` puts into the picture what they need and no event tells of."""
        self._read_anew = read

    async def run(self) -> None:
        """Judge the certificates whenever they may have changed."""
        while True:
            await self._judge_certificates()
            self.refresh()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CERTIFICATES_SECONDS):
                    await self._certificates_changed.wait()
                    continue
            self._certificates_changed.set()

    def certificates_changed(self) -> None:
        """Certificate or key files may have changed."""
        self._certificates_changed.set()

    async def _judge_certificates(self) -> None:
        async with self._judging:
            if self._certificates_changed.is_set():
                self._certificates_changed.clear()
                self._certificate_facts = await asyncio.to_thread(self._certificates, self.config)

    def refresh(self) -> None:
        """Gather the facts anew and tell, if any has changed."""
        facts = self._gather()
        if facts != self._facts:
            self._facts = facts
            for listener in tuple(self._listeners):
                listener()

    @property
    def state(self) -> str:
        """ready, maintenance, draining or no-hypervisor."""
        if self.draining:
            return "draining"
        if self.maintenance:
            return "maintenance"
        return "ready" if self.hypervisor.alive else "no-hypervisor"

    def accepting(self) -> str:
        """Why no guest may come here; empty if they may."""
        if self.draining:
            return f"{self.config.name} is going down"
        if self.maintenance:
            return f"{self.config.name} is in maintenance (`kvmigctl maintenance off` there ends it)"
        if not self.hypervisor.alive:
            return self.hypervisor.problem
        return ""

    def memory_free(self) -> int:
        """MemAvailable less the configured reserve, bytes. What is promised to incoming guests is not taken off."""
        _total, available = system.memory(self._proc / "meminfo")
        return max(0, available - self.config.migration.memory_reserve)

    def _gather(self) -> HostFacts:
        total, _available = system.memory(self._proc / "meminfo")
        known = self.hypervisor.facts
        reason = self.accepting()
        software = self.picture.state.system
        return HostFacts(
            name=self.config.name,
            host_id=known.host_id if known else "",
            hypervisor_alive=self.hypervisor.alive,
            hypervisor_problem=self.hypervisor.problem,
            accepting=not reason,
            not_accepting_reason=reason,
            memory_total=total,
            memory_free=max(0, self.memory_free() - self._promised()) // GRANULE * GRANULE,
            software=Software(
                kvmigd=__version__,
                kernel=software.kernel,
                release=software.release,
                libvirt=known.libvirt if known else 0,
                qemu=known.qemu if known else 0,
            ),
            addresses=self._addresses,
            certificates=self._certificate_facts,
            stream_tls=self.config.migration.tls and self._stream_tls(),
        )

    def _stream_tls(self) -> bool:
        facts = [fact for fact in self._certificate_facts if fact.is_for_stream]
        return bool(facts) and not any(fact.problem for fact in facts)

    async def examine(self, guests: Sequence[Guest], other: str, *, uri: str = "", anew: bool = False) -> Examination:
        """What the checks ask about guests on this host beside its picture, as a host that runs or is to run them.

        `other` is the name of the host at the other end, `uri` that of its libvirt, to be reached from here; with
        `anew` it is not enough that it was reached a moment ago. A libvirt that is away is told as a fact; one that
        fails in the middle raises HypervisorUnavailable or HypervisorFailed, and mounts or links that are not known
        raise HostUnknown.
        """
        await self._read(guests)
        state = await self.picture.settled(Mounts, Links)
        self._raise_if_unknown(mounts=state.mounts, links=state.links)
        own, _ = await asyncio.gather(
            system.resolve(self.hypervisor.facts.hostname if self.hypervisor.facts else self.config.name),
            self._judge_certificates(),
        )
        self._addresses = own.addresses
        self.refresh()
        (looks, resolved, reached) = await asyncio.gather(
            self._look(guests, state), system.resolve(other), self._reach(uri, anew=anew)
        )
        return Examination(facts=self._facts, looks=looks, other=resolved, remote=reached)

    async def _read(self, guests: Sequence[Guest]) -> None:
        """Have read what no event tells of; what takes too long is told as it was."""
        if self._read_anew is None:
            return
        try:
            async with asyncio.timeout(ANEW_SECONDS):
                await self._read_anew(guests)
        except TimeoutError:
            log.warning("facts without events not read in time", guests=len(guests), seconds=ANEW_SECONDS)

    async def _reach(self, uri: str, *, anew: bool) -> RemoteFact | None:
        return await self.remotes.reach(uri, anew=anew) if uri else None

    async def _look(self, guests: Sequence[Guest], state: HostState) -> tuple[Look, ...]:
        """What the file systems and libvirt say of the guests; what is the same for several is asked once."""
        paths = [path for guest in guests for path in guestpaths.wanted(guest)]
        formats = {path: kind for guest in guests for path, kind in guestpaths.formats(guest).items()}
        opened = list(dict.fromkeys(path for guest in guests for path in guest.local_paths))
        try:
            (facts, tried, unreached), absent, machines, cpus, names = await asyncio.gather(
                asyncio.gather(
                    images.chain(paths, mounts=state.mounts.mounts, formats=formats),
                    access.tried(opened, mounts=state.mounts.mounts),
                    servers.unreached(server for guest in guests for server in servers.of_guest(guest)),
                ),
                guestdevices.absent(
                    (name for guest in guests for name in guestdevices.needed(guest)), mounts=state.mounts.mounts
                ),
                self._ask(guests, _machine_of, self.hypervisor.machine_problem),
                self._ask(guests, _cpu_of, self.hypervisor.compare_cpu),
                self._ask(guests, _name_of, lambda guest: self.hypervisor.names(guest.name, guest.uuid)),
            )
        except (HypervisorUnavailable, HypervisorFailed) as error:
            log.warning("examination incomplete", guests=len(guests), error=error.message)
            self.refresh()
            raise
        seen = {fact.path: fact for fact in access.joined(facts, tried)}
        now = time.time_ns() // 1000
        return tuple(
            Look(
                guest=guest.uuid,
                paths=tuple(images.below(guestpaths.wanted(guest), seen)),
                machine_problem=machines.get(_machine_of(guest), ""),
                cpu=cpus.get(_cpu_of(guest)),
                names=names.get(_name_of(guest), NameFact()),
                unreached=tuple(sorted(unreached.intersection(servers.of_guest(guest)))),
                absent=tuple(sorted(absent.intersection(guestdevices.needed(guest)))),
                taken_usec=now,
            )
            for guest in guests
        )

    async def _ask(
        self, guests: Sequence[Guest], key: Callable[[Guest], K], ask: Callable[[Guest], Awaitable[T]]
    ) -> dict[K, T]:
        """The answers to a question that is asked of libvirt once for all guests that are alike in it."""
        if not self.hypervisor.alive:
            return {}
        alike = {key(guest): guest for guest in guests}
        return dict(zip(alike, await asyncio.gather(*(ask(guest) for guest in alike.values())), strict=True))

    def _raise_if_unknown(self, **subjects: Subject) -> None:
        for name, subject in subjects.items():
            if not subject.is_known:
                raise HostUnknown(
                    f"The {name} of {self.config.name} are not known: {subject.problem}.",
                    hint=f"On {self.config.name}: kvmigctl host; journalctl -u kvmigd.service",
                )

    async def whereabouts(self, uuid: str) -> Whereabouts:
        """Where a guest stands here, asked of libvirt now."""
        return await self.hypervisor.whereabouts(uuid)

    async def settle_arrived(self, uuid: str, *, autostart: bool) -> Progress | None:
        """A guest has come to stay: what libvirt does not carry along is done here. Returns the stream's statistics."""
        if autostart:
            await self.hypervisor.set_autostart(uuid, on=True)
        self.refresh()
        return await self.hypervisor.completed(uuid)


def _machine_of(guest: Guest) -> tuple[str, ...]:
    return guest.emulator, guest.arch, guest.machine, guest.domain_type


def _cpu_of(guest: Guest) -> tuple[str, ...]:
    return *_machine_of(guest), guest.cpu_xml


def _name_of(guest: Guest) -> tuple[str, ...]:
    return guest.name, guest.uuid
