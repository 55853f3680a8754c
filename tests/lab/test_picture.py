"""The picture of a host, by the kernel's and the services' own events, under the unit that is shipped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lab import daemon, faults, guests
from tests.lab.host import Host, wait_until
from tests.lab.network import BRIDGE, address
from tests.lab.roots import MOUNTPOINT

UNIT = "kvmigd.service"
STREAMS = "49152-49215"


def mounts(host: Host, point: str) -> list[dict[str, Any]]:
    """What is known of the mounts at one place, the one that is seen last."""
    return [mount for mount in daemon.things(host, "mounts", "mounts") if mount["point"] == point]


def bridge(host: Host, name: str = BRIDGE) -> dict[str, Any]:
    """What is known of a bridge."""
    return next((it for it in daemon.things(host, "links", "bridges") if it["name"] == name), {})


def hint(host: Host, peer: str, purpose: str = "stream") -> dict[str, Any]:
    """What reading the firewall's rules says about a peer."""
    hints = daemon.things(host, "firewall", "hints")
    return next((it for it in hints if (it["peer"], it["purpose"]) == (peer, purpose)), {})


def guest(host: Host, name: str) -> dict[str, Any]:
    """What is known of a guest."""
    return next((it for it in daemon.things(host, "hypervisor", "guests") if it["name"] == name), {})


def problem(host: Host, subject: str) -> str:
    """Why a subject is not known; empty while it is."""
    return str(daemon.describe(host, subject)["problem"])


@pytest.fixture
def a(a: Host) -> Host:
    """The first host, with all of it known."""
    daemon.wait_ready(a)
    wait_until("all of hosta is known", lambda: not daemon.properties(a, daemon.ROOT, daemon.HOST)["Unknown"])
    return a


# Mounts


def test_mounts_come_and_go(a: Host) -> None:
    with faults.mount_added(a, "/srv/with space"):
        wait_until("the mount is known", lambda: bool(mounts(a, "/srv/with space")))
        (mount,) = mounts(a, "/srv/with space")
        assert (mount["fs_type"], mount["source"], mount["kind"]) == ("tmpfs", "tmpfs", "memory")
        with faults.mount_added(a, "/srv/with space"):
            wait_until("the first one is covered", lambda: len(mounts(a, "/srv/with space")) == 2)
            assert [it.get("covered", False) for it in mounts(a, "/srv/with space")] == [True, False]
        wait_until(
            "it is seen again", lambda: [it.get("covered", False) for it in mounts(a, "/srv/with space")] == [False]
        )
    wait_until("it is gone", lambda: not mounts(a, "/srv/with space"))


def test_the_hosts_own_mounts_are_seen_and_not_those_of_the_unit(a: Host) -> None:
    """The unit's own mount namespace has everything read-only."""
    (mount,) = mounts(a, MOUNTPOINT)
    options = a.sh('findmnt --noheadings --output VFS-OPTIONS --mountpoint "$1"', MOUNTPOINT).split(",")
    assert sorted(options) == mount["options"]
    assert "rw" in options


def test_shared_storage_is_known_with_its_room_and_whether_it_returns(a: Host) -> None:
    (mount,) = mounts(a, MOUNTPOINT)
    assert (mount["fs_type"], mount["kind"], mount["shared"]) == ("fuse.glusterfs", "cluster", True)
    assert mount["persistence"] == "fstab"
    wait_until("its room is known", lambda: bool(mounts(a, MOUNTPOINT)[0].get("space")))
    assert mounts(a, MOUNTPOINT)[0]["space"]["total"] > 0
    with faults.mount_added(a, "/srv/again", source=MOUNTPOINT, kind="none", options="bind"):
        wait_until("the second mount is known", lambda: bool(mounts(a, "/srv/again")))
        assert mounts(a, "/srv/again")[0]["persistence"] == "hand"
        line = a.read("/etc/fstab") + f"{MOUNTPOINT} /srv/again none bind 0 0\n"
        with faults.file_changed(a, "/etc/fstab", line):
            wait_until("it will return", lambda: mounts(a, "/srv/again")[0]["persistence"] == "fstab")
        wait_until("it will not", lambda: mounts(a, "/srv/again")[0]["persistence"] == "hand")


def test_storage_that_hangs_is_noticed_and_so_is_its_recovery(a: Host) -> None:
    (client,) = a.run("pgrep", "-x", "glusterfs").stdout.split()
    with faults.paused(a, int(client)):
        wait_until("the hang is noticed", lambda: bool(mounts(a, MOUNTPOINT)[0].get("problem")))
        assert mounts(a, MOUNTPOINT)[0]["problem_since_usec"] > 0
        assert daemon.properties(a, daemon.ROOT, daemon.MANAGER)["HostName"] == "hosta", "the bus is answered"
        with faults.mount_added(a, "/srv/other"):
            wait_until("other mounts are still seen", lambda: bool(mounts(a, "/srv/other")))
    wait_until("it has recovered", lambda: not mounts(a, MOUNTPOINT)[0].get("problem"))


def test_a_storm_of_mounts(a: Host) -> None:
    script = """
mkdir -p /run/storm; cd /run/storm
for n in $(seq 500); do mkdir $n; mount -t tmpfs -o size=4k storm $n; done
"""
    try:
        a.sh(script, timeout=120)
        wait_until("all are known", lambda: sum(it["source"] == "storm" for it in _all_mounts(a)) == 500)
    finally:
        a.sh("cd /run/storm && umount --lazy $(seq 500); cd / && rm -rf /run/storm", timeout=120)
    wait_until("all are gone", lambda: not any(it["source"] == "storm" for it in _all_mounts(a)))


def _all_mounts(host: Host) -> list[dict[str, Any]]:
    return daemon.things(host, "mounts", "mounts")


def test_both_hosts_see_that_it_is_the_same_storage(a: Host, b: Host) -> None:
    daemon.wait_ready(b)

    def identity(host: Host) -> dict[str, Any]:
        found = daemon.things(host, "storage", "filesystems")
        return next((it for it in found if it["point"] == MOUNTPOINT), {})

    wait_until("both know it", lambda: bool(identity(a)) and bool(identity(b)))
    assert identity(a) == identity(b)
    assert (identity(a)["server"], identity(a)["export"]) == ("store", "vm")


# Links


def test_bridges_follow_the_kernel(a: Host) -> None:
    assert bridge(a)["uplinks"] == ["gst0"]
    assert (bridge(a)["up"], bridge(a)["carrier"], bridge(a)["mtu"]) == (True, True, 1500)
    with faults.bridge_down(a):
        wait_until("it is down", lambda: not bridge(a).get("up"))
    wait_until("it is up", lambda: bridge(a).get("up") is True)
    with faults.bridge_without_uplink(a):
        wait_until("it has no uplink", lambda: not bridge(a).get("uplinks"))
    wait_until("it has one", lambda: bridge(a).get("uplinks") == ["gst0"])
    with faults.bridge_added(a, "br9"):
        wait_until("another is there", lambda: bool(bridge(a, "br9")))
        a.run("ip", "link", "set", "br9", "type", "bridge", "stp_state", "1")
        wait_until("it has STP", lambda: bridge(a, "br9").get("stp") is True)
        a.sh("ip link add port9 type veth peer name far9; ip link set port9 master br9 up; ip link set far9 up")
        wait_until("it has a port", lambda: [port["name"] for port in bridge(a, "br9")["ports"]] == ["port9"])
        a.run("ip", "link", "set", "port9", "mtu", "1400")
        wait_until("the MTU follows", lambda: _link(a, "port9").get("mtu") == 1400)
        a.run("ip", "link", "del", "port9")
        wait_until("it has none", lambda: not bridge(a, "br9")["ports"])
    wait_until("it is gone", lambda: not bridge(a, "br9"))


def _link(host: Host, name: str) -> dict[str, Any]:
    return next((it for it in daemon.things(host, "links", "links") if it["name"] == name), {})


def test_taps_of_guests_are_no_uplinks(a: Host) -> None:
    guests.create(a, guests.boot_sector("web", memory=64))
    wait_until("its tap is a port", lambda: len(bridge(a).get("ports", [])) == 2)
    assert bridge(a)["uplinks"] == ["gst0"]


def test_the_way_to_a_peer(a: Host, b: Host) -> None:
    def route() -> dict[str, Any]:
        return next((it for it in daemon.things(a, "links", "routes") if it["peer"] == b.name), {})

    assert (route()["address"], route()["link"], route()["source"]) == (address("hostb"), "mig0", address("hosta"))
    a.run("ip", "route", "add", f"{address('hostb')}/32", "dev", "sto0")
    wait_until("it has changed", lambda: route().get("link") == "sto0")
    a.run("ip", "route", "del", f"{address('hostb')}/32")
    wait_until("it has changed back", lambda: route().get("link") == "mig0")


def test_events_that_were_lost_are_made_up_for(a: Host) -> None:
    """While the daemon stands still, more happens than its socket can hold."""
    batch = "".join(f"link add storm{number} type bridge\n" for number in range(300))
    with faults.paused(a, UNIT):
        a.run("ip", "-batch", "-", input=batch, timeout=120)
        for _ in range(20):
            a.run(
                *("ip", "-batch", "-"),
                input="".join(f"link set storm{number} mtu {1400 + _}\n" for number in range(300)),
                timeout=120,
            )
    try:
        names = {f"storm{number}" for number in range(300)}

        def seen() -> bool:
            found = {it["name"]: it["mtu"] for it in daemon.things(a, "links", "links")}
            return names <= found.keys() and {found[name] for name in names} == {1419}

        wait_until("all are known as they are", seen)
    finally:
        delete = "".join(f"link del storm{number}\n" for number in range(300))
        a.run("ip", "-batch", "-", input=delete, timeout=120)
    wait_until(
        "all are gone", lambda: not any(it["name"].startswith("storm") for it in daemon.things(a, "links", "links"))
    )


# Firewall


def test_rules_of_nftables(a: Host, b: Host) -> None:
    wait_until("it is open", lambda: hint(a, b.name).get("answer") == "open")
    with faults.block_port(a, STREAMS):
        wait_until("it is closed", lambda: hint(a, b.name).get("answer") == "closed")
        assert hint(a, b.name, "control")["answer"] == "open"
        assert "lab_fault" in hint(a, b.name)["by"]
    wait_until("it is open again", lambda: hint(a, b.name).get("answer") == "open")
    with faults.firewall_rule(a, f"ip saddr {address('hostb')} tcp dport 16515 reject"):
        wait_until("the control port is closed", lambda: hint(a, b.name, "control").get("answer") == "closed")
        assert hint(a, b.name)["answer"] == "open"


def backend(host: Host, name: str = "nftables") -> dict[str, Any]:
    """What is known of one kind of packet filter."""
    return next((it for it in daemon.things(host, "firewall", "backends") if it["name"] == name), {})


@pytest.mark.parametrize("script", [None, "#!/bin/sh\nexec sleep 60\n", "#!/bin/sh\necho nonsense\n"])
def test_nft_is_missing_or_slow_or_odd(a: Host, b: Host, script: str | None) -> None:
    wait_until("it is open", lambda: hint(a, b.name).get("answer") == "open")
    with faults.file_changed(a, "/usr/sbin/nft", script):
        real = a.sh("ls /var/tmp/lab_fault_* | head -1")
        a.sh('cp --archive "$1" /run/nft-real; chmod 755 /run/nft-real; /run/nft-real add table inet lab_fault_x', real)
        wait_until("the rules are not known", lambda: bool(backend(a).get("problem")))
        assert backend(a)["problem_since_usec"] > 0
        assert hint(a, b.name)["answer"] == "unknown"
    a.run("nft", "delete", "table", "inet", "lab_fault_x")
    wait_until("it is open again", lambda: hint(a, b.name).get("answer") == "open")
    assert not backend(a).get("problem")


def test_firewalld_by_its_signals(a: Host, b: Host) -> None:
    wait_until("it is open", lambda: hint(a, b.name).get("answer") == "open")
    a.run("systemctl", "start", "firewalld.service", timeout=120)
    try:
        wait_until("firewalld is seen", lambda: backend(a, "firewalld").get("active") is True)
        wait_until("it is closed", lambda: hint(a, b.name).get("answer") == "closed")
        a.run("firewall-cmd", f"--add-port={STREAMS}/tcp")
        wait_until("it is open for now", lambda: hint(a, b.name).get("answer") == "open")
        assert hint(a, b.name)["duration"] == "runtime"
        a.run("firewall-cmd", "--permanent", f"--add-port={STREAMS}/tcp")
        wait_until("it is open for good", lambda: hint(a, b.name).get("duration") == "permanent")
        a.run("systemctl", "restart", "firewalld.service", timeout=120)
        wait_until("it is open after a restart", lambda: hint(a, b.name).get("answer") == "open")
        with faults.paused(a, "firewalld.service"):
            a.run("ip", "link", "add", "lab9", "type", "bridge")  # anything that makes the daemon look again
            a.run("ip", "link", "del", "lab9")
            assert daemon.properties(a, daemon.ROOT, daemon.MANAGER)["HostName"] == "hosta", "the bus is answered"
    finally:
        a.sh(
            f"firewall-cmd --permanent --remove-port={STREAMS}/tcp || true; systemctl stop firewalld.service",
            timeout=120,
        )
    wait_until("firewalld is gone", lambda: not backend(a, "firewalld").get("active"))
    wait_until("it is open without it", lambda: hint(a, b.name).get("answer") == "open")


# Files


def ports(host: Host) -> dict[str, Any]:
    """The stream's ports as the configuration has them."""
    return next(it for it in daemon.things(host, "firewall", "ports") if it["purpose"] == "stream")


def test_our_own_configuration_is_read_when_it_is_replaced(a: Host) -> None:
    assert (ports(a)["first"], ports(a)["last"]) == (49152, 49215)
    text = a.read("/etc/kvmigd/kvmigd.toml") + "\n[migration]\nport_min = 49300\nport_max = 49310\n"
    with faults.file_changed(a, "/etc/kvmigd/kvmigd.toml", text):
        wait_until("the ports are others", lambda: (ports(a)["first"], ports(a)["last"]) == (49300, 49310))
    wait_until("they are the old ones", lambda: ports(a)["first"] == 49152)


def test_a_folder_that_vanishes_and_returns(a: Host) -> None:
    a.run("mv", "/etc/kvmigd/peers.d", "/etc/kvmigd/away")
    try:
        wait_until("there is no peer", lambda: not daemon.things(a, "links", "routes"))
    finally:
        a.run("mv", "/etc/kvmigd/away", "/etc/kvmigd/peers.d")
    wait_until("there is one", lambda: bool(daemon.things(a, "links", "routes")))
    wait_until("they are connected", lambda: daemon.peer_state(a, "hostb") == "connected")


def test_a_package_that_is_updated(a: Host) -> None:
    def version(name: str) -> str:
        found = daemon.things(a, "system", "packages")
        return next((str(it["version"]) for it in found if it["name"] == name), "")

    before = version("qemu-system-x86")
    assert before == a.sh("dpkg-query -W -f '${Version}' qemu-system-x86")
    with faults.package_version(a, "qemu-system-x86", "1:99.0"):
        wait_until("it is newer", lambda: version("qemu-system-x86") == "1:99.0")
    wait_until("it is as before", lambda: version("qemu-system-x86") == before)


# Hypervisor


def test_guests_by_libvirts_events(a: Host) -> None:
    web = guests.create(a, guests.boot_sector("web", memory=64))
    wait_until("it runs", lambda: guest(a, "web").get("state") == "running")
    known = guest(a, "web")
    assert known["disks"][0]["paths"][0] == web.disk
    assert known["nics"][0]["source"] == BRIDGE
    a.run("virsh", "suspend", web.name)
    wait_until("it is paused", lambda: guest(a, "web").get("state") == "paused")
    a.run("virsh", "resume", web.name)
    wait_until("it runs again", lambda: guest(a, "web").get("state") == "running")
    a.run("virsh", "destroy", web.name)
    wait_until("it is off", lambda: guest(a, "web").get("state") == "shutoff")
    a.run("virsh", "undefine", web.name)
    wait_until("it is gone", lambda: not guest(a, "web"))


def test_libvirt_networks(a: Host) -> None:
    xml = "<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/><portgroup name='office'/></network>"
    a.write("/run/lan.xml", xml)

    def network() -> dict[str, Any]:
        return next((it for it in daemon.things(a, "hypervisor", "networks") if it["name"] == "lan"), {})

    a.run("virsh", "net-define", "/run/lan.xml")
    try:
        wait_until("it is defined", lambda: bool(network()))
        assert (network()["bridge"], network()["port_groups"]) == ("br0", ["office"])
        a.run("virsh", "net-start", "lan")
        wait_until("it is active", lambda: network().get("active") is True)
        a.run("virsh", "net-destroy", "lan")
        wait_until("it is not", lambda: not network().get("active"))
    finally:
        a.run("virsh", "net-undefine", "lan")
    wait_until("it is gone", lambda: not network())


def test_libvirt_restarts_and_hangs(a: Host) -> None:
    web = guests.create(a, guests.boot_sector("web", memory=64))
    wait_until("it runs", lambda: guest(a, "web").get("state") == "running")
    a.run("systemctl", "restart", "libvirtd.service")
    wait_until("it is known again", lambda: guest(a, "web").get("state") == "running")
    with faults.paused(a, "libvirtd.service"):
        wait_until("libvirt is not known", lambda: bool(problem(a, "hypervisor")), timeout=60)
        assert guest(a, "web") == {}, "an old truth is not told"
        assert daemon.properties(a, daemon.ROOT, daemon.HOST)["Unknown"].keys() == {"hypervisor"}
    wait_until("it is known again", lambda: guest(a, web.name).get("state") == "running")


# Peers and people


def test_the_peer_is_told(a: Host, b: Host) -> None:
    daemon.wait_connected(a, b)
    script = """
import json, ssl, sys, urllib.request
context = ssl.create_default_context(cafile="/etc/pki/CA/cacert.pem")
context.load_cert_chain("/etc/pki/libvirt/clientcert.pem", "/etc/pki/libvirt/private/clientkey.pem")
told = {}
with urllib.request.urlopen("https://hosta:16515/v3/watch", context=context, timeout=10) as stream:
    while not {"mounts", "links", "system", "hypervisor"} <= told.keys():
        told.update(json.loads(stream.readline() or b"{}"))
print(json.dumps(told))
"""
    told = json.loads(b.run("python3", "-I", "-c", script).stdout)
    assert MOUNTPOINT in [mount["point"] for mount in told["mounts"]["mounts"]]
    assert "/proc" not in [mount["point"] for mount in told["mounts"]["mounts"]]
    assert BRIDGE in [it["name"] for it in told["links"]["bridges"]]


def test_kvmigctl_host_and_watch(a: Host) -> None:
    text = a.run("kvmigctl", "host").stdout
    for word in (MOUNTPOINT, BRIDGE, "mig0", "hint"):
        assert word in text
    everything = json.loads(a.run("kvmigctl", "host", "--json").stdout)
    assert everything["generation"] > 0
    watch = a.spawn("kvmigctl", "watch", "--json")
    assert watch.stderr is not None
    assert watch.stderr.readline()
    with faults.bridge_added(a, "br9"):
        wait_until("it is known", lambda: bool(bridge(a, "br9")))
    wait_until("it is gone", lambda: not bridge(a, "br9"))
    assert watch.stdout is not None
    lines = []
    while not any(it["kind"] == "removed" and it["key"] == "br9" for it in lines):
        lines.append(json.loads(watch.stdout.readline()))
    watch.kill()
    watch.communicate()
    assert ("added", "bridges", "br9") in [(it["kind"], it["field"], it["key"]) for it in lines]
