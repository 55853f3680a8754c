"""The guest itself: what it is, and whether its place on the destination is free."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check, Way
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, Local
from kvmigd.host.system import overhead
from kvmigd.model.finding import Basis, Finding, Severity

STATE = Check(
    id="guest.state",
    severity=Severity.BLOCK,
    title="The guest runs.",
    why="Only a guest whose CPUs run can be migrated live; one that is paused or shut off can be moved offline.",
    known="libvirt's state of the guest, kept by its events.",
    remedy="virsh start GUEST or virsh resume GUEST; or move it offline.",
    ways=(Way.OFFLINE,),
)
NAME = Check(
    id="guest.name",
    severity=Severity.BLOCK,
    title="No other guest has the guest's name on the destination.",
    why="libvirt refuses a guest whose name another one has.",
    known="The destination's libvirt is asked for the name.",
    remedy="virsh domrename on the destination.",
    fixed=True,
)
GUEST_UUID = Check(
    id="guest.uuid",
    severity=Severity.BLOCK,
    title="No other guest has the guest's UUID on the destination, and the guest does not run there.",
    why="It may be the same guest running twice, with both writing to one disk.",
    known="The destination's libvirt is asked for the UUID.",
    remedy="Find out which of the two is right before either is touched: virsh dominfo UUID on both hosts.",
    fixed=True,
)
MEMORY = Check(
    id="memory.fits",
    severity=Severity.BLOCK,
    title="The guest's memory, and what its QEMU takes beside it, is free on the destination.",
    why="QEMU cannot be started there, or the host runs out of memory and kills guests.",
    known="MemAvailable there, less the configured reserve and what is promised to guests on their way.",
    remedy="Free memory there, or choose another peer.",
)


@rule(Scope.GUEST, reads="guest", tells=(STATE,))
def guest_state(local: Local) -> Iterator[Finding]:
    """The guest runs; a guest that does not cannot be migrated live."""
    if not local.guest.state.is_executing and not local.options.offline:
        yield STATE.finding(
            f"{local.guest.name} is not running.",
            host=local.here,
            subject=local.guest.name,
            expected="running",
            found=str(local.guest.state),
            remedy=f"On {local.here}: virsh {'resume' if local.guest.state.is_active else 'start'} {local.guest.name}",
            basis=Basis.PROVED,
        )


@rule(Scope.PAIR, reads="guest look", tells=(NAME, GUEST_UUID))
def guest_place(case: Case) -> Iterator[Finding]:
    """Name and UUID of the guest are free on the destination."""
    if case.look is None:
        return
    names, guest = case.look.names, case.guest
    if names.uuid_of_name and names.uuid_of_name != guest.uuid:
        yield NAME.finding(
            f"Another guest called {guest.name} is defined on {case.there}.",
            host=case.there,
            subject=guest.name,
            expected=f"no guest of that name, or the one with UUID {guest.uuid}",
            found=f"UUID {names.uuid_of_name}",
            remedy=f"On {case.there}: virsh domrename {guest.name} OTHER-NAME",
            basis=Basis.PROVED,
        )
    if names.uuid_is_active or (names.name_of_uuid and names.name_of_uuid != guest.name):
        yield GUEST_UUID.finding(
            f"A guest with {guest.name}'s UUID {'runs' if names.uuid_is_active else 'is defined'} on {case.there}.",
            host=case.there,
            subject=guest.uuid,
            expected="no other guest with that UUID",
            found=names.name_of_uuid,
            remedy=f"On {case.there}: find out which of the two is right before either is touched: "
            f"virsh dominfo {guest.uuid}",
            basis=Basis.PROVED,
        )


@rule(Scope.PAIR, reads="guest facts", tells=(MEMORY,))
def guest_memory(case: Case) -> Iterator[Finding]:
    """The guest's memory and what its QEMU takes beside it are free on the destination, reservations included."""
    free = case.destination.facts.memory_free
    needed = memory_needed(case.guest.memory, case.guest.vcpus)
    if case.destination.facts.memory_total and free < needed:
        yield MEMORY.finding(
            f"{case.there} has too little free memory.",
            host=case.there,
            subject="memory",
            expected=f"{mib(needed)} free ({mib(case.guest.memory)} and QEMU's own)",
            found=f"{mib(free)} free, reservations taken off",
            remedy=f"Free memory on {case.there}, or choose another peer",
        )


def mib(size: int) -> str:
    """A size for a person, in MiB."""
    return f"{size / (1 << 20):.0f} MiB"


def memory_needed(memory: int, vcpus: int) -> int:
    """Bytes that a guest takes on its host: its own memory and QEMU's."""
    return memory + overhead(memory, vcpus)
