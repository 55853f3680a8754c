"""Daemons without a bus: real TLS between them, and a simulated hypervisor in each."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from kvmigd.config import Config, Listen, Migration, Peer
from kvmigd.host.inventory import InventoryMonitor
from kvmigd.host.local import Host
from kvmigd.jobs import Jobs
from kvmigd.model.firewall import Firewall
from kvmigd.model.links import Links
from kvmigd.model.mounts import MountFact, Mounts
from kvmigd.model.storage import Storage
from kvmigd.model.system import Release, System
from kvmigd.peer.admission import AdmissionDesk
from kvmigd.peer.burst import Bursts
from kvmigd.peer.link import Pace, PeerLink
from kvmigd.peer.peers import Peers
from kvmigd.peer.server import PeerServer
from kvmigd.prove.prover import Prover
from kvmigd.readiness.readiness import Readiness
from kvmigd.service import Service
from kvmigd.store import Store
from tests.simulated import SimulatedHypervisor, World
from tests.unit import peer_lab

NAMES = ("hosta", "hostb", "hostc")
KNOWN = (
    Mounts(problem="", mounts=(MountFact(point="/", fs_type="ext4", source="/dev/vda1"),)),
    Storage(problem=""),
    Links(problem=""),
    Firewall(problem=""),
    System(problem="", kernel="6.1.0", release=Release(id="debian", version_id="12", pretty_name="Debian 12")),
)
"""What the monitors of a real daemon would publish."""


def prover_of(host: Host, desk: AdmissionDesk, bursts: Bursts, link: PeerLink) -> Prover:
    """What tries things with a peer."""
    return Prover(host, link, desk=desk, bursts=bursts)


class Side:
    """One daemon without a bus."""

    def __init__(self, service: Service, host: Host, hypervisor: SimulatedHypervisor, desk: AdmissionDesk) -> None:
        self.service = service
        self.host = host
        self.hypervisor = hypervisor
        self.desk = desk


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that is about to happen."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def daemons(root: Path, count: int = 2) -> AsyncIterator[dict[str, Side]]:
    """That many hosts, all connected to each other."""
    world = World()
    ports = {name: free_port() for name in NAMES[:count]}
    sides: dict[str, Side] = {}
    servers: list[PeerServer] = []
    everyone: list[Peers] = []
    stores = []
    monitors: list[asyncio.Task[None]] = []
    low, _high = peer_lab.PORTS
    async with asyncio.TaskGroup() as group:
        for number, name in enumerate(ports):
            settings = Config(
                name=name,
                directory=root,
                listen=Listen(address="127.0.0.1", port=ports[name]),
                pki=peer_lab.installed(root / name, name),
                migration=Migration(port_min=low + 8 * number, port_max=low + 8 * number + 7, lease_seconds=5.0),
                peers={
                    other: Peer(name=other, address="127.0.0.1", port=port)
                    for other, port in ports.items()
                    if other != name
                },
            )
            hypervisor = world.host(name)
            desk = AdmissionDesk(settings.migration)
            host = Host(
                settings, hypervisor, certificates=lambda _: (), promised=lambda desk=desk: desk.reserved_memory
            )
            for subject in KNOWN:
                host.picture.publish(subject)
            monitors.append(group.create_task(InventoryMonitor(host.picture, hypervisor).run()))
            server = await PeerServer(settings, host, group=group, desk=desk).__aenter__()
            peers = await Peers(settings, group, pace=Pace(first_pause=0.02, longest_pause=0.05)).__aenter__()
            store = Store(root / name / "state").__enter__()
            prover = partial(prover_of, host, desk, server.bursts)
            readiness = Readiness(host, peers, prover=prover)
            monitors.append(group.create_task(readiness.run()))
            service = Service(host, peers, Jobs(group), store, readiness=readiness, reload=lambda: asyncio.sleep(0))
            sides[name] = Side(service, host, hypervisor, desk)
            servers.append(server)
            everyone.append(peers)
            stores.append(store)
        await until(lambda: all(view.is_connected for side in sides.values() for view in side.service.peers))
        await until(lambda: all(not view.picture.unknown for side in sides.values() for view in side.service.peers))
        try:
            yield sides
        finally:
            for monitor in monitors:
                monitor.cancel()
            for peers in everyone:
                await peers.__aexit__(None, None, None)
            for server in servers:
                await server.__aexit__(None, None, None)
            for store in stores:
                store.__exit__(None, None, None)
