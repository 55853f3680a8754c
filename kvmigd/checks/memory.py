"""Memory: room for the guest, huge pages, NUMA nodes, limits, memory modules."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from kvmigd.checks.check import Check, Way
from kvmigd.checks.cpulist import numbers, written
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, HostView, Local
from kvmigd.host.system import overhead
from kvmigd.model.devices import Pages
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.guest import Guest

FITS = Check(
    id="memory.fits",
    severity=Severity.BLOCK,
    title="The guest's memory, and what its QEMU takes beside it, is free on the destination.",
    why="QEMU cannot be started there, or the host runs out of memory and kills guests.",
    known="MemAvailable there, less the configured reserve and what is promised to guests on their way. Memory that "
    "consists of huge pages is counted by memory.hugepages.",
    remedy="Free memory there, or choose another peer.",
)
HUGEPAGES = Check(
    id="memory.hugepages",
    severity=Severity.BLOCK,
    title="As many huge pages as the guest's memory consists of are free on the destination.",
    why="libvirt lets QEMU fill the guest's memory before the stream begins; without the pages QEMU does not start.",
    known="The kernel's pools of each size, on the nodes that the guest is bound to.",
    remedy="sysctl vm.nr_hugepages=… there, or per node in /sys/devices/system/node/node*/hugepages.",
)
NUMA = Check(
    id="memory.numa",
    severity=Severity.BLOCK,
    title="The destination has the NUMA nodes that the guest's memory is bound to.",
    why="libvirt refuses to start a guest with a node that is not there, whatever the mode.",
    known="The nodes in the guest's <numatune> and of its memory modules are compared with those of the destination.",
    remedy="virsh numatune GUEST --nodeset … with nodes that both hosts have; it needs a restart of the guest.",
    ways=(Way.SHUTDOWN,),
)
LOCK = Check(
    id="memory.lock",
    severity=Severity.WARN,
    title="The guest's memory limit leaves room for its QEMU.",
    why="A migration makes QEMU take more memory; at the hard limit the kernel kills it, or memory cannot be locked.",
    known="The <hard_limit> is compared with the guest's memory and what QEMU usually takes beside it.",
    remedy="virsh memtune GUEST --hard-limit SIZE.",
)
MODULES = Check(
    id="memory.modules",
    severity=Severity.BLOCK,
    title="What the guest's memory modules stand on is there on the destination.",
    why="libvirt labels the file behind an NVDIMM and fails where there is none.",
    known="The destination looks for the path.",
    remedy="The same file or device at the same path on both hosts.",
)
_BASE_PAGE = 64 << 10
"""Pages up to this size are ordinary ones (64 KiB on some arm64 and ppc64 kernels)."""
_DEFAULT_HUGE = 2 << 20


def mib(size: int) -> str:
    """A size for a person, in MiB."""
    return f"{size / (1 << 20):.0f} MiB"


def memory_needed(memory: int, vcpus: int) -> int:
    """Bytes that a guest takes on its host: its own memory and QEMU's."""
    return memory + overhead(memory, vcpus)


def _is_huge(guest: Guest) -> bool:
    """All of its memory consists of huge pages, which are not part of what the kernel calls available."""
    return any((not pages.size or pages.size > _BASE_PAGE) and not pages.nodes for pages in guest.ram.hugepages)


@rule(Scope.PAIR, reads="guest facts", tells=(FITS,))
def guest_memory(case: Case) -> Iterator[Finding]:
    """The guest's memory and what its QEMU takes beside it are free on the destination, reservations included."""
    guest, free = case.guest, case.destination.facts.memory_free
    needed = memory_needed(guest.memory, guest.vcpus)
    if free >= needed or not case.destination.facts.memory_total:
        return
    huge = bool(guest.ram.hugepages) and _is_huge(guest)
    needed -= guest.memory if huge else 0
    if free < needed:
        what = "QEMU's own; the guest's are huge pages" if huge else f"{mib(guest.memory)} and QEMU's own"
        yield FITS.finding(
            f"{case.there} has too little free memory.",
            host=case.there,
            subject="memory",
            expected=f"{mib(needed)} free ({what})",
            found=f"{mib(free)} free, reservations taken off",
            remedy=f"Free memory on {case.there}, or choose another peer",
        )


@rule(Scope.PAIR, reads="guest system", tells=(HUGEPAGES,))
def hugepages(case: Case) -> Iterator[Finding]:
    """Enough huge pages of each size are free on the destination."""
    if not case.guest.ram.hugepages:
        return
    for size, needed, basis in _wanted(case):
        free, total, nodes = _pool(case, size)
        if free >= needed:
            continue
        where = f" on NUMA node {written(nodes)}" if nodes else ""
        yield HUGEPAGES.finding(
            f"{case.there} has too few free huge pages for {case.guest.name}.",
            host=case.there,
            subject=f"{size >> 10} KiB",
            expected=f"{needed} free pages of {size >> 10} KiB{where}",
            found=f"{free} free of {total}" if total else "none of that size",
            remedy=f"On {case.there}: {_more(size, needed - free + total, nodes)}",
            basis=basis,
        )


def _wanted(case: Case) -> Iterator[tuple[int, int, Basis]]:
    """Sizes of pages, how many of them, and whether their number is exact."""
    guest, found = case.guest, dict[int, int]()
    exact = True
    for pages in guest.ram.hugepages:
        size = pages.size or _default_size(case.destination)
        if size <= _BASE_PAGE:
            continue
        share, is_exact = _share(guest, pages)
        exact = exact and is_exact
        found[size] = found.get(size, 0) + share
    for size, memory in found.items():
        yield size, -(-memory // size), Basis.COMPARED if exact else Basis.ASSUMED


def _share(guest: Guest, pages: Pages) -> tuple[int, bool]:
    """Bytes of the guest's memory that these pages are for. How large its nodes are is not known: alike is assumed."""
    if not pages.nodes or guest.cpu.cells <= 1:
        return guest.memory, True
    nodes = len([node for node in numbers(pages.nodes) if node < guest.cpu.cells])
    return guest.memory * nodes // guest.cpu.cells, False


def _default_size(host: HostView) -> int:
    """The kernel's default is the only size most hosts have; on x86 it is 2 MiB unless it was booted otherwise."""
    sizes = {pool.size for pool in host.state.system.hugepages}
    return sizes.pop() if len(sizes) == 1 else _DEFAULT_HUGE


def _pool(case: Case, size: int) -> tuple[int, int, tuple[int, ...]]:
    """Free pages, all pages, and the nodes that they must be of; no nodes where any will do."""
    ram = case.guest.ram
    nodes = numbers(ram.numa_nodes) if ram.numa_mode in ("strict", "") and ram.numa_nodes else ()
    pools = [
        pool
        for pool in case.destination.state.system.hugepages
        if pool.size == size and (not nodes or pool.node in nodes)
    ]
    return sum(pool.free for pool in pools), sum(pool.total for pool in pools), nodes


def _more(size: int, pages: int, nodes: tuple[int, ...]) -> str:
    if len(nodes) == 1:
        folder = f"/sys/devices/system/node/node{nodes[0]}/hugepages/hugepages-{size >> 10}kB"
    else:
        folder = f"/sys/kernel/mm/hugepages/hugepages-{size >> 10}kB"
    return f"echo {pages} > {folder}/nr_hugepages"


@rule(Scope.PAIR, reads="guest system", tells=(NUMA,))
def numa(case: Case) -> Iterator[Finding]:
    """The destination has the NUMA nodes that the guest's memory is bound to."""
    ram, there = case.guest.ram, case.destination.state.system.numa
    if not there or not (ram.numa_nodes or ram.modules):
        return
    bound = [nodes for nodes in (ram.numa_nodes, *(module.nodes for module in ram.modules)) if nodes]
    wanted = dict.fromkeys(node for nodes in bound for node in numbers(nodes))
    known = {node.node for node in there}
    missing = tuple(node for node in wanted if node not in known)
    if missing:
        guest = case.guest.name
        yield NUMA.finding(
            f"{guest} is bound to NUMA nodes that {case.there} does not have.",
            host=case.there,
            subject=f"NUMA node {written(missing)}",
            expected=f"NUMA nodes {written(tuple(wanted))}",
            found=f"NUMA nodes {written(tuple(known))}",
            remedy=f"On {case.here}: virsh numatune {quote(guest)} --nodeset {written(tuple(known))} --config, and "
            "restart it",
        )


@rule(Scope.GUEST, reads="guest", tells=(LOCK,))
def memory_limit(local: Local) -> Iterator[Finding]:
    """The guest's memory limit leaves room for its QEMU."""
    guest = local.guest
    limit = guest.ram.hard_limit
    if not limit:
        return
    needed = memory_needed(guest.memory, guest.vcpus)
    # Without a limit libvirt says 2^53 - 1 KiB. Huge pages are not counted by the memory controller.
    if guest.ram.hugepages and _is_huge(guest):
        needed -= 0 if guest.ram.locked else guest.memory
    if limit < needed:
        yield LOCK.finding(
            f"The memory limit of {guest.name} leaves QEMU little room.",
            host=local.here,
            subject="hard_limit",
            expected=f"{mib(needed)} or more, or no limit",
            found=mib(limit),
            remedy=f"On {local.here}: virsh memtune {quote(guest.name)} --hard-limit {-(-needed >> 10)} --live "
            "--config",
            basis=Basis.ASSUMED,
        )


@rule(Scope.PAIR, reads="guest look", tells=(MODULES,))
def modules(case: Case) -> Iterator[Finding]:
    """What the guest's memory modules stand on is there; enclaves are lost on the way."""
    for module in case.guest.ram.modules:
        if module.model == "sgx-epc":
            yield MODULES.finding(
                f"{case.guest.name} has SGX memory, whose enclaves do not survive a migration.",
                host=case.here,
                subject=module.key,
                expected="no enclaves, or software in the guest that builds them anew",
                found=f"{mib(module.size)} of EPC",
                remedy=f"Shut it down and start it on {case.there}, or end in the guest what uses enclaves",
                severity=Severity.WARN,
                basis=Basis.ASSUMED,
            )
        elif module.path and case.look is not None and module.path in case.look.absent:
            yield MODULES.finding(
                f"{module.path}, which a {module.model} of {case.guest.name} stands on, is missing on {case.there}.",
                host=case.there,
                subject=module.path,
                expected=f"the file or device {module.path}",
                found="nothing there",
                remedy=f"On {case.there}: make it, {mib(module.size)} large; or on {case.here}: virsh edit "
                f"{quote(case.guest.name)} with storage that both hosts have",
                basis=Basis.PROVED,
            )
