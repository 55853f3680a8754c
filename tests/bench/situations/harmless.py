"""Nothing is wrong: guests of all kinds, and differences between the hosts that are nobody's business."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.situations.ground import CDROM, Ground, second_disk, with_interface
from tests.bench.situations.situation import WORKS, left_out, situation
from tests.lab import faults, guests
from tests.lab.guests import FOLDER
from tests.lab.host import wait_until
from tests.lab.network import Network, address
from tests.lab.roots import MOUNTPOINT

NETWORK = "<forward mode='bridge'/><bridge name='br0'/>"


@situation(WORKS)
def nothing(ground: Ground) -> Iterator[None]:
    """Nothing at all."""
    ground.start()
    yield


@situation(WORKS, back=True)
def nothing_linux(ground: Ground) -> Iterator[None]:
    """Nothing at all, with a Linux guest."""
    ground.linux()
    yield


@situation(WORKS, tls=False)
def nothing_without_tls(ground: Ground) -> Iterator[None]:
    """Nothing at all, and virsh does not encrypt the stream."""
    ground.start()
    yield


@situation(WORKS)
def network_of_libvirt(ground: Ground) -> Iterator[None]:
    """A guest in a network of libvirt's, which both hosts have."""
    with (
        faults.network_defined(ground.a, "lan", inside=NETWORK),
        faults.network_defined(ground.b, "lan", inside=NETWORK),
    ):
        ground.start(edits=(with_interface("<interface type='network'><source network='lan'/>"),))
        yield


@situation(WORKS)
def iso(ground: Ground) -> Iterator[None]:
    """An ISO image on shared storage."""
    path = f"{MOUNTPOINT}/iso/install.iso"
    with ground.file(path, b"CD001" * 1000, ground.a):
        ground.start(devices=CDROM.format(path=path))
        yield


@situation(WORKS)
def drive_empty(ground: Ground) -> Iterator[None]:
    """A CD drive without a medium."""
    ground.start(devices=CDROM.format(path="/x").replace("<source file='/x'/>", ""))
    yield


@situation(WORKS)
def backing_chain(ground: Ground) -> Iterator[None]:
    """A disk on top of a backing file, both on shared storage."""
    with overlay(ground, f"{FOLDER}/base.raw"):
        yield


def overlay(ground: Ground, base: str, second: str = f"{FOLDER}/web-top.qcow2") -> _Started:
    """Start a guest whose second disk has that backing file, which is on both hosts."""
    return _Started(ground, base, second)


class _Started:
    def __init__(self, ground: Ground, base: str, second: str) -> None:
        self.ground, self.base, self.second = ground, base, second

    def __enter__(self) -> None:
        make = """
mkdir -p "${1%/*}"; truncate -s 1M "$1"
[ -z "$2" ] || { qemu-img create -q -f qcow2 -b "$1" -F raw "$2"; chown libvirt-qemu:kvm "$2"; }
"""
        self.ground.b.sh(make, self.base, "")
        self.ground.a.sh(make, self.base, self.second)
        self.ground.start(devices=second_disk(self.second, kind="qcow2"))

    def __exit__(self, *_error: object) -> None:
        for host in (self.ground.a, self.ground.b):
            host.run("rm", "-f", self.base, self.second, check=False)


@situation(WORKS)
def disk_qcow2(ground: Ground) -> Iterator[None]:
    """A disk in qcow2."""
    ground.start(disk_format="qcow2")
    yield


@situation(WORKS, may=("storage.cache",))
def disk_writeback(ground: Ground) -> Iterator[None]:
    """A disk with cache='writeback', which QEMU lets go of before the end."""
    ground.start(edits=(("cache='none'", "cache='writeback'"),))
    yield


@situation(WORKS)
def disks_two(ground: Ground) -> Iterator[None]:
    """Two disks."""
    ground.a.sh('truncate -s 1M "$1"; chown libvirt-qemu:kvm "$1"', f"{FOLDER}/second.raw")
    ground.start(devices=second_disk(f"{FOLDER}/second.raw"))
    yield


@situation(WORKS)
def virtio_scsi(ground: Ground) -> Iterator[None]:
    """A disk behind virtio-scsi."""
    ground.start(
        edits=(("<target dev='vda' bus='virtio'/>", "<target dev='sda' bus='scsi'/>"),),
        devices="<controller type='scsi' model='virtio-scsi'/>",
    )
    yield


@situation(WORKS)
def furnished(ground: Ground) -> Iterator[None]:
    """A guest with screen, tablet, random numbers, watchdog, agent's channel and sound."""
    ground.start(
        devices="<graphics type='vnc' autoport='yes' listen='127.0.0.1'/><video><model type='vga'/></video>"
        "<input type='tablet' bus='usb'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"
        "<watchdog model='i6300esb' action='reset'/><sound model='ich9'/>"
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    )
    yield


@situation(WORKS)
def no_network(ground: Ground) -> Iterator[None]:
    """A guest without a network interface."""
    guest = ground.sector()
    begin, end = guest.xml().index("<interface"), guest.xml().index("</interface>")
    ground.start(edits=((guest.xml()[begin:end] + "</interface>", ""),))
    yield


@situation(WORKS)
def strange_name(ground: Ground) -> Iterator[None]:
    """A guest with a name that no shell would like."""
    ground.start(ground.sector("web-01.example (old) $HOME"))
    yield


@situation(WORKS, may=("guest.autostart",))
def autostart(ground: Ground) -> Iterator[None]:
    """A guest that starts with its host."""
    guest = ground.start()
    ground.a.run("virsh", "--quiet", "autostart", guest.name)
    try:
        yield
    finally:
        ground.a.run("virsh", "--quiet", "autostart", "--disable", guest.name, check=False)


@situation(WORKS)
def defined_there(ground: Ground) -> Iterator[None]:
    """The same guest is still defined there, from an earlier stay, and does not run."""
    guest = ground.start()
    ground.b.run("virsh", "--quiet", "define", "/dev/stdin", input=guest.xml())
    yield


@situation(WORKS)
def other_guest_there(ground: Ground) -> Iterator[None]:
    """Another guest runs there."""
    ground.start()
    guests.create(ground.b, guests.boot_sector("other", memory=32, number=7))
    yield


@situation(WORKS)
def extra_bridge_there(ground: Ground) -> Iterator[None]:
    """The other host has one more bridge."""
    ground.start()
    with faults.bridge_added(ground.b, "br7"):
        yield


@situation(WORKS)
def extra_bridge_mtu_there(ground: Ground) -> Iterator[None]:
    """A bridge that the guest has nothing to do with has another MTU there."""
    ground.start()
    with (
        faults.bridge_added(ground.a, "br7"),
        faults.bridge_added(ground.b, "br7"),
        faults.mtu_changed(ground.b, "br7", 1280),
    ):
        yield


@situation(WORKS)
def bridge_address_differs(ground: Ground) -> Iterator[None]:
    """The bridge has one more address there."""
    ground.start()
    ground.b.run("ip", "address", "add", "10.88.0.1/24", "dev", "br0")
    try:
        yield
    finally:
        ground.b.run("ip", "address", "del", "10.88.0.1/24", "dev", "br0", check=False)


@situation(WORKS)
def extra_mounts_there(ground: Ground) -> Iterator[None]:
    """The other host has more mounts."""
    ground.start()
    with faults.mount_added(ground.b, "/srv/scratch"), faults.mount_added(ground.b, "/mnt/usb stick"):
        yield


@situation(WORKS)
def unused_mount_hangs_there(ground: Ground) -> Iterator[None]:
    """Storage that the guest does not use hangs there."""
    ground.start()
    before = faults.pids(ground.b, "glusterfs")
    with faults.mount_added(ground.b, "/srv/unused", source="store:/vm", kind="glusterfs"):
        (client,) = set(faults.pids(ground.b, "glusterfs")) - set(before)
        with faults.paused(ground.b, client):
            yield


@situation(WORKS, may=("storage.options",))
def mounted_noatime_there(ground: Ground) -> Iterator[None]:
    """The storage is mounted with noatime there."""
    ground.start()
    with faults.mount_changed(ground.b, MOUNTPOINT, "noatime"):
        yield


@situation(WORKS)
def other_motd(ground: Ground) -> Iterator[None]:
    """Another /etc/motd there, and another version of less."""
    ground.start()
    with faults.file_changed(ground.b, "/etc/motd", "welcome\n"), faults.package_version(ground.b, "less", "999-1"):
        yield


@situation(WORKS)
def comment_in_qemu_conf(ground: Ground) -> Iterator[None]:
    """A comment more in qemu.conf there."""
    ground.start()
    text = ground.b.read(faults.QEMU_CONF) + "# nothing to see here\n"
    with faults.file_changed(ground.b, faults.QEMU_CONF, text):
        yield


@situation(WORKS)
def libvirt_restarted(ground: Ground) -> Iterator[None]:
    """libvirtd has just been restarted on both hosts."""
    ground.start()
    faults.restart_libvirt(ground.b)
    faults.restart_libvirt(ground.a)
    wait_until("libvirt knows its guest", lambda: guests.state(ground.a, ground.guest) == "running")
    yield


@situation(WORKS)
def other_ports_closed(ground: Ground) -> Iterator[None]:
    """The firewall there drops what goes to ports that nobody needs."""
    ground.start()
    with faults.firewall_rule(ground.b, "tcp dport { 25, 80, 5900-5999 } drop\nudp dport 514 drop"):
        yield


STRICT = """\
ct state established,related accept
iifname lo accept
icmp type echo-request accept
ip saddr {storage} accept
ip saddr {peer} tcp dport {{ 16514, 16515, 49152-49215 }} accept
log prefix "dropped " drop
"""


@situation(WORKS)
def strict_firewall(ground: Ground) -> Iterator[None]:
    """Both hosts drop everything but what migrations need."""
    ground.start()
    rules = [
        STRICT.format(peer=host.address, storage=address("store", Network.STORAGE)) for host in (ground.b, ground.a)
    ]
    with faults.firewall_rule(ground.a, rules[0]), faults.firewall_rule(ground.b, rules[1]):
        yield


@situation(WORKS, may=("port.free",))
def some_ports_taken(ground: Ground) -> Iterator[None]:
    """The first three migration ports there are taken by another program."""
    ground.start()
    with faults.ports_taken(ground.b, 49152, 49154):
        yield


@situation(WORKS)
def other_port_range(ground: Ground) -> Iterator[None]:
    """qemu.conf there has migrations come to other ports."""
    ground.start()
    with faults.libvirt_setting(ground.b, "migration_port_min = 50000\nmigration_port_max = 50020"):
        yield


@situation(WORKS, may=("network.mtu",))
def larger_mtu_there(ground: Ground) -> Iterator[None]:
    """The bridge there carries larger frames than here."""
    ground.linux()
    with faults.mtu_changed(ground.b, "gst0", 9000), faults.mtu_changed(ground.b, "br0", 9000):
        yield


left_out("clock-skew", "Clocks differ a little, or by minutes", reason="the hosts share the machine's clock")
left_out("memory-differs", "The other host has more memory, or too little", reason="the hosts share its memory")
