"""The picture of a host, by the kernel's and the services' own events, under the unit that is shipped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lab import daemon, faults, guests
from tests.lab.host import Host, wait_equal, wait_for, wait_until
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


def answers(host: Host, peer: str) -> dict[str, str]:
    """What reading the firewall's rules says about a peer, of streams and of control connections."""
    hints = daemon.things(host, "firewall", "hints")
    return {
        it["purpose"]: it["answer"] for it in hints if it["peer"] == peer and it["purpose"] in ("stream", "control")
    }


def guest(host: Host, name: str) -> dict[str, Any]:
    """What is known of a guest."""
    return next((it for it in daemon.things(host, "hypervisor", "guests") if it["name"] == name), {})


def problem(host: Host, subject: str) -> str:
    """Why a subject is not known; empty while it is."""
    return str(daemon.describe(host, subject)["problem"])


@pytest.fixture
def a(a: Host) -> Host:
    """The first host, known as it is after the test before."""
    wait_for("the volume is known", lambda: mounts(a, MOUNTPOINT), lambda found: len(found) == 1)
    wait_for("the bridge is known", lambda: bridge(a), lambda found: found.get("uplinks") == ["gst0"])
    return a


# Mounts


def test_mounts_come_and_go(a: Host) -> None:
    with faults.mount_added(a, "/srv/with space"):
        (mount,) = wait_for("the mount is known", lambda: mounts(a, "/srv/with space"), bool)
        assert (mount["fs_type"], mount["source"], mount["kind"]) == ("tmpfs", "tmpfs", "memory")
        with faults.mount_added(a, "/srv/with space"):
            wait_equal("the first one is covered", lambda: covered(a, "/srv/with space"), [True, False])
        wait_equal("it is seen again", lambda: covered(a, "/srv/with space"), [False])
    wait_until("it is gone", lambda: not mounts(a, "/srv/with space"))


def covered(host: Host, point: str) -> list[bool]:
    """Which of the mounts at one place are covered by another."""
    return [it.get("covered", False) for it in mounts(host, point)]


def test_the_hosts_own_mounts_are_seen_and_not_those_of_the_unit(a: Host) -> None:
    """The unit's own mount namespace has everything read-only."""
    options = a.sh('findmnt --noheadings --output VFS-OPTIONS --mountpoint "$1"', MOUNTPOINT).split(",")
    wait_equal("its options are known", lambda: [it["options"] for it in mounts(a, MOUNTPOINT)], [sorted(options)])
    assert "rw" in options


def test_shared_storage_is_known_with_its_room_and_whether_it_returns(a: Host) -> None:
    (mount,) = mounts(a, MOUNTPOINT)
    assert (mount["fs_type"], mount["kind"], mount["shared"]) == ("fuse.glusterfs", "cluster", True)
    assert mount["persistence"] == "fstab"
    wait_for(
        "its room is known", lambda: mounts(a, MOUNTPOINT)[0].get("space"), lambda room: room and room["total"] > 0
    )
    with faults.mount_added(a, "/srv/again", source=MOUNTPOINT, kind="none", options="bind"):
        wait_equal("the second mount is known", lambda: persistence(a, "/srv/again"), ["hand"])
        line = a.read("/etc/fstab") + f"{MOUNTPOINT} /srv/again none bind 0 0\n"
        with faults.file_changed(a, "/etc/fstab", line):
            wait_equal("it will return", lambda: persistence(a, "/srv/again"), ["fstab"])
        wait_equal("it will not", lambda: persistence(a, "/srv/again"), ["hand"])


def persistence(host: Host, point: str) -> list[str]:
    """Whether the mounts at one place come back with a boot."""
    return [it["persistence"] for it in mounts(host, point)]


def test_storage_that_hangs_is_noticed_and_so_is_its_recovery(a: Host) -> None:
    (client,) = a.run("pgrep", "-x", "glusterfs").stdout.split()
    with faults.paused(a, int(client)):
        hung = wait_for("the hang is noticed", lambda: mounts(a, MOUNTPOINT)[0], lambda mount: mount.get("problem"))
        assert hung["problem_since_usec"] > 0
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
        wait_equal("all are known", lambda: _storms(a), 500, timeout=90)
    finally:
        a.sh("cd /run/storm && umount --lazy $(seq 500); cd / && rm -rf /run/storm", timeout=120)
    wait_equal("all are gone", lambda: _storms(a), 0, timeout=90)


def _storms(host: Host) -> int:
    return sum(it["source"] == "storm" for it in daemon.things(host, "mounts", "mounts"))


def test_both_hosts_see_that_it_is_the_same_storage(a: Host, b: Host) -> None:
    daemon.wait_ready(b)

    def identity(host: Host) -> dict[str, Any]:
        found = daemon.things(host, "storage", "filesystems")
        return next((it for it in found if it["point"] == MOUNTPOINT), {})

    known, _ = wait_for(
        "both know the same", lambda: (identity(a), identity(b)), lambda both: both[0] and both[0] == both[1]
    )
    assert (known["server"], known["export"]) == ("store", "vm")


# Links


def test_bridges_follow_the_kernel(a: Host) -> None:
    wait_equal("it is as it is", lambda: [bridge(a).get(key) for key in ("up", "carrier", "mtu")], [True, True, 1500])
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
    known = wait_for("its tap is a port", lambda: bridge(a), lambda found: len(found.get("ports", ())) == 2)
    assert known["uplinks"] == ["gst0"]


def test_the_way_to_a_peer(a: Host, b: Host) -> None:
    def route() -> dict[str, Any]:
        return next((it for it in daemon.things(a, "links", "routes") if it["peer"] == b.name), {})

    way = [address("hostb"), "mig0", address("hosta")]
    wait_equal("it is known", lambda: [route().get(key) for key in ("address", "link", "source")], way)
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

        wait_until("all are known as they are", seen, timeout=90)
    finally:
        delete = "".join(f"link del storm{number}\n" for number in range(300))
        a.run("ip", "-batch", "-", input=delete, timeout=120)
    wait_until(
        "all are gone", lambda: not any(it["name"].startswith("storm") for it in daemon.things(a, "links", "links"))
    )


# Firewall


def test_rules_of_nftables(a: Host, b: Host) -> None:
    both_open = {"stream": "open", "control": "open"}
    wait_equal("both are open", lambda: answers(a, b.name), both_open)
    with faults.block_port(a, STREAMS):
        wait_equal("streams are not", lambda: answers(a, b.name), {"stream": "closed", "control": "open"})
        assert "lab_fault" in hint(a, b.name)["by"]
    wait_equal("both are open again", lambda: answers(a, b.name), both_open)
    with faults.firewall_rule(a, f"ip saddr {address('hostb')} tcp dport 16515 reject"):
        wait_equal("control is not", lambda: answers(a, b.name), {"stream": "open", "control": "closed"})


def backend(host: Host, name: str = "nftables") -> dict[str, Any]:
    """What is known of one kind of packet filter."""
    return next((it for it in daemon.things(host, "firewall", "backends") if it["name"] == name), {})


@pytest.mark.parametrize("script", [None, "#!/bin/sh\nexec sleep 60\n", "#!/bin/sh\necho nonsense\n"])
def test_nft_is_missing_or_slow_or_odd(a: Host, b: Host, script: str | None) -> None:
    wait_until("it is open", lambda: hint(a, b.name).get("answer") == "open")
    with faults.file_changed(a, "/usr/sbin/nft", script):
        real = a.sh("ls /var/tmp/lab_fault_* | head -1")
        a.sh('cp --archive "$1" /run/nft-real; chmod 755 /run/nft-real; /run/nft-real add table inet lab_fault_x', real)
        known = wait_for("the rules are not known", lambda: backend(a), lambda found: found.get("problem"))
        assert known["problem_since_usec"] > 0
        wait_equal("nothing is known of the peer", lambda: hint(a, b.name).get("answer"), "unknown")
    a.run("nft", "delete", "table", "inet", "lab_fault_x")
    wait_until("it is open again", lambda: hint(a, b.name).get("answer") == "open")
    wait_equal("the rules are known", lambda: backend(a).get("problem", ""), "")


def test_firewalld_by_its_signals(a: Host, b: Host) -> None:

    def stands() -> tuple[str, str]:
        # The kernel tells its rules, firewalld its zones, each in its own time: for a while they are not of one mind,
        # and of what firewalld does not say as well it is not known how long it lasts.
        found = hint(a, b.name)
        return found.get("answer", ""), found.get("duration", "")

    wait_until("it is open", lambda: hint(a, b.name).get("answer") == "open")
    a.run("systemctl", "start", "firewalld.service", timeout=120)
    try:
        wait_until("firewalld is seen", lambda: backend(a, "firewalld").get("active") is True)
        wait_until("it is closed", lambda: hint(a, b.name).get("answer") == "closed")
        a.run("firewall-cmd", f"--add-port={STREAMS}/tcp")
        wait_equal("it is open for now", stands, ("open", "runtime"))
        a.run("firewall-cmd", "--permanent", f"--add-port={STREAMS}/tcp")
        wait_equal("it is open for good", stands, ("open", "permanent"))
        a.run("systemctl", "restart", "firewalld.service", timeout=120)
        wait_equal("it is open after a restart", stands, ("open", "permanent"))
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


def ports(host: Host) -> list[tuple[int, int]]:
    """The stream's ports as the configuration has them."""
    return [(it["first"], it["last"]) for it in daemon.things(host, "firewall", "ports") if it["purpose"] == "stream"]


def test_our_own_configuration_is_read_when_it_is_replaced(a: Host) -> None:
    wait_equal("the ports are known", lambda: ports(a), [(49152, 49215)])
    text = a.read("/etc/kvmigd/kvmigd.toml") + "\n[migration]\nport_min = 49300\nport_max = 49310\n"
    with faults.file_changed(a, "/etc/kvmigd/kvmigd.toml", text):
        wait_equal("the ports are others", lambda: ports(a), [(49300, 49310)])
    wait_equal("they are the old ones", lambda: ports(a), [(49152, 49215)])


def test_a_folder_that_vanishes_and_returns(a: Host) -> None:
    a.run("mv", "/etc/kvmigd/peers.d", "/etc/kvmigd/away")
    try:
        wait_until("there is no peer", lambda: not daemon.things(a, "links", "routes"))
    finally:
        a.run("mv", "/etc/kvmigd/away", "/etc/kvmigd/peers.d")
    wait_until("there is one", lambda: bool(daemon.things(a, "links", "routes")))
    daemon.wait_peer_state(a, "hostb", "connected")


def test_a_package_that_is_updated(a: Host) -> None:
    def version(name: str) -> str:
        found = daemon.things(a, "system", "packages")
        return next((str(it["version"]) for it in found if it["name"] == name), "")

    before = a.sh("dpkg-query -W -f '${Version}' qemu-system-x86")
    wait_equal("it is known", lambda: version("qemu-system-x86"), before, timeout=60)
    with faults.package_version(a, "qemu-system-x86", "1:99.0"):
        wait_equal("it is newer", lambda: version("qemu-system-x86"), "1:99.0", timeout=60)
    wait_equal("it is as before", lambda: version("qemu-system-x86"), before, timeout=60)


# Hypervisor


def test_guests_by_libvirts_events(a: Host) -> None:
    web = guests.create(a, guests.boot_sector("web", memory=64))
    known = wait_for("it runs", lambda: guest(a, "web"), lambda it: it.get("state") == "running")
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
        wait_until("libvirt is not known", lambda: bool(problem(a, "hypervisor")), timeout=90)
        assert guest(a, "web") == {}, "an old truth is not told"
        wait_equal("nothing else is not known", lambda: [*(daemon.not_known(a) or ())], ["hypervisor"])
    wait_until("it is known again", lambda: guest(a, web.name).get("state") == "running")


# Peers and people


def test_the_peer_is_told(a: Host, b: Host) -> None:
    daemon.wait_connected(a, b)
    script = """
import json, ssl, sys, urllib.request
context = ssl.create_default_context(cafile="/etc/pki/CA/cacert.pem")
context.load_cert_chain("/etc/pki/libvirt/clientcert.pem", "/etc/pki/libvirt/private/clientkey.pem")
told = {}
with urllib.request.urlopen("https://hosta:16515/v3/watch", context=context, timeout=30) as stream:
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
