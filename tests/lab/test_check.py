"""Check on real hosts: each thing that stands in a guest's way, made for real, is named; undone, the way is free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import daemon, faults, guests
from tests.lab.guests import Guest
from tests.lab.host import Host, wait_equal, wait_for

LIBVIRT_SOCKETS = (
    *("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket"),
    *("libvirtd-tls.socket", "libvirtd-tcp.socket"),
)


@pytest.fixture
def web(a: Host) -> Guest:
    """A guest that runs on hosta, ready in milliseconds."""
    return guests.create(a, guests.boot_sector("web", memory=64))


def test_nothing_in_the_way(a: Host, b: Host, web: Guest) -> None:
    for guest, peer in ((web.name, b.name), (web.uuid, b.name), (web.name, "")):
        daemon.wait_checked(a, guest, peer, "ready")


def test_a_guest_that_does_not_run(a: Host, b: Host, web: Guest) -> None:
    a.run("virsh", "suspend", web.name)
    finding = daemon.obstacle(a, web.name, b.name, "guest.state")
    assert "virsh resume web" in finding.details["remedy"]


def test_the_bridge_is_down(a: Host, b: Host, web: Guest) -> None:
    with faults.bridge_down(b, "br0"):
        finding = daemon.obstacle(
            a, web.name, b.name, "network.bridge", lambda finding: finding.details["found"] == "down"
        )
        assert finding.details["remedy"] == "On hostb: ip link set br0 up"
    daemon.wait_free(a, web.name, b.name)


def test_the_bridge_is_missing(a: Host, b: Host, web: Guest) -> None:
    with faults.bridge_removed(b, "br0"):
        missing = "no bridge br0 on hostb"
        daemon.obstacle(a, web.name, b.name, "network.bridge", lambda finding: missing in finding.summary)
    daemon.wait_free(a, web.name, b.name)


def test_the_bridge_has_lost_its_uplink(a: Host, b: Host, web: Guest) -> None:
    with faults.bridge_without_uplink(b):
        daemon.obstacle(a, web.name, b.name, "network.uplink")
    daemon.wait_free(a, web.name, b.name)


def test_the_storage_is_not_mounted(a: Host, b: Host, web: Guest) -> None:
    with faults.mount_removed(b, "/srv/vm"):
        finding = daemon.obstacle(
            a, web.name, b.name, "storage.path", lambda finding: finding.details["found"] == "No such file or directory"
        )
        assert finding.details["remedy"].startswith("On hostb: mount -t glusterfs store:/vm /srv/vm")
    daemon.wait_free(a, web.name, b.name)


def test_other_storage_is_mounted_in_its_place(a: Host, b: Host, web: Guest) -> None:
    disk = web.disk
    with faults.mount_added(b, "/srv/vm"):
        b.sh('mkdir -p "${1%/*}"; truncate -s 1M "$1"', disk)
        finding = daemon.obstacle(
            a, web.name, b.name, "storage.same", lambda finding: "tmpfs" in finding.details["found"]
        )
        assert "store:/vm (fuse.glusterfs)" in finding.details["expected"]
    daemon.wait_free(a, web.name, b.name)


def test_a_disk_that_is_local(a: Host, b: Host) -> None:
    xml = guests.boot_sector("local", memory=64).xml().replace("/srv/vm/guests", "/var/lib/libvirt/images")
    for host in (a, b):
        host.run("qemu-img", "create", "-q", "-f", "qcow2", "/var/lib/libvirt/images/local.qcow2", "1M")
        host.sh("chown libvirt-qemu:kvm /var/lib/libvirt/images/local.qcow2")
    try:
        a.run("virsh", "create", "/dev/stdin", input=xml)
        finding = daemon.obstacle(a, "local", b.name, "storage.local")
        assert "virsh blockcopy local vda" in finding.details["remedy"]
    finally:
        for host in (a, b):
            host.run("rm", "-f", "/var/lib/libvirt/images/local.qcow2")


def test_the_name_is_taken(a: Host, b: Host, web: Guest) -> None:
    other = guests.boot_sector("web", memory=64, number=9)
    b.run("virsh", "--quiet", "define", "/dev/stdin", input=other.xml())
    finding = daemon.obstacle(a, web.name, b.name, "guest.name")
    assert other.uuid in finding.details["found"]
    b.run("virsh", "undefine", "web")
    daemon.wait_free(a, web.name, b.name)


def test_the_uuid_is_taken(a: Host, b: Host, web: Guest) -> None:
    xml = web.xml().replace("<name>web</name>", "<name>other</name>")
    b.run("virsh", "--quiet", "define", "/dev/stdin", input=xml)
    assert daemon.obstacle(a, web.name, b.name, "guest.uuid").details["found"] == "other"


def test_the_port_is_blocked_by_the_firewall(a: Host, b: Host, web: Guest) -> None:
    with faults.block_port(b, "49152-49215"):
        # the rule that does it is read, and told by the peer, while the port is tried
        finding = daemon.obstacle(
            a,
            web.name,
            b.name,
            "port.open",
            lambda finding: finding.details["found"].startswith("timeout (inet lab_fault_"),
        )
        assert finding.details["basis"] == "proved"
    daemon.wait_free(a, web.name, b.name)


def test_the_port_is_rejected_by_the_firewall(a: Host, b: Host, web: Guest) -> None:
    with faults.reject_port(b, "49152-49215"):
        daemon.obstacle(
            a, web.name, b.name, "port.open", lambda finding: finding.details["found"].startswith("refused")
        )


def test_names_that_do_not_resolve_or_resolve_to_localhost(a: Host, b: Host, web: Guest) -> None:
    hosts = a.read("/etc/hosts")
    without = "".join(line for line in hosts.splitlines(keepends=True) if "hostb" not in line)
    with faults.file_changed(a, "/etc/hosts", without):
        assert "does not resolve on hosta" in daemon.obstacle(a, web.name, b.name, "host.resolve").summary
    with faults.file_changed(b, "/etc/hosts", "127.0.1.1 hostb\n" + b.read("/etc/hosts")):
        # kvmigd gives libvirt an address for the stream, so only those who use the name are harmed.
        daemon.wait_checked(a, web.name, b.name, "degraded", "host.name")
    daemon.wait_free(a, web.name, b.name)


def test_the_release_differs(a: Host, b: Host, web: Guest) -> None:
    release = b.read("/usr/lib/os-release").replace('VERSION_ID="12"', 'VERSION_ID="13"')
    with faults.file_changed(b, "/usr/lib/os-release", release):
        daemon.wait_checked(a, web.name, b.name, "degraded", "software.release")
    daemon.wait_checked(a, web.name, b.name, "ready")


def test_a_cpu_feature_that_the_peer_lacks(a: Host, b: Host) -> None:
    cpu = "<cpu mode='custom' match='exact'><model>qemu64</model><feature policy='require' name='sse4.2'/></cpu>"
    guest = guests.create(a, guests.Guest(name="fast", kind=guests.Kind.BOOT_SECTOR, memory=64, cpu=cpu))
    with faults.cpu_without(b, "sse4.2"):
        daemon.wait_ready(b)
        finding = daemon.obstacle(a, guest.name, b.name, "cpu.model")
        assert "sse4.2" in finding.details["found"]
    daemon.wait_ready(b)
    daemon.wait_free(a, guest.name, b.name)


def test_an_emulator_that_the_peer_does_not_have(a: Host, b: Host, web: Guest) -> None:
    emulator = "/usr/bin/qemu-system-x86_64"
    with renamed_emulator(b, emulator):
        finding = daemon.obstacle(a, web.name, b.name, "machine.emulator")
        assert emulator in finding.details["expected"]


@contextmanager
def renamed_emulator(host: Host, emulator: str) -> Iterator[None]:
    """A host without the emulator that the guest names."""
    host.run("mv", emulator, f"{emulator}.away")
    try:
        yield
    finally:
        host.run("mv", f"{emulator}.away", emulator)


def test_too_little_memory(a: Host, b: Host, web: Guest) -> None:
    reserve = int(b.sh("awk '/MemTotal/ {printf \"%.0f\", $2 * 1024}' /proc/meminfo"))
    with faults.file_changed(
        b, "/etc/kvmigd/kvmigd.toml", f'name = "hostb"\n[migration]\nmemory_reserve = {reserve}\n'
    ):
        b.run("systemctl", "reload", "kvmigd.service")
        daemon.obstacle(a, web.name, b.name, "memory.fits")
    b.run("systemctl", "reload", "kvmigd.service")
    daemon.wait_free(a, web.name, b.name)


def test_two_hosts_with_the_same_uuid(a: Host, b: Host, web: Guest) -> None:
    uuid = str(daemon.properties(a, daemon.ROOT, daemon.MANAGER)["HostId"])
    settings = b.read("/etc/libvirt/libvirtd.conf").replace('host_uuid_source = "machine-id"', f'host_uuid = "{uuid}"')
    with faults.file_changed(b, "/etc/libvirt/libvirtd.conf", settings):
        b.run("systemctl", "restart", "libvirtd.service")
        daemon.wait_ready(b)
        daemon.obstacle(a, web.name, b.name, "host.uuid")
    b.run("systemctl", "restart", "libvirtd.service")
    daemon.wait_ready(b)
    daemon.wait_free(a, web.name, b.name)


@pytest.mark.parametrize("which", ["a", "b"])
def test_libvirt_is_not_running(a: Host, b: Host, web: Guest, which: str) -> None:
    host = {"a": a, "b": b}[which]
    with faults.stopped(host, "libvirtd.service", *LIBVIRT_SOCKETS):
        wait_equal("the daemon has noticed", lambda: daemon.state(host), "no-hypervisor")
        finding = daemon.obstacle(a, web.name, b.name, "hypervisor.alive")
        if host is b:
            assert "systemctl start libvirtd" in finding.details["remedy"]
        else:
            assert finding.details["host"] == "hosta"
    daemon.wait_ready(host)
    daemon.wait_free(a, web.name, b.name)


def test_the_peer_is_in_maintenance(a: Host, b: Host, web: Guest) -> None:
    b.run("kvmigctl", "maintenance", "on")
    finding = daemon.obstacle(a, web.name, b.name, "host.accepting")
    assert "kvmigctl maintenance off" in finding.details["remedy"]
    b.run("kvmigctl", "maintenance", "off")
    daemon.wait_free(a, web.name, b.name)


def test_a_certificate_of_qemu_is_missing(a: Host, b: Host, web: Guest) -> None:
    with faults.file_changed(b, "/etc/pki/qemu/server-cert.pem", ""):
        wait_for(
            "the certificate stands in the way",
            lambda: daemon.check(a, web.name, b.name),
            lambda told: (
                told[0] == "blocked"
                and any(f.check == "tls.material" and "server-cert.pem" in f.summary for f in told[1])
            ),
        )
    wait_for("the way is free", lambda: daemon.check(a, web.name, b.name), lambda told: told[0] == "ready")


def test_a_guest_that_is_named_like_the_uuid_of_another(a: Host, b: Host, web: Guest) -> None:
    other = guests.boot_sector(web.uuid, memory=64, number=7)
    a.run("virsh", "--quiet", "define", "/dev/stdin", input=other.xml())
    # who says that name means the guest of that name, but what is done by UUID is done to the other
    daemon.obstacle(a, web.uuid, b.name, "guest.state")
    assert daemon.moved(a, web.name, b.name)["Result"] == "done"
    assert guests.state(b, web) == "running"
    assert guests.state(a, other) == "shut off", "nothing was done to the one that is only called so"
