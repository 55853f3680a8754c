"""Checks that no rule can make beforehand: only libvirt or QEMU says so, while it migrates."""

from __future__ import annotations

from kvmigd.checks.check import Check
from kvmigd.model.finding import Severity

_KNOWN = "libvirt's or QEMU's message when the migration fails; nothing tells it beforehand."


def _refusal(check: str, title: str, why: str, remedy: str) -> Check:
    return Check(id=check, severity=Severity.BLOCK, title=title, why=why, known=_KNOWN, remedy=remedy, fixed=True)


REFUSALS = (
    _refusal(
        "firmware.roms",
        "QEMU's boot ROMs of network cards and displays are of the same version on both hosts.",
        "A ROM's size is part of the machine; QEMU on the destination refuses another one.",
        "Install the same versions of ipxe-qemu, seabios and vgabios (Fedora: ipxe-roms-qemu, seavgabios-bin).",
    ),
    _refusal(
        "host.address",
        "The address on which the destination's QEMU is to listen is one of that host's.",
        "QEMU cannot listen on an address that the host does not have.",
        "address under [migration] in kvmigd.toml, or migration_address in qemu.conf, on the destination.",
    ),
    _refusal(
        "hypervisor.hook",
        "libvirt's hook script lets the guest pass.",
        "/etc/libvirt/hooks/qemu is asked before a guest comes, and a failure of it refuses the guest.",
        "Look at /etc/libvirt/hooks on the host that is named, and at libvirt's log there.",
    ),
    _refusal(
        "machine.devices",
        "QEMU on the destination knows all devices of the guest.",
        "A QEMU without one of the devices cannot be this machine.",
        "Install QEMU's missing modules there (qemu-system-gui, qemu-block-extra …), or the same version.",
    ),
    _refusal(
        "machine.features",
        "Both hosts' QEMUs and kernels give the guest's devices the same features and states.",
        "QEMU refuses a state that it cannot take up; the kernel's offloads of network cards are a frequent cause.",
        "The same versions of QEMU and of the kernel on both hosts; or a machine type of the older one.",
    ),
    _refusal(
        "migration.cancelled",
        "Nobody ends the migration from outside.",
        "virsh domjobabort, virt-manager or another program has cancelled libvirt's job; the guest stays.",
        "Ask who did, and start it again: kvmigctl migrate.",
    ),
    _refusal(
        "migration.postcopy",
        "The link stands until the guest's memory has been fetched.",
        "In post-copy the guest runs there while memory is still here; when the link breaks it waits.",
        "Mend the link; virsh migrate --postcopy-resume goes on. Abort it never.",
    ),
    _refusal(
        "migration.start",
        "QEMU on the destination gets ready to take the guest.",
        "A QEMU that ends before it listens tells the cause in its log only.",
        "/var/log/libvirt/qemu/GUEST.log on the destination.",
    ),
    _refusal(
        "migration.stream",
        "The stream stands until the guest has arrived.",
        "QEMU there has ended, or the link was cut; the guest stays here.",
        "/var/log/libvirt/qemu/GUEST.log on the destination, and the link between the hosts.",
    ),
    _refusal(
        "network.bandwidth",
        "The destination's network can give the guest the bandwidth that it is promised.",
        "libvirt refuses an interface whose <bandwidth> has a floor that the network cannot keep.",
        "virsh net-edit there, or lower the floor of the guest's interface.",
    ),
    _refusal(
        "network.tap",
        "The destination can make a tap interface for the guest.",
        "Without /dev/net/tun, or with the interface's name taken, the guest has no network card.",
        "modprobe tun there; ip link shows who has the name.",
    ),
    _refusal(
        "network.vhost",
        "The kernel's vhost is loaded where the guest's network card uses it.",
        "QEMU cannot hand the card to a kernel without vhost_net.",
        "modprobe vhost_net on the destination, and in /etc/modules-load.d.",
    ),
)
