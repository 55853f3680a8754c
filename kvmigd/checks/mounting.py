"""How storage is mounted: for good, with the same options, writable, with room left."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.needs import rows
from kvmigd.checks.places import Place, containing, described, mount_command
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, Hosts, HostView
from kvmigd.model.finding import Finding, Severity
from kvmigd.model.mounts import MountFact, Persistence

READONLY = Check(
    id="storage.readonly",
    severity=Severity.BLOCK,
    title="What the guest writes to is not mounted read-only on the destination.",
    why="QEMU there cannot open the disk for writing, and does not start.",
    known="The destination's mount table.",
    remedy="mount -o remount,rw POINT, and in /etc/fstab; or mend the export on the server.",
)
OPTIONS = Check(
    id="storage.options",
    severity=Severity.WARN,
    title="Storage is mounted with the same options on both hosts, as far as they matter for disks.",
    why="With soft, writes of the guest get lost when the server is slow; with nolock nothing keeps two QEMUs apart; "
    "other versions and security flavours fail in other ways.",
    known="soft, nolock, version, security flavour and context in the mount tables of both hosts are compared.",
    remedy="umount and mount with the options of the other host, and in /etc/fstab.",
)
PERSISTENT = Check(
    id="storage.persistent",
    severity=Severity.WARN,
    title="The guest's storage is mounted again after a reboot of the destination.",
    why="What was mounted by hand is gone after a reboot, and the guest does not start then.",
    known="The mount is looked for in fstab, systemd's units and autofs.",
    remedy="Put it into /etc/fstab with _netdev, then systemctl daemon-reload.",
)
SPACE = Check(
    id="storage.space",
    severity=Severity.WARN,
    title="The destination has room for what libvirt and QEMU write beside disks.",
    why="Logs, variables of firmware, states of TPMs and saved memory go to /var and /run; without room QEMU does not "
    "start, or stops.",
    known="The room and the files left of the mounts below /var/lib/libvirt and /var/log.",
    remedy="df -h and df -i; free room.",
)

ROOM = 64 << 20
"""Bytes that must be left: firmware variables and logs of some guests."""
FILES = 128
"""Files that must be left."""
_FOLDERS = ("/var/lib/libvirt/qemu", "/var/log/libvirt/qemu", "/run/libvirt/qemu")


@rule(Scope.PAIR, reads="guest look mounts", tells=(READONLY, OPTIONS, PERSISTENT))
def mounted_alike(case: Case) -> Iterator[Finding]:
    """The storage of the guest's disks is mounted on the destination for good, writable, and with the same options."""
    told: list[str] = []
    for need, _mine, here, fact, there in rows(case):
        if need.disk is None or there is None or fact is None or not fact.exists or fact.is_block:
            continue
        differs = here is not None and here.common and here.options != there.options
        by_hand = there.mount.persistence is Persistence.HAND
        if not (there.readonly and need.written) and not (there.common and (by_hand or differs)):
            continue
        if there.mount.point in told:
            continue
        told.append(there.mount.point)
        if there.readonly and need.written:
            yield _readonly(case, there.mount, f"{need.path} ({need.what})")
        if by_hand and there.common:
            yield _by_hand(case, there.mount)
        if here is not None and differs and there.common:
            yield _options(case, here, there)


def _readonly(case: Case, mount: MountFact, what: str) -> Finding:
    of_system = "ro" not in mount.options or "ro" in mount.super_options
    return READONLY.finding(
        f"{what} can only be read on {case.there}: {mount.point} is mounted read-only.",
        host=case.there,
        subject=mount.point,
        expected="mounted rw",
        found=f"ro: {described(mount)}",
        remedy=f"On {case.there}: mount -o remount,rw {shlex.quote(mount.point)}, and in /etc/fstab"
        + ("; where that fails, see dmesg, or the export on the server" if of_system else ""),
    )


def _by_hand(case: Case, mount: MountFact) -> Finding:
    line = f"{mount.source} {mount.point} {mount.fs_type.removeprefix('fuse.')} defaults,_netdev 0 0"
    return PERSISTENT.finding(
        f"{mount.point} was mounted by hand on {case.there}: it is not there after a reboot.",
        host=case.there,
        subject=mount.point,
        expected="a line in /etc/fstab, a mount unit or autofs",
        found=f"none for {described(mount)}",
        remedy=f"On {case.there}: echo {shlex.quote(line)} >> /etc/fstab && systemctl daemon-reload",
    )


def _options(case: Case, mine: Place, theirs: Place) -> Finding:
    differing = ", ".join(sorted({word.partition("=")[0] for word in mine.options ^ theirs.options}))
    return OPTIONS.finding(
        f"{theirs.mount.point} is mounted with other options on {case.there} ({differing}).",
        host=case.there,
        subject=theirs.mount.point,
        expected=",".join(sorted(mine.options - theirs.options)) or f"without {differing}",
        found=",".join(sorted(theirs.options - mine.options)) or f"without {differing}",
        remedy=f"On {case.there}: {mount_command(mine.mount, over=theirs.mount)}, and the same in /etc/fstab",
    )


@rule(Scope.HOSTS, reads="mounts", tells=(SPACE,))
def room_left(hosts: Hosts) -> Iterator[Finding]:
    """The destination has room for what libvirt and QEMU write beside disks."""
    told: set[str] = set()
    for folder in _FOLDERS:
        mount = containing(hosts.destination, folder)
        if mount is not None and mount.key not in told:
            told.add(mount.key)
            yield from _room(hosts.destination, folder, mount)


def _room(host: HostView, folder: str, mount: MountFact) -> Iterator[Finding]:
    space = mount.space
    if space is None or not space.total:
        return
    few = 0 < space.files_free < FILES
    if space.free >= ROOM and not few:
        return
    yield SPACE.finding(
        f"{mount.point} on {host.name} has next to no {'files' if few else 'room'} left, and {folder} is on it.",
        host=host.name,
        subject=mount.point,
        expected=f"{FILES} files" if few else f"{ROOM >> 20} MiB free",
        found=f"{space.files_free} files" if few else f"{space.free >> 20} MiB free",
        remedy=f"On {host.name}: df -{'i' if few else 'h'} {shlex.quote(mount.point)}; free room there",
    )
