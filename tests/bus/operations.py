"""Operations that do what a test tells them, with real jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kvmigd.errors import GuestNotRunning, KvmigdError, NoSuchGuest, NoSuchPeer, SameHost
from kvmigd.host.picture import Picture
from kvmigd.jobs import Job, Jobs
from kvmigd.model.finding import Basis, Finding, Severity, Verdict, verdict_of
from kvmigd.model.guest import GuestState
from kvmigd.model.host import HostFacts
from kvmigd.model.job import (
    CheckOptions,
    EvacuateOptions,
    GuestLine,
    JobKind,
    JobState,
    MigrateOptions,
    Phase,
    Progress,
)
from kvmigd.model.peer import PeerState, PeerView
from kvmigd.model.readiness import CheckResult, Destination, Standing, worst_of
from kvmigd.model.system import Release, Software

BRIDGE_DOWN = Finding(
    check="network.bridge-up",
    severity=Severity.BLOCK,
    summary="Bridge br0 is down on hostb.",
    host="hostb",
    subject="br0",
    expected="up",
    found="down",
    remedy="ip link set br0 up",
    basis=Basis.PROVED,
)
OLDER_QEMU = Finding(check="software.qemu", severity=Severity.WARN, summary="QEMU on hostb is older.", host="hostb")

WEB1 = Standing(
    name="web1",
    uuid="0000000a-1111-4111-8111-111111111111",
    state=GuestState.RUNNING,
    readiness=Verdict.READY,
    destinations=(
        Destination(peer="hostb", verdict=Verdict.READY, proved_usec=1_700_000_000_000_000),
        Destination(peer="2nd.host", verdict=Verdict.BLOCKED),
    ),
)
OFF1 = Standing(name="off1", uuid="0000000b-1111-4111-8111-111111111111", state=GuestState.SHUTOFF)


def view(name: str, *, state: PeerState = PeerState.CONNECTED, free: int = 8 << 30, seen: int = 1) -> PeerView:
    """A peer as the daemon would see it."""
    facts = HostFacts(
        name=name,
        host_id="0b2c8f6e-0000-4000-8000-000000000002",
        hypervisor_alive=True,
        accepting=True,
        memory_free=free,
        software=Software(kvmigd="0.1.0", kernel="6.1.0", release=Release(id="debian")),
    )
    problem = "" if state is PeerState.CONNECTED else f"{name} does not answer."
    return PeerView(
        name=name, address=name, state=state, problem=problem, facts=facts, round_trip_usec=200, last_seen_usec=seen
    )


class FakeOperations:
    """Guests web1 (running) and off1 (shut off), peers hostb and 2nd.host. Migrations go on when `go` is set."""

    host_name = "hosta"
    host_id = "0b2c8f6e-0000-4000-8000-000000000001"

    def __init__(self, group: asyncio.TaskGroup, *, retention: float = 900.0) -> None:
        self.jobs = Jobs(group, retention=retention)
        self.picture = Picture(clock=lambda: 1_700_000_000_000_000_000)
        self.state = "ready"
        self.maintenance = False
        self.peers: tuple[PeerView, ...] = (view("hostb"), view("2nd.host"))
        self.findings: tuple[Finding, ...] = ()
        self.calls: list[tuple[object, ...]] = []
        self.error: BaseException | None = None
        """Raised by every verb."""
        self.failure: KvmigdError | None = None
        """What migrations end with."""
        self.go = asyncio.Event()
        self.standings: dict[str, Standing] = {it.uuid: it for it in (WEB1, OFF1)}
        self.standing_listeners: list[Callable[[str], None]] = []
        self.change_listeners: list[Callable[[], None]] = []
        self.peer_listeners: list[Callable[[str], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        self.change_listeners.append(listener)

    def on_peer(self, listener: Callable[[str], None]) -> None:
        self.peer_listeners.append(listener)

    @property
    def readiness(self) -> Verdict:
        return worst_of(tuple(it.readiness for it in self.standings.values() if it.readiness))

    @property
    def stuck(self) -> tuple[str, ...]:
        return tuple(it.name for it in self.standings.values() if it.is_stuck)

    def on_standing(self, listener: Callable[[str], None]) -> None:
        self.standing_listeners.append(listener)

    def tell_standing(self, standing: Standing) -> None:
        """A guest stands so from now on."""
        self.standings[standing.uuid] = standing
        self.tell_guest(standing.uuid)

    def tell_guest(self, uuid: str) -> None:
        for listener in self.standing_listeners:
            listener(uuid)

    def tell_peer(self, name: str) -> None:
        for listener in self.peer_listeners:
            listener(name)

    def _called(self, *call: object) -> None:
        self.calls.append(call)
        if self.error:
            raise self.error

    def _find(self, guest: str, destination: str) -> str:
        if guest not in ("web1", "off1"):
            raise NoSuchGuest(f"No guest called {guest!r} is defined on hosta.", hint="See: virsh list --all")
        if destination == "hosta":
            raise SameHost("hosta is this host itself.")
        if destination and destination not in [peer.name for peer in self.peers]:
            raise NoSuchPeer(f"No peer called {destination!r} is configured.")
        return destination or "hostb"

    def _result(self, guest: str, peer: str) -> CheckResult:
        return CheckResult(guest=guest, peer=peer, verdict=verdict_of(self.findings), findings=self.findings)

    async def check(self, guest: str, destination: str, options: CheckOptions) -> tuple[CheckResult, ...]:
        self._called("check", guest, destination, options)
        return (self._result(guest, self._find(guest, destination)),)

    async def check_all(self, guest: str, destination: str, options: CheckOptions) -> tuple[CheckResult, ...]:
        self._called("check_all", guest, destination, options)
        peers = [destination] if destination else [peer.name for peer in self.peers]
        return tuple(self._result(self._name(guest), self._find(self._name(guest), peer)) for peer in peers)

    @staticmethod
    def _name(guest: str) -> str:
        return guest or "web1"

    async def migrate(self, guest: str, destination: str, options: MigrateOptions) -> Job:
        self._called("migrate", guest, destination, options)
        peer = self._find(guest, destination)
        if guest == "off1":
            raise GuestNotRunning("off1 is shutoff.", hint="virsh start off1")
        return self._start(guest, peer, bandwidth=options.bandwidth or 0)

    def _start(self, guest: str, peer: str, *, bandwidth: int = 0, parent: int = 0) -> Job:
        job = self.jobs.start(
            self._migration, kind=JobKind.MIGRATE, guest=guest, guest_uuid=f"uuid-of-{guest}", peer=peer, parent=parent
        )
        job.bandwidth = bandwidth
        return job

    async def _migration(self, job: Job) -> JobState:
        job.enter(Phase.CHECKING)
        await job.unless_cancelled(self.go.wait())
        if self.failure:
            raise self.failure
        for phase in (Phase.ADMISSION, Phase.PROVING, Phase.STARTING, Phase.STREAMING):
            job.enter(phase)
        for done in range(0, 101, 20):
            job.report(Progress(total=100 << 20, processed=done << 20, remaining=(100 - done) << 20, rate=50 << 20))
            await asyncio.sleep(0)
        for phase in (Phase.SWITCHING, Phase.CONFIRMING):
            job.enter(phase)
        return JobState.DONE

    async def evacuate(self, options: EvacuateOptions) -> Job:
        self._called("evacuate", options)
        self.maintenance = True
        return self.jobs.start(self._evacuation, kind=JobKind.EVACUATE)

    async def _evacuation(self, job: Job) -> JobState:
        child = self._start("web1", "hostb", parent=job.number)
        job.note_line(GuestLine(guest="web1", peer="hostb", state=JobState.RUNNING, job=child.number))
        job.note_line(GuestLine(guest="big1", state=JobState.FAILED, message="No peer has memory for big1."))
        result = await child.wait()
        job.note_line(GuestLine(guest="web1", peer="hostb", state=JobState(result), job=child.number))
        return JobState.PARTIAL

    async def set_maintenance(self, *, on: bool) -> None:
        self._called("set_maintenance", on)
        self.maintenance = on
        self.state = "maintenance" if on else "ready"
        for listener in self.change_listeners:
            listener()

    async def reload(self) -> None:
        self._called("reload")
