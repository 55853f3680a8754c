"""Devices of the guest that hold on to its host: shared folders and memory, displays, sockets, arguments."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from shlex import quote

from kvmigd.checks.check import Check, Way
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, Local
from kvmigd.host.guestdevices import places_of
from kvmigd.model.devices import Share
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.guest import Guest

SHARE = Check(
    id="guest.share",
    severity=Severity.BLOCK,
    title="The guest sees no folder of its host, or one that can be moved.",
    why="libvirt before 10.7 and QEMU before 8.2 move no guest with virtiofs; later it is the virtiofsd that must be "
    "able to. QEMU moves no guest that has a 9p folder mounted, and none with MTP.",
    known="The guest's <filesystem> elements, the versions of libvirt and QEMU, and a look at the destination.",
    remedy="umount it in the guest, then virsh detach-device GUEST FILESYSTEM.xml --live. NFS in the guest can move.",
    ways=(Way.SHUTDOWN,),
)
MEMORY_SHARE = Check(
    id="guest.memory_share",
    severity=Severity.BLOCK,
    title="The guest shares no memory with other guests, or is the master of it.",
    why="libvirt moves a guest with an ivshmem device only if its role is master: then what is in it goes along.",
    known="The guest's <shmem> elements, and a look at the destination for the server's socket.",
    remedy="virsh detach-device GUEST SHMEM.xml --live, or role='master'.",
    ways=(Way.SHUTDOWN,),
)
SECURITY = Check(
    id="guest.security",
    severity=Severity.BLOCK,
    title="The guest's memory can be read by its host.",
    why="QEMU cannot move a guest with SEV, SEV-SNP, TDX or secure execution: its memory is encrypted for this host.",
    known="The guest's <launchSecurity>.",
    remedy="Shut it down and start it there.",
    ways=(Way.SHUTDOWN,),
)
BLOCKERS = Check(
    id="guest.blockers",
    severity=Severity.BLOCK,
    title="QEMU has learnt to move all devices of the guest.",
    why="It refuses a guest with 3D acceleration (virgl), virtio-crypto, NVMe controllers, USB sound, input devices "
    "of the host, the SPICE agent without SPICE (before 10.1), or with all of the host's Hyper-V features.",
    known="The guest's definition; only a migration that has begun would tell it of QEMU itself.",
    remedy="virsh edit GUEST: another model of the device, and a restart.",
    ways=(Way.SHUTDOWN,),
)
DISPLAY = Check(
    id="guest.display",
    severity=Severity.BLOCK,
    title="The address that the guest's display listens on is one of the destination's too.",
    why="QEMU does not start where it cannot listen.",
    known="The <listen> elements of the guest's <graphics> are compared with the destination's addresses.",
    remedy="virsh edit GUEST: <listen type='address' address='0.0.0.0'/>, or type='network'; a restart of the guest.",
    ways=(Way.SHUTDOWN,),
)
SOCKETS = Check(
    id="guest.sockets",
    severity=Severity.BLOCK,
    title="Serial ports, channels and their like find their devices, sockets and folders on the destination.",
    why="QEMU opens them when it starts, and does not start where one is missing.",
    known="The destination looks for the paths; those that libvirt makes itself are left out.",
    remedy="Make it there, or detach the device: virsh detach-device GUEST DEVICE.xml --live.",
)
LEASE = Check(
    id="guest.lease",
    severity=Severity.WARN,
    title="The guest holds no lease of a lock manager, or both hosts have the same one.",
    why="The destination takes the leases over; with another lock manager there, or without its lockspace, the guest "
    "does not start.",
    known="The guest's <lease> elements; what lock manager the hosts have is not known.",
    remedy="The same lock_manager in /etc/libvirt/qemu.conf on both hosts, and the lockspace on both.",
)
ARGUMENTS = Check(
    id="guest.arguments",
    severity=Severity.WARN,
    title="The guest has no arguments for QEMU that libvirt does not know.",
    why="They are given to QEMU on the destination as they are. Files, devices and ports in them are not looked for.",
    known="<qemu:commandline> in the guest's definition.",
    remedy="See that everything they name is on both hosts; better say it in libvirt's words.",
)
_VIRTIOFS_LIBVIRT, _VIRTIOFS_QEMU = 10_007_000, 8_002_000
_VDAGENT_QEMU = 10_001_000


@rule(Scope.GUEST, reads="guest hypervisor", tells=(SHARE, MEMORY_SHARE, SECURITY, BLOCKERS))
def bound_devices(local: Local) -> Iterator[Finding]:
    """Nothing of the guest is bound to its host in a way that libvirt or QEMU refuses to move."""
    guest = local.guest
    if not (guest.shares or guest.shared_memory or guest.launch_security or guest.unmovable):
        return
    if not guest.state.is_active:  # nothing to move but the definition
        return
    for share in guest.shares:
        yield from _share(local, share)
    for memory in guest.shared_memory:
        if memory.role != "master" or memory.model == "ivshmem":
            yield MEMORY_SHARE.finding(
                f"{guest.name} shares the memory {memory.name} with other guests of {local.here}.",
                host=local.here,
                subject=memory.name,
                expected="no shared memory, or role='master' (and not the old model ivshmem)",
                found=f"model {memory.model or '?'}, role {memory.role or 'peer'}",
                remedy=f"On {local.here}: virsh detach-device {quote(guest.name)} SHMEM.xml --live",
            )
    if guest.launch_security:
        yield SECURITY.finding(
            f"The memory of {guest.name} is protected from its host, and QEMU cannot move it.",
            host=local.here,
            subject=guest.launch_security,
            expected="no launch security",
            found=guest.launch_security,
            remedy=f"On {local.here}: virsh shutdown {quote(guest.name)}, and start it on the other host",
        )
    for device in guest.unmovable:
        if device.endswith("'qemu-vdagent'") and local.source.state.hypervisor.qemu >= _VDAGENT_QEMU:
            continue
        if (
            device.startswith("hyperv ") and guest.domain_type != "kvm"
        ):  # without KVM there is nothing of the host's in it
            continue
        yield BLOCKERS.finding(
            f"QEMU cannot move {guest.name} with {device}.",
            host=local.here,
            subject=device,
            expected="only devices that QEMU can move",
            found=f"<{device}>",
            remedy=f"On {local.here}: virsh edit {quote(guest.name)}: {_INSTEAD.get(device, 'no such device')}, and "
            "restart it",
        )


_INSTEAD = {
    "acceleration accel3d='yes'": "<acceleration accel3d='no'/>",
    "hyperv mode='passthrough'": "<hyperv mode='custom'> with each feature that it needs",
    "sound model='usb'": "<sound model='ich9'/>",
    "target bus='nvme'": "<target bus='virtio'/>",
}


def _share(local: Local, share: Share) -> Iterator[Finding]:
    versions, warns = local.source.state.hypervisor, False
    if share.driver == "virtiofs":
        warns = versions.libvirt >= _VIRTIOFS_LIBVIRT and versions.qemu >= _VIRTIOFS_QEMU
        how = "moves only if its virtiofsd can" if warns else "keeps it here"
    elif share.driver == "mtp":
        how = "keeps it here"
    else:
        warns, how = True, "keeps it here while the guest has it mounted"
    yield SHARE.finding(
        f"A folder of {local.here} that is shared with {local.guest.name} ({share.driver}) {how}.",
        host=local.here,
        subject=share.target,
        expected="no folder of the host",
        found=f"{share.source or share.socket} as {share.target}, {share.driver}",
        remedy=f"In the guest: umount it; on {local.here}: virsh detach-device {quote(local.guest.name)} "
        "FILESYSTEM.xml --live",
        severity=Severity.WARN if warns else Severity.BLOCK,
        basis=Basis.ASSUMED if warns else Basis.COMPARED,
    )


@rule(Scope.PAIR, reads="guest look", tells=(SHARE, MEMORY_SHARE, SOCKETS))
def places_there(case: Case) -> Iterator[Finding]:
    """Folders, sockets and devices that QEMU opens when it starts are there on the destination."""
    if case.look is None or not case.look.absent:
        return
    guest, absent = case.guest, case.look.absent
    for share in guest.shares:
        if (path := share.socket or share.source) in absent:
            yield _gone(SHARE, case, path, f"the folder of {share.target}")
    for memory in guest.shared_memory:
        if memory.server in absent:
            yield _gone(MEMORY_SHARE, case, memory.server, f"the server's socket of {memory.name}")
    for display in guest.graphics:
        if display.device in absent:
            yield _gone(SOCKETS, case, display.device, "the render node of its display")
    for device in guest.characters:
        for path in places_of(device):
            if path in absent:
                yield _gone(SOCKETS, case, path, f"for its {device.element} {device.alias or device.name}".rstrip())


def _gone(check: Check, case: Case, path: str, what: str) -> Finding:
    return check.finding(
        f"{path} is missing on {case.there}, which {case.guest.name} needs: {what}.",
        host=case.there,
        subject=path,
        expected=f"{path} on {case.there}",
        found="nothing there",
        remedy=f"Make {path} on {case.there}; or on {case.here}: virsh detach-device {quote(case.guest.name)} "
        "DEVICE.xml --live",
        basis=Basis.PROVED,
    )


@rule(Scope.PAIR, reads="guest links", tells=(DISPLAY,))
def display(case: Case) -> Iterator[Finding]:
    """The addresses that the guest's displays listen on are the destination's too."""
    for graphics in case.guest.graphics:
        for address in graphics.listen:
            if address in _EVERYWHERE or (own := _ip(address)) is None:
                continue
            links = case.destination.state.links
            told = [link.addresses for link in links.links] + [bridge.addresses for bridge in links.bridges]
            known = {one.partition("/")[0] for addresses in told for one in addresses}
            if known and own not in known:
                yield DISPLAY.finding(
                    f"The {graphics.kind} display of {case.guest.name} listens on {address}, which {case.there} does "
                    "not have.",
                    host=case.there,
                    subject=address,
                    expected="an address that both hosts have: 0.0.0.0, 127.0.0.1, or of a libvirt network",
                    found=", ".join(sorted(known)),
                    remedy=f"On {case.here}: virsh edit {quote(case.guest.name)}: <listen type='address' "
                    "address='0.0.0.0'/>, and restart it",
                )


_EVERYWHERE = frozenset({"", "0.0.0.0", "::", "127.0.0.1", "::1", "localhost"})


def _ip(text: str) -> str | None:
    """An address of one host, as the kernel writes it; None for a socket, a network of libvirt's, a name."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return None if address.is_loopback or address.is_unspecified else str(address)


@rule(Scope.GUEST, reads="guest", tells=(LEASE, ARGUMENTS))
def loose_ends(local: Local) -> Iterator[Finding]:
    """Nothing of the guest is beyond what can be checked: leases, and arguments that libvirt does not know."""
    guest = local.guest
    if guest.leases:
        yield LEASE.finding(
            f"{guest.name} holds leases of a lock manager, which the other host must have too.",
            host=local.here,
            subject=guest.leases[0],
            expected="the same lock manager and lockspace on both hosts",
            found=", ".join(guest.leases),
            remedy="On both hosts: grep ^lock_manager /etc/libvirt/qemu.conf",
            basis=Basis.ASSUMED,
        )
    if guest.arguments:
        yield ARGUMENTS.finding(
            f"{guest.name} has arguments for QEMU that libvirt does not know and nobody checks.",
            host=local.here,
            subject="qemu:commandline",
            expected="none, or what both hosts have",
            found=" ".join(guest.arguments)[:200],
            remedy=f"On both hosts: see that {_named(guest)} there; virsh dumpxml {quote(guest.name)}",
            basis=Basis.ASSUMED,
        )


def _named(guest: Guest) -> str:
    paths = [part for argument in guest.arguments for part in argument.replace("=", ",").split(",") if part[:1] == "/"]
    return f"{', '.join(paths[:5])} {'is' if len(paths) == 1 else 'are'}" if paths else "what they name is"
