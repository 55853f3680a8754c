"""Snapshots, jobs, transient disks, and copies of disks."""

from __future__ import annotations

from typing import Any

from kvmigd.model.finding import Severity
from kvmigd.model.mounts import Space
from kvmigd.model.storage import PathFact
from tests.unit.cases import DISK, GIB, LOCAL, NFS, PATHS, changed, only, told


def test_snapshots() -> None:
    finding = only(guest__snapshots=3)
    assert (finding.check, finding.severity, finding.host) == ("storage.snapshots", Severity.BLOCK, "hosta")
    assert (finding.expected, finding.found) == ("none", "3")
    assert "virsh snapshot-delete web NAME" in finding.remedy


def test_checkpoints() -> None:
    finding = only(guest__checkpoints=1)
    assert (finding.check, finding.severity) == ("storage.snapshots", Severity.WARN)
    assert finding.summary.startswith("web has 1 checkpoint,")
    assert "virsh checkpoint-delete web NAME" in finding.remedy


def test_a_block_job() -> None:
    finding = only(guest__disks=(changed(DISK, job="active-commit"),))
    assert (finding.check, finding.severity, finding.found) == ("storage.job", Severity.BLOCK, "active-commit")
    assert "virsh blockjob web vda --info" in finding.remedy


def test_a_transient_disk() -> None:
    finding = only(guest__disks=(changed(DISK, transient=True),))
    assert (finding.check, finding.severity, finding.ways) == ("storage.transient", Severity.BLOCK, ("shutdown",))
    assert finding.subject == "vda"


def copy(*, free: int, folder: bool = True) -> dict[str, Any]:
    """A guest whose disk of 1 GiB is taken along."""
    local = tuple(changed(fact, mount=LOCAL) for fact in PATHS)
    there = tuple(changed(fact, exists=False) for fact in local[:2])
    problem = "" if folder else "No such file or directory"
    return {
        "options__copy_disks": True,
        "here__paths": local,
        "there__paths": (*there, PATHS[2], PathFact(path="/srv/guests", exists=folder, problem=problem)),
        "destination__state__mounts__mounts": (changed(LOCAL, space=Space(total=4 * GIB, free=free)),),
        "source__state__mounts__mounts": (LOCAL, NFS),
    }


def test_a_copy_has_room() -> None:
    assert told(**copy(free=GIB)) == ()


def test_a_copy_has_no_room() -> None:
    finding = only(**copy(free=GIB - 1))
    assert (finding.check, finding.severity, finding.host) == ("storage.copy", Severity.BLOCK, "hostb")
    assert (finding.expected, finding.found) == ("1024 MiB free", "1023 MiB free")
    assert finding.remedy.startswith("On hostb: df -h /")


def test_a_copy_has_no_folder() -> None:
    finding = only(**copy(free=GIB, folder=False))
    assert (finding.check, finding.subject) == ("storage.copy", "/srv/guests")
    assert finding.remedy == "On hostb: mkdir -p /srv/guests"


def test_an_image_that_is_there_already_takes_no_more_room() -> None:
    changes = copy(free=GIB // 2)
    changes["there__paths"] = (*changes["here__paths"], changes["there__paths"][-1])
    assert told(**changes) == ()
