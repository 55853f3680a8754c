"""Whether QEMU's user on the destination can get at the guest's disks."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.needs import Need, rows
from kvmigd.checks.places import Place
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.hypervisor import QemuSettings
from kvmigd.model.mounts import MountKind
from kvmigd.model.storage import PathFact

ACCESS = Check(
    id="storage.access",
    severity=Severity.BLOCK,
    title="QEMU's user on the destination can read the guest's files, and write to its disks.",
    why="QEMU there does not start: Permission denied. libvirt gives images to QEMU's user (dynamic_ownership), but "
    "changes no folder, and a server that squashes root does not let it.",
    known="The destination's daemon tries it, as QEMU's user; the numbers of the users of both hosts are compared.",
    remedy="Let QEMU's user enter the folders (setfacl -m u:USER:x); give it the same numbers on all hosts.",
)


@rule(Scope.PAIR, reads="guest look mounts hypervisor proofs", tells=(ACCESS,))
def storage_access(case: Case) -> Iterator[Finding]:
    """QEMU's user on the destination can read the guest's files, and write to its disks."""
    proofs = case.hosts.storage
    barred: list[str] = []
    for need, _mine, _here, fact, there in rows(case):
        if fact is None:
            continue
        if fact.barred:
            if fact.barred not in barred:
                barred.append(fact.barred)
                yield _barred(case, need, fact.barred)
        elif fact.readable is False or (need.written and fact.writable is False):
            yield from _refused(case, need, fact, there)
        elif proofs and fact.readable is None:
            proof = proofs.get(need.folder)
            if proof is not None and proof.problem == "denied" and proof.folder not in barred:
                barred.append(proof.folder)
                yield _barred(case, need, proof.folder, text=proof.text, proved_usec=proof.taken_usec)
    if not barred:
        mine, theirs = case.source.state.hypervisor.settings, case.destination.state.hypervisor.settings
        if mine.uid != theirs.uid or mine.gid != theirs.gid:
            yield from _numbers(case, mine, theirs)


def _user(settings: QemuSettings) -> str:
    return f"{settings.user or 'QEMU'} ({settings.uid}:{settings.gid})" if settings.uid >= 0 else "QEMU's user"


def _barred(case: Case, need: Need, folder: str, *, text: str = "", proved_usec: int = 0) -> Finding:
    user = _user(case.destination.state.hypervisor.settings)
    name = case.destination.state.hypervisor.settings.user or "libvirt-qemu"
    return ACCESS.finding(
        f"QEMU on {case.there} may not enter {folder}, and so not open {need.path} ({need.what}).",
        host=case.there,
        subject=folder,
        expected=f"a folder that {user} may enter",
        found=text or "Permission denied",
        remedy=f"On {case.there}: setfacl -m u:{name}:x {folder}, or chmod o+x {folder}",
        basis=Basis.PROVED,
        proved_usec=proved_usec,
    )


def _refused(case: Case, need: Need, fact: PathFact, place: Place | None) -> Iterator[Finding]:
    """What QEMU's user may not do now; where libvirt changes owners that is no matter, if its server lets root."""
    settings = case.destination.state.hypervisor.settings
    if need.written and fact.readable is not False and place is not None and place.readonly:
        return  # storage.readonly says so
    given = settings.dynamic_ownership and need.what != "firmware"
    if given and (place is None or place.mount.kind is not MountKind.NETWORK):
        return
    does = "read" if fact.readable is False else "write to"
    owner = f"{fact.uid}:{fact.gid} {fact.mode:04o}"
    yield ACCESS.finding(
        f"QEMU on {case.there} may not {does} {need.path} ({need.what})"
        + (", unless its server lets root give it away (no_root_squash)." if given else "."),
        host=case.there,
        subject=need.path,
        expected=f"a file that {_user(settings)} may {'read and write' if need.written else 'read'}",
        found=f"owner and mode {owner}" if fact.uid >= 0 else "Permission denied",
        remedy=f"On {case.there}: chown {settings.uid}:{settings.gid} {need.path}"
        if settings.uid >= 0 and need.what != "firmware"
        else f"On {case.there}: chmod a+r {need.path}",
        basis=Basis.ASSUMED if given else Basis.PROVED,
        severity=Severity.WARN if given else Severity.BLOCK,
    )


def _numbers(case: Case, mine: QemuSettings, theirs: QemuSettings) -> Iterator[Finding]:
    """QEMU's user has other numbers there; it only matters for files that both have."""
    if mine.problem or theirs.problem or min(mine.uid, theirs.uid) < 0:
        return
    for need, _mine, _here, fact, there in rows(case):
        if not need.written or fact is None or fact.is_block or fact.writable or there is None or not there.common:
            continue
        yield ACCESS.finding(
            f"QEMU's user has other numbers on {case.there} than on {case.here}: the owner of {need.path} changes on "
            "the way, if libvirt may change it.",
            host=case.there,
            subject="QEMU's user",
            expected=_user(mine),
            found=_user(theirs),
            remedy=f"On {case.there}, with its guests shut off: groupmod -g {mine.gid} GROUP; usermod -u {mine.uid} "
            f"{theirs.user or 'USER'}; chown its files; or user and group in /etc/libvirt/qemu.conf",
            severity=Severity.WARN,
        )
        return
