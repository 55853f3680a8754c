"""This host: what it says of itself to its peers, and what it sees when it looks at a guest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from kvmigd import __version__
from kvmigd.config import Config
from kvmigd.errors import HypervisorFailed, HypervisorUnavailable
from kvmigd.host import links, mounts, paths, remote, system
from kvmigd.host.hypervisor import Hypervisor
from kvmigd.model.guest import Guest, Whereabouts
from kvmigd.model.host import CertificateFact, CpuFact, Examination, HostFacts, NameFact, RemoteFact
from kvmigd.model.hypervisor import NetworkFact
from kvmigd.model.job import Progress
from kvmigd.model.links import BridgeFact
from kvmigd.model.system import Software

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 10.0
"""How often the memory that peers see is brought up to date; the kernel has no event for it."""
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
        net: Path = links.NET,
    ) -> None:
        self.config = config
        self.hypervisor = hypervisor
        self.remotes = remote.RemoteHypervisors()
        self.draining = False
        self.maintenance = False
        self._certificates = certificates
        self._promised = promised
        self._proc = proc
        self._net = net
        self._stamp: tuple[int, ...] = ()
        self._addresses: tuple[str, ...] = ()
        self._certificate_facts: tuple[CertificateFact, ...] = ()
        self._software = Software(kvmigd=__version__, kernel=system.kernel(), release=system.release())
        self._listeners: list[Callable[[], None]] = []
        self._facts = self._gather()
        hypervisor.on_change(self.refresh)

    @property
    def facts(self) -> HostFacts:
        """The facts as peers have them."""
        return self._facts

    def on_facts(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the facts have changed."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Keep the free memory up to date."""
        while True:
            await self._look_at_certificates()
            self.refresh()
            await asyncio.sleep(REFRESH_SECONDS)

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
        self._software = msgspec.structs.replace(
            self._software,
            release=system.release(),
            libvirt=known.libvirt if known else self._software.libvirt,
            qemu=known.qemu if known else self._software.qemu,
        )
        return HostFacts(
            name=self.config.name,
            host_id=known.host_id if known else "",
            hypervisor_alive=self.hypervisor.alive,
            hypervisor_problem=self.hypervisor.problem,
            accepting=not reason,
            not_accepting_reason=reason,
            memory_total=total,
            memory_free=max(0, self.memory_free() - self._promised()) // GRANULE * GRANULE,
            software=self._software,
            addresses=self._addresses,
            certificates=self._certificate_facts,
            stream_tls=self.config.migration.tls and self._stream_tls(),
        )

    def _stream_tls(self) -> bool:
        facts = [fact for fact in self._certificate_facts if fact.is_for_stream]
        return bool(facts) and not any(fact.problem for fact in facts)

    async def _look_at_certificates(self) -> None:
        """Judge the certificates again when one of their files has changed, and once an hour for their dates."""
        pki = self.config.pki
        files = (pki.ca, pki.server_certificate, pki.server_key, pki.client_certificate, pki.client_key)
        hour = int(time.monotonic() // 3600)
        stamp = (hour, *(_stamp(path) for path in (*files, *sorted(pki.qemu.glob("*.pem")))))
        if stamp != self._stamp:
            self._certificate_facts = await asyncio.to_thread(self._certificates, self.config)
            self._stamp = stamp

    async def examine(self, guest: Guest, other: str, *, uri: str = "") -> Examination:
        """Everything that the checks ask about `guest` on this host, from the place of a host that is to run it.

        `other` is the name of the host at the other end, `uri` that of its libvirt, if this is the source. A libvirt
        that is away is told as a fact; one that fails in the middle raises HypervisorUnavailable or HypervisorFailed.
        """
        own, _ = await asyncio.gather(
            system.resolve(self.hypervisor.facts.hostname if self.hypervisor.facts else self.config.name),
            self._look_at_certificates(),
        )
        self._addresses = own.addresses
        self.refresh()
        wanted = tuple(path for disk in guest.local_disks for path in disk.paths) + guest.files
        table = mounts.read(self._proc / "self/mountinfo")
        (looked, resolved, reached), (machine, cpu, names, networks) = await asyncio.gather(
            asyncio.gather(paths.look(wanted, mounts=table), system.resolve(other), self._reach(uri)),
            self._ask_hypervisor(guest),
        )
        return Examination(
            facts=self._facts,
            paths=tuple(looked),
            bridges=self._bridges(guest, networks),
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

    def _bridges(self, guest: Guest, networks: tuple[NetworkFact, ...]) -> tuple[BridgeFact, ...]:
        names = [nic.source for nic in guest.nics if nic.kind == "bridge"]
        names += [network.bridge for network in networks if network.bridge]
        return tuple(links.bridge(name, net=self._net) for name in dict.fromkeys(names))

    async def whereabouts(self, uuid: str) -> Whereabouts:
        """Where a guest stands here, asked of libvirt now."""
        return await self.hypervisor.whereabouts(uuid)

    async def settle_arrived(self, uuid: str, *, autostart: bool) -> Progress | None:
        """A guest has come to stay: what libvirt does not carry along is done here. Returns the stream's statistics."""
        if autostart:
            await self.hypervisor.set_autostart(uuid, on=True)
        self.refresh()
        return await self.hypervisor.completed(uuid)


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
