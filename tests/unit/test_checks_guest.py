"""The guest itself, its machine, and its place on the destination."""

from __future__ import annotations

import pytest

from kvmigd.checks.guest import memory_needed
from kvmigd.model.finding import Severity
from kvmigd.model.guest import GuestState
from kvmigd.model.host import CpuFact, NameFact
from tests.unit.cases import GIB, OTHER_UUID, UUID, only, told

NEEDED = memory_needed(GIB, 2)


@pytest.mark.parametrize("state", GuestState)
def test_only_a_guest_that_runs_can_be_moved(state: GuestState) -> None:
    findings = told(guest__state=state)
    if state in (GuestState.RUNNING, GuestState.BLOCKED):
        assert findings == ()
        return
    (finding,) = findings
    assert (finding.check, finding.severity, finding.host) == ("guest.state", Severity.BLOCK, "hosta")
    assert finding.found == str(state)
    verb = "start" if state in (GuestState.SHUTOFF, GuestState.CRASHED, GuestState.UNKNOWN) else "resume"
    assert finding.remedy == f"On hosta: virsh {verb} web"


def test_another_guest_has_the_name() -> None:
    finding = only(there__names=NameFact(uuid_of_name=OTHER_UUID))
    assert (finding.check, finding.severity, finding.host) == ("guest.name", Severity.BLOCK, "hostb")
    assert finding.found == f"UUID {OTHER_UUID}"
    assert "virsh domrename web" in finding.remedy


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (NameFact(uuid_of_name=UUID, name_of_uuid="web", uuid_is_active=True), "runs"),
        (NameFact(name_of_uuid="other"), "is defined"),
        (NameFact(name_of_uuid="other", uuid_is_active=True), "runs"),
    ],
)
def test_another_guest_has_the_uuid(names: NameFact, word: str) -> None:
    finding = only(there__names=names)
    assert (finding.check, finding.severity, finding.host) == ("guest.uuid", Severity.BLOCK, "hostb")
    assert finding.summary == f"A guest with web's UUID {word} on hostb."
    assert UUID in finding.remedy


def test_its_own_definition_may_be_there_already() -> None:
    assert told(there__names=NameFact(uuid_of_name=UUID, name_of_uuid="web")) == ()


def test_name_and_uuid_may_be_taken_by_two() -> None:
    findings = told(there__names=NameFact(uuid_of_name=OTHER_UUID, name_of_uuid="other"))
    assert [finding.check for finding in findings] == ["guest.name", "guest.uuid"]


def test_memory_does_not_fit() -> None:
    assert told(destination__facts__memory_free=NEEDED) == ()
    finding = only(destination__facts__memory_free=NEEDED - 1)
    assert (finding.check, finding.severity, finding.host) == ("memory.fits", Severity.BLOCK, "hostb")
    assert finding.expected == "1242 MiB free (1024 MiB and QEMU's own)"
    assert finding.found.startswith("1242 MiB free")
    assert "hostb" in finding.remedy
    assert told(destination__facts__memory_free=0, destination__facts__memory_total=0) == (), "not known"
    assert told(source__facts__memory_free=0) == ()


def test_a_guest_needs_more_than_its_own_memory() -> None:
    assert memory_needed(GIB, 2) == GIB + GIB // 512 + (16 << 20) + (200 << 20)


def test_the_machine_cannot_be_had() -> None:
    finding = only(there__machine_problem="no machine type pc-q35-7.2")
    assert (finding.check, finding.severity, finding.host) == ("machine.type", Severity.BLOCK, "hostb")
    assert finding.expected == "pc-q35-7.2 (x86_64, kvm) by /usr/bin/qemu-system-x86_64"
    assert finding.found == "no machine type pc-q35-7.2"
    assert finding.remedy.startswith("Update QEMU on hostb")
    assert told(here__machine_problem="nobody asks") == ()


def test_the_cpu_cannot_be_had() -> None:
    finding = only(there__cpu=CpuFact(compatible=False, problem="missing features: avx512f"))
    assert (finding.check, finding.severity, finding.host) == ("cpu.model", Severity.BLOCK, "hostb")
    assert finding.found == "missing features: avx512f"
    assert "hypervisor-cpu-baseline" in finding.remedy
    assert told(there__cpu=None) == ()
