"""The guest itself, its machine, and its place on the destination."""

from __future__ import annotations

import pytest

from kvmigd.checks.guest import memory_needed
from kvmigd.model.finding import Severity
from kvmigd.model.guest import Guest, GuestState
from kvmigd.model.host import CpuFact, NameFact
from kvmigd.model.system import Kvm
from tests.unit.cases import GIB, OTHER_UUID, UUID, changed, only, told

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
    verb = {GuestState.PAUSED: "resume", GuestState.SUSPENDED: "dompmwakeup"}.get(state, "start")
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
    back = only(here__machine_problem="no machine type pc-q35-7.2")
    assert (back.check, back.severity, back.way) == ("machine.type", Severity.WARN, "back")


@pytest.mark.parametrize(
    "problem",
    [
        "Cannot check QEMU binary /usr/bin/qemu-system-x86_64: No such file or directory",
        "invalid argument: unable to find any emulator to serve 'x86_64' architecture",
    ],
)
def test_the_emulator_is_missing(problem: str) -> None:
    finding = only(there__machine_problem=problem)
    assert (finding.check, finding.severity, finding.host) == ("machine.emulator", Severity.BLOCK, "hostb")
    assert finding.found == problem


def test_there_is_no_kvm() -> None:
    here = {"source__state__system__kvm": Kvm(device=True)}
    finding = only(**here, there__machine_problem="KVM is not supported by '/usr/bin/qemu' on this host")
    assert (finding.check, finding.severity, finding.host) == ("machine.kvm", Severity.BLOCK, "hostb")
    assert told(**here, guest__domain_type="qemu") == ()
    assert told(**here, destination__state__system__kvm=Kvm(device=True)) == ()
    assert told() == (), "where it is not seen on either host, it is the eyes"


def test_the_cpu_cannot_be_had() -> None:
    finding = only(there__cpu=CpuFact(compatible=False, problem="missing features: avx512f"))
    assert (finding.check, finding.severity, finding.host) == ("cpu.model", Severity.BLOCK, "hostb")
    assert finding.found == "missing features: avx512f"
    assert "hypervisor-cpu-baseline" in finding.remedy
    assert told(there__cpu=None) == ()


def test_the_features_that_are_missing_are_named() -> None:
    problem = "the CPU is incompatible with host CPU: Host CPU does not provide required features: avx512f, vaes"
    finding = only(there__cpu=CpuFact(compatible=False, problem=problem))
    assert finding.summary == "The CPU of web cannot run on hostb: it lacks avx512f, vaes."
    assert finding.subject == "avx512f, vaes"
    assert "<feature policy='disable' name='avx512f'/><feature policy='disable' name='vaes'/>" in finding.remedy


TWIN = Guest(
    name="web", uuid=UUID, state=GuestState.SHUTOFF, memory=0, vcpus=0, arch="", machine="", domain_type="", emulator=""
)


def test_the_picture_knows_who_has_the_name() -> None:
    other = changed(TWIN, uuid=OTHER_UUID)
    finding = only(destination__state__hypervisor__guests=(other,))
    assert (finding.check, finding.found) == ("guest.name", f"UUID {OTHER_UUID}")
    finding = only(destination__state__hypervisor__guests=(changed(TWIN, state=GuestState.RUNNING),))
    assert (finding.check, finding.summary) == ("guest.uuid", "A guest with web's UUID runs on hostb.")
    assert told(destination__state__hypervisor__guests=(TWIN,)) == ()


def test_only_one_host_starts_it_by_itself() -> None:
    finding = only(destination__state__hypervisor__guests=(changed(TWIN, autostart=True),))
    assert (finding.check, finding.severity, finding.host) == ("guest.autostart", Severity.WARN, "hostb")
    assert finding.remedy == "On hostb: virsh autostart --disable web"
    assert told(guest__autostart=True) == ()


def test_a_guest_on_its_way_is_there_already() -> None:
    arriving = (changed(TWIN, state=GuestState.PAUSED),)
    assert only(destination__state__hypervisor__guests=arriving).check == "guest.uuid"
    assert only(destination__state__hypervisor__guests=arriving, guest__job="outgoing").check == "hypervisor.busy"


def test_the_number_of_its_vsock_is_taken() -> None:
    other = changed(TWIN, name="db", uuid=OTHER_UUID, state=GuestState.RUNNING, vsock=5)
    finding = only(guest__vsock=5, destination__state__hypervisor__guests=(other,))
    assert (finding.check, finding.severity, finding.host) == ("guest.vsock", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found) == ("5", "db")
    for harmless in (changed(other, vsock=6), changed(other, state=GuestState.SHUTOFF)):
        assert told(guest__vsock=5, destination__state__hypervisor__guests=(harmless,)) == ()
    assert told(guest__vsock=5, guest__vsock_auto=True, destination__state__hypervisor__guests=(other,)) == ()


def test_libvirt_is_busy() -> None:
    for job in ("outgoing", "incoming", "other"):
        finding = only(guest__job=job)
        assert (finding.check, finding.severity, finding.host) == ("hypervisor.busy", Severity.BLOCK, "hosta")
        assert "virsh domjobinfo web" in finding.remedy


def test_memory_that_is_saved_stays_behind() -> None:
    assert told(guest__managed_save=True) == (), "a guest that runs has left it behind"
    finding = only(guest__managed_save=True, guest__state=GuestState.SHUTOFF, options__offline=True)
    assert (finding.check, finding.severity, finding.host) == ("guest.save", Severity.BLOCK, "hosta")
    assert "virsh managedsave-remove web" in finding.remedy


def test_a_memory_that_is_saved_there_would_be_restored_over_the_disks() -> None:
    there = NameFact(uuid_of_name=UUID, name_of_uuid="web", uuid_has_save=True)
    for options in ({}, {"guest__state": GuestState.SHUTOFF, "options__offline": True}):
        finding = only(there__names=there, **options)
        assert (finding.check, finding.severity, finding.host) == ("guest.save", Severity.BLOCK, "hostb")
        assert finding.remedy == "On hostb: virsh managedsave-remove web"
    assert only(there__names=changed(there, uuid_is_active=True)).check == "guest.uuid"
    saved = changed(TWIN, managed_save=True)
    unasked = told(there=None, destination__state__hypervisor__guests=(saved,))
    assert [finding.check for finding in unasked] == ["guest.save", "guest.looked"]
    asked = NameFact(uuid_of_name=UUID, name_of_uuid="web")
    assert told(there__names=asked, destination__state__hypervisor__guests=(saved,)) == (), "removed since"
    both = told(there__names=there, destination__state__hypervisor__guests=(changed(TWIN, autostart=True),))
    assert {finding.check for finding in both} == {"guest.save", "guest.autostart"}


def test_a_definition_that_nobody_understands() -> None:
    finding = only(guest__problem="it is nested too deeply")
    assert (finding.check, finding.severity, finding.found) == (
        "guest.definition",
        Severity.UNKNOWN,
        "it is nested too deeply",
    )
