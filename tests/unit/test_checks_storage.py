"""Storage: the same, at the same path, on both hosts."""

from __future__ import annotations

from typing import Any

import pytest

from kvmigd.model.finding import Basis, Severity
from kvmigd.model.guest import Disk
from kvmigd.model.mounts import MountFact, MountKind
from kvmigd.model.proof import StorageProof
from kvmigd.model.storage import BlockDevice, DeviceKind, FileSystemIdentity, PathFact
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
    assert finding.remedy == "On hostb: mount -t nfs4 nas:/guests /srv/guests, and the same in /etc/fstab"
    wrong = changed(WEB, exists=False, mount=OTHER_NFS)
    neither = changed(BASE, exists=False, mount=OTHER_NFS)
    finding = only(there__paths=(wrong, neither, CODE), destination__state__mounts__mounts=(LOCAL, OTHER_NFS))
    assert finding.remedy.startswith("On hostb: umount /srv/guests && mount -t nfs4 nas:/guests /srv/guests")
    finding = only(there__paths=(WEB, BASE, changed(CODE, exists=False)))
    assert finding.remedy == f"Put {FIRMWARE} where both hosts have it, on shared storage"


def test_options_without_which_it_is_another_mount_are_in_the_remedy() -> None:
    mount = changed(NFS, super_options=("addr=192.0.2.9", "rsize=1048576", "rw", "sec=krb5", "vers=4.2"))
    here = tuple(changed(fact, mount=mount) for fact in PATHS[:2])
    finding = only(
        source__state__mounts__mounts=(LOCAL, mount),
        here__paths=(*here, CODE),
        there__paths=(*(changed(fact, exists=False, mount=LOCAL) for fact in PATHS[:2]), CODE),
    )
    assert "mount -t nfs4 -o sec=krb5,vers=4.2 nas:/guests /srv/guests" in finding.remedy
    assert finding.summary.startswith("/srv/guests/web.qcow2 and 1 more (vda, backing file of vda) are not there")


def test_fuse_is_mounted_by_the_name_of_its_program() -> None:
    gluster = MountFact(point="/srv/guests", fs_type="fuse.glusterfs", source="nas:/guests", shared=True)
    here = tuple(changed(fact, mount=gluster) for fact in PATHS[:2])
    gone = tuple(changed(fact, exists=False, mount=LOCAL) for fact in here)
    finding = only(
        source__state__mounts__mounts=(LOCAL, gluster), here__paths=(*here, CODE), there__paths=(*gone, CODE)
    )
    assert finding.remedy.startswith("On hostb: mount -t glusterfs nas:/guests /srv/guests")


def test_a_layer_that_only_a_header_names() -> None:
    top = changed(WEB, backing="/srv/guests/base.qcow2")
    base = changed(BASE, backing="/srv/golden/debian.raw")
    golden = PathFact(path="/srv/golden/debian.raw", exists=True, mount=LOCAL, size=5)
    disk = changed(DISK, paths=(WEB.path,))
    finding = only(guest__disks=(disk,), here__paths=(top, base, golden, CODE), there__paths=(top, base, CODE))
    assert finding.summary == "/srv/golden/debian.raw (backing file of vda) is not there on hostb."
    both = (top, base, golden, CODE)
    assert told(guest__disks=(disk,), here__paths=both, there__paths=both) == ()
    network = (changed(WEB, backing="nbd://nas/base"), CODE)
    assert told(guest__disks=(disk,), here__paths=network, there__paths=network) == (), "that is no path"


CDROM = Disk(target="sda", device="cdrom", readonly=True, paths=("/srv/iso/install.iso",), format="raw")
ISO = PathFact(path="/srv/iso/install.iso", exists=True, size=5000, changed_usec=7, mount=LOCAL)
NO_ISO = changed(ISO, exists=False, problem="No such file or directory")


@pytest.mark.parametrize("startup", ["", "mandatory"])
def test_a_medium_that_is_missing(startup: str) -> None:
    cdrom = changed(CDROM, startup=startup)
    finding = only(guest__disks=(DISK, cdrom), here__paths=(*PATHS, ISO), there__paths=(*PATHS, NO_ISO))
    assert (finding.check, finding.severity, finding.ways) == ("storage.path", Severity.BLOCK, ())
    assert finding.summary == "/srv/iso/install.iso (cdrom sda) is not there on hostb."
    assert finding.remedy.startswith("On hosta: virsh change-media web sda --eject; or put /srv/iso/install.iso")


@pytest.mark.parametrize("startup", ["optional", "requisite"])
def test_a_medium_that_libvirt_takes_out(startup: str) -> None:
    cdrom = changed(CDROM, startup=startup)
    finding = only(guest__disks=(DISK, cdrom), here__paths=(*PATHS, ISO), there__paths=(*PATHS, NO_ISO))
    assert (finding.severity, startup in finding.summary) == (Severity.WARN, True)


def test_a_disk_is_never_left_out() -> None:
    finding = only(guest__disks=(changed(DISK, startup="optional"),), there__paths=paths(0, exists=False))
    assert finding.severity is Severity.BLOCK, "the guest has it in its state"


def test_what_root_cannot_see_on_either_host() -> None:
    squashed = paths(0, exists=False, problem="Permission denied")
    finding = only(here__paths=squashed, there__paths=squashed)
    assert (finding.severity, "nor can root on hosta" in finding.summary) == (Severity.WARN, True)
    seen = paths(0, exists=False, problem="Permission denied", readable=True, writable=True)
    assert told(here__paths=squashed, there__paths=seen) == (), "QEMU's user can"


def test_storage_that_hangs() -> None:
    hanging = changed(NFS, problem="it has not answered since 12:00")
    finding = only(destination__state__mounts__mounts=(LOCAL, hanging))
    assert (finding.check, finding.severity, finding.host) == ("storage.hangs", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found, finding.basis) == ("/srv/guests", hanging.problem, Basis.PROVED)
    assert "umount -l /srv/guests && mount -t nfs4 nas:/guests /srv/guests" in finding.remedy
    finding = only(source__state__mounts__mounts=(LOCAL, hanging))
    assert (finding.check, finding.host) == ("storage.hangs", "hosta")
    finding = only(there__paths=paths(0, exists=False, hangs=True, problem="did not answer for 5 s"))
    assert (finding.check, finding.host, finding.found) == ("storage.hangs", "hostb", "did not answer for 5 s")
    proof = StorageProof(folder="/srv/guests", problem="hangs", text="no answer for 3 s", taken_usec=9)
    finding = only(proofs__storage=(proof,))
    assert (finding.check, finding.basis, finding.proved_usec) == ("storage.hangs", Basis.PROVED, 9)


def test_a_mount_that_is_broken() -> None:
    stale = changed(NFS, problem="it answers with an error: Stale file handle (ESTALE)")
    finding = only(destination__state__mounts__mounts=(LOCAL, stale))
    assert (finding.check, finding.severity, finding.host) == ("storage.mount", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found) == ("/srv/guests", stale.problem)
    assert "umount -l /srv/guests" in finding.remedy


def test_storage_of_others_may_hang() -> None:
    other = changed(NFS, point="/srv/other", problem="it has not answered since 12:00")
    assert told(destination__state__mounts__mounts=(LOCAL, NFS, other)) == ()
    unasked = changed(NFS, problem="whether it answers is not known: kvmigd's unit sees something else at its place")
    assert told(destination__state__mounts__mounts=(LOCAL, unasked)) == (), "the path was seen"


@pytest.mark.parametrize(
    "mount",
    [
        OTHER_NFS,
        changed(NFS, root="/elsewhere"),
        changed(NFS, fs_type="cifs"),
        changed(NFS, source="nas:/other"),
        LOCAL,
    ],
)
def test_other_storage_at_the_same_path(mount: MountFact) -> None:
    there = (changed(WEB, mount=mount), changed(BASE, mount=mount), CODE)
    finding = only(there__paths=there, destination__state__mounts__mounts=(LOCAL, mount))
    assert (finding.check, finding.severity, finding.host) == ("storage.same", Severity.BLOCK, "hostb")
    assert finding.basis is Basis.COMPARED
    assert finding.subject == "/srv/guests", "once for the mount, not for each of its files"
    assert finding.expected == "nas:/guests (nfs4) on /srv/guests"
    assert finding.found.startswith(mount.source)
    assert "mount -t nfs4 nas:/guests /srv/guests" in finding.remedy


PROVED = StorageProof(folder="/srv/guests", taken_usec=5)


def test_a_nonce_decides() -> None:
    different = changed(PROVED, problem="different", text="what was written cannot be seen in it")
    finding = only(proofs__storage=(different,))
    assert (finding.check, finding.basis, finding.proved_usec) == ("storage.same", Basis.PROVED, 5)
    assert finding.found.endswith("what was written cannot be seen in it")
    there = tuple(changed(fact, mount=OTHER_NFS) for fact in PATHS[:2])
    aliases = {"there__paths": (*there, CODE), "destination__state__mounts__mounts": (LOCAL, OTHER_NFS)}
    assert told(proofs__storage=(PROVED,), **aliases) == (), "the server has two names"
    for problem in ("unwritable", "failed", "missing"):
        unproved = changed(PROVED, problem=problem)
        assert only(proofs__storage=(unproved,), **aliases).basis is Basis.COMPARED
        assert told(proofs__storage=(unproved,)) == ()


def test_a_file_that_is_mounted_over_is_not_what_its_folder_is() -> None:
    over = MountFact(point=WEB.path, fs_type="ext4", source="/dev/vda1", root="/var/tmp/copy.raw", id=9)
    there = (changed(WEB, mount=over), BASE, CODE)
    finding = only(proofs__storage=(PROVED,), there__paths=there, destination__state__mounts__mounts=(LOCAL, NFS, over))
    assert (finding.check, finding.found.startswith("/dev/vda1 /var/tmp/copy.raw")) == ("storage.same", True)


def test_a_link_that_leads_to_other_storage() -> None:
    nfs = changed(NFS, device="0:50")
    local = changed(LOCAL, device="254:1")
    here = (changed(WEB, mount=nfs, device="0:50"), BASE, CODE)
    there = (changed(WEB, mount=nfs, device="254:1"), BASE, CODE)
    mounts = (local, nfs)
    changes = {"source__state__mounts__mounts": mounts, "destination__state__mounts__mounts": mounts}
    assert only(here__paths=here, there__paths=there, **changes).found == "/dev/vda1 (ext4) on /"
    assert told(here__paths=here, there__paths=here, **changes) == ()


def test_storage_that_tells_too_little_of_itself() -> None:
    one = MountFact(point="/srv/guests", fs_type="fuse.glusterfs", source="store1:/vm", shared=True)
    other = changed(one, source="store2:/vm")
    here, there = (tuple(changed(fact, mount=mount) for fact in PATHS[:2]) for mount in (one, other))
    changes = {"here__paths": (*here, CODE), "there__paths": (*there, CODE)}
    changes |= {"source__state__mounts__mounts": (one,), "destination__state__mounts__mounts": (other,)}
    finding = only(**changes)
    assert (finding.check, finding.severity, finding.basis) == ("storage.same", Severity.WARN, Basis.ASSUMED)
    known = (FileSystemIdentity(point="/srv/guests", fs_type="fuse.glusterfs", export="vm", uuid="v1"),)
    changes |= {"source__state__storage__filesystems": known}
    assert told(**changes, destination__state__storage__filesystems=known) == ()
    wrong = (changed(known[0], uuid="v2"),)
    assert only(**changes, destination__state__storage__filesystems=wrong).severity is Severity.BLOCK


def test_numbers_of_files_are_not_compared() -> None:
    assert told(there__paths=paths(0, inode=99)) == (), "clients of NFS and GlusterFS keep old ones"


BLOCK = Disk(target="vdb", kind="block", paths=("/dev/mapper/lun1",), format="raw")
LUN = PathFact(path="/dev/mapper/lun1", exists=True, is_block=True, device="253:5", mount=changed(LOCAL, point="/dev"))
DEVICE = BlockDevice(name="dm-5", number="253:5", kind=DeviceKind.MULTIPATH, wwid="naa.6001")


def devices(there: BlockDevice, here: BlockDevice = DEVICE) -> dict[str, Any]:
    """A guest with a block device that both hosts have under that path."""
    return {
        "guest__disks": (DISK, BLOCK),
        "here__paths": (*PATHS, LUN),
        "there__paths": (*PATHS, changed(LUN, inode=6, device=there.number)),
        "source__state__storage__devices": (here,),
        "destination__state__storage__devices": (there,),
    }


def test_block_devices_have_other_numbers_on_each_host() -> None:
    assert told(**devices(changed(DEVICE, name="dm-9", number="253:9"))) == ()


def test_another_lun_under_the_same_name() -> None:
    finding = only(**devices(changed(DEVICE, wwid="naa.6002")))
    assert (finding.check, finding.severity, finding.host) == ("storage.same", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.expected, finding.found) == ("/dev/mapper/lun1", "naa.6001", "naa.6002")
    assert "lsblk" in finding.remedy


def test_a_block_device_that_has_no_name() -> None:
    nameless = changed(DEVICE, wwid="")
    finding = only(**devices(nameless))
    assert (finding.severity, finding.basis) == (Severity.WARN, Basis.ASSUMED)
    assert "no WWID" in finding.found
    copies = changed(nameless, fs_uuid="u1")
    assert only(**devices(copies, copies)).severity is Severity.WARN, "a copy has the same UUID on it"
    assert only(**devices(changed(copies, fs_uuid="u2"), copies)).severity is Severity.BLOCK


def test_a_file_in_the_place_of_a_block_device() -> None:
    changes = devices(DEVICE) | {"there__paths": (*PATHS, changed(LUN, is_block=False))}
    assert [one.found for one in told(**changes) if one.check == "storage.same"] == ["a file"]


def medium(there: PathFact) -> dict[str, Any]:
    """A guest with a CD on each host's own disk."""
    return {"guest__disks": (DISK, CDROM), "here__paths": (*PATHS, ISO), "there__paths": (*PATHS, there)}


def test_media_may_be_copies() -> None:
    assert told(**medium(changed(ISO, inode=99))) == ()
    finding = only(**medium(changed(ISO, changed_usec=8)))
    assert (finding.check, finding.severity, finding.basis) == ("storage.same", Severity.WARN, Basis.ASSUMED)
    assert finding.remedy.startswith("On hosta: rsync -t /srv/iso/install.iso hostb:/srv/iso/install.iso")
    finding = only(**medium(changed(ISO, size=9)))
    assert (finding.severity, finding.expected) == (Severity.BLOCK, "a copy of the file on hosta, 5000 bytes")
    assert finding.ways == (), "media are not copied along"


def test_a_base_image_on_each_hosts_own_disk() -> None:
    local = changed(BASE, mount=LOCAL)
    assert told(here__paths=(WEB, local, CODE), there__paths=(WEB, local, CODE)) == ()
    finding = only(here__paths=(WEB, local, CODE), there__paths=(WEB, changed(local, size=1), CODE))
    assert (finding.check, finding.severity) == ("storage.same", Severity.BLOCK)


def test_boot_files_may_differ() -> None:
    assert told(there__paths=paths(2, size=2)) == (), "they are read when the guest starts"


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


def test_disks_that_are_copied_along_need_not_be_there() -> None:
    local = tuple(changed(fact, mount=LOCAL) for fact in PATHS)
    gone = tuple(changed(fact, exists=False) for fact in local[:2])
    assert told(options__copy_disks=True, here__paths=local, there__paths=(*gone, CODE)) == ()
    missing = (*(changed(fact, exists=False) for fact in PATHS[:2]), CODE)
    assert told(options__copy_disks=True, there__paths=missing) != (), "what is shared is not copied"
    remote = changed(NFS, kind=MountKind.NETWORK, shared=False)
    here = (*(changed(fact, mount=remote) for fact in PATHS[:2]), CODE)
    assert told(options__copy_disks=True, source__state__mounts__mounts=(remote,), here__paths=here) != ()
