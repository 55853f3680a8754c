"""Storage: the same, at the same path, on both hosts."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

import msgspec

from kvmigd.checks.check import Check, Way
from kvmigd.checks.needs import Need, Row, listed, quoted, rows, seen
from kvmigd.checks.places import Place, described, is_common, mount_command, mount_of
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.sameness import Sameness, called, of_devices, of_files
from kvmigd.checks.view import Case, HostView, Local
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.mounts import MountFact
from kvmigd.model.storage import PathFact

HANGS = Check(
    id="storage.hangs",
    severity=Severity.BLOCK,
    title="The storage of the guest's disks answers on both hosts.",
    why="QEMU on the destination waits for its disks for ever, and the guest with it.",
    known="Each host asks its mounts and the guest's paths all the time, with a deadline.",
    remedy="Mend the network or the server; umount -l and mount where the server has been made anew.",
)
MOUNT = Check(
    id="storage.mount",
    severity=Severity.BLOCK,
    title="The mounts of the guest's storage work on both hosts.",
    why="A mount whose server was made anew, or whose client has died, answers with errors: stale file handle, not "
    "connected.",
    known="Each host asks its mounts all the time.",
    remedy="umount -l POINT, and mount it again.",
)
PATH = Check(
    id="storage.path",
    severity=Severity.BLOCK,
    title="Every file that the guest needs is there on the destination, at the same path.",
    why="QEMU on the destination opens disks, backing files, media, kernel and firmware by these paths.",
    known="Both hosts look at every path of the guest's definition and of its images' headers.",
    remedy="Mount the storage on the destination at the same place; eject media that are not needed.",
    ways=(Way.COPY,),
)
SAME = Check(
    id="storage.same",
    severity=Severity.BLOCK,
    title="What lies at the paths of the guest's disks is the same storage on both hosts.",
    why="QEMU would open another disk under the same name: the guest reads and writes what is not its own.",
    known="A nonce that one host writes into the folder is read by the other; else server, export, fsid, UUID, WWID "
    "and volume are compared, and of files on each host's own disk size and time.",
    remedy="Mount on the destination what is mounted on the source, at the same place.",
    ways=(Way.COPY,),
)
_ERROR = "it answers with an error"
"""How a mount's problem begins that is none of time."""
FOLDERS_UNPROVED = frozenset({"unwritable", "failed", "missing", "denied"})
"""Problems of a nonce that say nothing of whether it is the same folder."""


@rule(Scope.GUEST, reads="guest look mounts", tells=(HANGS, MOUNT))
def storage_hangs_here(local: Local) -> Iterator[Finding]:
    """The storage of the guest's disks answers on its host."""
    for _need, fact, place in seen(local):
        if fact.hangs or (place is not None and place.problem):
            yield _hangs(local.source, fact, _hanging(fact, place))
            return


@rule(Scope.PAIR, reads="guest look mounts proofs", tells=(HANGS, MOUNT))
def storage_hangs(case: Case) -> Iterator[Finding]:
    """The storage of the guest's disks answers on the destination."""
    proofs = case.hosts.storage
    for need, _mine, _here, fact, place in rows(case):
        if fact is None:
            continue
        if fact.hangs or (place is not None and place.problem):
            yield _hangs(case.destination, fact, _hanging(fact, place))
            return
        proof = proofs.get(need.folder) if proofs else None
        if proof is not None and proof.problem == "hangs":
            yield _hangs(case.destination, fact, proof.text or "no answer", proved_usec=proof.taken_usec)
            return


def _hanging(fact: PathFact, place: Place | None) -> str:
    """Why the path's storage does not answer; empty where it does."""
    return (place.problem if place is not None else "") or (fact.problem or "no answer" if fact.hangs else "")


def _hangs(host: HostView, fact: PathFact, problem: str, *, proved_usec: int = 0) -> Finding:
    mount = mount_of(host, fact)
    where = described(mount) if mount is not None else fact.path
    point = mount.point if mount is not None else posixpath.dirname(fact.path)
    broken = problem.startswith(_ERROR)
    return (MOUNT if broken else HANGS).finding(
        f"The mount of {fact.path} is broken on {host.name}."
        if broken
        else f"The storage of {fact.path} does not answer on {host.name}.",
        host=host.name,
        subject=point,
        expected=f"an answer of {where}",
        found=problem,
        remedy=f"On {host.name}: findmnt {point}; see whether its server is up and reached"
        + (f"; then umount -l {point} && {mount_command(mount)}" if mount is not None and is_common(mount) else ""),
        basis=Basis.PROVED,
        proved_usec=proved_usec,
    )


@rule(Scope.PAIR, reads="guest look mounts", tells=(PATH,))
def storage_path(case: Case) -> Iterator[Finding]:
    """Every disk, backing file, medium and boot file of the guest exists on the destination, at the same path."""
    for row in rows(case):
        if row.theirs is None or not row.theirs.exists:
            yield from _missing(case)
            return


def _missing(case: Case) -> Iterator[Finding]:
    """What is missing; several files of one mount are one finding."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows(case):
        need, _mine, here, fact, there = row
        if fact is not None and (fact.exists or fact.readable or _hanging(fact, there)):
            continue
        if need.what == "firmware":
            continue  # firmware.loader says which package it comes from
        point = "" if need.is_medium or here is None or not here.common else here.mount.point
        groups.setdefault((point, "" if point else need.path), []).append(row)
    for group in groups.values():
        yield _missing_finding(case, group)


def _missing_finding(case: Case, group: list[Row]) -> Finding:
    need, mine, _here, fact, _there = group[0]
    problem = (fact.problem if fact else "") or "missing"
    severity, tail = Severity.BLOCK, ""
    if need.is_medium and need.disk is not None and need.disk.startup in ("optional", "requisite"):
        # qemuDomainCheckDiskStartupPolicy in libvirt: on the way, both leave the drive empty
        severity, tail = Severity.WARN, f"; libvirt takes the medium out (startupPolicy {need.disk.startup})"
    elif mine is not None and not mine.exists and mine.problem == problem:
        # root is nobody on a server that squashes it, and the guest runs with what root cannot see
        severity, tail = Severity.WARN, f"; nor can root on {case.here}, where the guest runs"
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    what = listed([row.need.what for row in group])
    finding = PATH.finding(
        f"{need.path}{more} ({what}) {'are' if more else 'is'} not there on {case.there}{tail}.",
        host=case.there,
        subject=need.path,
        expected=f"the file{'s' if more else ''} that {case.here} has",
        found=problem,
        remedy=_remedy(case, group[0]),
        severity=severity,
    )
    return finding if need.disk is not None and not need.is_medium else msgspec.structs.replace(finding, ways=())


def _remedy(case: Case, row: Row) -> str:
    need, _mine, here, _theirs, there = row
    mount, now = (None if place is None else place.mount for place in (here, there))
    eject = ""
    if need.is_medium and need.disk is not None:
        eject = f"On {case.here}: virsh change-media {quoted(case.guest)} {need.disk.target} --eject; or "
    if mount is None or not is_common(mount):
        return f"{eject}{'put' if eject else 'Put'} {need.path} where both hosts have it, on shared storage"
    same = now is not None and (now.source, now.root, now.point) == (mount.source, mount.root, mount.point)
    if same:
        return (
            f"{eject}{'on' if eject else 'On'} {case.there}: ls -l {need.folder}; the storage is "
            "mounted, but does not have it"
        )
    command = mount_command(mount, over=now)
    return f"{eject}{'on' if eject else 'On'} {case.there}: {command}, and the same in /etc/fstab"


@rule(Scope.PAIR, reads="guest look mounts storage proofs", tells=(SAME,))
def storage_same(case: Case) -> Iterator[Finding]:
    """What lies at the paths of the guest's disks is the same storage on both hosts."""
    proofs = case.hosts.storage
    told: list[tuple[str, str]] = []
    for need, mine, here, theirs, there in rows(case):
        if mine is None or theirs is None or not mine.exists or not theirs.exists:
            continue
        if mine.is_block or theirs.is_block:
            yield from _same_device(case, need, mine, theirs)
            continue
        if here is None or there is None:
            continue
        if not here.common and not there.common:
            if need.disk is not None:
                yield from _same_copy(case, need, mine, theirs)
            continue
        if proofs:
            proof = proofs.get(need.folder)
            if proof is not None and not proof.problem and need.path not in (here.mount.point, there.mount.point):
                continue
        key = (here.mount.point, there.mount.point)
        if key not in told:
            for finding in _same_folder(case, need, (mine, here.mount), (theirs, there.mount)):
                told.append(key)
                yield finding


def _same_folder(
    case: Case, need: Need, mine: tuple[PathFact, MountFact], theirs: tuple[PathFact, MountFact]
) -> Iterator[Finding]:
    """By a proof of the folder, else by what the two mounts are."""
    proof = case.hosts.storage.get(need.folder)
    # A file that is itself mounted over is not what its folder is.
    of_folder = need.path not in (mine[1].point, theirs[1].point)
    if proof is not None and of_folder and proof.problem not in FOLDERS_UNPROVED:
        if proof.problem == "different":
            yield _other_storage(case, need, mine[1], theirs[1], text=proof.text, proved_usec=proof.taken_usec)
        return
    found = of_files(need.path, case.hosts, mine, theirs)
    if found is Sameness.DIFFERENT:
        yield _other_storage(case, need, mine[1], theirs[1])
    elif found is Sameness.UNKNOWN:
        yield SAME.finding(
            f"Whether {need.path} ({need.what}) lies on the same storage on {case.there} is not known.",
            host=case.there,
            subject=mine[1].point,
            expected=described(mine[1]),
            found=f"{described(theirs[1])}, which does not tell enough of itself",
            remedy=f"kvmigctl check {quoted(case.guest)} {case.there}, with proofs; on both hosts: "
            f"findmnt -T {need.path}",
            basis=Basis.ASSUMED,
            severity=Severity.WARN,
        )


def _other_storage(
    case: Case, need: Need, mine: MountFact, theirs: MountFact, *, text: str = "", proved_usec: int = 0
) -> Finding:
    if is_common(mine):
        remedy = f"On {case.there}: {mount_command(mine, over=theirs)}, and the same in /etc/fstab"
    elif theirs.point != "/" and is_common(theirs):
        remedy = f"On {case.here}: move {need.path} to the storage that {case.there} has: {mount_command(theirs)}"
    else:
        remedy = f"Put {need.path} where both hosts have it, on shared storage"
    return SAME.finding(
        f"{need.path} ({need.what}) lies on different storage on {case.there}.",
        host=case.there,
        subject=mine.point,
        expected=described(mine),
        found=f"{described(theirs)}: {text}" if text else described(theirs),
        remedy=remedy,
        basis=Basis.PROVED if text else Basis.COMPARED,
        proved_usec=proved_usec,
    )


def _same_device(case: Case, need: Need, mine: PathFact, theirs: PathFact) -> Iterator[Finding]:
    if mine.is_block != theirs.is_block:
        found, what = Sameness.DIFFERENT, ("a block device" if theirs.is_block else "a file")
        expected = "a block device" if mine.is_block else "a file"
    else:
        found = of_devices((case.source, mine), (case.destination, theirs))
        if found is Sameness.SAME:
            return
        expected, what = called(case.source, mine.device), called(case.destination, theirs.device)
    yield SAME.finding(
        f"{need.path} ({need.what}) is another disk on {case.there}."
        if found is Sameness.DIFFERENT
        else f"Whether {need.path} ({need.what}) is the same disk on {case.there} is not known.",
        host=case.there,
        subject=need.path,
        expected=expected,
        found=what,
        remedy=f"On both hosts: lsblk -o NAME,WWN,SERIAL,UUID {need.path}; udevadm info {need.path}; "
        f"give {case.there} the same LUN or volume under this name",
        basis=Basis.COMPARED if found is Sameness.DIFFERENT else Basis.ASSUMED,
        severity=Severity.BLOCK if found is Sameness.DIFFERENT else Severity.WARN,
    )


def _same_copy(case: Case, need: Need, mine: PathFact, theirs: PathFact) -> Iterator[Finding]:
    """Files on each host's own disk: media and base images may be copies, if they are true ones."""
    if need.written or (mine.size, mine.changed_usec) == (theirs.size, theirs.changed_usec):
        return
    differs = mine.size != theirs.size
    finding = SAME.finding(
        f"{need.path} ({need.what}) is another file on {case.there}."
        if differs
        else f"{need.path} ({need.what}) may be another file on {case.there}: it has another age.",
        host=case.there,
        subject=need.path,
        expected=f"a copy of the file on {case.here}, {mine.size} bytes",
        found=f"{theirs.size} bytes" if differs else "as many bytes, changed at another time",
        remedy=f"On {case.here}: rsync -t {need.path} {case.there}:{need.path}; or put it on shared storage",
        basis=Basis.COMPARED if differs else Basis.ASSUMED,
        severity=Severity.BLOCK if differs else Severity.WARN,
    )
    yield msgspec.structs.replace(finding, ways=()) if need.is_medium else finding
