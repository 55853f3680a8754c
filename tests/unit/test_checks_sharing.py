"""Disks that libvirt takes for safe to migrate."""

from __future__ import annotations

from typing import Any

import pytest

from kvmigd.model.devices import DiskLayer
from kvmigd.model.finding import Basis, Severity
from kvmigd.model.guest import Disk
from kvmigd.model.hypervisor import QemuSettings
from kvmigd.model.mounts import MountFact, MountKind
from tests.unit.cases import DISK, LOCAL, NFS, PATHS, changed, only, told

CODE = PATHS[2]
SMB = MountFact(
    point="/srv/guests", fs_type="cifs", source="//nas/guests", kind=MountKind.NETWORK, super_options=("vers=3.1.1",)
)


def on(mount: MountFact) -> dict[str, Any]:
    """The guest's storage on both hosts."""
    facts = (*(changed(fact, mount=mount) for fact in PATHS[:2]), CODE)
    mounts = (LOCAL, mount) if mount is not LOCAL else (LOCAL,)
    return {
        "here__paths": facts,
        "there__paths": facts,
        "source__state__mounts__mounts": mounts,
        "destination__state__mounts__mounts": mounts,
    }


def test_a_disk_on_storage_of_one_host_alone() -> None:
    finding = only(**on(LOCAL))
    assert (finding.check, finding.severity, finding.host) == ("storage.local", Severity.BLOCK, "hosta")
    assert (finding.subject, finding.found) == ("/srv/guests/web.qcow2", "/dev/vda1 (ext4) on /")
    assert finding.ways == ("copy",)
    assert "virsh blockcopy web vda --dest PATH --pivot" in finding.remedy
    assert told(**on(LOCAL), options__copy_disks=True) == ()


@pytest.mark.parametrize("disk", [changed(DISK, readonly=True), changed(DISK, device="cdrom", readonly=True)])
def test_what_is_only_read_may_be_local(disk: Disk) -> None:
    assert told(guest__disks=(disk,), **on(LOCAL)) == ()


@pytest.mark.parametrize("fs_type", ["cifs", "fuse.ceph-fuse", "fuse.sshfs", "9p", "virtiofs"])
def test_a_file_system_that_libvirt_does_not_know(fs_type: str) -> None:
    finding = told(**on(changed(SMB, fs_type=fs_type)))[0]
    assert (finding.check, finding.severity, finding.host) == ("storage.shared", Severity.BLOCK, "hosta")
    assert finding.found == f"//nas/guests ({fs_type}) on /srv/guests"
    assert 'shared_filesystems = [ "/srv/guests" ]' in finding.remedy


@pytest.mark.parametrize(
    ("folders", "libvirt", "refused"),
    [
        (("/srv/guests",), 10_010_000, False),
        (("/srv",), 11_000_000, False),
        (("/srv/guests",), 9_000_000, True),
        (("/srv/guest", "/other"), 10_010_000, True),
    ],
)
def test_libvirt_has_been_told(folders: tuple[str, ...], libvirt: int, refused: bool) -> None:  # noqa: FBT001
    settings = QemuSettings(shared_filesystems=folders)
    findings = told(**on(SMB), source__state__hypervisor__settings=settings, source__state__hypervisor__libvirt=libvirt)
    assert [finding.check for finding in findings] == ["storage.shared"] * refused


@pytest.mark.parametrize(
    ("layer", "severity"),
    [
        (DiskLayer(kind="nvme", address="0000:01:00.0/1"), Severity.BLOCK),
        (DiskLayer(kind="dir", path="/srv/folder"), Severity.BLOCK),
        (DiskLayer(kind="vhostvdpa", path="/dev/vhost-vdpa-0"), Severity.BLOCK),
        (DiskLayer(kind="vhostuser", path="/run/spdk.sock"), Severity.WARN),
    ],
)
def test_disks_that_are_part_of_a_host(layer: DiskLayer, severity: Severity) -> None:
    disk = Disk(target="vdb", kind=layer.kind, layers=(layer,))
    finding = only(guest__disks=(DISK, disk))
    assert (finding.check, finding.severity, finding.host) == ("storage.local", severity, "hosta")
    assert finding.subject == (layer.address or layer.path)
    assert finding.basis is (Basis.ASSUMED if severity is Severity.WARN else Basis.COMPARED)
    assert told(guest__disks=(DISK, changed(disk, layers=()))) == (), "a drive without a medium"


OLD = {"source__state__hypervisor__libvirt": 5_006_000, "source__state__hypervisor__qemu": 3_001_000}


@pytest.mark.parametrize("cache", ["", "writeback", "writethrough", "unsafe"])
def test_a_cache_that_libvirt_refuses(cache: str) -> None:
    disk = changed(DISK, cache=cache)
    finding = only(guest__disks=(disk,), **OLD)
    assert (finding.check, finding.severity, finding.host) == ("storage.cache", Severity.BLOCK, "hosta")
    assert (finding.subject, finding.found) == ("vda", cache or "default")
    assert "virsh edit web: <driver cache='none'/> for vda" in finding.remedy
    assert told(guest__disks=(disk,)) == (), "QEMU drops it at the end"


@pytest.mark.parametrize(
    ("libvirt", "qemu", "refused"),
    [(5_007_000, 4_000_000, 0), (5_006_000, 4_000_000, 1), (9_000_000, 3_001_000, 1), (0, 3_001_000, 0)],
)
def test_what_drops_its_cache(libvirt: int, qemu: int, refused: int) -> None:
    findings = told(source__state__hypervisor__libvirt=libvirt, source__state__hypervisor__qemu=qemu)
    assert [finding.check for finding in findings].count("storage.cache") == refused


@pytest.mark.parametrize(
    "disk",
    [
        changed(DISK, cache="none"),
        changed(DISK, cache="directsync"),
        changed(DISK, shareable=True),
        changed(DISK, readonly=True),
        Disk(target="vda", kind="network", layers=(DiskLayer(kind="network", protocol="rbd"),)),
        Disk(target="sda", device="cdrom"),
    ],
)
def test_disks_whose_cache_is_no_matter(disk: Disk) -> None:
    assert told(guest__disks=(disk,), **OLD) == ()


@pytest.mark.parametrize(("fs_type", "refused"), [("gfs2", 0), ("ocfs2", 0), ("ceph", 0), ("nfs4", 1), ("gpfs", 1)])
def test_file_systems_that_keep_caches_together(fs_type: str, refused: int) -> None:
    findings = told(**on(changed(NFS, fs_type=fs_type)), **OLD)
    assert [finding.check for finding in findings].count("storage.cache") == refused
