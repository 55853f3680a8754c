"""CPUs: the host's own ones given to guests, time stamp counters, nested guests, pinning, how many there are."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from kvmigd.checks.check import Check, Way
from kvmigd.checks.cpulist import numbers, written
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, HostView, Local
from kvmigd.model.finding import Finding, Severity
from kvmigd.model.guest import Guest
from kvmigd.model.system import Cpu

PASSTHROUGH = Check(
    id="cpu.passthrough",
    severity=Severity.WARN,
    title="A guest with its host's own CPU finds the same CPU on the destination.",
    why="libvirt compares nothing for host-passthrough and maximum: the guest arrives, and fails at the first "
    "instruction or register that is not there. Between CPUs of different vendors or generations it blocks.",
    known="Vendor, family, model, stepping, microcode and flags of both hosts' CPUs are compared.",
    remedy="virsh edit GUEST: <cpu mode='host-model'/> or a named model that all hosts have.",
    ways=(Way.SHUTDOWN,),
)
TSC = Check(
    id="cpu.tsc",
    severity=Severity.BLOCK,
    title="The guest's time stamp counter can run on at its speed.",
    why="QEMU moves no guest that has seen an invariant counter (invtsc) without a set frequency, and libvirt starts "
    "none whose frequency the host can neither meet within 250 ppm nor scale.",
    known="The guest's CPU features and timers; the counter of the destination, as its libvirt tells.",
    remedy="virsh edit GUEST: no invtsc, or <timer name='tsc' frequency='…'/> that both hosts can have.",
    ways=(Way.SHUTDOWN,),
)
NESTED = Check(
    id="cpu.nested",
    severity=Severity.WARN,
    title="A guest that can have guests of its own finds the same settings of nested virtualisation.",
    why="The state of its own guests moves along; KVM with other settings refuses it or breaks them.",
    known="The parameters of the kvm modules on both hosts are compared, for guests with vmx or svm.",
    remedy="options kvm_intel nested=1 (kvm_amd) in /etc/modprobe.d on both hosts.",
)
COUNT = Check(
    id="cpu.count",
    severity=Severity.WARN,
    title="The destination has as many CPUs as the guest.",
    why="Virtual CPUs that wait for each other's turn make a guest slow, and spin locks very slow.",
    known="The destination's CPUs that are online.",
    remedy="Another peer, or virsh setvcpus GUEST with fewer.",
)
PINNING = Check(
    id="cpu.pinning",
    severity=Severity.BLOCK,
    title="The CPUs that the guest is pinned to are there on the destination.",
    why="The kernel binds no thread to CPUs that do not exist, and libvirt starts no guest that it cannot pin.",
    known="The guest's <vcpupin>, <emulatorpin>, <iothreadpin> and cpuset are compared with the CPUs online there.",
    remedy="virsh vcpupin GUEST VCPU CPULIST with CPUs that both hosts have; it works while the guest runs.",
)
_TOLERANCE_PPM = 250
"""TSC_TOLERANCE in libvirt's src/qemu/qemu_process.c, as in KVM."""
_KERNELS_OWN = frozenset(
    (
        *("acpi", "aperfmperf", "apicid", "arch_perfmon", "art", "avic", "bts", "cat_l2", "cat_l3", "cdp_l2", "cdp_l3"),
        *("constant_tsc", "cpb", "cpuid", "cpuid_fault", "cqm", "cqm_llc", "cqm_mbm_local", "cqm_mbm_total"),
        *("cqm_occup_llc", "decodeassists", "ds_cpl", "dtes64", "dtherm", "dts", "epb", "ept", "ept_ad", "est"),
        *("extd_apicid", "flexpriority", "flushbyasid", "hfi", "hw_pstate", "hwp", "hwp_act_window", "hwp_epp"),
        *("hwp_notify", "hwp_pkg_req", "ibs", "ida", "intel_pt", "lbrv", "mba", "monitor", "mwaitx", "nonstop_tsc"),
        *("nonstop_tsc_s3", "nopl", "npt", "nrip_save", "osvw", "pausefilter", "pbe", "pdcm", "pebs", "pfthreshold"),
        *("pln", "proc_feedback", "pstate_blkaddr", "pti", "pts", "rdt_a", "rep_good", "ring3mwait", "skinit", "smx"),
        *("split_lock_detect", "svm_lock", "tce", "tm", "tm2", "tpr_shadow", "tsc_known_freq", "tsc_scale"),
        *("v_spec_ctrl", "v_vmsave_vmload", "vgif", "vmcb_clean", "vnmi", "vpid", "wdt", "x2avic", "xtopology", "xtpr"),
    )
)
"""Words of /proc/cpuinfo that the kernel makes up, or that tell of what no guest is given."""


@rule(Scope.PAIR, reads="guest system", tells=(PASSTHROUGH,))
def passthrough(case: Case) -> Iterator[Finding]:
    """A guest with its host's own CPU finds the same CPU on the destination."""
    guest = case.guest
    # With emulation (type qemu) the CPU is QEMU's own, whatever the host has.
    if guest.cpu.mode not in ("host-passthrough", "maximum") or guest.domain_type != "kvm":
        return
    here, there = case.source.state.system.cpu, case.destination.state.system.cpu
    if here == there or not here.vendor or not there.vendor:
        return
    missing = () if here.flags == there.flags else _missing(here, there)
    same_kind = _kind(here) == _kind(there)
    microcode = bool(here.microcode and there.microcode and here.microcode != there.microcode)
    if same_kind and not missing and not microcode:
        return
    blocks = here.vendor != there.vendor or (not same_kind and bool(missing))
    yield PASSTHROUGH.finding(
        f"{guest.name} has the CPU of {case.here} itself, and {case.there} has another one."
        if not same_kind
        else f"{guest.name} has the CPU of {case.here} itself, and {case.there} with other microcode or features.",
        host=case.there,
        subject="CPU",
        expected=_described(here),
        found=_described(there) + (f", without {', '.join(missing)}" if missing else ""),
        remedy=f"On {case.here}: virsh edit {quote(guest.name)}: <cpu mode='host-model'/>, and restart it"
        if not same_kind
        else f"Bring both hosts to the same microcode and kernel; or on {case.here}: virsh edit {quote(guest.name)}: "
        "<cpu mode='host-model'/>, and restart it",
        severity=Severity.BLOCK if blocks else Severity.WARN,
    )


def _kind(cpu: Cpu) -> tuple[str, str, int, int, int]:
    return cpu.arch, cpu.vendor, cpu.family, cpu.model, cpu.stepping


def _missing(here: Cpu, there: Cpu) -> tuple[str, ...]:
    return tuple(sorted(set(here.flags) - set(there.flags) - _KERNELS_OWN))


def _described(cpu: Cpu) -> str:
    name = cpu.model_name or cpu.vendor
    return f"{name} (family {cpu.family}, model {cpu.model}, stepping {cpu.stepping}, microcode {cpu.microcode or '?'})"


def _has(guest: Guest, *features: str) -> bool:
    return any(f"{feature}={policy}" in guest.cpu.features for feature in features for policy in ("require", "force"))


def _frequency(guest: Guest) -> int:
    return next((timer.frequency for timer in guest.timers if timer.name == "tsc"), 0)


@rule(Scope.GUEST, reads="guest system", tells=(TSC,))
def invariant_tsc(local: Local) -> Iterator[Finding]:
    """A guest with an invariant time stamp counter has a frequency for it."""
    guest = local.guest
    if (not guest.cpu.features and guest.cpu.migratable != "off") or not guest.state.is_active or _frequency(guest):
        return
    # host-passthrough leaves invtsc out, unless it is told that the guest need not migrate.
    unmigratable = (
        guest.cpu.migratable == "off"
        and guest.domain_type == "kvm"
        and "nonstop_tsc" in local.source.state.system.cpu.flags
        and "invtsc=disable" not in guest.cpu.features
    )
    if unmigratable or _has(guest, "invtsc"):
        yield TSC.finding(
            f"{guest.name} has an invariant time stamp counter without a set frequency.",
            host=local.here,
            subject="invtsc",
            expected="no invtsc, or a <timer name='tsc' frequency='…'/>",
            found="<cpu migratable='off'>" if unmigratable else "<feature name='invtsc'/>",
            remedy=f"On {local.here}: virsh edit {quote(guest.name)}: "
            + ("no migratable='off' in its <cpu>" if unmigratable else "<feature policy='disable' name='invtsc'/>")
            + ", and restart it",
        )


@rule(Scope.PAIR, reads="guest hypervisor", tells=(TSC,))
def tsc_frequency(case: Case) -> Iterator[Finding]:
    """The destination can give the frequency that the guest's time stamp counter is set to."""
    guest, there = case.guest, case.destination.state.hypervisor
    if not guest.timers or not there.tsc_hz or there.tsc_scaling:
        return
    wanted = _frequency(guest)
    if wanted and abs(wanted - there.tsc_hz) > there.tsc_hz * _TOLERANCE_PPM // 1_000_000:
        known = there.tsc_scaling is False
        yield TSC.finding(
            f"The time stamp counter of {case.there} runs at another speed than that of {guest.name}.",
            host=case.there,
            subject="TSC",
            expected=f"{wanted} Hz, or a CPU that scales it",
            found=f"{there.tsc_hz} Hz" + (", no scaling" if known else ", whether it scales is not known"),
            remedy=f"Choose a peer with the same CPU; or on {case.here}: virsh edit {quote(guest.name)}: no frequency "
            "in <timer name='tsc'>, and restart it",
            severity=Severity.BLOCK if known else Severity.WARN,
        )


@rule(Scope.PAIR, reads="guest system", tells=(NESTED,))
def nested(case: Case) -> Iterator[Finding]:
    """A guest that can have guests of its own finds the same settings of nested virtualisation."""
    guest = case.guest
    given = guest.cpu.mode in ("host-passthrough", "maximum")
    if guest.domain_type != "kvm" or not (given or guest.cpu.features) or not (given or _has(guest, "vmx", "svm")):
        return
    if "vmx=disable" in guest.cpu.features or "svm=disable" in guest.cpu.features:
        return
    here, there = _nesting(case.source), _nesting(case.destination)
    # A given CPU without nesting here has shown the guest nothing to lose.
    if here == there or not here or not there or (given and "nested=off" in here):
        return
    yield NESTED.finding(
        f"{guest.name} can have guests of its own, and nested virtualisation on {case.there} is set otherwise.",
        host=case.there,
        subject="nested",
        expected=", ".join(here),
        found=", ".join(there),
        remedy=f"On {case.there}: options kvm_intel nested=1 (kvm_amd) in /etc/modprobe.d/kvm.conf as on {case.here}; "
        "without running guests: modprobe -r kvm_intel && modprobe kvm_intel",
    )


def _nesting(host: HostView) -> tuple[str, ...]:
    """nested= and what goes with it (ept, npt, enable_shadow_vmcs …) as KVM's modules have it; empty if unknown."""
    found = []
    for parameter in host.state.system.kvm.parameters:
        name, _, value = parameter.partition("=")
        module, _, name = name.rpartition(".")
        if module in ("kvm_intel", "kvm_amd", "kvm") and name in ("nested", "ept", "npt", "unrestricted_guest"):
            found.append(f"{name}={'on' if value in ('Y', '1') else 'off'}")
    return tuple(found)


@rule(Scope.PAIR, reads="guest system", tells=(COUNT, PINNING))
def placement(case: Case) -> Iterator[Finding]:
    """The destination has CPUs enough, and those that the guest is pinned to."""
    guest, there = case.guest, case.destination.state.system.cpu
    if there.threads and guest.vcpus > there.threads:
        yield COUNT.finding(
            f"{guest.name} has more CPUs than {case.there}.",
            host=case.there,
            subject="CPUs",
            expected=f"{guest.vcpus} CPUs or more",
            found=f"{there.threads} online",
            remedy=f"Choose another peer, or on {case.here}: virsh setvcpus {quote(guest.name)} {there.threads} --live",
        )
    pinning = guest.pinning
    if not there.online or not (pinning.cpus or pinning.vcpus or pinning.emulator or pinning.iothreads):
        return
    online = numbers(there.online)
    for what, cpus in _pins(guest):
        wanted = numbers(cpus)
        missing = tuple(cpu for cpu in wanted if cpu not in online)
        if not missing:
            continue
        # The kernel refuses numbers that it does not know, and lists without any CPU that is online. One that is
        # switched off among others is passed over.
        blocks = len(missing) == len(wanted) or not online or missing[-1] > online[-1]
        yield PINNING.finding(
            f"{guest.name} is pinned to CPUs that {case.there} does not have online.",
            host=case.there,
            subject=what,
            expected=f"CPUs {written(wanted)}",
            found=f"CPUs {there.online}, not {written(missing)}",
            remedy=f"On {case.here}: {_repin(what, guest.name, there.online)}",
            severity=Severity.BLOCK if blocks else Severity.WARN,
        )
        return  # one tells it: mostly all are pinned alike


def _pins(guest: Guest) -> Iterator[tuple[str, str]]:
    pinning = guest.pinning
    for name, pins in (("vcpupin", pinning.vcpus), ("iothreadpin", pinning.iothreads)):
        for pin in pins:
            number, _, cpus = pin.partition("=")
            yield f"{name} {number}", cpus
    if pinning.emulator:
        yield "emulatorpin", pinning.emulator
    if pinning.cpus:
        yield "cpuset", pinning.cpus


def _repin(what: str, name: str, online: str) -> str:
    command, _, number = what.partition(" ")
    if command == "cpuset":
        return f"virsh edit {quote(name)}: <vcpu cpuset='{online}'>, and restart it"
    return f"virsh {command} {quote(name)} {f'{number} ' if number else ''}{online} --live"
