"""The machine: can the destination's QEMU be it, with CPUs and KVM that the guest can go on with?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from shlex import quote

from kvmigd.checks.check import Check, Way
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case
from kvmigd.model.finding import Basis, Finding, Severity

KVM = Check(
    id="machine.kvm",
    severity=Severity.BLOCK,
    title="The destination has KVM, where the guest runs with it.",
    why="A guest of type kvm cannot be started without it, and emulation is no other way: its CPU is another one.",
    known="/dev/kvm on both hosts.",
    remedy="virt-host-validate qemu; modprobe kvm_intel (kvm_amd); virtualisation on in the firmware's setup.",
    fixed=True,
)
EMULATOR = Check(
    id="machine.emulator",
    severity=Severity.BLOCK,
    title="The guest's QEMU is there at the same path, for its architecture.",
    why="The definition that travels names the program, and libvirt starts no other.",
    known="The destination's libvirt is asked for its domain capabilities with exactly this emulator.",
    remedy="Install it there, or virsh edit GUEST: <emulator> with a path that both hosts have.",
    fixed=True,
)
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
    ways=(Way.SHUTDOWN,),
    fixed=True,
)
_NO_EMULATOR = re.compile(
    r"Cannot check QEMU binary|unable to find any emulator|architecture from emulator|[Ee]mulator '"
)
_FEATURES = re.compile(r"required features: *([\w., -]+)")
"""libvirt's src/qemu/qemu_driver.c, qemu_capabilities.c; src/cpu/cpu_x86.c."""


@rule(Scope.PAIR, reads="guest look system", tells=(KVM, EMULATOR, TYPE), back=True)
def machine_type(case: Case) -> Iterator[Finding]:
    """The destination has the guest's emulator, architecture, domain type and machine type."""
    guest = case.guest
    if (
        guest.domain_type == "kvm"
        and not case.destination.state.system.kvm.device
        and case.source.state.system.kvm.device  # without it here neither, it is not seen: a sandbox
    ):
        yield KVM.finding(
            f"{case.there} has no KVM.",
            host=case.there,
            subject="/dev/kvm",
            expected="/dev/kvm",
            found="no such device",
            remedy=f"On {case.there}: virt-host-validate qemu; modprobe kvm_intel (or kvm_amd); ls -l /dev/kvm",
            basis=Basis.PROVED,
        )
    elif case.look is not None and case.look.machine_problem:
        problem = case.look.machine_problem
        if _NO_EMULATOR.search(problem) and "machine" not in problem:
            yield EMULATOR.finding(
                f"{case.there} has no {guest.emulator} that could run {guest.name}.",
                host=case.there,
                subject=guest.emulator,
                expected=f"{guest.emulator} for {guest.arch}",
                found=problem,
                remedy=f"On {case.there}: install it; or on {case.here}: virsh edit {quote(guest.name)}: <emulator> "
                "with a path that both hosts have",
                basis=Basis.PROVED,
            )
            return
        yield TYPE.finding(
            f"{case.there} cannot run machine type {guest.machine}.",
            host=case.there,
            subject=guest.machine,
            expected=f"{guest.machine} ({guest.arch}, {guest.domain_type}) by {guest.emulator}",
            found=problem,
            remedy=f"Update QEMU on {case.there}; `virsh capabilities` there lists its machine types",
            basis=Basis.PROVED,
        )


@rule(Scope.PAIR, reads="guest look", tells=(MODEL,), back=True)
def cpu_model(case: Case) -> Iterator[Finding]:
    """The guest's CPU model and features can be had on the destination, as its libvirt says."""
    cpu = case.look.cpu if case.look else None
    if cpu is not None and not cpu.compatible:
        guest = case.guest
        found = _FEATURES.search(cpu.problem)
        missing = tuple(word for word in re.split(r"[, ]+", found[1].strip(" .")) if word) if found else ()
        off = "".join(f"<feature policy='disable' name='{name}'/>" for name in missing)
        yield MODEL.finding(
            f"The CPU of {guest.name} cannot run on {case.there}"
            + (f": it lacks {', '.join(missing)}." if missing else "."),
            host=case.there,
            subject=", ".join(missing) or "CPU",
            expected="all CPU features of the guest",
            found=cpu.problem,
            remedy=(
                f"On {case.here}: virsh edit {quote(guest.name)}: {off} in its <cpu>, and restart it; or give "
                if off
                else "Give "
            )
            + "the guest a CPU that all hosts have: virsh hypervisor-cpu-baseline with the `virsh domcapabilities` of "
            "all hosts computes one",
            basis=Basis.PROVED,
        )
