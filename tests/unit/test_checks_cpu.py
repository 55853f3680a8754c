"""CPUs: the host's own given to guests, time stamp counters, nested guests, pinning."""

from __future__ import annotations

import pytest

from kvmigd.checks.cpulist import numbers, written
from kvmigd.model.devices import Cpu as GuestCpu
from kvmigd.model.devices import Pinning, Timer
from kvmigd.model.finding import Severity
from kvmigd.model.guest import GuestState
from kvmigd.model.system import Cpu, Kvm
from tests.unit.cases import changed, only, told

XEON = Cpu(
    arch="x86_64",
    vendor="GenuineIntel",
    model_name="Xeon",
    family=6,
    model=106,
    stepping=6,
    microcode="0xd0003b9",
    flags=("avx512f", "constant_tsc", "fpu", "nonstop_tsc", "vmx"),
    threads=8,
    online="0-7",
)
GIVEN = GuestCpu(mode="host-passthrough", migratable="on")
NESTED = Kvm(device=True, parameters=("kvm.halt_poll_ns=200000", "kvm_intel.ept=Y", "kvm_intel.nested=Y"))


def hosts(here: Cpu, there: Cpu) -> dict[str, object]:
    return {"source__state__system__cpu": here, "destination__state__system__cpu": there}


@pytest.mark.parametrize("mode", ["host-passthrough", "maximum"])
def test_the_same_cpu_is_no_finding(mode: str) -> None:
    assert told(guest__cpu=GuestCpu(mode=mode), **hosts(XEON, XEON)) == ()
    assert told(guest__cpu=GuestCpu(mode=mode), **hosts(XEON, changed(XEON, threads=16, online="0-15"))) == ()


@pytest.mark.parametrize(
    ("change", "severity"),
    [
        ({"microcode": "0xd000404"}, Severity.WARN),
        ({"model": 143}, Severity.WARN),
        ({"stepping": 7}, Severity.WARN),
        ({"flags": ("constant_tsc", "fpu", "nonstop_tsc", "vmx")}, Severity.WARN),
        ({"flags": ("fpu", "vmx"), "model": 85}, Severity.BLOCK),
        ({"vendor": "AuthenticAMD", "family": 25}, Severity.BLOCK),
    ],
)
def test_another_cpu_is_no_place_for_a_guest_with_the_hosts_own(change: dict[str, object], severity: Severity) -> None:
    finding = only(guest__cpu=GIVEN, **hosts(XEON, changed(XEON, **change)))
    assert (finding.check, finding.severity, finding.host) == ("cpu.passthrough", severity, "hostb")
    assert finding.expected == "Xeon (family 6, model 106, stepping 6, microcode 0xd0003b9)"
    assert finding.found != finding.expected
    assert ("avx512f" in finding.found) == ("flags" in change)
    assert "virsh edit web" in finding.remedy
    assert finding.ways == ("shutdown",)


def test_another_cpu_does_no_harm() -> None:
    other = changed(XEON, model=85, flags=("fpu",))
    assert told(guest__cpu=GuestCpu(mode="custom", model="Skylake-Server"), **hosts(XEON, other)) == ()
    assert told(guest__cpu=GIVEN, guest__domain_type="qemu", **hosts(XEON, other)) == (), "emulated"
    assert told(guest__cpu=GIVEN, **hosts(XEON, Cpu())) == (), "not known"
    more = changed(XEON, flags=(*XEON.flags, "avx512_fp16"))
    assert told(guest__cpu=GIVEN, **hosts(XEON, more)) == (), "more than the guest has seen"
    assert told(guest__cpu=GIVEN, **hosts(changed(XEON, flags=(*XEON.flags, "pti")), XEON)) == (), "the kernel's word"


def test_an_invariant_tsc_needs_a_frequency() -> None:
    cpu = GuestCpu(mode="custom", model="Skylake-Server", features=("invtsc=require",))
    finding = only(guest__cpu=cpu)
    assert (finding.check, finding.severity, finding.host) == ("cpu.tsc", Severity.BLOCK, "hosta")
    assert finding.found == "<feature name='invtsc'/>"
    assert "virsh edit web: <feature policy='disable' name='invtsc'/>" in finding.remedy
    assert told(guest__cpu=changed(cpu, features=("invtsc=disable",))) == ()
    assert told(guest__cpu=cpu, guest__timers=(Timer(name="tsc", frequency=2_400_000_000),)) == ()
    off = told(guest__cpu=cpu, guest__state=GuestState.SHUTOFF, options__offline=True)
    assert off == (), "nothing but a definition is moved"


def test_a_given_cpu_has_an_invariant_tsc_only_where_it_need_not_migrate() -> None:
    assert told(guest__cpu=GIVEN, **hosts(XEON, XEON)) == ()
    stays = changed(GIVEN, migratable="off")
    finding = only(guest__cpu=stays, **hosts(XEON, XEON))
    assert (finding.check, finding.found) == ("cpu.tsc", "<cpu migratable='off'>")
    plain = changed(XEON, flags=("fpu",))
    assert told(guest__cpu=stays, **hosts(plain, plain)) == ()


@pytest.mark.parametrize(
    ("hertz", "scales", "severity"),
    [
        (2_400_000_000, "no", None),
        (2_400_599_999, "no", None),
        (2_400_700_000, "no", Severity.BLOCK),
        (2_400_700_000, "not known", Severity.WARN),
        (2_400_700_000, "yes", None),
        (0, "no", None),
    ],
)
def test_the_tsc_runs_at_another_speed(hertz: int, scales: str, severity: Severity | None) -> None:
    findings = told(
        guest__timers=(Timer(name="hpet"), Timer(name="tsc", frequency=2_400_000_000)),
        destination__state__hypervisor__tsc_hz=hertz,
        destination__state__hypervisor__tsc_scaling={"yes": True, "no": False}.get(scales),
    )
    assert [(one.check, one.severity, one.host) for one in findings] == (
        [("cpu.tsc", severity, "hostb")] if severity else []
    )
    assert told(destination__state__hypervisor__tsc_hz=hertz) == (), "no frequency is set"


def test_a_guest_with_guests_needs_the_same_nesting() -> None:
    flat = Kvm(device=True, parameters=("kvm_intel.ept=Y", "kvm_intel.nested=N"))
    vmx = GuestCpu(mode="custom", model="Skylake-Server", features=("vmx=require",))
    kvm = {"source__state__system__kvm": NESTED, "destination__state__system__kvm": flat}
    finding = only(guest__cpu=vmx, **kvm)
    assert (finding.check, finding.severity, finding.host) == ("cpu.nested", Severity.WARN, "hostb")
    assert (finding.expected, finding.found) == ("ept=on, nested=on", "ept=on, nested=off")
    assert only(guest__cpu=GIVEN, **kvm).check == "cpu.nested"
    assert told(guest__cpu=changed(vmx, features=("vmx=disable",)), **kvm) == ()
    assert told(**kvm) == ()
    assert told(guest__cpu=vmx, source__state__system__kvm=NESTED, destination__state__system__kvm=NESTED) == ()
    back = {"source__state__system__kvm": flat, "destination__state__system__kvm": NESTED}
    assert told(guest__cpu=GIVEN, **back) == (), "it has never seen it"


def test_more_cpus_than_the_host() -> None:
    there = {"destination__state__system__cpu": changed(XEON, threads=1, online="0")}
    finding = only(**there)
    assert (finding.check, finding.severity, finding.host) == ("cpu.count", Severity.WARN, "hostb")
    assert (finding.expected, finding.found) == ("2 CPUs or more", "1 online")
    assert told(guest__vcpus=1, **there) == ()


@pytest.mark.parametrize(
    ("pinning", "online", "severity", "command"),
    [
        (Pinning(vcpus=("0=2-3", "1=24-31")), "0-7", Severity.BLOCK, "virsh vcpupin web 1 0-7 --live"),
        (Pinning(vcpus=("0=0-31",)), "0-23", Severity.BLOCK, "virsh vcpupin web 0 0-23 --live"),
        (Pinning(emulator="8"), "0-7", Severity.BLOCK, "virsh emulatorpin web 0-7 --live"),
        (Pinning(iothreads=("1=9",)), "0-7", Severity.BLOCK, "virsh iothreadpin web 1 0-7 --live"),
        (Pinning(cpus="8-9"), "0-7", Severity.BLOCK, "virsh edit web: <vcpu cpuset='0-7'>, and restart it"),
        (Pinning(vcpus=("0=2-3",)), "0-2,4-7", Severity.WARN, "virsh vcpupin web 0 0-2,4-7 --live"),
    ],
)
def test_pinned_to_cpus_that_are_not_there(pinning: Pinning, online: str, severity: Severity, command: str) -> None:
    finding = only(guest__pinning=pinning, destination__state__system__cpu=changed(XEON, online=online))
    assert (finding.check, finding.severity, finding.host) == ("cpu.pinning", severity, "hostb")
    assert finding.remedy == f"On hosta: {command}"
    assert online in finding.found


def test_pinned_to_cpus_that_are_there() -> None:
    pinning = Pinning(cpus="0-7", vcpus=("0=0-3,^2", "1=7"), emulator="0", iothreads=("1=4-5",))
    assert told(guest__pinning=pinning, destination__state__system__cpu=XEON) == ()
    assert told(guest__pinning=pinning) == (), "not known"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0-3,^2,8", (0, 1, 3, 8)),
        ("", ()),
        ("a-b,5-,7", (5, 7)),
        ("9-3", ()),
        (" 1 , 2 ", (1, 2)),
    ],
)
def test_lists_of_cpus(text: str, found: tuple[int, ...]) -> None:
    assert numbers(text) == found
    assert numbers(written(found)) == found


def test_a_list_of_cpus_has_an_end() -> None:
    assert len(numbers("0-999999999")) == 1 << 14
