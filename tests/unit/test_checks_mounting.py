"""How storage is mounted on the destination."""

from __future__ import annotations

from typing import Any

import pytest

from kvmigd.model.finding import Severity
from kvmigd.model.mounts import MountFact, Persistence, Space
from tests.unit.cases import DISK, LOCAL, NFS, PATHS, changed, only, told

OPTIONS = ("addr=192.0.2.9", "hard", "local_lock=none", "rw", "sec=sys", "vers=4.2")


def mounted(there: MountFact, here: MountFact = NFS) -> dict[str, Any]:
    """The guest's storage, mounted like this on the two hosts."""
    return {
        "source__state__mounts__mounts": (LOCAL, here),
        "destination__state__mounts__mounts": (LOCAL, there),
        "here__paths": (*(changed(fact, mount=here) for fact in PATHS[:2]), PATHS[2]),
        "there__paths": (*(changed(fact, mount=there) for fact in PATHS[:2]), PATHS[2]),
    }


@pytest.mark.parametrize("field", ["options", "super_options"])
def test_it_is_mounted_read_only(field: str) -> None:
    finding = only(**mounted(changed(NFS, **{field: ("ro",)})))
    assert (finding.check, finding.severity, finding.host) == ("storage.readonly", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.expected) == ("/srv/guests", "mounted rw")
    assert finding.remedy.startswith("On hostb: mount -o remount,rw /srv/guests")


def test_what_is_only_read_may_be_mounted_read_only() -> None:
    disk = changed(DISK, device="cdrom", target="sda", readonly=True)
    assert told(guest__disks=(disk,), **mounted(changed(NFS, options=("ro",)))) == ()
    assert told(**mounted(NFS, changed(NFS, options=("ro",)))) == (), "the source is what the guest leaves"


@pytest.mark.parametrize(
    ("option", "name"),
    [("soft", "soft"), ("nolock", "nolock"), ("vers=3", "vers"), ("sec=krb5", "sec"), ("local_lock=all", "local_lock")],
)
def test_options_that_matter_differ(option: str, name: str) -> None:
    there = tuple(sorted({*(one for one in OPTIONS if not one.startswith(f"{name}=")), option}))
    finding = only(**mounted(changed(NFS, super_options=there), changed(NFS, super_options=OPTIONS)))
    assert (finding.check, finding.severity, finding.host) == ("storage.options", Severity.WARN, "hostb")
    assert finding.summary == f"/srv/guests is mounted with other options on hostb ({name})."
    assert option in finding.found
    assert finding.remedy.startswith("On hostb: umount /srv/guests && mount -t nfs4 -o ")


@pytest.mark.parametrize("more", ["rsize=4096", "clientaddr=192.0.2.2", "timeo=600", "noac", "proto=tcp"])
def test_options_that_do_not_matter_differ(more: str) -> None:
    there = changed(NFS, super_options=tuple(sorted((*OPTIONS, more))), options=("noatime", "rw"))
    assert told(**mounted(there, changed(NFS, super_options=OPTIONS, options=("relatime", "rw")))) == ()


def test_it_was_mounted_by_hand() -> None:
    finding = only(**mounted(changed(NFS, persistence=Persistence.HAND)))
    assert (finding.check, finding.severity, finding.host) == ("storage.persistent", Severity.WARN, "hostb")
    assert "echo 'nas:/guests /srv/guests nfs4 defaults,_netdev 0 0' >> /etc/fstab" in finding.remedy
    for good in (Persistence.FSTAB, Persistence.UNIT, Persistence.AUTOFS, Persistence.UNKNOWN):
        assert told(**mounted(changed(NFS, persistence=good))) == ()


def test_two_things_at_once() -> None:
    there = changed(NFS, persistence=Persistence.HAND, super_options=("soft",))
    assert {finding.check for finding in told(**mounted(there))} == {"storage.persistent", "storage.options"}


def test_there_is_no_room() -> None:
    full = changed(LOCAL, space=Space(total=1 << 30, free=1 << 20))
    finding = only(destination__state__mounts__mounts=(full, NFS))
    assert (finding.check, finding.severity, finding.host) == ("storage.space", Severity.WARN, "hostb")
    assert (finding.subject, finding.expected, finding.found) == ("/", "64 MiB free", "1 MiB free")
    assert finding.remedy == "On hostb: df -h /; free room there"
    files = changed(LOCAL, space=Space(total=1 << 30, free=1 << 29, files_free=3))
    assert only(destination__state__mounts__mounts=(files, NFS)).found == "3 files"


def test_there_is_room() -> None:
    for space in (None, Space(total=1 << 30, free=1 << 29), Space(total=1 << 30, free=1 << 29, files_free=10_000)):
        assert told(destination__state__mounts__mounts=(changed(LOCAL, space=space), NFS)) == ()
    full = changed(NFS, space=Space(total=1 << 30, free=0))
    assert told(destination__state__mounts__mounts=(LOCAL, full)) == (), "the guest's disks are there already"
