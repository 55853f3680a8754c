"""Storage: the same, at the same path, on both hosts."""

from __future__ import annotations

from typing import Any

import pytest

from kvmigd.model.finding import Severity
from kvmigd.model.guest import Disk
from kvmigd.model.mounts import MountFact
from kvmigd.model.storage import PathFact
from tests.unit.cases import DISK, FIRMWARE, LOCAL, NFS, PATHS, changed, only, told

WEB, BASE, CODE = PATHS
OTHER_NFS = changed(NFS, source="nas2:/guests")


def paths(number: int, **changes: Any) -> tuple[PathFact, ...]:
    """What is at the paths, with a change to one of them."""
    return tuple(changed(fact, **changes) if place == number else fact for place, fact in enumerate(PATHS))


@pytest.mark.parametrize(
    ("number", "path", "what"),
    [
        (0, "/srv/guests/web.qcow2", "vda"),
        (1, "/srv/guests/base.qcow2", "backing file of vda"),
        (2, FIRMWARE, "boot file"),
    ],
)
def test_something_is_missing(number: int, path: str, what: str) -> None:
    finding = only(there__paths=paths(number, exists=False, problem="No such file or directory"))
    assert (finding.check, finding.severity, finding.host) == ("storage.path", Severity.BLOCK, "hostb")
    assert finding.summary == f"{path} ({what}) is not there on hostb."
    assert (finding.subject, finding.found) == (path, "No such file or directory")
    assert finding.remedy
    unseen = tuple(fact for place, fact in enumerate(PATHS) if place != number)
    assert only(there__paths=unseen).found == "missing"


def test_the_remedy_for_a_mount_that_is_missing_is_the_mount() -> None:
    missing = changed(WEB, exists=False, mount=LOCAL)
    finding = only(there__paths=(missing, BASE, CODE))
    assert finding.remedy == "On hostb: mount -t nfs4 nas:/guests /srv/guests"
    wrong = changed(WEB, exists=False, mount=OTHER_NFS)
    finding = only(there__paths=(wrong, BASE, CODE))
    assert finding.remedy == "On hostb: umount /srv/guests && mount -t nfs4 nas:/guests /srv/guests"
    finding = only(there__paths=(WEB, BASE, changed(CODE, exists=False)))
    assert finding.remedy == f"Put {FIRMWARE} where both hosts have it, on shared storage"


def test_fuse_is_mounted_by_the_name_of_its_program() -> None:
    gluster = MountFact(point="/srv/guests", fs_type="fuse.glusterfs", source="nas:/guests", shared=True)
    here = tuple(changed(fact, mount=gluster) for fact in PATHS[:2])
    gone = tuple(changed(fact, exists=False, mount=LOCAL) for fact in here)
    for finding in told(here__paths=(*here, CODE), there__paths=(*gone, CODE)):
        assert finding.remedy == "On hostb: mount -t glusterfs nas:/guests /srv/guests"


@pytest.mark.parametrize(
    "mount",
    [
        OTHER_NFS,
        changed(NFS, root="/elsewhere"),
        changed(NFS, fs_type="cifs"),
        LOCAL,
    ],
)
def test_other_storage_at_the_same_path(mount: MountFact) -> None:
    there = (changed(WEB, mount=mount), changed(BASE, mount=mount), CODE)
    finding = only(there__paths=there)
    assert (finding.check, finding.severity, finding.host) == ("storage.mount", Severity.BLOCK, "hostb")
    assert finding.subject == "/srv/guests", "once for the mount, not for each of its files"
    assert finding.expected == "nas:/guests (nfs4) on /srv/guests"
    assert finding.found == f"{mount.source} ({mount.fs_type}) on {mount.point}"
    assert "mount -t nfs4 nas:/guests /srv/guests" in finding.remedy


def test_numbers_of_files_are_not_compared() -> None:
    assert told(there__paths=paths(0, inode=99)) == (), "clients of NFS and GlusterFS keep old ones"


def test_block_devices_have_other_numbers_on_each_host() -> None:
    disk = Disk(target="vdb", kind="block", paths=("/dev/mapper/lun1",))
    here = PathFact(path="/dev/mapper/lun1", exists=True, inode=5, is_block=True, mount=changed(LOCAL, point="/dev"))
    assert (
        told(
            guest__disks=(DISK, disk),
            here__paths=(*PATHS, here),
            there__paths=(*PATHS, changed(here, inode=6)),
        )
        == ()
    )


def test_a_disk_on_storage_of_one_host_alone() -> None:
    local = tuple(changed(fact, mount=LOCAL) for fact in PATHS)
    finding = only(here__paths=local, there__paths=local)
    assert (finding.check, finding.severity, finding.host) == ("storage.shared", Severity.BLOCK, "hosta")
    assert (finding.subject, finding.found) == ("/srv/guests/web.qcow2", "ext4 on /")
    assert "shared_filesystems" in finding.remedy


@pytest.mark.parametrize("disk", [changed(DISK, readonly=True), changed(DISK, device="cdrom", readonly=True)])
def test_what_is_only_read_may_be_a_copy(disk: Disk) -> None:
    local = tuple(changed(fact, mount=LOCAL) for fact in PATHS)
    copies = tuple(changed(fact, inode=fact.inode + 100) for fact in local)
    assert told(guest__disks=(disk,), here__paths=local, there__paths=copies) == ()


def test_a_cdrom_is_called_one() -> None:
    disk = changed(DISK, target="sda", device="cdrom", readonly=True)
    finding = only(guest__disks=(disk,), there__paths=paths(0, exists=False))
    assert "(cdrom sda)" in finding.summary


@pytest.mark.parametrize(
    "disk",
    [Disk(target="vda", kind="network", paths=("rbd:pool/web",)), Disk(target="sda", device="cdrom")],
)
def test_disks_without_a_path_are_qemus_business(disk: Disk) -> None:
    assert told(guest__disks=(disk,)) == ()


def test_what_the_source_has_not_looked_at_is_not_compared() -> None:
    assert told(here__paths=()) == ()
    unmounted = tuple(changed(fact, mount=None) for fact in PATHS)
    assert told(here__paths=unmounted, there__paths=unmounted) == ()
