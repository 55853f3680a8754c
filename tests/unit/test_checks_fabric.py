"""Paths to LUNs, sessions, clusters and locks."""

from __future__ import annotations

from typing import Any

import pytest

from kvmigd.model.finding import Basis, Severity
from kvmigd.model.guest import Disk
from kvmigd.model.hypervisor import QemuSettings
from kvmigd.model.mounts import MountFact
from kvmigd.model.storage import (
    BlockDevice,
    DeviceKind,
    FcPort,
    FileSystemIdentity,
    IscsiSession,
    Lockspace,
    Multipath,
    PathFact,
    VolumeGroup,
)
from tests.unit.cases import DISK, LOCAL, PATHS, changed, only, told

DEV = changed(LOCAL, point="/dev")
BLOCK = Disk(target="vdb", kind="block", paths=("/dev/mapper/lun",), format="raw", cache="none")
LUN = PathFact(path="/dev/mapper/lun", exists=True, is_block=True, device="253:5", mount=DEV)
MAP = BlockDevice(name="dm-5", number="253:5", kind=DeviceKind.MULTIPATH, wwid="naa.1", slaves=("sda", "sdb"))
PATHS_UP = Multipath(name="lun", wwid="31", device="dm-5", paths=("sda", "sdb"), active=("sda", "sdb"))


def host(side: str, **storage: Any) -> dict[str, Any]:
    """What a host has below a guest's second disk."""
    return {f"{side}__state__storage__{name}": value for name, value in storage.items()}


def both(devices: tuple[BlockDevice, ...], **there: Any) -> dict[str, Any]:
    """The same devices on both hosts, and more of the destination's storage."""
    return {
        "guest__disks": (DISK, BLOCK),
        "here__paths": (*PATHS, LUN),
        "there__paths": (*PATHS, LUN),
        **host("source", devices=devices),
        **host("destination", devices=devices, **there),
    }


def test_all_paths_are_up() -> None:
    assert told(**both((MAP,), multipaths=(PATHS_UP,))) == ()


def test_some_paths_are_down() -> None:
    finding = only(**both((MAP,), multipaths=(changed(PATHS_UP, active=("sdb",)),)))
    assert (finding.check, finding.severity, finding.host) == ("fabric.paths", Severity.WARN, "hostb")
    assert (finding.subject, finding.found, finding.basis) == ("lun", "1; failed: sda", Basis.PROVED)
    assert finding.remedy.startswith("On hostb: multipath -ll lun")


def test_all_paths_are_down() -> None:
    finding = only(**both((MAP,), multipaths=(changed(PATHS_UP, active=()),)))
    assert (finding.severity, finding.summary) == (
        Severity.BLOCK,
        "hostb has none of 2 paths to lun, on which vdb is.",
    )


def test_paths_of_the_source_and_of_other_disks() -> None:
    weak = changed(PATHS_UP, active=("sdb",))
    finding = only(**both((MAP,)), **host("source", multipaths=(weak,)))
    assert (finding.host, finding.severity) == ("hosta", Severity.WARN)
    assert told(**both((MAP,), multipaths=(changed(weak, device="dm-9"),))) == ()


def test_a_volume_stands_on_a_lun() -> None:
    volume = BlockDevice(name="dm-9", number="253:5", kind=DeviceKind.LVM, dm_uuid="LVM-x", slaves=("dm-5",))
    lun = changed(MAP, number="253:1")
    finding = only(**both((volume, lun), multipaths=(changed(PATHS_UP, active=()),)))
    assert (finding.check, finding.severity) == ("fabric.paths", Severity.BLOCK)


DISK_A = BlockDevice(name="sda", number="253:5", kind=DeviceKind.DISK, wwid="naa.1", transport="iscsi", state="running")
SESSION = IscsiSession(name="session1", target="iqn.2026-11.lab:vm", state="LOGGED_IN", luns=("1=sda",))


def test_an_iscsi_session() -> None:
    assert told(**both((DISK_A,), iscsi=(SESSION,))) == ()
    finding = only(**both((DISK_A,), iscsi=(changed(SESSION, state="FAILED"),)))
    assert (finding.severity, finding.host) == (Severity.BLOCK, "hostb")
    assert finding.found == "session to iqn.2026-11.lab:vm FAILED"
    assert "iscsiadm -m node -T iqn.2026-11.lab:vm --login" in finding.remedy
    assert told(**both((DISK_A,), iscsi=(SESSION, changed(SESSION, state="FREE", luns=("1=sdb",))))) == ()


def test_fibre_channel() -> None:
    disk = changed(DISK_A, transport="fc")
    up, down = FcPort(name="host1", wwpn="1", state="Online"), FcPort(name="host2", wwpn="2", state="Linkdown")
    assert told(**both((disk,), fibre_channel=(up, down))) == (), "a port may be free"
    finding = only(**both((disk,), fibre_channel=(down,)))
    assert (finding.severity, finding.found) == (Severity.BLOCK, "host2 Linkdown")


@pytest.mark.parametrize("state", ["offline", "blocked", "transport-offline", "suspended"])
def test_a_disk_that_does_not_work(state: str) -> None:
    finding = only(**both((DISK_A,)) | host("destination", devices=(changed(DISK_A, state=state),)))
    assert (finding.check, finding.severity, finding.found) == ("fabric.paths", Severity.BLOCK, state)
    assert told(**both((changed(DISK_A, state="live"),))) == ()


GFS2 = MountFact(point="/srv/guests", fs_type="gfs2", source="/dev/dm-5", shared=True)
IDENTITY = FileSystemIdentity(point="/srv/guests", fs_type="gfs2", uuid="u", lock_table="c:vm")
JOINED = Lockspace(name="vm", members=("1", "2"))


def cluster(side: str = "destination", **changes: Any) -> dict[str, Any]:
    """A guest on GFS2, with what one of the hosts has of the cluster."""
    facts = (*(changed(fact, mount=GFS2) for fact in PATHS[:2]), PATHS[2])
    good = {"filesystems": (IDENTITY,), "lockspaces": (JOINED,), "quorate": True}
    found = {
        "here__paths": facts,
        "there__paths": facts,
        "source__state__mounts__mounts": (LOCAL, GFS2),
        "destination__state__mounts__mounts": (LOCAL, GFS2),
    }
    for one in ("source", "destination"):
        found |= host(one, **(good | changes if one == side else good))
    return found


def test_a_member_of_the_cluster() -> None:
    assert told(**cluster()) == ()
    assert told(**cluster(quorate=None)) == (), "nobody could say"


@pytest.mark.parametrize(("side", "name"), [("source", "hosta"), ("destination", "hostb")])
def test_no_quorum(side: str, name: str) -> None:
    finding = only(**cluster(side, quorate=False))
    assert (finding.check, finding.severity, finding.host) == ("storage.cluster", Severity.BLOCK, name)
    assert (finding.subject, finding.found) == ("/srv/guests", "Quorate: No")


def test_the_lockspace_is_not_joined() -> None:
    finding = only(**cluster(lockspaces=(changed(JOINED, name="other"),)))
    assert (finding.check, finding.severity, finding.host) == ("storage.cluster", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found) == ("vm", "lockspaces: other")
    finding = only(**cluster(lockspaces=(changed(JOINED, control="recovering"),)))
    assert (finding.severity, finding.found) == (Severity.WARN, "recovering")


def test_locks_of_a_volume_group() -> None:
    uuid = "a" * 32
    volume = BlockDevice(name="dm-9", number="253:5", kind=DeviceKind.LVM, dm_uuid=f"LVM-{uuid}{'b' * 32}")
    group = VolumeGroup(name="vg", uuid="aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa", lock_type="dlm")
    alike = both((volume,), volume_groups=(group,)) | host("source", volume_groups=(group,))
    assert told(**alike) == ()
    finding = only(**alike | host("destination", volume_groups=(changed(group, lock_type=""),)))
    assert (finding.check, finding.severity, finding.host) == ("storage.cluster", Severity.WARN, "hostb")
    assert "vgchange --lock-start vg" in finding.remedy


def test_lock_managers() -> None:
    def locked(here: QemuSettings, there: QemuSettings) -> dict[str, Any]:
        return {
            "source__state__hypervisor__settings": here,
            "destination__state__hypervisor__settings": there,
        }

    none, lockd = QemuSettings(), QemuSettings(lock_manager="lockd")
    assert told(**locked(lockd, lockd)) == ()
    assert told(**locked(QemuSettings(problem="not read"), lockd)) == ()
    finding = only(**locked(none, lockd))
    assert (finding.check, finding.severity, finding.host) == ("storage.lock", Severity.WARN, "hostb")
    assert (finding.expected, finding.found) == ("none", "lockd")
    assert finding.remedy.startswith("On hostb: no lock_manager in /etc/libvirt/qemu.conf")
    sanlock = QemuSettings(lock_manager="sanlock")
    for here, there in ((none, sanlock), (sanlock, lockd)):
        assert only(**locked(here, there)).severity is Severity.BLOCK, "it has a state to hand over"
    assert 'lock_manager = "lockd"' in only(**locked(lockd, none)).remedy
