"""Processors and machine, on trees of /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host import cpu, machine
from kvmigd.model.system import Cpu, HugePages, NumaNode

X86 = """\
processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model		: 106
model name	: Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz
stepping	: 6
microcode	: 0xd0003d1
flags		: vmx fpu avx512f vme
vmx flags	: vnmi

processor	: 1
vendor_id	: Other
"""
ARM = """\
processor	: 0
BogoMIPS	: 50.00
Features	: fp asimd evtstrm
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x3
CPU part	: 0xd0c
CPU revision	: 1
"""
S390 = """\
vendor_id       : IBM/S390
# processors    : 2
features	: esan3 zarch stfle
processor 0: version = FF,  identification = 2733E8,  machine = 8561
processor 1: version = FF,  identification = 2733E8,  machine = 8561
"""
PPC = """\
processor	: 0
cpu		: POWER9 (architected), altivec supported
clock		: 2950.000000MHz
revision	: 2.2 (pvr 004e 1202)
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("arch", "text", "expected"),
    [
        (
            "x86_64",
            X86,
            Cpu(
                arch="x86_64",
                vendor="GenuineIntel",
                model_name="Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz",
                family=6,
                model=106,
                stepping=6,
                microcode="0xd0003d1",
                flags=("avx512f", "fpu", "vme", "vmx"),
            ),
        ),
        (
            "aarch64",
            ARM,
            Cpu(arch="aarch64", vendor="0x41", family=8, model=0xD0C, stepping=1, flags=("asimd", "evtstrm", "fp")),
        ),
        ("s390x", S390, Cpu(arch="s390x", vendor="IBM/S390", model_name="8561", flags=("esan3", "stfle", "zarch"))),
        ("ppc64le", PPC, Cpu(arch="ppc64le", model_name="POWER9 (architected), altivec supported")),
    ],
)
def test_cpuinfo_of_each_architecture(arch: str, text: str, expected: Cpu) -> None:
    assert cpu.parse(text, arch=arch) == expected


@given(st.text(max_size=500), st.sampled_from([X86, ARM, S390, PPC]))
def test_odd_cpuinfo_never_raises(odd: str, text: str) -> None:
    cpu.parse(odd, arch="x86_64")
    cpu.parse(text.replace("0", odd, 1), arch="x86_64")


@given(st.text("0123456789,-x \n", max_size=60))
def test_odd_lists_of_cpus_never_raise(text: str) -> None:
    assert cpu.count(text) >= 0


@given(st.sets(st.integers(0, 999), max_size=40))
def test_cpus_are_counted(numbers: set[int]) -> None:
    assert cpu.count(",".join(str(number) for number in sorted(numbers))) == len(numbers)


def test_cpu_and_kvm_of_a_tree(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/cpuinfo": X86,
            cpu.ONLINE: "0-3,8\n",
            cpu.CLOCKSOURCE: "tsc\n",
            "sys/devices/system/cpu/cpu0/tsc_freq_khz": "2000000\n",
            "sys/module/kvm_intel/parameters/nested": "Y\n",
            "sys/module/kvm_intel/parameters/write_only": "",
            "sys/module/kvm/parameters/halt_poll_ns": "200000\n",
            "dev/kvm": "",
        },
    )
    found = cpu.cpu(tmp_path, arch="x86_64")
    assert (found.threads, found.online, found.clocksource, found.tsc_khz) == (5, "0-3,8", "tsc", 2_000_000)
    assert found.model == 106
    assert cpu.kvm(tmp_path).device
    assert cpu.kvm(tmp_path).parameters == ("kvm.halt_poll_ns=200000", "kvm_intel.nested=Y")
    assert not cpu.kvm(tmp_path / "nowhere").device


def test_nodes_and_their_huge_pages(tmp_path: Path) -> None:
    node = f"{machine.NODES}/node1"
    write(
        tmp_path,
        {
            f"{node}/cpulist": "4-7\n",
            f"{node}/meminfo": "Node 1 MemTotal:       2048 kB\nNode 1 MemFree: 1 kB\n",
            f"{node}/hugepages/hugepages-2048kB/nr_hugepages": "8\n",
            f"{node}/hugepages/hugepages-2048kB/free_hugepages": "3\n",
            f"{node}/hugepages/hugepages-1048576kB/nr_hugepages": "what\n",
            f"{machine.NODES}/node0/cpulist": "0-3\n",
            f"{machine.NODES}/online": "0-1\n",
        },
    )
    assert machine.numa(tmp_path) == (NumaNode(node=0, cpus="0-3"), NumaNode(node=1, cpus="4-7", memory=2 << 20))
    assert machine.hugepages(tmp_path) == (
        HugePages(node=1, size=2 << 20, total=8, free=3),
        HugePages(node=1, size=1 << 30),
    )
    assert tmp_path / f"{node}/hugepages/hugepages-2048kB/nr_hugepages" in machine.hugepage_files(tmp_path)


def test_a_kernel_without_numa_has_the_pools_of_node_0(tmp_path: Path) -> None:
    write(tmp_path, {f"{machine.POOLS}/hugepages-2048kB/nr_hugepages": "4\n"})
    assert machine.numa(tmp_path) == ()
    assert machine.hugepages(tmp_path) == (HugePages(node=0, size=2 << 20, total=4),)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({machine.SELINUX: "1"}, "selinux-enforcing"),
        ({machine.SELINUX: "0", machine.APPARMOR: "Y\n"}, "selinux-permissive"),
        ({machine.APPARMOR: "Y\n"}, "apparmor"),
        ({machine.APPARMOR: "N\n"}, "none"),
        ({}, "none"),
    ],
)
def test_the_security_model(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    assert machine.security(write(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({machine.USERFAULTFD: "1\n"}, True),
        ({machine.USERFAULTFD: "0\n"}, False),
        ({machine.USERFAULTFD: "0\n", "dev/userfaultfd": ""}, True),
        ({}, None),
    ],
)
def test_userfaultfd(tmp_path: Path, files: dict[str, str], *, expected: bool | None) -> None:
    assert machine.userfaultfd(write(tmp_path, files)) is expected


def test_the_machine_as_its_firmware_names_it(tmp_path: Path) -> None:
    dmi = "sys/class/dmi/id"
    write(tmp_path, {f"{dmi}/sys_vendor": "Dell Inc.\n", f"{dmi}/product_uuid": "4C4C4544-0044\n"})
    found = machine.machine(tmp_path)
    assert (found.vendor, found.uuid, found.product) == ("Dell Inc.", "4c4c4544-0044", "")
    write(tmp_path / "arm", {"proc/device-tree/model": "Ampere\0"})
    assert machine.machine(tmp_path / "arm").product == "Ampere"


@given(st.binary(max_size=200))
def test_odd_bytes_in_the_kernels_files_never_raise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "odd"
    path.write_bytes(content)
    machine.text(path)
    assert machine.number(path) >= 0
