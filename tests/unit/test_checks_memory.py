"""Memory: huge pages, NUMA nodes, limits, modules; whether it fits is among the guest's tests."""

from __future__ import annotations

import pytest

from kvmigd.checks.memory import memory_needed
from kvmigd.model.devices import Cpu, Memory, MemoryDevice, Pages
from kvmigd.model.finding import Basis, Severity
from kvmigd.model.system import HugePages, NumaNode
from tests.unit.cases import GIB, only, told

MIB = 1 << 20
NODES = (NumaNode(node=0, cpus="0-3"), NumaNode(node=1, cpus="4-7"))


def pools(*free: int, size: int = 2 * MIB) -> tuple[HugePages, ...]:
    """So many free pages on each node, of twice as many."""
    return tuple(HugePages(node=node, size=size, total=2 * count, free=count) for node, count in enumerate(free))


def test_enough_huge_pages() -> None:
    ram = Memory(hugepages=(Pages(),))
    assert told(guest__ram=ram, destination__state__system__hugepages=pools(256, 256)) == ()
    large = Memory(hugepages=(Pages(size=GIB),))
    assert told(guest__ram=large, destination__state__system__hugepages=(*pools(0), *pools(1, size=GIB))) == ()
    ordinary = Memory(hugepages=(Pages(size=4096),))
    assert told(guest__ram=ordinary) == (), "pages of 4 KiB are no huge ones"


def test_too_few_huge_pages() -> None:
    finding = only(guest__ram=Memory(hugepages=(Pages(),)), destination__state__system__hugepages=pools(256, 255))
    assert (finding.check, finding.severity, finding.host) == ("memory.hugepages", Severity.BLOCK, "hostb")
    assert (finding.expected, finding.found) == ("512 free pages of 2048 KiB", "511 free of 1022")
    assert finding.remedy == "On hostb: echo 1023 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    assert finding.basis is Basis.COMPARED


def test_no_huge_pages_of_that_size() -> None:
    finding = only(guest__ram=Memory(hugepages=(Pages(size=GIB),)), destination__state__system__hugepages=pools(512))
    assert (finding.check, finding.found) == ("memory.hugepages", "none of that size")


def test_huge_pages_must_be_on_the_node_that_the_guest_is_bound_to() -> None:
    there = {"destination__state__system__hugepages": pools(511, 600), "destination__state__system__numa": NODES}
    pages = (Pages(size=2 * MIB),)
    assert told(guest__ram=Memory(hugepages=pages, numa_mode="strict", numa_nodes="1"), **there) == ()
    assert told(guest__ram=Memory(hugepages=pages, numa_mode="preferred", numa_nodes="0"), **there) == ()
    finding = only(guest__ram=Memory(hugepages=pages, numa_mode="strict", numa_nodes="0"), **there)
    assert finding.expected == "512 free pages of 2048 KiB on NUMA node 0"
    assert finding.remedy.endswith("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages")


def test_huge_pages_for_one_of_the_guests_nodes() -> None:
    ram = Memory(hugepages=(Pages(size=2 * MIB, nodes="0"),))
    assert told(guest__ram=ram, guest__cpu=Cpu(cells=2), destination__state__system__hugepages=pools(256)) == ()
    finding = only(guest__ram=ram, guest__cpu=Cpu(cells=2), destination__state__system__hugepages=pools(255))
    assert (finding.check, finding.basis) == ("memory.hugepages", Basis.ASSUMED)


def test_memory_of_huge_pages_is_not_part_of_what_is_available() -> None:
    small = {"destination__facts__memory_free": 300 * MIB, "destination__state__system__hugepages": pools(512)}
    assert told(guest__ram=Memory(hugepages=(Pages(),)), **small) == ()
    assert only(**small).check == "memory.fits"
    tiny = small | {"destination__facts__memory_free": 100 * MIB}
    assert "QEMU's own; the guest's are huge pages" in only(guest__ram=Memory(hugepages=(Pages(),)), **tiny).expected


@pytest.mark.parametrize(
    "ram",
    [
        Memory(numa_mode="strict", numa_nodes="0-2"),
        Memory(numa_mode="interleave", numa_nodes="2"),
        Memory(modules=(MemoryDevice(model="dimm", nodes="2"),)),
    ],
)
def test_bound_to_a_node_that_is_not_there(ram: Memory) -> None:
    finding = only(guest__ram=ram, destination__state__system__numa=NODES)
    assert (finding.check, finding.severity, finding.host) == ("memory.numa", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found) == ("NUMA node 2", "NUMA nodes 0-1")
    assert "virsh numatune web --nodeset 0-1 --config" in finding.remedy


def test_bound_to_nodes_that_are_there() -> None:
    assert told(guest__ram=Memory(numa_nodes="0-1"), destination__state__system__numa=NODES) == ()
    assert told(guest__ram=Memory(numa_nodes="5")) == (), "not known"


def test_a_limit_that_leaves_no_room() -> None:
    needed = memory_needed(GIB, 2)
    assert told(guest__ram=Memory(hard_limit=needed)) == ()
    finding = only(guest__ram=Memory(hard_limit=needed - 1))
    assert (finding.check, finding.severity, finding.host) == ("memory.lock", Severity.WARN, "hosta")
    assert finding.remedy == f"On hosta: virsh memtune web --hard-limit {-(-needed // 1024)} --live --config"


def test_modules_that_stand_on_nothing() -> None:
    ram = Memory(modules=(MemoryDevice(model="nvdimm", size=GIB, path="/srv/pmem"), MemoryDevice(model="virtio-mem")))
    assert told(guest__ram=ram) == ()
    finding = only(guest__ram=ram, there__absent=("/srv/pmem",))
    assert (finding.check, finding.severity, finding.host) == ("memory.modules", Severity.BLOCK, "hostb")
    assert finding.subject == "/srv/pmem"
    assert told(guest__ram=ram, here__absent=("/srv/pmem",)) == ()


def test_enclaves_are_lost() -> None:
    finding = only(guest__ram=Memory(modules=(MemoryDevice(model="sgx-epc", size=16 * MIB),)))
    assert (finding.check, finding.severity, finding.host) == ("memory.modules", Severity.WARN, "hosta")
