"""Devices of the host that guests are given: which of them QEMU can move, and which the destination must have."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from kvmigd.checks.check import Check, Way
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, HostView, Local
from kvmigd.host.guestdevices import seat_of
from kvmigd.model.devices import HostDevice, Nic
from kvmigd.model.finding import Basis, Finding, Severity

DEVICES = Check(
    id="guest.devices",
    severity=Severity.BLOCK,
    title="The guest has no device of its host, or one that can be moved and is there on the destination.",
    why="What a device has in itself QEMU can seldom move: it refuses PCI and mediated devices whose driver cannot "
    "tell their state, vDPA and vhost-scsi. A network card with a partner (<teaming>) is unplugged on the way; USB "
    "devices are let go, and must be plugged in on the destination too.",
    known="The guest's <hostdev> and <interface> elements, the versions of libvirt and QEMU (from libvirt 8.6 QEMU is "
    "asked what it can move, from QEMU 8.1 that depends on the device's driver), and a look at the destination's "
    "devices.",
    remedy="virsh detach-device-alias GUEST ALIAS --live, or shut the guest down and start it there.",
    ways=(Way.SHUTDOWN,),
)
_ASKS_QEMU = (8_006_000, 6_000_000)
"""From this libvirt and this QEMU (query-migrate's blocked-reasons) on, QEMU decides and libvirt refuses nothing."""
_VFIO_MOVES = 8_001_000
_VDPA_MOVES = 8_000_000
_PLAIN = ("", "vfio", "vfio-pci", "kvm", "xen")


def asks_qemu(host: HostView) -> bool:
    """Whether libvirt on the host asks QEMU what stands in a migration's way, and refuses nothing by itself."""
    hypervisor = host.state.hypervisor
    return hypervisor.libvirt >= _ASKS_QEMU[0] and hypervisor.qemu >= _ASKS_QEMU[1]


@rule(Scope.GUEST, reads="guest hypervisor", tells=(DEVICES,))
def host_devices(local: Local) -> Iterator[Finding]:
    """No device of the host keeps the guest where it is."""
    guest = local.guest
    if not guest.state.is_active:  # nothing to move but the definition
        return
    for device in guest.host_devices:
        if (severity := _of_device(device, local.source)) is not None:
            yield _kept(local, device.key, device.alias, severity, _NAMES.get(device.kind, device.kind))
    for nic in guest.nics:
        if nic.kind in ("hostdev", "vdpa") and (severity := _of_nic(nic, local.source)) is not None:
            yield _kept(local, nic.address or nic.source or nic.mac, nic.alias, severity, _NAMES[nic.kind])


_NAMES = {
    "pci": "the PCI device",
    "mdev": "the mediated device",
    "scsi": "the SCSI device",
    "scsi_host": "the SCSI target",
    "hostdev": "the network card",
    "vdpa": "the vDPA device",
    "usb": "the USB device",
}


def _kept(local: Local, subject: str, alias: str, severity: Severity, what: str) -> Finding:
    name, warns = local.guest.name, severity is Severity.WARN
    return DEVICES.finding(
        f"{name} has {what} {subject} of {local.here}"
        + (", which moves only if its driver can." if warns else ", which cannot be moved."),
        host=local.here,
        subject=subject,
        expected="no device of the host, or one that is unplugged on the way (<teaming type='transient'>)",
        found=f"{what} {subject}",
        remedy=f"On {local.here}: virsh detach-device-alias {quote(name)} {alias or 'ALIAS'} --live; or shut it down: "
        f"virsh shutdown {quote(name)}",
        severity=severity,
        basis=Basis.ASSUMED if warns else Basis.COMPARED,
    )


def _of_device(device: HostDevice, host: HostView) -> Severity | None:
    if device.kind == "usb" or (device.kind == "pci" and device.teaming == "transient"):
        return None
    may = asks_qemu(host)
    if device.kind == "scsi" and may:
        # QEMU moves it as any disk. Of an iSCSI target the address is the same everywhere; of an adapter it is one
        # of this host, and another disk may be at it on the other.
        return None if device.address.startswith("iscsi:") else Severity.BLOCK
    if may and host.state.hypervisor.qemu >= _VFIO_MOVES:
        if device.kind == "pci" and device.model not in _PLAIN:  # a driver of the vendor's, as mlx5_vfio_pci
            return Severity.WARN
        if device.kind == "mdev" and device.model in ("", "vfio-pci"):
            return Severity.WARN
    return Severity.BLOCK


def _of_nic(nic: Nic, host: HostView) -> Severity | None:
    if nic.kind == "vdpa":
        moves = asks_qemu(host) and host.state.hypervisor.qemu >= _VDPA_MOVES
        return Severity.WARN if moves else Severity.BLOCK
    return None if nic.teaming == "transient" else Severity.BLOCK


@rule(Scope.PAIR, reads="guest look", tells=(DEVICES,))
def devices_there(case: Case) -> Iterator[Finding]:
    """Devices that go along, or come back with their partner, are there on the destination."""
    guest = case.guest
    if case.look is None or not case.look.absent:
        return
    absent = case.look.absent
    for device in guest.host_devices:
        # With either of these policies libvirt leaves it out on a migration, where it is missing.
        if seat_of(device) in absent and not (device.kind == "usb" and device.startup in ("optional", "requisite")):
            yield _missing(case, seat_of(device), f"{_NAMES.get(device.kind, device.kind)} {device.address}")
    for nic in guest.nics:
        if nic.kind == "hostdev" and f"/sys/bus/pci/devices/{nic.address}" in absent:
            # Out of a libvirt network's pool another one is taken there, and the definition does not tell.
            yield _missing(case, nic.address, f"the network card {nic.address}", severity=Severity.WARN)
        elif nic.kind == "vdpa" and nic.source in absent:
            yield _missing(case, nic.source, f"the vDPA device {nic.source}")
    for path in guest.inputs:
        if path in absent:
            yield _missing(case, path, f"the input device {path}")


def _missing(case: Case, subject: str, what: str, *, severity: Severity = Severity.BLOCK) -> Finding:
    name = quote(case.guest.name)
    return DEVICES.finding(
        f"{case.there} lacks {what}, which {case.guest.name} is given.",
        host=case.there,
        subject=subject.removeprefix("usb:"),
        expected=f"{what} on {case.there}",
        found="nothing there",
        remedy=f"Plug it into {case.there} (virsh nodedev-list --tree shows what is there); or on {case.here}: virsh "
        f"detach-device {name} DEVICE.xml --live",
        severity=severity,
        basis=Basis.PROVED,
    )
