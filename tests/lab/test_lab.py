"""The lab itself: what its hosts can do, that its faults act and are undone, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab import faults, guests, network, storage
from tests.lab.boot import machine_id
from tests.lab.command import LabError
from tests.lab.conftest import Hosts, MakeGuest
from tests.lab.faults import Direction
from tests.lab.guests import Guest
from tests.lab.host import Host, wait_equal, wait_for, wait_until
from tests.lab.lab import Lab, down
from tests.lab.network import Network
from tests.lab.places import Places
from tests.lab.roots import MOUNTPOINT


def _ping(source: Host, target: str) -> bool:
    return source.run("ping", "-c", "1", "-W", "0.3", target, check=False).returncode == 0


def _wait_ping(source: Host, target: str) -> None:
    """Wait until a host answers again: ARP asks once a second while it has no answer."""
    wait_until(f"{target} answers {source.name}", lambda: _ping(source, target))


def _wait_reaches(source: Host, address: str, port: int, how: str = "open") -> None:
    """Wait until a connection ends so: what was undone a moment ago may still cost a packet."""
    wait_equal(f"{source.name} reaches {address} port {port}", lambda: _reaches(source, address, port), how)


def _reaches(source: Host, address: str, port: int) -> str:
    """Return how a connection ends: `open`, `refused` or `silent`."""
    script = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.5).close()\n"
        "except ConnectionRefusedError: print('refused')\n"
        "except TimeoutError: print('silent')\n"
        "else: print('open')"
    )
    return source.run("python3", "-c", script, address, str(port)).stdout.strip()


def _migrate(source: Host, guest: Guest, uri: str = "qemu+tls://hostb/system", *options: str) -> None:
    verb = ("virsh", "migrate", "--live", "--p2p", "--tls", "--persistent", "--undefinesource")
    source.run(*verb, *options, guest.name, uri)


def test_hosts_are_as_real_ones(hosts: Hosts, lab: Lab) -> None:
    for host in hosts:
        assert host.sh("hostname") == host.name
        assert host.sh("systemctl is-system-running") == "running"
        assert host.sh("getent hosts hostb").split()[0] == "10.77.1.12"
        assert host.is_active("network-online.target")
        uuid = re.search(r"<uuid>(.*)</uuid>", host.run("virsh", "capabilities").stdout)
        assert uuid is not None
        assert uuid[1].replace("-", "") == machine_id(lab.name, host.name)
    assert hosts.a.boot_id() != hosts.b.boot_id()
    _wait_ping(hosts.a, "hostb")
    _wait_reaches(hosts.a, "hostb", 16514)
    assert "hostb" in hosts.a.run("virsh", "-c", "qemu+tls://hostb/system", "hostname").stdout


def test_storage_is_shared(hosts: Hosts) -> None:
    hosts.a.write(f"{MOUNTPOINT}/guests/nonce", "seen")
    assert hosts.b.read(f"{MOUNTPOINT}/guests/nonce") == "seen"
    assert storage.brick_file(hosts.a, f"{MOUNTPOINT}/guests/nonce").read_text(encoding="utf-8") == "seen"
    assert hosts.a.sh(f"stat -f -c %T {MOUNTPOINT}") == "fuseblk"


def test_linux_guest_migrates_and_goes_on_counting(hosts: Hosts, linux_guest: MakeGuest) -> None:
    guest = linux_guest(hosts.a)
    before = guests.tick(hosts.a, guest)
    _migrate(hosts.a, guest)
    assert guests.state(hosts.a, guest) == ""
    assert guests.state(hosts.b, guest) == "running"
    guests.wait_counting(hosts.b, guest, ticks=2)
    after = guests.tick(hosts.b, guest)
    assert after.boot == before.boot
    assert after.count > before.count
    _wait_ping(hosts.a, guest.address)


def test_boot_sector_guest_dirties_what_it_shall(hosts: Hosts, boot_sector_guest: MakeGuest) -> None:
    guest = boot_sector_guest(hosts.a, memory=256, filled=32, working_set=16, dirty_rate=8.0)
    monitor = ("virsh", "qemu-monitor-command", guest.name)

    def measured() -> dict[str, object]:
        hosts.a.run(*monitor, '{"execute":"calc-dirty-rate","arguments":{"calc-time":1}}')
        return wait_for(
            "the dirty rate is measured",
            lambda: dict(json.loads(hosts.a.run(*monitor, '{"execute":"query-dirty-rate"}').stdout)["return"]),
            lambda told: told["status"] == "measured",
        )

    # A guest that gets no processor for that second dirties nothing.
    told = wait_for("it dirties something", measured, lambda told: told["dirty-rate"] != 0)
    assert isinstance(told["dirty-rate"], int)
    assert 0 < told["dirty-rate"] < 64
    _migrate(hosts.a, guest)
    sent = hosts.b.run("virsh", "domjobinfo", "--completed", "--rawstats", guest.name).stdout
    found = re.search(r"^memory_total: (\d+)$", sent, re.MULTILINE)
    assert found is not None
    assert int(found[1]) >= 256 << 20


def test_reboot_brings_everything_back(hosts: Hosts) -> None:
    before = hosts.b.boot_id()
    hosts.b.reboot()
    assert hosts.b.boot_id() != before
    assert storage.is_mounted(hosts.b)
    _wait_ping(hosts.a, "hostb")
    _wait_reaches(hosts.a, "hostb", 16514)


def test_power_off_stays_off(hosts: Hosts) -> None:
    hosts.b.run("systemctl", "poweroff", "--no-block")
    hosts.b.wait_off()
    assert not hosts.b.is_on
    with pytest.raises(LabError, match="hostb is off"):
        hosts.b.run("true")


def test_power_cut_takes_the_guest_but_not_the_storage(hosts: Hosts, linux_guest: MakeGuest) -> None:
    lost, kept = linux_guest(hosts.a, "lost"), linux_guest(hosts.b, "kept", number=2)
    with faults.power_cut(hosts.a):
        assert not hosts.a.is_on
        guests.wait_counting(hosts.b, kept)  # what it sent last has been written by now
        count = guests.counter(hosts.b, lost)
        guests.wait_counting(hosts.b, kept, ticks=3)
        assert guests.counter(hosts.b, lost) == count
    assert guests.state(hosts.a, lost) == "shut off"
    hosts.a.run("virsh", "start", lost.name)


def test_network_faults_drop_silently(hosts: Hosts) -> None:
    for network_ in (Network.MIGRATION, Network.STORAGE):
        address = network.address("hostb", network_)
        with faults.cut(hosts.b, network_):
            assert not _ping(hosts.a, address)
            assert "state UP" in hosts.b.run("ip", "link", "show", network_.link).stdout
        _wait_ping(hosts.a, address)


@pytest.mark.parametrize("direction", [Direction.IN, Direction.OUT])
def test_one_way_drop_lets_the_other_way_through(hosts: Hosts, direction: Direction) -> None:
    def echoes() -> int:
        names, values = (line.split() for line in hosts.b.sh("grep ^Icmp: /proc/net/snmp").splitlines())
        return int(values[names.index("InEchos")])

    _wait_ping(hosts.a, "hostb")
    before = echoes()
    with faults.drop_one_way(hosts.b, Network.MIGRATION, direction, match="ip protocol icmp"):
        assert not _ping(hosts.a, "hostb")
        assert echoes() == before + (direction is Direction.OUT)
        _wait_reaches(hosts.a, "hostb", 16514)
    _wait_ping(hosts.a, "hostb")


def test_unplugged_host_gets_its_address_back(hosts: Hosts) -> None:
    with faults.unplugged(hosts.b):
        # the kernel tells it from a queue of its own
        wait_for(
            "there is no carrier",
            lambda: hosts.b.read("/sys/class/net/mig0/operstate").strip(),
            lambda state: state in ("down", "lowerlayerdown"),
        )
        assert not _ping(hosts.a, "hostb")
    _wait_ping(hosts.a, "hostb")


def test_throttle_shapes_both_ways(hosts: Hosts, lab: Lab) -> None:
    def shaped() -> tuple[bool, bool]:
        inside = hosts.b.run("tc", "qdisc", "show", "dev", "mig0").stdout
        outside = lab.outside("tc", "qdisc", "show", "dev", "mig-hostb").stdout
        return "tbf" in inside, "tbf" in outside

    with faults.throttle(hosts.b, Network.MIGRATION, 100):
        assert shaped() == (True, True)
        _wait_ping(hosts.a, "hostb")
    assert shaped() == (False, False)


def test_firewall_faults(hosts: Hosts) -> None:
    with faults.block_port(hosts.b, 16514):
        assert _reaches(hosts.a, "hostb", 16514) == "silent"
    with faults.reject_port(hosts.b, "16510-16520"):
        _wait_reaches(hosts.a, "hostb", 16514, "refused")
    _wait_reaches(hosts.a, "hostb", 16514)
    assert "lab_fault" not in hosts.b.run("nft", "list", "ruleset").stdout


def test_process_faults(hosts: Hosts) -> None:
    hosts.b.run("virsh", "uri")
    with faults.paused(hosts.b, "libvirtd.service"):
        assert hosts.b.run("timeout", "1", "virsh", "list", check=False).returncode == 124
    before = hosts.b.main_pid("libvirtd.service")
    with faults.killed(hosts.b, "libvirtd.service"):
        pass
    assert hosts.b.main_pid("libvirtd.service") not in (0, before)
    with faults.restarted(hosts.b, "libvirtd.service"):
        assert hosts.b.is_active("libvirtd.service")
    with faults.stopped(hosts.b, "virtlogd.service", "virtlogd.socket"):
        assert not hosts.b.is_active("virtlogd.socket")
    assert hosts.b.is_active("virtlogd.socket")


def test_file_faults(hosts: Hosts) -> None:
    path = "/etc/libvirt/qemu.conf"
    before = hosts.b.read(path), hosts.b.sh("stat -c %a,%U,%G,%Y $1", path)
    with faults.file_changed(hosts.b, path, "user = 'nobody'\n"):
        assert hosts.b.read(path) == "user = 'nobody'\n"
    with faults.file_changed(hosts.b, path, None):
        assert not hosts.b.exists(path)
    with faults.file_changed(hosts.b, "/etc/new", "new"), pytest.raises(ZeroDivisionError):
        _ = 1 // 0
    assert not hosts.b.exists("/etc/new")
    assert (hosts.b.read(path), hosts.b.sh("stat -c %a,%U,%G,%Y $1", path)) == before
    version = ("dpkg-query", "--show", "--showformat", "${Version}", "qemu-system-x86")
    real = hosts.b.run(*version).stdout
    with faults.package_version(hosts.b, "qemu-system-x86", "1:6.2+lab"):
        assert hosts.b.run(*version).stdout == "1:6.2+lab"
    assert hosts.b.run(*version).stdout == real


def test_mount_faults(hosts: Hosts) -> None:
    def options() -> str:
        return hosts.b.sh('findmnt --noheadings --output FSTYPE,VFS-OPTIONS --mountpoint "$1"', MOUNTPOINT)

    before = options()
    with faults.mount_removed(hosts.b, MOUNTPOINT):
        assert not storage.is_mounted(hosts.b)
    wait_until("the volume is mounted again", lambda: storage.is_mounted(hosts.b))
    with faults.mount_changed(hosts.b, MOUNTPOINT, "ro"):
        assert hosts.b.run("touch", f"{MOUNTPOINT}/x", check=False).returncode != 0
    with faults.mount_added(hosts.b, MOUNTPOINT):
        assert "tmpfs" in options()
    with faults.mount_added(hosts.b, "/mnt/more"):
        assert hosts.b.run("mountpoint", "-q", "/mnt/more", check=False).returncode == 0
    assert options() == before
    assert not hosts.b.sh("findmnt --noheadings /mnt/more || true")


def test_bridge_faults(hosts: Hosts, boot_sector_guest: MakeGuest) -> None:
    address = network.address("hostb", Network.GUESTS)
    ports = "/sys/class/net/br0/brif"
    boot_sector_guest(hosts.b)
    before = hosts.b.sh('ls "$1"', ports)
    assert len(before.split()) == 2
    with faults.bridge_down(hosts.b):
        assert not _ping(hosts.a, address)
    with faults.bridge_without_uplink(hosts.b):
        assert not _ping(hosts.a, address)
    with faults.bridge_removed(hosts.b):
        assert not hosts.b.exists("/sys/class/net/br0")
    with faults.bridge_added(hosts.b, "br1"):
        assert hosts.b.exists("/sys/class/net/br1")
    assert hosts.b.sh('ls "$1"', ports) == before
    assert not hosts.b.exists("/sys/class/net/br1")
    _wait_ping(hosts.a, address)


def test_cpu_fault(hosts: Hosts) -> None:
    guest = "<cpu><arch>x86_64</arch><model>qemu64</model><feature name='sse4.2'/></cpu>"
    compare = ("virsh", "hypervisor-cpu-compare", "--virttype", "qemu", "--error", "/dev/stdin")
    hosts.b.run(*compare, input=guest)
    with faults.cpu_without(hosts.b, "sse4.2"):
        refused = hosts.b.run(*compare, input=guest, check=False)
        assert "Host CPU does not provide required features: sse4.2" in refused.stderr
    hosts.b.run(*compare, input=guest)


def test_reset_mends_what_a_killed_test_leaves(hosts: Hosts, lab: Lab, boot_sector_guest: MakeGuest) -> None:
    guest = boot_sector_guest(hosts.b)
    faults.cut(hosts.a).__enter__()
    faults.block_port(hosts.b, 1234).__enter__()
    faults.paused(hosts.b, "libvirtd.service").__enter__()
    faults.bridge_removed(hosts.b).__enter__()
    faults.power_cut(hosts.a).__enter__()
    lab.reset()
    _wait_ping(hosts.a, "hostb")
    assert hosts.a.is_up()
    assert "lab_fault" not in hosts.b.run("nft", "list", "ruleset").stdout
    assert hosts.b.run("virsh", "list", "--all", "--name").stdout.strip() == ""
    assert not storage.brick_file(hosts.b, guest.disk).exists()


def test_three_hosts_know_each_other(lab3: Lab) -> None:
    a, _, c = lab3.hosts
    assert a.run("virsh", "-c", "qemu+tls://hostc/system", "hostname").stdout.strip() == "hostc"
    assert c.run("virsh", "-c", "qemu+tls://hosta/system", "hostname").stdout.strip() == "hosta"
    assert storage.is_mounted(c)


def test_spawned_commands_die_with_us(hosts: Hosts) -> None:
    with hosts.a.spawn("sleep", "4711") as process:
        wait_until("it runs", lambda: hosts.a.sh("pgrep -f 'sleep 471[1]' || true") != "")
        process.kill()
    wait_until("it is gone", lambda: hosts.a.sh("pgrep -f 'sleep 471[1]' || true") == "")
    with pytest.raises(LabError, match="did not end"):
        hosts.a.run("sleep", "4712", timeout=3)  # before it runs nobody could end it
    wait_until("it is gone", lambda: hosts.a.sh("pgrep -f 'sleep 471[2]' || true") == "")


def _namespaces() -> set[str]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        for kind in ("net", "mnt", "pid"):
            try:
                found.add(os.readlink(process / "ns" / kind))
            except OSError:
                continue
    return found


def _mentions(name: str) -> list[str]:
    """Return every process, mount and cgroup of this machine with that name in it."""
    found = [line for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines() if name in line]
    for process in Path("/proc").glob("[0-9]*"):
        for file in ("cmdline", "cgroup"):
            try:
                text = (process / file).read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            if name in text:
                found.append(f"{process.name}: {text}")
    for top in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"), Path("/run"), Path("/var/lib"), Path("/tmp")):
        found += [str(path) for path in top.glob(f"*/{name}")] + [str(path) for path in top.glob(f"*{name}*")]
    return found


@pytest.mark.parametrize("way", ["down", "interrupted"])
def test_nothing_is_left_behind(way: str) -> None:
    name = f"scratch-{os.getpid()}"
    own = {os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "mnt", "pid")}
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    with ExitStack() as held:
        try:
            if way == "down":
                Lab.up(name, hosts=1, bare=True)
            else:
                _interrupted_up(name)
            # the holder, its hosts: everything that belongs to the lab has its cgroup
            mine = _lab_namespaces(Places(name), held) - own
            assert mine
        finally:
            down(name)
        assert _mentions(name) == []
        assert not mine & _namespaces()
    assert subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout == links
    with pytest.raises(LabError, match="is not up"):
        Lab.attach(name)


def _interrupted_up(name: str) -> None:
    argv = (sys.executable, "-m", "tests.lab", "--name", name, "up", "--hosts", "1", "--bare")
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        wait_until("the first host boots", lambda: Places(name).console("hosta").exists())
        process.kill()


def _lab_namespaces(places: Places, held: ExitStack) -> set[str]:
    """Return a lab's namespaces, and hold them: the number of one that is gone is given to the next that is made.

    The other labs' hosts make some all the time, for services with a private /tmp.
    """
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if places.cgroup not in (process / "cgroup").read_text(encoding="utf-8"):
                continue
            for kind in ("net", "mnt", "pid"):
                namespace = held.enter_context((process / "ns" / kind).open("rb"))
                found.add(os.readlink(f"/proc/self/fd/{namespace.fileno()}"))
        except OSError:
            continue
    return found
