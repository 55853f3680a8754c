"""What libvirt has: read as a whole, then by its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import libvirt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.errors import HypervisorFailed
from kvmigd.host import domains, libvirtevents, resources, stock
from kvmigd.host.capabilities import capabilities_of, daemon_of
from kvmigd.host.hypervisor import ALL
from kvmigd.host.inventory import InventoryMonitor
from kvmigd.host.picture import Picture
from kvmigd.model.guest import GuestState
from kvmigd.model.host import NameFact
from kvmigd.model.hypervisor import HypervisorState
from tests import simulated
from tests.simulated import SimulatedHypervisor, World

CAPABILITIES = """
<capabilities>
  <host>
    <uuid>aaaaaaaa-0000-4000-8000-000000000000</uuid>
    <cpu><arch>x86_64</arch><model>EPYC-Rome</model><vendor>AMD</vendor>
      <counter name='tsc' frequency='2445406000' scaling='yes'/>
      <feature name='x2apic'/><feature name='arat'/></cpu>
    <iommu support='yes'/>
    <migration_features><uri_transports><uri_transport>tcp</uri_transport></uri_transports></migration_features>
    <topology><cells num='1'><cell id='0'/></cells></topology>
    <secmodel><model>apparmor</model><doi>0</doi></secmodel>
    <secmodel><model>dac</model><doi>0</doi></secmodel>
  </host>
  <guest><arch name='x86_64'><machine canonical='pc-q35-7.2'>q35</machine><machine>pc-q35-7.2</machine>
    <domain type='kvm'><machine>pc-q35-7.1</machine></domain></arch></guest>
</capabilities>
"""


def test_capabilities() -> None:
    found = capabilities_of(CAPABILITIES)
    assert (found.host_id[:8], found.cpu_model, found.cpu_features) == ("aaaaaaaa", "EPYC-Rome", ("arat", "x2apic"))
    assert (found.tsc_hz, found.tsc_scaling, found.iommu, found.cells) == (2445406000, True, True, 1)
    assert found.machine_types == ("x86_64/pc-q35-7.1", "x86_64/pc-q35-7.2", "x86_64/q35")
    assert found.security_models == ("apparmor:0", "dac:0")
    state = msgspec.structs.replace(HypervisorState(), **msgspec.structs.asdict(found))
    assert state.cpu_model == found.cpu_model, "they become fields of the state"


@given(st.text(alphabet="<>/'\" abcx=0", max_size=80), st.integers(0, len(CAPABILITIES)))
def test_odd_capabilities_are_one_kind_of_error(noise: str, at: int) -> None:
    for text in (noise, CAPABILITIES[:at] + noise + CAPABILITIES[at:]):
        try:
            capabilities_of(text)
        except HypervisorFailed:
            pass
        except Exception:
            pytest.fail("another exception")


def test_the_daemon_is_the_one_whose_socket_is_there(tmp_path: Path) -> None:
    import socket
    import tempfile

    assert daemon_of("qemu:///system", root=tmp_path) == ""
    assert daemon_of("qemu+tls://hostb/system", root=tmp_path) == ""
    with tempfile.TemporaryDirectory() as short:  # the path of a socket has an end
        folder = Path(short) / "run/libvirt"
        folder.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
            one.bind(str(folder / "libvirt-sock"))
            assert daemon_of("qemu:///system", root=Path(short)) == "libvirtd"
            other.bind(str(folder / "virtqemud-sock"))
            assert daemon_of("qemu:///system", root=Path(short)) == "virtqemud"


def test_networks_and_pools() -> None:
    xml = (
        "<network><name>lan</name><uuid>u</uuid><forward mode='bridge'/><bridge name='br0'/>"
        "<portgroup name='b'/><portgroup name='a'/></network>"
    )
    network = resources.network_of(xml, active=True, autostart=False)
    assert (network.bridge, network.forward, network.port_groups, network.active) == ("br0", "bridge", ("a", "b"), True)
    pool = resources.pool_of(
        "<pool type='netfs'><name>p</name><uuid>u</uuid><source><host name='nas'/><dir path='/a'/></source>"
        "<target><path>/srv</path></target></pool>",
        active=False,
        autostart=True,
    )
    assert (pool.kind, pool.path, pool.source, pool.autostart) == ("netfs", "/srv", "nas:/a", True)


def test_lifecycle_events_tell_of_migrations() -> None:
    started = libvirt.VIR_DOMAIN_EVENT_STARTED
    assert libvirtevents.job_after(started, libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED) == "incoming"
    assert libvirtevents.job_after(started, libvirt.VIR_DOMAIN_EVENT_STARTED_BOOTED) == ""
    suspended = libvirt.VIR_DOMAIN_EVENT_SUSPENDED
    assert libvirtevents.job_after(suspended, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED) == "outgoing"
    assert libvirtevents.job_after(suspended, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED) == ""
    assert libvirtevents.job_after(libvirt.VIR_DOMAIN_EVENT_STOPPED, 0) == "none"


class Domain:
    """A domain of a connection that is made up."""

    def __init__(self, name: str, uuid: str) -> None:
        self.xml = (
            f"<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory><vcpu>1</vcpu>"
            "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>"
        )
        self.uuid, self._name = uuid, name
        self.reads = 0
        self.active, self.persistent, self.saved = 1, 1, 0

    def state(self) -> list[int]:
        return [libvirt.VIR_DOMAIN_RUNNING, 1]

    def XMLDesc(self, _flags: int = 0) -> str:
        self.reads += 1
        return self.xml

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:
        return self.uuid

    def isActive(self) -> int:
        return self.active

    def isPersistent(self) -> int:
        return self.persistent

    def autostart(self) -> int:
        return 0

    def hasManagedSaveImage(self) -> int:
        return self.saved

    def snapshotNum(self) -> int:
        return 2

    def listAllCheckpoints(self) -> list[object]:
        return []


class Connection:
    """A connection without a libvirt."""

    def __init__(self, *domains: Domain) -> None:
        self.domains = {domain.uuid: domain for domain in domains}
        self.filters: list[str] | None = []

    def isAlive(self) -> int:
        return 1

    def listAllDomains(self) -> list[Domain]:
        return list(self.domains.values())

    def lookupByUUIDString(self, uuid: str) -> Domain:
        if uuid not in self.domains:
            error = libvirt.libvirtError("no domain")
            error.err = (libvirt.VIR_ERR_NO_DOMAIN, 0, "no domain", 0, "", "", "", 0, 0)
            raise error
        return self.domains[uuid]

    def listAllNetworks(self) -> list[object]:
        raise libvirt.libvirtError("no network driver")

    def listAllStoragePools(self) -> list[object]:
        return []

    def listAllSecrets(self) -> list[object]:
        return []

    def listAllNWFilters(self) -> list[object]:
        if self.filters is None:
            raise libvirt.libvirtError("no nwfilter driver")
        return [Domain(name, "") for name in self.filters]

    def lookupByName(self, name: str) -> Domain:
        uuid = next((domain.uuid for domain in self.domains.values() if domain.name() == name), "")
        return self.lookupByUUIDString(uuid)


ONE, TWO = "11111111-1111-4111-8111-111111111111", "22222222-1111-4111-8111-111111111111"


def test_stock_is_taken_as_a_whole_and_then_of_what_changed() -> None:
    web, db = Domain("web", ONE), Domain("db", TWO)
    connection = Connection(web, db)
    state = stock.take(connection, None, frozenset({ALL}), {ONE: "outgoing"})
    assert [(guest.name, guest.job, guest.snapshots) for guest in state.guests] == [
        ("db", "none", 2),
        ("web", "outgoing", 2),
    ]
    assert state.missing == ("networks: no network driver",), "what a daemon does not have is said"
    reads = db.reads
    web.xml = web.xml.replace("<memory>1024", "<memory>2048")
    after = stock.take(connection, state, frozenset({f"guest:{ONE}"}), {})
    assert [guest.memory for guest in after.guests] == [1024 << 10, 2048 << 10]
    assert db.reads == reads, "the other one was not read"
    assert after.guests[0] is state.guests[0]
    del connection.domains[ONE]
    assert [guest.name for guest in stock.take(connection, after, frozenset({f"guest:{ONE}"}), {}).guests] == ["db"]


def test_filters_are_read_alone() -> None:
    web = Domain("web", ONE)
    connection = Connection(web)
    state = stock.take(connection, None, frozenset({ALL}), {})
    reads, connection.filters = web.reads, ["no-spoofing", "clean"]
    after = stock.take(connection, state, frozenset({"filters"}), {})
    assert (after.filters, after.guests, web.reads) == (("clean", "no-spoofing"), state.guests, reads)
    connection.filters = None
    gone = stock.take(connection, after, frozenset({"filters"}), {})
    assert gone.filters == ()
    assert "filters: no nwfilter driver" in gone.missing


def test_a_definition_that_cannot_be_read_hides_nothing_else() -> None:
    odd = Domain("odd", ONE)
    odd.xml = "<!DOCTYPE x><domain/>"
    state = stock.take(Connection(odd, Domain("db", TWO)), None, frozenset(), {})
    assert [(guest.name, bool(guest.problem)) for guest in state.guests] == [("db", False), ("odd", True)]


def test_who_holds_name_and_uuid_and_whether_a_saved_image_waits() -> None:
    web = Domain("web", ONE)
    connection = Connection(web, Domain("db", TWO))
    assert domains.names(connection, "web", ONE) == NameFact(uuid_of_name=ONE, name_of_uuid="web", uuid_is_active=True)
    assert domains.names(connection, "db", ONE).uuid_of_name == TWO
    assert domains.names(Connection(), "web", ONE) == NameFact()
    web.saved = 1
    assert not domains.names(connection, "web", ONE).uuid_has_save, "it runs: its image is of the past"
    web.active = 0
    assert domains.names(connection, "web", ONE).uuid_has_save
    web.persistent = 0
    assert not domains.names(connection, "web", ONE).uuid_has_save


# The monitor


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def watching() -> AsyncIterator[tuple[Picture, SimulatedHypervisor]]:
    picture, hypervisor = Picture(), World().host("hosta")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(InventoryMonitor(picture, hypervisor).run())
        await until(lambda: picture.state.hypervisor.since_usec > 0)
        yield picture, hypervisor
        task.cancel()


def names(picture: Picture) -> list[str]:
    return [guest.name for guest in picture.state.hypervisor.guests]


def test_guests_come_and_a_lost_connection_leaves_nothing_old() -> None:
    async def run() -> None:
        async with watching() as (picture, hypervisor):
            assert picture.state.hypervisor.is_known
            web = hypervisor.add(simulated.guest("web"))
            await until(lambda: names(picture) == ["web"])
            assert hypervisor.inventories[-1] == {f"guest:{web.uuid}"}
            hypervisor.set_alive(alive=False)
            assert picture.state.hypervisor.problem == "libvirt on hosta does not answer: simulated", "at once"
            assert names(picture) == []
            hypervisor.known[web.uuid] = msgspec.structs.replace(web, state=GuestState.PAUSED)
            hypervisor.set_alive(alive=True)
            await until(lambda: names(picture) == ["web"])
            assert picture.state.hypervisor.guests[0].state is GuestState.PAUSED
            assert ALL in hypervisor.inventories[-1]

    asyncio.run(run())


def test_guests_that_a_libvirt_ends_when_it_starts_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmigd.host.inventory.AFTERWARDS_SECONDS", (0.05,))

    async def run() -> None:
        async with watching() as (picture, hypervisor):
            web = hypervisor.add(simulated.guest("web"))
            hypervisor.set_alive(alive=False)
            hypervisor.set_alive(alive=True)
            await until(lambda: names(picture) == ["web"])
            del hypervisor.known[web.uuid]  # without an event
            await until(lambda: names(picture) == [])

    asyncio.run(run())


def test_what_has_no_events_is_read_when_it_is_asked_for() -> None:
    async def run() -> None:
        picture, hypervisor = Picture(), World().host("hosta")
        monitor = InventoryMonitor(picture, hypervisor)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(monitor.run())
            async with asyncio.timeout(10):
                await until(lambda: picture.state.hypervisor.is_known)
                await asyncio.gather(monitor.read("filters"), monitor.read("filters"))
                assert hypervisor.inventories[1:] == [{"filters"}]
                gone = asyncio.ensure_future(monitor.read("filters"))
                await asyncio.sleep(0)
                gone.cancel()
                await monitor.read("filters")
                hypervisor.set_alive(alive=False)
                await monitor.read("filters")
                assert not picture.state.hypervisor.is_known
            task.cancel()

    asyncio.run(run())


def test_a_libvirt_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmigd.host.inventory.RETRY_SECONDS", 0.01)
    failing = True
    original = SimulatedHypervisor.inventory

    async def inventory(self: SimulatedHypervisor, *arguments: Any) -> HypervisorState:
        if failing:
            raise HypervisorFailed("internal error.", number=1)
        return await original(self, *arguments)

    monkeypatch.setattr(SimulatedHypervisor, "inventory", inventory)

    async def run() -> None:
        nonlocal failing
        async with watching() as (picture, hypervisor):
            hypervisor.add(simulated.guest("web"))
            assert picture.state.hypervisor.problem == "internal error"
            failing = False
            await until(lambda: names(picture) == ["web"])

    asyncio.run(run())
