"""What disks stand on: paths to LUNs, iSCSI sessions, clusters, and the locks of images."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.needs import needs
from kvmigd.checks.places import mount_of
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.sameness import device_at, disks_below, identity
from kvmigd.checks.view import Case, Hosts, HostView, Local
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.mounts import MountFact
from kvmigd.model.storage import BlockDevice, DeviceKind, Multipath, PathFact

PATHS = Check(
    id="fabric.paths",
    severity=Severity.BLOCK,
    title="The disks below the guest's storage are reached by all their paths.",
    why="Without a path QEMU cannot open the disk; with one of several, the next failure stops the guest.",
    known="Multipath maps, iSCSI sessions, Fibre Channel ports and the states of disks, by the kernel's events.",
    remedy="multipath -ll; iscsiadm -m session -P 1; cat /sys/class/fc_host/*/port_state; look at cables and zoning.",
)
CLUSTER = Check(
    id="storage.cluster",
    severity=Severity.BLOCK,
    title="Both hosts are members of the cluster that the guest's storage belongs to, and it has quorum.",
    why="Without quorum, or outside of the lockspace, GFS2, OCFS2 and lvmlockd stop all I/O or damage the file system.",
    known="corosync's word on the quorum and the kernel's DLM lockspaces.",
    remedy="pcs cluster start; corosync-quorumtool -s; dlm_tool ls; mount the file system.",
)
LOCK = Check(
    id="storage.lock",
    severity=Severity.BLOCK,
    title="Both hosts lock images in the same way.",
    why="libvirt refuses a guest that goes to or comes from a host with sanlock alone; with lockd on one host alone it "
    "goes, but nothing keeps two guests from the same image.",
    known="lock_manager in qemu.conf of both hosts, read when libvirt was connected.",
    remedy="The same lock_manager in /etc/libvirt/qemu.conf on both hosts; restart libvirtd (virtqemud).",
)

_WORKING = ("running", "live", "")


@rule(Scope.GUEST, reads="guest look storage", tells=(PATHS,))
def paths_here(local: Local) -> Iterator[Finding]:
    """The guest's disks are reached by all paths on its host; it may leave one that has lost some."""
    if local.look is None or not local.source.state.storage.devices:
        return
    for need in needs(local):
        fact = local.paths_here.get(need.path)
        if fact is not None and need.top:
            yield from _paths(local.source, fact, need.what)


@rule(Scope.PAIR, reads="guest look storage", tells=(PATHS,))
def paths_there(case: Case) -> Iterator[Finding]:
    """The guest's disks are reached by all paths on the destination."""
    if case.look is None or not case.destination.state.storage.devices:
        return
    there = case.paths_there
    for need in needs(case.local):
        fact = there.get(need.path)
        if fact is not None and need.top:
            yield from _paths(case.destination, fact, need.what)


def _paths(host: HostView, fact: PathFact, what: str) -> Iterator[Finding]:
    if not fact.exists or device_at(host, fact.device) is None:
        return
    maps = {one.device: one for one in host.state.storage.multipaths}
    for device in disks_below(host, fact.device):
        known = maps.get(device.name)
        if known is not None:
            if len(known.active) < len(known.paths) or not known.active:
                yield _few(host, known, what)
        elif device.kind in (DeviceKind.DISK, DeviceKind.MULTIPATH) or device.state == "suspended":
            yield from _disk(host, device, what)


def _few(host: HostView, known: Multipath, what: str) -> Finding:
    return PATHS.finding(
        f"{host.name} has {len(known.active) or 'none'} of {len(known.paths)} paths to {known.name}, on which {what} "
        "is.",
        host=host.name,
        subject=known.name,
        expected=f"{len(known.paths)} active paths to {known.wwid}",
        found=f"{len(known.active)}; failed: {', '.join(sorted(set(known.paths) - set(known.active)))}",
        remedy=f"On {host.name}: multipath -ll {known.name}; iscsiadm -m session; "
        "grep . /sys/class/fc_host/*/port_state; mend cable, port or zoning",
        basis=Basis.PROVED,
        severity=Severity.WARN if known.active else Severity.BLOCK,
    )


def _disk(host: HostView, device: BlockDevice, what: str) -> Iterator[Finding]:
    found = "" if device.state in _WORKING else device.state
    remedy = f"cat /sys/block/{device.name}/device/state; dmesg | grep {device.name}"
    if device.state == "suspended":
        remedy = f"dmsetup resume {device.dm_name or device.name}"
    if device.transport == "iscsi":
        for session in host.state.storage.iscsi:
            if session.state != "LOGGED_IN" and any(lun.endswith(f"={device.name}") for lun in session.luns):
                found = f"session to {session.target} {session.state or 'lost'}"
                remedy = f"iscsiadm -m node -T {session.target} --login; iscsiadm -m session -P 1"
    elif device.transport == "fc" and not found:
        ports = host.state.storage.fibre_channel
        if ports and all(port.state != "Online" for port in ports):
            found = ", ".join(f"{port.name} {port.state or 'down'}" for port in ports)
            remedy = "grep . /sys/class/fc_host/*/port_state; mend cable, port or zoning"
    if found:
        yield PATHS.finding(
            f"The disk {device.name}, on which {what} is, does not work on {host.name}.",
            host=host.name,
            subject=device.wwid or device.name,
            expected="a disk that answers",
            found=found,
            remedy=f"On {host.name}: {remedy}",
            basis=Basis.PROVED,
        )


@rule(Scope.PAIR, reads="guest look mounts storage", tells=(CLUSTER,))
def cluster_joined(case: Case) -> Iterator[Finding]:
    """Both hosts are in the cluster that the guest's storage belongs to."""
    if case.look is None:
        return
    told: list[str] = []
    for need in needs(case.local):
        if not need.top:
            continue
        for host, facts in ((case.source, case.paths_here), (case.destination, case.paths_there)):
            fact = facts.get(need.path)
            if fact is None or fact.mount is None or not fact.exists:
                continue
            if fact.is_block:
                yield from _group(case, host, fact)
            elif fact.mount.fs_type in ("gfs2", "ocfs2"):
                mount = mount_of(host, fact)
                if mount is not None and f"{host.name}:{mount.point}" not in told:
                    told.append(f"{host.name}:{mount.point}")
                    yield from _cluster(host, mount)


def _cluster(host: HostView, mount: MountFact) -> Iterator[Finding]:
    storage = host.state.storage
    if storage.quorate is False:
        yield CLUSTER.finding(
            f"The cluster of {mount.point} has no quorum on {host.name}.",
            host=host.name,
            subject=mount.point,
            expected="Quorate: Yes",
            found="Quorate: No",
            remedy=f"On {host.name}: corosync-quorumtool -s; pcs cluster start --all, or systemctl start corosync",
            basis=Basis.PROVED,
        )
    name = identity(host, mount).lock_table.rpartition(":")[2]
    spaces = {space.name: space for space in storage.lockspaces}
    space = spaces.get(name)
    # OCFS2 can do without: its own stack locks in another way.
    if name and space is None and mount.fs_type == "gfs2" and "lockproto=lock_nolock" not in mount.super_options:
        yield CLUSTER.finding(
            f"{host.name} has not joined the lockspace {name} of {mount.point}.",
            host=host.name,
            subject=name,
            expected="a member",
            found=f"lockspaces: {', '.join(sorted(spaces)) or 'none'}",
            remedy=f"On {host.name}: systemctl start dlm; dlm_tool ls; umount {mount.point} and mount it again",
            basis=Basis.PROVED,
        )
    elif space is not None and space.control:
        yield CLUSTER.finding(
            f"The lockspace {name} of {mount.point} is {space.control} on {host.name}.",
            host=host.name,
            subject=name,
            expected="a lockspace at rest",
            found=space.control,
            remedy=f"On {host.name}: dlm_tool ls; wait until all members are there, or are fenced",
            basis=Basis.PROVED,
            severity=Severity.WARN,
        )


def _group(case: Case, host: HostView, fact: PathFact) -> Iterator[Finding]:
    """A volume of a group that lvmlockd guards on one host must be guarded on the other."""
    device = device_at(host, fact.device)
    if host is not case.destination or device is None or not device.dm_uuid.startswith("LVM-"):
        return
    uuid = device.dm_uuid[4:36]
    mine, theirs = (
        next((group for group in one.state.storage.volume_groups if group.uuid.replace("-", "") == uuid), None)
        for one in (case.source, case.destination)
    )
    if mine is not None and theirs is not None and mine.lock_type and mine.lock_type != theirs.lock_type:
        yield CLUSTER.finding(
            f"The locks of volume group {theirs.name} are not started on {case.there}.",
            host=case.there,
            subject=theirs.name,
            expected=mine.lock_type,
            found=theirs.lock_type or "none",
            remedy=f"On {case.there}: systemctl start lvmlockd; vgchange --lock-start {theirs.name}",
            severity=Severity.WARN,
        )


@rule(Scope.HOSTS, reads="hypervisor", tells=(LOCK,))
def lock_manager(hosts: Hosts) -> Iterator[Finding]:
    """Both hosts lock images in the same way.

    libvirt only looks at what has a state to hand over (VIR_LOCK_MANAGER_USES_STATE), and that is sanlock.
    """
    mine, theirs = hosts.source.state.hypervisor.settings, hosts.destination.state.hypervisor.settings
    if mine.lock_manager == theirs.lock_manager or mine.problem or theirs.problem:
        return
    want = f'lock_manager = "{mine.lock_manager}"' if mine.lock_manager else "no lock_manager"
    yield LOCK.finding(
        f"{hosts.here} locks images with {mine.lock_manager or 'nothing'}, {hosts.there} with "
        f"{theirs.lock_manager or 'nothing'}.",
        host=hosts.there,
        subject="lock_manager",
        expected=mine.lock_manager or "none",
        found=theirs.lock_manager or "none",
        remedy=f"On {hosts.there}: {want} in /etc/libvirt/qemu.conf; systemctl restart libvirtd (virtqemud)",
        severity=Severity.BLOCK if "sanlock" in (mine.lock_manager, theirs.lock_manager) else Severity.WARN,
    )
