"""Whether QEMU's user on the destination can get at the guest's disks."""

from __future__ import annotations

from typing import Any

import pytest

from kvmigd.model.finding import Basis, Severity
from kvmigd.model.hypervisor import QemuSettings
from kvmigd.model.mounts import MountKind
from kvmigd.model.proof import StorageProof
from kvmigd.model.storage import PathFact
from tests.unit.cases import DISK, LOCAL, NFS, PATHS, changed, only, told

SETTINGS = QemuSettings(user="libvirt-qemu", uid=64055, gid=64055)
FIXED = changed(SETTINGS, dynamic_ownership=False)
REMOTE = changed(NFS, kind=MountKind.NETWORK)


def tried(number: int, **changes: Any) -> tuple[PathFact, ...]:
    """What QEMU's user may do on the destination, with a change to one of the paths."""
    facts = [changed(fact, readable=True, writable=True, uid=0, gid=0, mode=0o640) for fact in PATHS]
    facts[number] = changed(facts[number], **changes)
    return tuple(facts)


def settings(there: QemuSettings, here: QemuSettings = SETTINGS) -> dict[str, Any]:
    return {"source__state__hypervisor__settings": here, "destination__state__hypervisor__settings": there}


def test_all_is_well() -> None:
    assert told(there__paths=tried(0), **settings(SETTINGS)) == ()
    assert told(there__paths=tried(1, writable=False), **settings(FIXED)) == (), "a backing file is only read"
    assert told(there__paths=tried(2, writable=False), **settings(SETTINGS)) == ()


def test_a_folder_bars_the_way() -> None:
    barred = tuple(changed(fact, readable=False, writable=False, barred="/srv") for fact in tried(2)[:2])
    finding = only(there__paths=(*barred, PATHS[2]), **settings(SETTINGS))
    assert (finding.check, finding.severity, finding.host) == ("storage.access", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.basis) == ("/srv", Basis.PROVED)
    assert finding.expected == "a folder that libvirt-qemu (64055:64055) may enter"
    assert finding.remedy == "On hostb: setfacl -m u:libvirt-qemu:x /srv, or chmod o+x /srv"


@pytest.mark.parametrize(("number", "does"), [(0, "read"), (1, "read")])
def test_a_file_may_not_be_read_and_nobody_gives_it_away(number: int, does: str) -> None:
    finding = only(there__paths=tried(number, readable=False, writable=False), **settings(FIXED))
    assert (finding.severity, finding.basis, finding.subject) == (Severity.BLOCK, Basis.PROVED, PATHS[number].path)
    assert f"may not {does} {PATHS[number].path}" in finding.summary
    assert finding.found == "owner and mode 0:0 0640"
    assert finding.remedy == f"On hostb: chown 64055:64055 {PATHS[number].path}"


def test_a_disk_may_not_be_written() -> None:
    finding = only(there__paths=tried(0, writable=False), **settings(FIXED))
    assert (finding.severity, "may not write to" in finding.summary) == (Severity.BLOCK, True)


def test_libvirt_gives_files_to_its_user() -> None:
    assert told(there__paths=tried(0, readable=False, writable=False), **settings(SETTINGS)) == ()
    mounts = {"destination__state__mounts__mounts": (LOCAL, REMOTE), "source__state__mounts__mounts": (LOCAL, REMOTE)}
    refused = tried(0, readable=False, writable=False, mount=REMOTE)
    finding = only(there__paths=refused, **settings(SETTINGS), **mounts)
    assert (finding.severity, finding.basis) == (Severity.WARN, Basis.ASSUMED)
    assert "no_root_squash" in finding.summary


def test_firmware_is_given_to_nobody() -> None:
    loader = PATHS[2].path
    finding = only(
        guest__firmware__loader=loader, there__paths=tried(2, readable=False, writable=False), **settings(SETTINGS)
    )
    assert (finding.severity, finding.remedy) == (Severity.BLOCK, f"On hostb: chmod a+r {loader}")


def test_a_mount_that_is_read_only_is_the_reason() -> None:
    mount = changed(NFS, options=("ro",))
    there = tuple(changed(fact, mount=mount) for fact in tried(0, writable=False)[:2])
    finding = only(
        there__paths=(*there, PATHS[2]), destination__state__mounts__mounts=(LOCAL, mount), **settings(FIXED)
    )
    assert finding.check == "storage.readonly"


def test_a_nonce_that_could_not_be_read() -> None:
    proof = StorageProof(folder="/srv/guests", problem="denied", text="may not enter it", taken_usec=7)
    finding = only(proofs__storage=(proof,))
    assert (finding.check, finding.severity, finding.proved_usec) == ("storage.access", Severity.BLOCK, 7)
    assert (finding.subject, finding.found) == ("/srv/guests", "may not enter it")
    assert told(proofs__storage=(proof,), there__paths=tried(0), **settings(SETTINGS)) == (), "the files can be"


def test_other_numbers() -> None:
    other = QemuSettings(user="qemu", uid=107, gid=107)
    finding = only(**settings(other))
    assert (finding.check, finding.severity, finding.host) == ("storage.access", Severity.WARN, "hostb")
    assert (finding.expected, finding.found) == ("libvirt-qemu (64055:64055)", "qemu (107:107)")
    assert "usermod -u 64055 qemu" in finding.remedy
    assert told(there__paths=tried(0), **settings(other)) == (), "it was tried, and may write"
    assert told(**settings(changed(other, problem="not read"))) == ()
    assert told(guest__disks=(changed(DISK, readonly=True),), **settings(other)) == ()
