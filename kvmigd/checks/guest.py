"""The guest itself: what it is, and whether its place on the destination is free."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.case import Case, blocks
from kvmigd.host.system import overhead
from kvmigd.model.finding import Basis, Finding


def guest_state(case: Case) -> Iterator[Finding]:
    """The guest runs; a guest that does not cannot be migrated live."""
    if not case.guest.state.is_executing:
        yield blocks(
            "guest.state",
            f"{case.guest.name} is not running.",
            host=case.here,
            subject=case.guest.name,
            expected="running",
            found=str(case.guest.state),
            remedy=f"On {case.here}: virsh {'resume' if case.guest.state.is_active else 'start'} {case.guest.name}",
            basis=Basis.PROVED,
        )


def guest_place(case: Case) -> Iterator[Finding]:
    """Name and UUID of the guest are free on the destination."""
    names, guest = case.destination.names, case.guest
    if names.uuid_of_name and names.uuid_of_name != guest.uuid:
        yield blocks(
            "guest.name",
            f"Another guest called {guest.name} is defined on {case.there}.",
            host=case.there,
            subject=guest.name,
            expected=f"no guest of that name, or the one with UUID {guest.uuid}",
            found=f"UUID {names.uuid_of_name}",
            remedy=f"On {case.there}: virsh domrename {guest.name} OTHER-NAME",
            basis=Basis.PROVED,
        )
    if names.uuid_is_active or (names.name_of_uuid and names.name_of_uuid != guest.name):
        yield blocks(
            "guest.uuid",
            f"A guest with {guest.name}'s UUID {'runs' if names.uuid_is_active else 'is defined'} on {case.there}.",
            host=case.there,
            subject=guest.uuid,
            expected="no other guest with that UUID",
            found=names.name_of_uuid,
            remedy=f"On {case.there}: find out which of the two is right before either is touched: "
            f"virsh dominfo {guest.uuid}",
            basis=Basis.PROVED,
        )


def guest_memory(case: Case) -> Iterator[Finding]:
    """The guest's memory and what its QEMU takes beside it are free on the destination, reservations included."""
    free = case.destination.facts.memory_free
    if case.destination.facts.memory_total and free < case.memory_needed:
        yield blocks(
            "memory.fits",
            f"{case.there} has too little free memory.",
            host=case.there,
            subject="memory",
            expected=f"{mib(case.memory_needed)} free ({mib(case.guest.memory)} and QEMU's own)",
            found=f"{mib(free)} free, reservations taken off",
            remedy=f"Free memory on {case.there}, or choose another peer",
        )


def mib(size: int) -> str:
    """A size for a person, in MiB."""
    return f"{size / (1 << 20):.0f} MiB"


def memory_needed(memory: int, vcpus: int) -> int:
    """Bytes that a guest takes on its host: its own memory and QEMU's."""
    return memory + overhead(memory, vcpus)
