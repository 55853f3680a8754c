"""CPU and machine type: can the destination's QEMU be this guest's machine?"""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.case import Case, blocks
from kvmigd.model.finding import Basis, Finding


def machine_type(case: Case) -> Iterator[Finding]:
    """The destination has the guest's emulator, architecture, domain type and machine type."""
    if case.destination.machine_problem:
        guest = case.guest
        yield blocks(
            "machine.type",
            f"{case.there} cannot run machine type {guest.machine}.",
            host=case.there,
            subject=guest.machine,
            expected=f"{guest.machine} ({guest.arch}, {guest.domain_type}) by {guest.emulator}",
            found=case.destination.machine_problem,
            remedy=f"Update QEMU on {case.there}; `virsh capabilities` there lists its machine types",
            basis=Basis.PROVED,
        )


def cpu_model(case: Case) -> Iterator[Finding]:
    """The guest's CPU model and features can be had on the destination, as its libvirt says."""
    cpu = case.destination.cpu
    if cpu is not None and not cpu.compatible:
        yield blocks(
            "cpu.model",
            f"The CPU of {case.guest.name} cannot run on {case.there}.",
            host=case.there,
            subject="CPU",
            expected="all CPU features of the guest",
            found=cpu.problem,
            remedy="Give the guest a CPU that all hosts have: virsh hypervisor-cpu-baseline with the "
            "`virsh domcapabilities` of all hosts computes one",
            basis=Basis.PROVED,
        )
