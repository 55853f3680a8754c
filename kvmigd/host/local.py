"""This host: what it says of itself to its peers, and what it sees when it looks at a guest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import structlog

from kvmigd import __version__
from kvmigd.config import Config
from kvmigd.errors import HostUnknown, HypervisorFailed, HypervisorUnavailable
from kvmigd.host import paths, remote, system
from kvmigd.host.hypervisor import Hypervisor
from kvmigd.host.picture import Picture
from kvmigd.model.guest import Guest, Whereabouts
from kvmigd.model.host import CertificateFact, CpuFact, Examination, HostFacts, NameFact, RemoteFact
from kvmigd.model.hypervisor import NetworkFact
from kvmigd.model.job import Progress
from kvmigd.model.links import BridgeFact, Links
from kvmigd.model.mounts import Mounts
from kvmigd.model.state import StateChange
from kvmigd.model.subject import Subject
from kvmigd.model.system import Software

log = structlog.get_logger(__name__)

CERTIFICATES_SECONDS = 3600.0
"""So often certificates are judged again although their files have not changed: they expire."""
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
        self.remotes = remote.RemoteHypervisors()
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

    async def examine(self, guest: Guest, other: str, *, uri: str = "") -> Examination:
        """Everything that the checks ask about `guest` on this host, from the place of a host that is to run it.

        `other` is the name of the host at the other end, `uri` that of its libvirt, if this is the source. A libvirt
        that is away is told as a fact; one that fails in the middle raises HypervisorUnavailable or HypervisorFailed,
        and mounts or links that are not known raise HostUnknown.
        """
        state = await self.picture.settled(Mounts, Links)
        self._raise_if_unknown(mounts=state.mounts, links=state.links)
        own, _ = await asyncio.gather(
            system.resolve(self.hypervisor.facts.hostname if self.hypervisor.facts else self.config.name),
            self._judge_certificates(),
        )
        self._addresses = own.addresses
        self.refresh()
        wanted = tuple(path for disk in guest.local_disks for path in disk.paths) + guest.files
        (looked, resolved, reached), (machine, cpu, names, networks) = await asyncio.gather(
            asyncio.gather(paths.look(wanted, mounts=state.mounts.mounts), system.resolve(other), self._reach(uri)),
            self._ask_hypervisor(guest),
        )
        return Examination(
            facts=self._facts,
            paths=tuple(looked),
            bridges=self._bridges(guest, networks, state.links),
            networks=networks,
            machine_problem=machine,
            cpu=cpu,
            names=names,
            other=resolved,
            remote=reached,
        )

    async def _reach(self, uri: str) -> RemoteFact | None:
        return await self.remotes.reach(uri) if uri else None

    async def _ask_hypervisor(self, guest: Guest) -> tuple[str, CpuFact | None, NameFact, tuple[NetworkFact, ...]]:
        if not self.hypervisor.alive:
            return "", None, NameFact(), ()
        wanted = dict.fromkeys(nic.source for nic in guest.nics if nic.kind == "network")
        try:
            (machine, cpu, names), networks = await asyncio.gather(
                asyncio.gather(
                    self.hypervisor.machine_problem(guest),
                    self.hypervisor.compare_cpu(guest),
                    self.hypervisor.names(guest.name, guest.uuid),
                ),
                asyncio.gather(*(self.hypervisor.network(name) for name in wanted)),
            )
        except (HypervisorUnavailable, HypervisorFailed) as error:
            log.warning("examination incomplete", guest=guest.name, error=error.message)
            self.refresh()
            raise
        return machine, cpu, names, tuple(networks)

    @staticmethod
    def _bridges(guest: Guest, networks: tuple[NetworkFact, ...], links: Links) -> tuple[BridgeFact, ...]:
        names = [nic.source for nic in guest.nics if nic.kind == "bridge"]
        names += [network.bridge for network in networks if network.bridge]
        known = {bridge.name: bridge for bridge in links.bridges}
        others = {link.name for link in links.links}
        return tuple(known.get(name, BridgeFact(name=name, exists=name in others)) for name in dict.fromkeys(names))

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
