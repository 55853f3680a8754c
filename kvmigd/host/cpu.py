"""The processors and KVM, from /proc/cpuinfo and /sys."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from kvmigd.host.machine import number, text
from kvmigd.model.system import Cpu, Kvm

ONLINE = "sys/devices/system/cpu/online"
CLOCKSOURCE = "sys/devices/system/clocksource/clocksource0/current_clocksource"

_FIELDS: dict[str, tuple[str, ...]] = {
    "vendor": ("vendor_id", "CPU implementer"),
    "model_name": ("model name", "cpu", "Processor"),
    "family": ("cpu family", "CPU architecture"),
    "model": ("model", "CPU part"),
    "stepping": ("stepping", "CPU revision"),
    "microcode": ("microcode",),
    "flags": ("flags", "Features", "features"),
}
"""Words for the same thing, of x86 (and s390's vendor_id), of arm64 and ppc64, of s390."""

_S390_MACHINE = re.compile(r"^processor 0:.*\bmachine = (\w+)", re.MULTILINE)
_RANGE = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")


def fields(cpuinfo: str) -> dict[str, str]:
    """The first value of each `name : value` in /proc/cpuinfo: the first processor's."""
    found: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, separator, value = line.partition(":")
        if separator:
            found.setdefault(name.strip(), value.strip())
    return found


def count(cpus: str) -> int:
    """How many CPUs a list like `0-3,8,10-11` names; parts that are none are passed over."""
    total = 0
    for part in cpus.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found:
            first = int(found[1])
            total += max(0, int(found[2] or first) - first + 1)
    return total


def _integer(word: str) -> int:
    """`106`, or `0xd0c` as arm64 writes it; 0 for `AArch64` and other words."""
    found = re.fullmatch(r"(0x)?([0-9a-fA-F]{1,15})", word)
    try:
        return int(found[2], 16 if found[1] else 10) if found else 0
    except ValueError:
        return 0


def parse(cpuinfo: str, *, arch: str) -> Cpu:
    """The first processor, as /proc/cpuinfo of that architecture tells it. The others are taken to be like it."""
    known = fields(cpuinfo)
    told = {name: next((known[word] for word in words if word in known), "") for name, words in _FIELDS.items()}
    machine = _S390_MACHINE.search(cpuinfo)
    return Cpu(
        arch=arch,
        vendor=told["vendor"],
        model_name=told["model_name"] or (machine[1] if machine else ""),
        family=_integer(told["family"]),
        model=_integer(told["model"]),
        stepping=_integer(told["stepping"]),
        microcode=told["microcode"],
        flags=tuple(sorted(set(told["flags"].split()))),
    )


def cpu(root: Path = Path("/"), *, arch: str = "") -> Cpu:
    """The processors; `arch` is the running kernel's, if it is not given.

    Of cpuinfo only the beginning is read: the kernel makes it as it is read, and a host can have hundreds of CPUs.
    """
    online = text(root / ONLINE)
    found = parse(text(root / "proc/cpuinfo"), arch=arch or platform.machine())
    return Cpu(
        **{name: getattr(found, name) for name in ("arch", *_FIELDS)},
        threads=count(online),
        online=online,
        # Only some kernels have it (Google's and Facebook's module tsc_freq_khz); libvirt's capabilities know it too.
        tsc_khz=number(root / "sys/devices/system/cpu/cpu0/tsc_freq_khz"),
        clocksource=text(root / CLOCKSOURCE),
    )


def kvm(root: Path = Path("/")) -> Kvm:
    """/dev/kvm and the parameters of the modules kvm, kvm_intel, kvm_amd …"""
    found = []
    for module in sorted((root / "sys/module").glob("kvm*")):
        for parameter in (module / "parameters").glob("*"):
            value = text(parameter)
            if value:  # some can only be written
                found.append(f"{module.name}.{parameter.name}={value}")
    return Kvm(device=(root / "dev/kvm").exists(), parameters=tuple(sorted(found)))
