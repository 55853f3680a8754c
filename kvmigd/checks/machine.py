"""CPU and machine type: can the destination's QEMU be this guest's machine?"""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case
from kvmigd.model.finding import Basis, Finding, Severity

TYPE = Check(
    id="machine.type",
    severity=Severity.BLOCK,
    title="The destination has the guest's emulator, architecture, domain type and machine type.",
    why="A QEMU that does not know the machine cannot be started, and no other machine can take the guest's state.",
    known="The destination's libvirt is asked for its domain capabilities with exactly these.",
    remedy="Update QEMU on the destination; virsh capabilities there lists what it has.",
    fixed=True,
)
MODEL = Check(
    id="cpu.model",
    severity=Severity.BLOCK,
    title="The guest's CPU model and features can be had on the destination.",
    why="A guest cannot go on with a CPU that has lost features it has seen.",
    known="The destination's libvirt compares the guest's CPU with its own (compareHypervisorCPU) and names what is "
    "missing.",
    remedy="Give the guest a CPU that all hosts have: virsh hypervisor-cpu-baseline computes one.",
    fixed=True,
)


@rule(Scope.PAIR, reads="guest look", tells=(TYPE,))
def machine_type(case: Case) -> Iterator[Finding]:
    """The destination has the guest's emulator, architecture, domain type and machine type."""
    if case.look is not None and case.look.machine_problem:
        guest = case.guest
        yield TYPE.finding(
            f"{case.there} cannot run machine type {guest.machine}.",
            host=case.there,
            subject=guest.machine,
            expected=f"{guest.machine} ({guest.arch}, {guest.domain_type}) by {guest.emulator}",
            found=case.look.machine_problem,
            remedy=f"Update QEMU on {case.there}; `virsh capabilities` there lists its machine types",
            basis=Basis.PROVED,
        )


@rule(Scope.PAIR, reads="guest look", tells=(MODEL,))
def cpu_model(case: Case) -> Iterator[Finding]:
    """The guest's CPU model and features can be had on the destination, as its libvirt says."""
    cpu = case.look.cpu if case.look else None
    if cpu is not None and not cpu.compatible:
        yield MODEL.finding(
            f"The CPU of {case.guest.name} cannot run on {case.there}.",
            host=case.there,
            subject="CPU",
            expected="all CPU features of the guest",
            found=cpu.problem,
            remedy="Give the guest a CPU that all hosts have: virsh hypervisor-cpu-baseline with the "
            "`virsh domcapabilities` of all hosts computes one",
            basis=Basis.PROVED,
        )
