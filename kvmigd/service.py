"""What the daemon does when it is asked: the operations, put together from the parts."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import structlog

from kvmigd.checks.guest import memory_needed
from kvmigd.errors import GuestBusy, GuestNotRunning, HypervisorUnavailable, KvmigdError, NoDestination, PeerUnreachable
from kvmigd.evacuate.evacuation import Evacuation
from kvmigd.evacuate.placement import candidates, why_none
from kvmigd.host.local import Host
from kvmigd.jobs import Job, Jobs
from kvmigd.migrate.mover import Mover
from kvmigd.model.finding import Verdict
from kvmigd.model.guest import Guest
from kvmigd.model.hypervisor import HypervisorState
from kvmigd.model.job import CheckOptions, EvacuateOptions, JobKind, MigrateOptions
from kvmigd.model.peer import PeerView
from kvmigd.model.readiness import BEST_FIRST, CheckResult, Standing
from kvmigd.peer.link import PeerLink
from kvmigd.peer.peers import Peers
from kvmigd.readiness.readiness import Readiness
from kvmigd.store import Store

log = structlog.get_logger(__name__)


class Service:
    """Implements operations.Operations."""

    def __init__(
        self,
        host: Host,
        peers: Peers,
        jobs: Jobs,
        store: Store,
        *,
        readiness: Readiness,
        reload: Callable[[], Awaitable[None]],
    ) -> None:
        self.jobs = jobs
        self.picture = host.picture
        self._host = host
        self._peers = peers
        self._store = store
        self._readiness = readiness
        self._reload = reload
        self._mover = Mover(host, jobs, readiness)
        self._listeners: list[Callable[[], None]] = []
        host.maintenance = store.get("maintenance") == "on"
        host.on_facts(self._changed)

    @property
    def host_name(self) -> str:
        """This host's name, as its peers call it."""
        return self._host.config.name

    @property
    def host_id(self) -> str:
        """libvirt's host UUID."""
        return self._host.facts.host_id

    @property
    def state(self) -> str:
        """ready, maintenance, draining or no-hypervisor."""
        return self._host.state

    @property
    def maintenance(self) -> bool:
        """Maintenance is switched on."""
        return self._host.maintenance

    @property
    def peers(self) -> tuple[PeerView, ...]:
        """All configured peers."""
        return self._peers.views

    @property
    def standings(self) -> Mapping[str, Standing]:
        """How the guests of this host stand, by UUID."""
        return self._readiness.standings

    @property
    def readiness(self) -> Verdict:
        """The worst readiness of the active guests."""
        return self._readiness.readiness

    @property
    def stuck(self) -> tuple[str, ...]:
        """Names of the active guests that can go nowhere."""
        return self._readiness.stuck

    def on_standing(self, listener: Callable[[str], None]) -> None:
        """Call `listener(uuid)` when a guest's standing changed, or the guest came or went."""
        self._readiness.on_standing(listener)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when one of the properties above may have changed."""
        self._listeners.append(listener)

    def on_peer(self, listener: Callable[[str], None]) -> None:
        """Call `listener(name)` when a peer's view changed, or the peer came or went."""
        self._peers.on_change(listener)

    def _changed(self) -> None:
        for listener in tuple(self._listeners):
            listener()

    async def check(self, guest: str, destination: str, options: CheckOptions) -> tuple[CheckResult, ...]:
        """Check against one peer; with destination "" against all, the best answer first.

        Without `prove` it is answered from what is known; only what nobody has looked at yet is asked for.
        """
        names: Sequence[str] = (self._peers.get(destination).name,) if destination else ()
        if destination and options.prove:
            # It may have come back just now. If not, the verdict is unknown, and the finding says why.
            with contextlib.suppress(KvmigdError):
                await self._reachable(destination)
        found = self._readiness.find(guest) if not options.prove else None
        if found is None:
            found = await self._find(guest)
        return _best_first(await self._readiness.rows((found,), names or self._names(), options))

    async def check_all(self, guest: str, destination: str, options: CheckOptions) -> tuple[CheckResult, ...]:
        """Check one or all active guests against one or all peers; by guest, the best peer first."""
        if guest:
            return await self.check(guest, destination, options)
        names = (self._peers.get(destination).name,) if destination else self._names()
        rows = await self._readiness.rows(self._readiness.guests, names, options)
        return tuple(sorted(_best_first(rows), key=lambda row: row.guest))

    async def _find(self, guest: str) -> Guest:
        """A guest of this host as libvirt has it now, or as it was when libvirt went away; raises NoSuchGuest."""
        try:
            found = await self._host.hypervisor.guest(guest)
        except HypervisorUnavailable:
            if (known := self._readiness.find(guest)) is None:
                raise
            return known
        await self.picture.settled(HypervisorState)
        return found

    def _names(self) -> Sequence[str]:
        names = [view.name for view in self._peers.views]
        if not names:
            raise PeerUnreachable(f"No peer can be reached: {why_none(())}.")
        return names

    async def migrate(self, guest: str, destination: str, options: MigrateOptions) -> Job:
        """Start a migration. Raises NoSuchGuest, NoSuchPeer, SameHost, GuestNotRunning, GuestBusy, PeerUnreachable."""
        link = await self._reachable(destination) if destination else None
        found = await self._host.hypervisor.guest(guest)
        if not found.state.is_executing:
            raise GuestNotRunning(
                f"{found.name} is {found.state}; only a running guest can be migrated live.",
                hint=f"virsh {'resume' if found.state.is_active else 'start'} {found.name}",
            )
        await self._raise_if_moving(found)
        return self._mover.start(found, link or await self._choose(found), options)

    async def _raise_if_moving(self, guest: Guest) -> None:
        """Also a migration that somebody else started is one."""
        if self.jobs.moving(guest.uuid) is None:
            here = await self._host.whereabouts(guest.uuid)
            if here.job != "none":
                raise GuestBusy(
                    f"{guest.name} has a job of libvirt's running ({here.job}) that kvmigd did not start.",
                    hint=f"virsh domjobinfo {guest.name} shows it.",
                )

    async def _choose(self, guest: Guest) -> PeerLink:
        """The peer with the most free memory to which nothing stands in the way."""
        names = candidates(self._peers.views, memory=memory_needed(guest.memory, guest.vcpus))
        reasons = []
        for name in names:
            result = await self._readiness.check(guest, self._peers.get(name), CheckOptions())
            if result.verdict in (Verdict.READY, Verdict.DEGRADED):
                return self._peers.get(name)
            reasons.append(f"{name}: {result.findings[0].summary}")
        raise NoDestination(f"No peer can take {guest.name}: {'; '.join(reasons) or why_none(self._peers.views)}.")

    async def _reachable(self, name: str) -> PeerLink:
        """The link of a peer that answers; raises NoSuchPeer, SameHost or what is wrong with the peer."""
        link = self._peers.get(name)
        if not link.view.is_connected:
            await link.version()  # the peer may have come back just now; if not, this says what is wrong
        return link

    async def evacuate(self, options: EvacuateOptions) -> Job:
        """Start to empty the host, or join the evacuation that is running.

        While the host goes down it drains instead of going into maintenance, which would last beyond the boot.
        """
        seconds = options.deadline_usec / 1e6
        if options.shutdown:
            if not self._host.config.evacuation.on_shutdown:
                return self.jobs.start(_nothing, kind=JobKind.EVACUATE)
            seconds = seconds or float(self._host.config.evacuation.deadline_seconds)
            self._host.draining = True
            self._host.refresh()
        else:
            await self.set_maintenance(on=True)
            for job in self.jobs.running:
                if job.kind is JobKind.EVACUATE:
                    return job
        evacuation = Evacuation(self._host, self._peers, self.jobs, self._mover, deadline_seconds=seconds)
        return self.jobs.start(evacuation.run, kind=JobKind.EVACUATE)

    async def set_maintenance(self, *, on: bool) -> None:
        """Switch maintenance on or off; it survives restarts and reboots."""
        await self._store.put("maintenance", "on" if on else "off")
        if self._host.maintenance != on:
            log.info("maintenance changed", on=on)
            self._host.maintenance = on
            self._host.refresh()
            self._changed()

    async def reload(self) -> None:
        """Read configuration and certificates again; raises ConfigurationInvalid and keeps the old ones."""
        await self._reload()


def _best_first(rows: Iterable[CheckResult]) -> tuple[CheckResult, ...]:
    return tuple(sorted(rows, key=lambda row: BEST_FIRST.index(row.verdict)))


async def _nothing(job: Job) -> None:
    """The work of an evacuation before a shutdown where the configuration switches these off."""
    log.info("evacuation switched off", job=job.number, setting="evacuation.on_shutdown")
