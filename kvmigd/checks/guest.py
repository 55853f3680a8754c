"""The guest itself: what it is, and whether its place on the destination is free."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from kvmigd.checks.check import Check, Way
from kvmigd.checks.memory import memory_needed
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, Local
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.guest import GuestState
from kvmigd.model.host import NameFact

__all__ = ["memory_needed"]

STATE = Check(
    id="guest.state",
    severity=Severity.BLOCK,
    title="The guest runs.",
    why="Only a guest whose CPUs run can be migrated live; one that is paused or shut off can be moved offline.",
    known="libvirt's state of the guest, kept by its events.",
    remedy="virsh start GUEST or virsh resume GUEST; or move it offline.",
    ways=(Way.OFFLINE,),
)
NAME = Check(
    id="guest.name",
    severity=Severity.BLOCK,
    title="No other guest has the guest's name on the destination.",
    why="libvirt refuses a guest whose name another one has.",
    known="The destination's libvirt is asked for the name.",
    remedy="virsh domrename on the destination.",
    fixed=True,
)
GUEST_UUID = Check(
    id="guest.uuid",
    severity=Severity.BLOCK,
    title="No other guest has the guest's UUID on the destination, and the guest does not run there.",
    why="It may be the same guest running twice, with both writing to one disk.",
    known="The destination's libvirt is asked for the UUID.",
    remedy="Find out which of the two is right before either is touched: virsh dominfo UUID on both hosts.",
    fixed=True,
)
DEFINITION = Check(
    id="guest.definition",
    severity=Severity.UNKNOWN,
    title="The guest's definition is understood.",
    why="Of a guest whose definition cannot be read nothing is known, so nothing is promised.",
    known="libvirt gives the definition whenever it changes.",
    remedy="virsh dumpxml GUEST; virt-xml-validate finds what is wrong with it.",
    fixed=True,
)
SAVE = Check(
    id="guest.save",
    severity=Severity.BLOCK,
    title="No saved image of the guest's memory stays behind on its host, and none waits on the destination.",
    why="The image (virsh managedsave) of a guest that is shut off stays on the host, and with it what the guest was "
    "doing; on the other host the guest would boot anew from disks it takes to be in use. An old one on the "
    "destination would be restored at the guest's next start there, over a disk that is newer, and destroy it.",
    known="libvirt tells whether there is one; that of the destination is asked.",
    remedy="virsh start GUEST and move it live, or virsh managedsave-remove GUEST on the host that has the image.",
)
BUSY = Check(
    id="hypervisor.busy",
    severity=Severity.BLOCK,
    title="libvirt does nothing else with the guest.",
    why="While it is migrated, saved, dumped or backed up, libvirt refuses another job after 30 seconds.",
    known="libvirt's events of jobs.",
    remedy="virsh domjobinfo GUEST; wait for its end, or virsh domjobabort GUEST.",
)
AUTOSTART = Check(
    id="guest.autostart",
    severity=Severity.WARN,
    title="Only the host on which the guest runs starts it by itself.",
    why="A definition that the destination starts when it boots can make the guest run on both hosts, and two that "
    "write to one disk destroy it.",
    known="libvirt's picture on the destination.",
    remedy="virsh autostart --disable GUEST on the destination.",
)
VSOCK = Check(
    id="guest.vsock",
    severity=Severity.BLOCK,
    title="No guest on the destination has the number of the guest's vsock.",
    why="The kernel gives a context identifier (CID) to one guest only, and QEMU does not start without it.",
    known="The fixed numbers of the guests that run there; what libvirt chooses itself it chooses anew.",
    remedy="virsh edit GUEST: <vsock><cid auto='yes'/></vsock>, and restart it.",
    ways=(Way.SHUTDOWN,),
)
SECURITY_MODEL = Check(
    id="security.model",
    severity=Severity.BLOCK,
    title="The destination has the security drivers that label the guest.",
    why="The definition that travels names them, and libvirt starts no guest whose driver it does not have.",
    known="The guest's <seclabel> elements are compared with the security models of the destination's libvirt.",
    remedy="The same security_driver in /etc/libvirt/qemu.conf on both hosts, SELinux or AppArmor on in both kernels.",
)


_WAKE = {
    GuestState.SUSPENDED: "virsh dompmwakeup",
    GuestState.PAUSED: "virsh resume",
}
_SECLABEL_NONE = 12_003_000
"""From this libvirt on a label of type none needs no driver."""


@rule(Scope.GUEST, reads="guest", tells=(STATE, DEFINITION, SAVE, BUSY))
def guest_state(local: Local) -> Iterator[Finding]:
    """The guest runs, is understood, and nothing else is done with it."""
    guest = local.guest
    if not guest.state.is_executing and not local.options.offline:
        yield STATE.finding(
            f"{guest.name} is not running.",
            host=local.here,
            subject=guest.name,
            expected="running",
            found=str(guest.state),
            remedy=f"On {local.here}: {_WAKE.get(guest.state, 'virsh start')} {quote(guest.name)}",
            basis=Basis.PROVED,
        )
    if guest.problem:
        yield DEFINITION.finding(
            f"The definition of {guest.name} is not understood.",
            host=local.here,
            subject=guest.name,
            expected="a definition that can be read",
            found=guest.problem,
            remedy=f"On {local.here}: virsh dumpxml {quote(guest.name)}",
            basis=Basis.PROVED,
        )
    # Of a guest that runs the image is of the past; libvirt removed it when the guest was started.
    if guest.managed_save and not guest.state.is_active:
        yield SAVE.finding(
            f"The memory of {guest.name} is saved on {local.here} and would stay there.",
            host=local.here,
            subject="managed save image",
            expected="no saved image",
            found="a managed save image",
            remedy=f"On {local.here}: virsh start {quote(guest.name)}, then move it live; or virsh "
            f"managedsave-remove {quote(guest.name)}, if what it was doing does not matter",
            basis=Basis.PROVED,
        )
    if guest.job != "none":
        yield BUSY.finding(
            f"libvirt is busy with {guest.name}.",
            host=local.here,
            subject=guest.name,
            expected="no job",
            found=_JOBS.get(guest.job, guest.job),
            remedy=f"On {local.here}: virsh domjobinfo {quote(guest.name)}; wait for its end, or virsh "
            f"domjobabort {quote(guest.name)}",
            basis=Basis.PROVED,
        )


_JOBS = {
    "outgoing": "it is being migrated to another host",
    "incoming": "it is still arriving",
    "other": "it is being saved, dumped, backed up or the like",
}


@rule(Scope.PAIR, reads="guest look hypervisor", tells=(NAME, GUEST_UUID, SAVE, AUTOSTART))
def guest_place(case: Case) -> Iterator[Finding]:
    """Name and UUID of the guest are free on the destination, where nothing of it is left that would start again."""
    guest, there = case.guest, case.destination
    if guest.job == "outgoing":  # what has its UUID there may be itself, on its way
        return
    namesake, twin = there.guests_by_name.get(guest.name), there.guests.get(guest.uuid)
    if namesake is None and twin is None and (case.look is None or case.look.names == _NOBODY):
        return
    names = case.look.names if case.look else _NOBODY
    holder = namesake.uuid if namesake else names.uuid_of_name
    if holder and holder != guest.uuid:
        yield NAME.finding(
            f"Another guest called {guest.name} is defined on {case.there}.",
            host=case.there,
            subject=guest.name,
            expected=f"no guest of that name, or the one with UUID {guest.uuid}",
            found=f"UUID {holder}",
            remedy=f"On {case.there}: virsh domrename {quote(guest.name)} OTHER-NAME",
            basis=Basis.PROVED,
        )
    called = twin.name if twin else names.name_of_uuid
    active = names.uuid_is_active or (twin is not None and twin.state.is_active)
    if active or (called and called != guest.name):
        yield GUEST_UUID.finding(
            f"A guest with {guest.name}'s UUID {'runs' if active else 'is defined'} on {case.there}.",
            host=case.there,
            subject=guest.uuid,
            expected="no other guest with that UUID",
            found=called,
            remedy=f"On {case.there}: find out which of the two is right before either is touched: "
            f"virsh dominfo {guest.uuid}",
            basis=Basis.PROVED,
        )
        return
    # Nobody tells when an image is removed: what libvirt said when it was asked is newer than the picture.
    if names.uuid_has_save if case.look else twin is not None and twin.managed_save:
        yield SAVE.finding(
            f"An old memory of {guest.name} is saved on {case.there} and would be restored over its disks.",
            host=case.there,
            subject="managed save image",
            expected="no saved image",
            found="a managed save image of the definition that is shut off there",
            remedy=f"On {case.there}: virsh managedsave-remove {quote(guest.name)}",
            basis=Basis.PROVED,
        )
    if twin is not None and twin.autostart:
        yield AUTOSTART.finding(
            f"{case.there} would start {guest.name} when it boots, though it runs on {case.here}.",
            host=case.there,
            subject=guest.name,
            expected="a definition that is not started by itself",
            found="autostart is on",
            remedy=f"On {case.there}: virsh autostart --disable {quote(guest.name)}",
            basis=Basis.PROVED,
        )


_NOBODY = NameFact()


@rule(Scope.PAIR, reads="guest hypervisor", tells=(VSOCK,))
def vsock(case: Case) -> Iterator[Finding]:
    """No guest that runs on the destination has the number that the guest's vsock is set to."""
    guest = case.guest
    if not guest.vsock or guest.vsock_auto:
        return
    for other in case.destination.guests.values():
        if other.vsock == guest.vsock and other.state.is_active and other.uuid != guest.uuid:
            yield VSOCK.finding(
                f"{other.name} on {case.there} has the vsock number of {guest.name}.",
                host=case.there,
                subject=str(guest.vsock),
                expected=f"no other guest with CID {guest.vsock}",
                found=other.name,
                remedy=f"On {case.here}: virsh edit {quote(guest.name)}: <cid auto='yes'/>, and restart it",
            )


@rule(Scope.PAIR, reads="guest hypervisor", tells=(SECURITY_MODEL,))
def security_model(case: Case) -> Iterator[Finding]:
    """The destination's libvirt has the security drivers that label the guest."""
    there = case.destination.state.hypervisor
    if not case.guest.labels or not there.security_models:
        return
    for label in case.guest.labels:
        if label.model in ("", "none") or (label.kind == "none" and there.libvirt >= _SECLABEL_NONE):
            continue
        if not any(model.startswith(f"{label.model}:") for model in there.security_models):
            yield SECURITY_MODEL.finding(
                f"libvirt on {case.there} has no security driver {label.model}, which labels {case.guest.name}.",
                host=case.there,
                subject=label.model,
                expected=f"the security model {label.model}",
                found=", ".join(model.partition(":")[0] for model in there.security_models),
                remedy=f"On {case.there}: virsh capabilities | grep -A2 '<secmodel>'; {_driver(label.model)}",
            )


def _driver(model: str) -> str:
    known = {"apparmor": "aa-enabled; systemctl enable --now apparmor", "selinux": "getenforce; /etc/selinux/config"}
    return f"{known.get(model, 'security_driver in /etc/libvirt/qemu.conf')}; then restart libvirtd (virtqemud)"
