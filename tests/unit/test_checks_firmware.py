"""Firmware, its variables, and the TPM."""

from __future__ import annotations

from typing import Any

import pytest

from kvmigd.model.devices import Firmware, Tpm
from kvmigd.model.finding import Severity
from kvmigd.model.storage import PathFact
from kvmigd.model.system import Package
from tests.unit.cases import FIRMWARE, LOCAL, NFS, PATHS, UUID, changed, only, told

CODE = changed(PATHS[2], size=4096, changed_usec=1)
VARS = "/usr/share/OVMF/OVMF_VARS.fd"
NVRAM = "/var/lib/libvirt/qemu/nvram/web.fd"


def firmware(there: PathFact, **changes: Any) -> dict[str, Any]:
    return {
        "guest__firmware": Firmware(loader=FIRMWARE, loader_type="pflash"),
        "here__paths": (*PATHS[:2], CODE),
        "there__paths": (*PATHS[:2], there),
        **changes,
    }


def packages(here: str, there: str, name: str = "ovmf") -> dict[str, Any]:
    return {
        "source__state__system__packages": (Package(name=name, version=here, arch="all"),),
        "destination__state__system__packages": (Package(name=name, version=there, arch="all"),),
    }


def checks(**changes: Any) -> list[str]:
    """Ids of what is found of firmware and TPM; versions of packages are others' business."""
    return [one.check for one in told(**changes) if one.check.startswith(("firmware.", "tpm.", "storage."))]


def test_the_firmware_is_there() -> None:
    assert told(**firmware(changed(CODE, changed_usec=2, inode=5))) == ()


def test_the_firmware_is_missing() -> None:
    missing = changed(CODE, exists=False, problem="No such file or directory")
    finding = only(**firmware(missing))
    assert (finding.check, finding.severity, finding.host) == ("firmware.loader", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found) == (FIRMWARE, "No such file or directory")
    findings = told(**firmware(missing, **packages("2022.11-6", "2022.11-6")))
    assert findings[0].remedy == f"On hostb: install ovmf 2022.11-6, which has {FIRMWARE}"


def test_the_firmware_is_of_another_size() -> None:
    finding = only(**firmware(changed(CODE, size=8192)))
    assert (finding.check, finding.severity) == ("firmware.loader", Severity.BLOCK)
    assert (finding.expected, finding.found) == ("4096 bytes", "8192 bytes")


def test_the_firmware_is_of_another_version() -> None:
    newer = changed(CODE, changed_usec=2)
    findings = [one for one in told(**firmware(newer, **packages("1", "2"))) if one.check == "firmware.loader"]
    assert [(one.severity, one.expected, one.found) for one in findings] == [(Severity.WARN, "1", "2")]
    assert checks(**firmware(newer, **packages("1", "1"))) == []


def variables(*, nvram: bool, template: bool = True, folder: bool = True) -> dict[str, Any]:
    """A guest with variables, and what the destination has of them."""
    problem = "No such file or directory"
    facts = (
        PathFact(path=NVRAM, exists=nvram, problem="" if nvram else problem, mount=LOCAL),
        PathFact(path=VARS, exists=template, problem="" if template else problem, mount=LOCAL),
        PathFact(path=NVRAM.rpartition("/")[0], exists=folder, problem="" if folder else problem, mount=LOCAL),
    )
    return {
        "guest__firmware": Firmware(nvram=NVRAM, nvram_kind="file", nvram_template=VARS),
        "here__paths": (*PATHS, *(changed(fact, exists=True, problem="") for fact in facts)),
        "there__paths": (*PATHS, *facts),
    }


def test_variables_travel_with_the_guest() -> None:
    assert told(**variables(nvram=False)) == (), "libvirt makes the file there"
    assert told(**variables(nvram=True)) == ()


def test_the_template_is_missing() -> None:
    finding = only(**variables(nvram=False, template=False))
    assert (finding.check, finding.severity, finding.host) == ("firmware.nvram", Severity.BLOCK, "hostb")
    assert (finding.subject, VARS in finding.remedy) == (VARS, True)
    finding = only(**variables(nvram=True, template=False))
    assert (finding.check, finding.severity) == ("firmware.nvram", Severity.WARN)


def test_the_folder_of_the_variables_is_missing() -> None:
    finding = only(**variables(nvram=False, folder=False))
    assert (finding.check, finding.severity) == ("firmware.nvram", Severity.BLOCK)
    assert "install -d" in finding.remedy
    shared = changed(NFS, point="/var/lib/libvirt/qemu/nvram")
    finding = only(**variables(nvram=False, folder=False), source__state__mounts__mounts=(LOCAL, NFS, shared))
    assert finding.remedy.startswith("On hostb: mount nas:/guests on /var/lib/libvirt/qemu/nvram")


EMULATOR = (Tpm(model="tpm-crb", backend="emulator", version="2.0"),)
SWTPM = PathFact(path="/usr/bin/swtpm", exists=True, mount=LOCAL)


def test_a_tpm_of_the_hosts() -> None:
    finding = only(guest__tpms=(Tpm(backend="passthrough", path="/dev/tpm0"),))
    assert (finding.check, finding.severity, finding.host) == ("tpm.state", Severity.BLOCK, "hosta")
    assert (finding.subject, finding.ways) == ("/dev/tpm0", ("shutdown",))


def test_there_is_no_swtpm() -> None:
    assert told(guest__tpms=EMULATOR) == (), "no packages are known"
    others = {"guest__tpms": EMULATOR, **packages("1", "1")}
    finding = only(**others)
    assert (finding.check, finding.severity, finding.host) == ("tpm.state", Severity.BLOCK, "hostb")
    assert finding.remedy == "On hostb: dnf install swtpm swtpm-tools"
    assert "apt" in only(**others, destination__state__system__package_manager="dpkg").remedy
    assert told(**others, there__paths=(*PATHS, SWTPM)) == (), "somebody has built it"


@pytest.mark.parametrize(
    ("here", "there", "shared", "host"),
    [
        ("0.7.1-1.3", "0.8.0-1", True, "hosta"),
        ("0.8.0-1", "0.7.3-1", True, "hostb"),
        ("0.7.1-1.3", "0.7.1-1.3", False, ""),
        ("1:0.8.2-3", "0.10.1-1", True, ""),
        ("unknown", "unknown", True, ""),
    ],
)
def test_an_swtpm_that_is_too_old(here: str, there: str, shared: bool, host: str) -> None:  # noqa: FBT001
    mounts = (LOCAL, changed(NFS, point="/var/lib/libvirt/swtpm")) if shared else (LOCAL,)
    changes = packages(here, there, "swtpm") | {"source__state__mounts__mounts": (*mounts, NFS)}
    findings = [one for one in told(guest__tpms=EMULATOR, **changes) if one.check == "tpm.state"]
    assert [one.host for one in findings] == ([host] if host else [])
    if host:
        assert "swtpm 0.8 or later" in findings[0].remedy


def test_where_a_state_is_kept_can_be_said() -> None:
    tpm = changed(EMULATOR[0], path=f"/srv/guests/{UUID}")
    changes = packages("0.7.1", "0.8.0", "swtpm")
    assert "tpm.state" in checks(guest__tpms=(tpm,), **changes)
