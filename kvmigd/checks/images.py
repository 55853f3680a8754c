"""What libvirt does not move with a disk: snapshots, jobs, transient disks; and what copies of disks need."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from kvmigd.checks.check import Check, Way
from kvmigd.checks.needs import copied, name_of, quoted
from kvmigd.checks.places import containing
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, Local
from kvmigd.model.finding import Basis, Finding, Severity

SNAPSHOTS = Check(
    id="storage.snapshots",
    severity=Severity.BLOCK,
    title="libvirt has no snapshots of the guest in mind.",
    why="libvirt refuses: what it knows of snapshots does not travel.",
    known="libvirt tells how many snapshots and checkpoints each guest has.",
    remedy="virsh snapshot-delete GUEST NAME; with --metadata libvirt forgets one and keeps its image.",
)
JOB = Check(
    id="storage.job",
    severity=Severity.BLOCK,
    title="No disk of the guest is being copied, merged or backed up.",
    why="libvirt refuses while a block job runs.",
    known="The guest's live definition names the mirror of each disk.",
    remedy="virsh blockjob GUEST DISK --info; wait for its end, or --abort.",
)
TRANSIENT = Check(
    id="storage.transient",
    severity=Severity.BLOCK,
    title="No disk of the guest forgets what is written to it (<transient/>).",
    why="libvirt refuses: what was written since the guest's start is in a file of the source alone.",
    known="The guest's definition.",
    remedy="Shut the guest down, and move its definition; or take <transient/> out of it.",
    ways=(Way.SHUTDOWN,),
)
COPY = Check(
    id="storage.copy",
    severity=Severity.BLOCK,
    title="Disks that are copied along find a folder and room on the destination.",
    why="QEMU there writes into images at the same paths; a copy that runs full ends the migration.",
    known="Both hosts look at the paths; the room is that of the destination's mounts, the size that of the images.",
    remedy="mkdir -p the folder there; free room, or mount more.",
)


@rule(Scope.GUEST, reads="guest", tells=(SNAPSHOTS,))
def snapshots(local: Local) -> Iterator[Finding]:
    """libvirt has no snapshots of the guest; with checkpoints it goes, but they stay behind."""
    guest = local.guest
    if guest.snapshots:
        yield SNAPSHOTS.finding(
            f"{guest.name} has {guest.snapshots} snapshot{'s' if guest.snapshots > 1 else ''}, which libvirt does not "
            "take along.",
            host=local.here,
            subject=guest.name,
            expected="none",
            found=str(guest.snapshots),
            remedy=f"On {local.here}: virsh snapshot-list {quoted(guest)}; virsh snapshot-delete {quoted(guest)} NAME, "
            "or with --metadata to keep the images",
            basis=Basis.PROVED,
        )
    if guest.checkpoints:
        yield SNAPSHOTS.finding(
            f"{guest.name} has {guest.checkpoints} checkpoint{'s' if guest.checkpoints > 1 else ''}, which libvirt may "
            "not take along.",
            host=local.here,
            subject=guest.name,
            expected="none",
            found=str(guest.checkpoints),
            remedy=f"On {local.here}: virsh checkpoint-list {quoted(guest)}; virsh checkpoint-delete {quoted(guest)} "
            "NAME; the next backup is a full one then",
            severity=Severity.WARN,
        )


@rule(Scope.GUEST, reads="guest", tells=(JOB, TRANSIENT))
def disks_at_rest(local: Local) -> Iterator[Finding]:
    """No disk of the guest has a block job, or forgets what is written to it."""
    for disk in local.guest.disks:
        if disk.job:
            yield JOB.finding(
                f"A block job ({disk.job}) is at work on {name_of(disk)}.",
                host=local.here,
                subject=disk.target,
                expected="none",
                found=disk.job,
                remedy=f"On {local.here}: virsh blockjob {quoted(local.guest)} {disk.target} --info; wait for its end, "
                "or --abort",
                basis=Basis.PROVED,
            )
        if disk.transient:
            yield TRANSIENT.finding(
                f"{name_of(disk)} is a transient disk, which libvirt does not migrate.",
                host=local.here,
                subject=disk.target,
                expected="a disk without <transient/>",
                found="<transient/>",
                remedy=f"On {local.here}: virsh shutdown {quoted(local.guest)}, then virsh edit {quoted(local.guest)}: "
                "take <transient/> out",
                basis=Basis.PROVED,
            )


@rule(Scope.PAIR, reads="guest look mounts", tells=(COPY,))
def disks_copied(case: Case) -> Iterator[Finding]:
    """Disks that are taken along find a folder and room on the destination."""
    if not case.options.copy_disks or case.look is None:
        return
    needed: dict[str, int] = {}
    for disk in case.guest.disks:
        if not copied(case.local, disk):
            continue
        path = disk.paths[0]
        folder = posixpath.dirname(path)
        there = case.paths_there.get(folder)
        if there is not None and not there.exists:
            yield COPY.finding(
                f"There is no folder {folder} on {case.there} for the copy of {name_of(disk)}.",
                host=case.there,
                subject=folder,
                expected=f"the folder, as on {case.here}",
                found=there.problem or "missing",
                remedy=f"On {case.there}: mkdir -p {folder}",
            )
            continue
        mount = containing(case.destination, path)
        fact = case.paths_there.get(path)
        if mount is not None and mount.space is not None and not (fact is not None and fact.exists):
            needed[mount.key] = needed.get(mount.key, 0) + case.paths_here[path].size
    for key, size in needed.items():
        mount = case.destination.mounts[key]
        if mount.space is not None and mount.space.free < size:
            yield COPY.finding(
                f"{mount.point} on {case.there} has too little room for the copies of the guest's disks.",
                host=case.there,
                subject=mount.point,
                expected=f"{size >> 20} MiB free",
                found=f"{mount.space.free >> 20} MiB free",
                remedy=f"On {case.there}: df -h {mount.point}; free room there, or mount more",
            )
