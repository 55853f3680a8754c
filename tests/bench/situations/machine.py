"""What the other host can run: processor, machine types, emulator, memory, versions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.situations.ground import Ground
from tests.bench.situations.situation import FAILS, WORKS, left_out, situation
from tests.lab import faults

EMULATOR = "/usr/bin/qemu-system-x86_64"
NEHALEM = "<cpu mode='custom' match='exact'><model>Nehalem</model></cpu>"
"""A processor that has sse4.2 by its model. What a guest asks for by name, QEMU without KVM gives it in any case."""


@situation(FAILS, "cpu.model")
def cpu_feature_missing(ground: Ground) -> Iterator[None]:
    """The processor there lacks a feature that the guest has."""
    ground.start(cpu=NEHALEM)
    with faults.cpu_without(ground.b, "sse4.2"):
        yield


@situation(WORKS, may=("cpu.model",))
def cpu_feature_missing_unused(ground: Ground) -> Iterator[None]:
    """The processor there lacks a feature that the guest does not have either."""
    ground.start()
    with faults.cpu_without(ground.b, "avx2"):
        yield


@situation(FAILS, "machine.type")
def machine_missing(ground: Ground) -> Iterator[None]:
    """QEMU there does not know the guest's machine type."""
    ground.start()
    with faults.machine_missing(ground.b, "pc-q35-7.2", "pc-q35-7.9"):
        yield


@situation(WORKS)
def machine_older(ground: Ground) -> Iterator[None]:
    """QEMU there does not know the newest machine type, and the guest has an older one."""
    ground.start(edits=(("pc-q35-7.2", "pc-q35-7.1"),))
    with faults.machine_missing(ground.b, "pc-q35-7.2", "pc-q35-7.9"):
        yield


@situation(FAILS, "machine.type", "machine.emulator")
def emulator_missing(ground: Ground) -> Iterator[None]:
    """The emulator that the guest names is missing there."""
    ground.start()
    with faults.moved_away(ground.b, EMULATOR):
        yield


@contextmanager
def _huge_pages(count: int) -> Iterator[None]:
    # the hosts share the machine's pages; each has a mount of its own
    pool = Path("/proc/sys/vm/nr_hugepages")
    before = pool.read_text(encoding="ascii")
    pool.write_text(str(int(before) + count), encoding="ascii")
    try:
        yield
    finally:
        pool.write_text(before, encoding="ascii")


@contextmanager
def _on_huge_pages(ground: Ground) -> Iterator[None]:
    """A guest in huge pages, which both hosts have mounted."""
    with _huge_pages(48):
        ground.start(edits=(("<vcpu>1</vcpu>", "<memoryBacking><hugepages/></memoryBacking><vcpu>1</vcpu>"),))
        try:
            yield
        finally:
            ground.clean()


@situation(WORKS)
def huge_pages(ground: Ground) -> Iterator[None]:
    """A guest in huge pages, which both hosts have."""
    with _on_huge_pages(ground):
        yield


@situation(FAILS, "memory.hugepages")
def huge_pages_missing(ground: Ground) -> Iterator[None]:
    """The guest is in huge pages, which the other host has not mounted."""
    with _on_huge_pages(ground):
        with faults.stopped(ground.b, "dev-hugepages.mount"):
            faults.restart_libvirt(ground.b)
            yield
        faults.restart_libvirt(ground.b)


@situation(WORKS, "software.release")
def other_release(ground: Ground) -> Iterator[None]:
    """The other host runs another release."""
    ground.start()
    text = ground.b.read("/usr/lib/os-release").replace('VERSION_ID="12"', 'VERSION_ID="13"')
    with faults.file_changed(ground.b, "/usr/lib/os-release", text):
        yield


@situation(WORKS, "software.packages", "software.qemu")
def other_updates(ground: Ground) -> Iterator[None]:
    """QEMU's package there has had another update."""
    ground.start()
    with faults.package_version(ground.b, "qemu-system-x86", "1:7.2+dfsg-7+deb12u1"):
        yield


left_out("host-passthrough", "The guest has the host's own processor", reason="without KVM libvirt refuses to start it")
left_out(
    "tsc", "Guests with invtsc, and clocks of other speed", reason="the lab has no KVM, and QEMU no invtsc without"
)
left_out("nested", "SEV, TDX and nested guests", reason="the lab has no KVM")
left_out("kernel", "Another kernel there", reason="the hosts share the machine's kernel")
left_out("pinning", "Pinned to CPUs or NUMA nodes that are not there", reason="the hosts share the machine's CPUs")
left_out("huge-pages-short", "Too few huge pages are free there", reason="the hosts share the machine's pages")
