"""What a look at guests has read anew, because no event tells of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from kvmigd.config import Config
from kvmigd.host import local, machine
from kvmigd.host.files import Files
from kvmigd.host.firewall.monitor import Bus
from kvmigd.host.local import Host
from kvmigd.host.monitors import Monitors
from kvmigd.model.devices import Memory, Nic, Pages
from kvmigd.model.guest import Guest
from kvmigd.model.links import Links
from kvmigd.model.mounts import Mounts
from kvmigd.model.system import System
from tests import simulated
from tests.simulated import SimulatedHypervisor, World
from tests.unit.cases import changed

PLAIN = simulated.guest("plain")
HUGE = changed(PLAIN, name="huge", ram=Memory(hugepages=(Pages(size=2 << 20),)))
FILTERED = changed(PLAIN, name="filtered", nics=(Nic(mac="52:54:00:00:00:01", kind="network", filter="clean-traffic"),))


def host_of(root: Path) -> Host:
    settings = Config(name="hosta", directory=root)
    host = Host(settings, World().host("hosta"), certificates=lambda _: (), promised=lambda: 0)
    for subject in (Mounts(problem=""), Links(problem="")):
        host.picture.publish(subject)
    return host


def test_it_is_read_before_the_host_answers(tmp_path: Path) -> None:
    async def run() -> None:
        host = host_of(tmp_path)
        assert (await host.examine((HUGE,), "localhost")).looks, "who has no monitors looks without"
        asked: list[tuple[str, ...]] = []

        async def read(guests: Sequence[Guest]) -> None:
            asked.append(tuple(guest.name for guest in guests))
            await asyncio.sleep(0.01)
            host.picture.publish(System(problem="", kernel="6.1.0"))

        host.before_look(read)
        found = await host.examine((HUGE, PLAIN), "localhost")
        assert asked == [("huge", "plain")]
        assert found.facts.software.kernel == "6.1.0"

    asyncio.run(run())


def test_a_look_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "ANEW_SECONDS", 0.01)

    async def run() -> None:
        host = host_of(tmp_path)

        async def read(_guests: Sequence[Guest]) -> None:
            await asyncio.Event().wait()

        host.before_look(read)
        async with asyncio.timeout(10):
            assert len((await host.examine((FILTERED,), "localhost")).looks) == 1

    asyncio.run(run())


def test_only_what_the_guests_need_is_read(tmp_path: Path) -> None:
    pool = tmp_path / machine.POOLS / "hugepages-2048kB/nr_hugepages"
    pool.parent.mkdir(parents=True)
    pool.write_text("4\n")

    async def no_bus() -> Bus:
        raise AssertionError("nobody looks at the firewall")

    async def run() -> None:
        host = host_of(tmp_path)
        hypervisor = host.hypervisor
        assert isinstance(hypervisor, SimulatedHypervisor)
        async with Files() as files, asyncio.TaskGroup() as group, asyncio.timeout(10):
            monitors = Monitors(host.picture, files, host.config, hypervisor, bus=no_bus, root=tmp_path)
            inventory = group.create_task(monitors._all["hypervisor"].run())
            while not host.picture.state.hypervisor.is_known:
                await asyncio.sleep(0.001)
            host.before_look(monitors.read_for)
            await host.examine((PLAIN,), "localhost")
            assert not host.picture.state.system.is_known
            await host.examine((PLAIN, HUGE), "localhost")
            assert [found.total for found in host.picture.state.system.hugepages] == [4]
            pool.write_text("9\n")
            await host.examine((HUGE,), "localhost")
            assert [found.total for found in host.picture.state.system.hugepages] == [9]
            assert len(hypervisor.inventories) == 1
            await host.examine((FILTERED,), "localhost")
            assert hypervisor.inventories[1:] == [{"filters"}]
            inventory.cancel()

    asyncio.run(run())
