"""Devices: of the host, and those that hold on to it."""

from __future__ import annotations

import pytest

from kvmigd.model.devices import Character, Graphics, HostDevice, Label, Nic, Share, SharedMemory
from kvmigd.model.finding import Basis, Severity
from kvmigd.model.guest import GuestState
from kvmigd.model.links import LinkFact
from tests.unit.cases import GUEST, case, changed, only, told

PCI = HostDevice(kind="pci", address="0000:03:00.1", alias="hostdev0")
USB = HostDevice(kind="usb", address="0x0951:0x1666", alias="hostdev1")
OLD, ASKS, MOVES = (8_000_000, 5_002_000), (9_000_000, 7_002_000), (10_000_000, 8_002_000)
"""libvirt that decides by itself; one that asks QEMU; QEMU that moves what its driver can."""


def versions(libvirt: int, qemu: int) -> dict[str, object]:
    return {
        f"{side}__state__hypervisor__{name}": number
        for side in ("source", "destination")
        for name, number in (("libvirt", libvirt), ("qemu", qemu))
    }


BLOCK, WARN = Severity.BLOCK, Severity.WARN


@pytest.mark.parametrize(
    ("device", "old", "asks", "moves"),
    [
        (PCI, BLOCK, BLOCK, BLOCK),
        (changed(PCI, model="mlx5_vfio_pci"), BLOCK, BLOCK, WARN),
        (changed(PCI, teaming="transient", partner="ua-backup"), None, None, None),
        (HostDevice(kind="mdev", address="c5d6", model="vfio-pci"), BLOCK, BLOCK, WARN),
        (HostDevice(kind="mdev", address="c5d6", model="vfio-ap"), BLOCK, BLOCK, BLOCK),
        (HostDevice(kind="scsi", address="scsi_host3:0:0:1"), BLOCK, BLOCK, BLOCK),
        (HostDevice(kind="scsi", address="iscsi:iqn.2014-08.com.example:target/1"), BLOCK, None, None),
        (HostDevice(kind="scsi_host", address="naa.5123456789abcde0"), BLOCK, BLOCK, BLOCK),
        (HostDevice(kind="misc", address="/dev/input/event3"), BLOCK, BLOCK, BLOCK),
        (USB, None, None, None),
    ],
)
def test_which_host_devices_can_move(
    device: HostDevice, old: Severity | None, asks: Severity | None, moves: Severity | None
) -> None:
    for numbers, severity in ((OLD, old), (ASKS, asks), (MOVES, moves)):
        findings = told(guest__host_devices=(device,), **versions(*numbers))
        assert [(one.check, one.severity, one.host) for one in findings] == (
            [("guest.devices", severity, "hosta")] if severity else []
        ), numbers


def test_a_host_device_can_be_taken_away() -> None:
    finding = only(guest__host_devices=(PCI,))
    assert finding.subject == "pci:0000:03:00.1"
    assert (
        finding.remedy == "On hosta: virsh detach-device-alias web hostdev0 --live; or shut it down: virsh shutdown web"
    )
    assert finding.ways == ("shutdown",)


@pytest.mark.parametrize(
    ("nic", "old", "asks", "moves"),
    [
        (Nic(mac="52:54:00:00:00:02", kind="hostdev", address="0000:03:00.2"), BLOCK, BLOCK, BLOCK),
        (Nic(mac="52:54:00:00:00:02", kind="hostdev", address="0000:03:00.2", teaming="transient"), None, None, None),
        (Nic(mac="52:54:00:00:00:02", kind="vdpa", source="/dev/vhost-vdpa-0"), BLOCK, BLOCK, WARN),
    ],
)
def test_which_network_cards_can_move(
    nic: Nic, old: Severity | None, asks: Severity | None, moves: Severity | None
) -> None:
    for numbers, severity in ((OLD, old), (ASKS, asks), (MOVES, moves)):
        findings = told(guest__nics=(*GUEST.nics, nic), **versions(*numbers))
        assert [(one.check, one.severity) for one in findings] == ([("guest.devices", severity)] if severity else [])


def test_usb_devices_must_be_plugged_in_there() -> None:
    absent = {"there__absent": ("usb:0x0951:0x1666",)}
    finding = only(guest__host_devices=(USB,), **absent)
    assert (finding.check, finding.severity, finding.host) == ("guest.devices", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.basis) == ("0x0951:0x1666", Basis.PROVED)
    assert finding.remedy.startswith("Plug it into hostb")
    for policy in ("optional", "requisite"):
        assert told(guest__host_devices=(changed(USB, startup=policy),), **absent) == ()
    assert told(guest__host_devices=(USB,), here__absent=("usb:0x0951:0x1666",)) == ()


def test_a_partner_comes_back_only_where_it_is() -> None:
    team = changed(PCI, teaming="transient")
    where = "/sys/bus/pci/devices/0000:03:00.1"
    assert only(guest__host_devices=(team,), there__absent=(where,)).severity is Severity.BLOCK
    nic = Nic(mac="52:54:00:00:00:02", kind="hostdev", address="0000:03:00.1", teaming="transient")
    finding = only(guest__nics=(*GUEST.nics, nic), there__absent=(where,))
    assert (finding.check, finding.severity) == ("guest.devices", Severity.WARN), "it may be of a pool"


def test_input_devices_must_be_there() -> None:
    assert told(guest__inputs=("/dev/input/event3",)) == ()
    finding = only(guest__inputs=("/dev/input/event3",), there__absent=("/dev/input/event3",))
    assert (finding.check, finding.severity, finding.host) == ("guest.devices", Severity.BLOCK, "hostb")


@pytest.mark.parametrize(
    ("share", "numbers", "severity"),
    [
        (Share(target="a", source="/srv/a", driver="virtiofs"), ASKS, Severity.BLOCK),
        (Share(target="a", source="/srv/a", driver="virtiofs"), (10_006_000, 9_000_000), Severity.BLOCK),
        (Share(target="a", source="/srv/a", driver="virtiofs"), (10_007_000, 8_001_000), Severity.BLOCK),
        (Share(target="a", source="/srv/a", driver="virtiofs"), (10_007_000, 8_002_000), Severity.WARN),
        (Share(target="a", source="/srv/a", driver="path"), ASKS, Severity.WARN),
        (Share(target="a", source="/srv/a", driver="mtp"), (11_000_000, 9_000_000), Severity.BLOCK),
    ],
)
def test_shared_folders(share: Share, numbers: tuple[int, int], severity: Severity) -> None:
    finding = only(guest__shares=(share,), **versions(*numbers))
    assert (finding.check, finding.severity, finding.host) == ("guest.share", severity, "hosta")
    assert finding.found == f"/srv/a as a, {share.driver}"
    assert "virsh detach-device web" in finding.remedy


def test_shared_memory() -> None:
    for memory in (SharedMemory(name="ring", model="ivshmem-plain"), SharedMemory(name="ring", role="peer")):
        finding = only(guest__shared_memory=(memory,))
        assert (finding.check, finding.severity, finding.host) == ("guest.memory_share", Severity.BLOCK, "hosta")
    served = SharedMemory(name="ring", model="ivshmem-doorbell", role="master", server="/run/ring.sock")
    assert told(guest__shared_memory=(served,)) == ()
    finding = only(guest__shared_memory=(served,), there__absent=("/run/ring.sock",))
    assert (finding.check, finding.host, finding.subject) == ("guest.memory_share", "hostb", "/run/ring.sock")


@pytest.mark.parametrize("kind", ["sev", "sev-snp", "tdx", "s390-pv"])
def test_memory_that_the_host_cannot_read(kind: str) -> None:
    finding = only(guest__launch_security=kind)
    assert (finding.check, finding.severity, finding.host) == ("guest.security", Severity.BLOCK, "hosta")
    assert (finding.found, finding.ways) == (kind, ("shutdown",))


def test_devices_that_qemu_cannot_move() -> None:
    finding = only(guest__unmovable=("acceleration accel3d='yes'",))
    assert (finding.check, finding.severity, finding.host) == ("guest.blockers", Severity.BLOCK, "hosta")
    assert finding.remedy == "On hosta: virsh edit web: <acceleration accel3d='no'/>, and restart it"
    hyperv = ("hyperv mode='passthrough'",)
    assert only(guest__unmovable=hyperv).check == "guest.blockers"
    assert told(guest__unmovable=hyperv, guest__domain_type="qemu") == ()
    agent = ("channel type='qemu-vdagent'",)
    assert only(guest__unmovable=agent).check == "guest.blockers"
    assert told(guest__unmovable=agent, **versions(11_006_000, 10_001_000)) == ()


def test_nothing_but_a_definition_is_moved_of_a_guest_that_is_off() -> None:
    off = {"guest__state": GuestState.SHUTOFF, "options__offline": True}
    assert told(**off) == ()
    assert told(guest__host_devices=(PCI,), **off) == ()
    assert told(guest__unmovable=("crypto model='virtio'",), guest__launch_security="sev", **off) == ()
    assert only(guest__managed_save=True, **off).check == "guest.save"


@pytest.mark.parametrize(
    ("device", "path"),
    [
        (Character(element="serial", kind="dev", path="/dev/ttyS0"), "/dev/ttyS0"),
        (Character(element="channel", kind="unix", mode="connect", path="/run/a/b.sock"), "/run/a/b.sock"),
        (Character(element="channel", kind="unix", mode="bind", path="/run/a/b.sock"), "/run/a"),
        (Character(element="serial", kind="file", path="/srv/log/web"), "/srv/log"),
        (Character(element="serial", kind="pty", path="/dev/pts/3", log="/srv/log/web"), "/srv/log"),
        (Character(element="rng", kind="random", path="/dev/hwrng"), "/dev/hwrng"),
    ],
)
def test_places_that_qemu_opens(device: Character, path: str) -> None:
    assert told(guest__characters=(device,)) == ()
    finding = only(guest__characters=(device,), there__absent=(path,))
    assert (finding.check, finding.severity, finding.host) == ("guest.sockets", Severity.BLOCK, "hostb")
    assert finding.subject == path
    assert told(guest__characters=(device,), there__absent=("/dev/pts/3", "/elsewhere")) == ()


def test_libvirts_own_sockets_are_made_anew() -> None:
    own = "/var/lib/libvirt/qemu/channel/target/domain-3-web/org.qemu.guest_agent.0"
    device = Character(element="channel", kind="unix", mode="bind", path=own)
    assert told(guest__characters=(device,), there__absent=(own.rpartition("/")[0],)) == ()


LINKS = (LinkFact(index=1, name="eth0", up=True, carrier=True, addresses=("192.0.2.2/24",)),)


@pytest.mark.parametrize(
    "address", ["192.0.2.2", "0.0.0.0", "::", "127.0.0.1", "network:lan", "/run/vnc", "localhost", "10gbox", ""]
)
def test_a_display_that_can_listen(address: str) -> None:
    graphics = (Graphics(kind="vnc", listen=(address,)),)
    assert told(guest__graphics=graphics, destination__state__links__links=LINKS) == ()


def test_a_display_that_cannot_listen() -> None:
    graphics = (Graphics(kind="vnc", listen=("192.0.2.1",)),)
    finding = only(guest__graphics=graphics, destination__state__links__links=LINKS)
    assert (finding.check, finding.severity, finding.host) == ("guest.display", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found) == ("192.0.2.1", "192.0.2.2")
    assert told(guest__graphics=graphics) == (), "addresses are not known"


def test_loose_ends() -> None:
    finding = only(guest__arguments=("-device", "ivshmem,path=/srv/x"))
    assert (finding.check, finding.severity, finding.host) == ("guest.arguments", Severity.WARN, "hosta")
    assert "/srv/x is there" in finding.remedy
    finding = only(guest__leases=("space/web",))
    assert (finding.check, finding.severity) == ("guest.lease", Severity.WARN)


def test_security_models() -> None:
    label = Label(model="apparmor", kind="dynamic", relabel="yes")
    there = {"destination__state__hypervisor__security_models": ("dac:0", "selinux:0")}
    assert (
        told(guest__labels=(Label(model="dac", kind="dynamic"), Label(model="selinux", kind="static")), **there) == ()
    )
    finding = only(guest__labels=(label,), **there)
    assert (finding.check, finding.severity, finding.host) == ("security.model", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found) == ("apparmor", "dac, selinux")
    assert told(guest__labels=(label,)) == (), "not known"
    none = (changed(label, kind="none"),)
    assert only(guest__labels=none, **there).check == "security.model"
    assert told(guest__labels=none, **there, **versions(12_003_000, 10_000_000)) == ()


def test_names_are_quoted_for_a_shell() -> None:
    """A remedy is pasted into a shell as root, and a guest may be called anything."""
    odd = "web; rm -rf /"
    odd_case = {
        "guest__name": odd,
        "guest__host_devices": (PCI,),
        "guest__state": GuestState.PAUSED,
        "guest__shares": (Share(target="a", source="/srv/a", driver="virtiofs"),),
        "guest__unmovable": ("crypto model='virtio'",),
        "guest__job": "other",
    }
    findings = told(**odd_case)
    assert len(findings) >= 5
    for finding in findings:
        assert odd not in finding.remedy.replace(f"'{odd}'", ""), finding
    assert case(**odd_case).guest.name == odd
