"""Migrations between real hosts, over the bus."""

from __future__ import annotations

import contextlib
import json
import re

import pytest

from tests.lab import daemon, faults, guests
from tests.lab.guests import Guest
from tests.lab.host import Host, wait_equal, wait_for, wait_until
from tests.lab.network import Network


@pytest.fixture
def web(a: Host) -> Guest:
    """A guest that runs on hosta, ready in milliseconds."""
    return guests.create(a, guests.boot_sector("web", memory=64))


@pytest.fixture
def slow(a: Host) -> Guest:
    """A guest with memory to send, so that a throttled stream takes its time."""
    return guests.create(a, guests.boot_sector("slow", memory=192, filled=128))


def domain(host: Host, name: str) -> dict[str, str]:
    """What `virsh dominfo` says."""
    lines = host.run("virsh", "dominfo", name).stdout.splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip()}


def names(host: Host) -> list[str]:
    """All guests that libvirt knows on a host."""
    return host.run("virsh", "list", "--all", "--name").stdout.split()


def sent(host: Host, job: str) -> int:
    """Bytes that a migration has sent."""
    return int(daemon.properties(host, job, daemon.MIGRATION)["BytesProcessed"])


def wait_streaming(host: Host, job: str) -> None:
    """Wait until a migration streams."""
    wait_for(
        "it streams", lambda: daemon.properties(host, job, daemon.JOB), lambda known: known["Phase"] == "streaming"
    )


def test_a_linux_guest_counts_on_while_it_moves(a: Host, b: Host) -> None:
    guest = guests.create(a, guests.linux("linux"))
    a.run("virsh", "autostart", guest.name)
    before = guests.tick(a, guest)
    job = daemon.moved(a, guest.name, b.name)
    assert (job["State"], job["Result"], job["Progress"]) == ("done", "done", 1.0)
    assert guests.state(b, guest) == "running"
    assert names(a) == [], "the source keeps nothing of it"
    info = domain(b, guest.name)
    assert (info["Persistent"], info["Autostart"]) == ("yes", "enable")
    guests.wait_counting(b, guest)
    assert guests.tick(b, guest).boot == before.boot, "it was not started anew"
    # and home again, chosen by kvmigd
    job = daemon.moved(b, guest.name)
    assert (job["Result"], job["Peer"]) == ("done", a.name)
    assert domain(a, guest.name)["Autostart"] == "enable"
    guests.wait_counting(a, guest)
    assert guests.tick(a, guest).boot == before.boot


def test_the_stream_is_encrypted_and_comes_through_the_proven_port(a: Host, b: Host, slow: Guest) -> None:
    began = a.sh("date +@%s")
    with faults.throttle(a, Network.MIGRATION, 30):
        job = daemon.migrate(a, slow.name, b.name)
        wait_streaming(a, job)
        uri = r"uri=tcp://10\.77\.1\.12:(\d+)"
        (*_, port) = wait_for(
            "the journal has its URI", lambda: re.findall(uri, a.journal("kvmigd.service", began)), bool
        )
        wait_for("it is connected", lambda: b.run("ss", "-Htn").stdout, lambda text: f":{port}" in text)
        monitor = ("virsh", "qemu-monitor-command", slow.name, "--hmp", "info migrate_parameters")
        credentials = "tls-creds: 'objlibvirt_migrate_tls0'"
        wait_for("it is encrypted", lambda: a.run(*monitor).stdout, lambda text: credentials in text)
        wait_for(
            "sizes and a rate are known",
            lambda: daemon.properties(a, job, daemon.MIGRATION),
            lambda progress: progress["BytesTotal"] > 0 and progress["Rate"] > 0,
        )
        state = daemon.properties(a, job, daemon.JOB)
        assert state["State"] == "running"
        wait_for(
            "it is the port of the admission",
            lambda: b.journal("kvmigd.service", began),
            lambda text: f"port={port}" in text,
        )
    assert daemon.wait(a, job) == "done"
    done = daemon.properties(a, job, daemon.MIGRATION)
    assert done["PauseUSec"] > 0


def test_bandwidth_is_a_limit(a: Host, b: Host, slow: Guest) -> None:
    job = daemon.migrate(a, slow.name, b.name, bandwidth=("t", str(4 << 20)))
    wait_streaming(a, job)
    assert daemon.properties(a, job, daemon.MIGRATION)["Bandwidth"] == 4 << 20
    wait_equal("libvirt knows it", lambda: a.run("virsh", "migrate-getspeed", slow.name).stdout.strip(), "4")
    daemon.call(a, job, daemon.JOB, "Cancel", "a{sv}", "0")
    assert daemon.wait(a, job) == "cancelled"


def test_cancel_leaves_the_guest_where_it_was(a: Host, b: Host, slow: Guest) -> None:
    with faults.throttle(a, Network.MIGRATION, 40):
        job = daemon.migrate(a, slow.name, b.name)
        wait_streaming(a, job)
        daemon.call(a, job, daemon.JOB, "Cancel", "a{sv}", "0")
        assert daemon.wait(a, job) == "cancelled"
    wait_equal("it runs where it was", lambda: guests.state(a, slow), "running")
    wait_equal("nothing is left on the destination", lambda: names(b), [])
    assert daemon.properties(a, job, daemon.JOB)["ErrorName"] == "org.kvmigd1.Error.Cancelled"
    with pytest.raises(daemon.CallFailed, match="already ended"):
        daemon.call(a, job, daemon.JOB, "Cancel", "a{sv}", "0")
    assert daemon.moved(a, slow.name, b.name)["Result"] == "done", "port and memory are free again"


def test_a_caller_that_goes_away_changes_nothing(a: Host, b: Host, slow: Guest) -> None:
    with faults.throttle(a, Network.MIGRATION, 40):
        cli = a.spawn("kvmigctl", "migrate", slow.name, b.name)
        wait_equal("it streams", lambda: guests.state(b, slow), "paused")
        cli.kill()
        cli.communicate()
    wait_equal("it has arrived", lambda: guests.state(b, slow), "running", timeout=90)
    wait_equal("the source is rid of it", lambda: names(a), [])


def test_two_waiters_and_a_second_migration_of_the_same_guest(a: Host, b: Host, slow: Guest) -> None:
    with faults.throttle(a, Network.MIGRATION, 40):
        job = daemon.migrate(a, slow.name, b.name)
        waiters = [a.spawn("busctl", "--timeout=180", "call", daemon.NAME, job, daemon.JOB, "Wait") for _ in range(2)]
        with pytest.raises(daemon.CallFailed, match="already being migrated, to hostb by job"):
            daemon.migrate(a, slow.name, b.name)
    assert [waiter.communicate(timeout=180)[0].strip() for waiter in waiters] == ['s "done"', 's "done"']


def test_a_migration_that_virsh_started_is_respected(a: Host, b: Host, slow: Guest) -> None:
    with faults.throttle(a, Network.MIGRATION, 40):
        virsh = a.spawn(
            *("virsh", "migrate", "--live", "--p2p", "--persistent", "--undefinesource", slow.name),
            f"qemu+tls://{b.name}/system",
        )
        wait_equal("virsh migrates", lambda: guests.state(b, slow), "paused")
        with pytest.raises(daemon.CallFailed, match="outgoing"):
            daemon.migrate(a, slow.name, b.name)
    _output, errors = virsh.communicate(timeout=180)
    assert virsh.returncode == 0, errors


def test_a_blocked_port_is_an_error_within_seconds_and_nothing_has_changed(a: Host, b: Host, web: Guest) -> None:
    with faults.block_port(b, "49152-49215"):
        path = daemon.migrate(a, web.name, b.name)
        assert daemon.wait(a, path) == "failed"
        job = daemon.properties(a, path, daemon.JOB)
    assert job["ErrorName"] == "org.kvmigd1.Error.Blocked"
    assert re.search(r"Port 492\d\d of hostb cannot be reached from hosta", job["ErrorMessage"])
    assert [finding[0] for finding in job["Findings"]] == ["port.open"]
    assert guests.state(a, web) == "running"
    assert names(b) == []
    number = path.rpartition("/")[2]
    assert f"migration starting job={number} " not in a.journal("kvmigd.service")


def test_the_destination_refuses_what_it_has_no_memory_for(a: Host, b: Host, web: Guest) -> None:
    available = int(b.sh("awk '/MemTotal/ {printf \"%.0f\", $2 * 1024}' /proc/meminfo"))
    settings = f'name = "hostb"\n[migration]\nmemory_reserve = {available}\n'
    with faults.file_changed(b, "/etc/kvmigd/kvmigd.toml", settings):
        b.run("systemctl", "reload", "kvmigd.service")
        daemon.obstacle(a, web.name, b.name, "memory.fits")
        job = daemon.moved(a, web.name, b.name)
        assert job["ErrorName"] == "org.kvmigd1.Error.Blocked"
    b.run("systemctl", "reload", "kvmigd.service")


def test_libvirt_there_dies_while_the_guest_streams(a: Host, b: Host, slow: Guest) -> None:
    with faults.throttle(a, Network.MIGRATION, 40):
        job = daemon.migrate(a, slow.name, b.name)
        wait_streaming(a, job)
        with faults.killed(b, "libvirtd.service"):
            assert daemon.wait(a, job) == "failed"
    wait_equal("it runs where it was", lambda: guests.state(a, slow), "running")
    daemon.wait_ready(b)
    wait_equal("nothing is left on the destination", lambda: names(b), [])
    error = daemon.properties(a, job, daemon.JOB)
    assert error["ErrorName"] == "org.kvmigd1.Error.HypervisorFailed"


def test_the_answer_to_the_end_is_lost_and_both_daemons_find_the_guest(a: Host, b: Host, slow: Guest) -> None:
    """libvirt's ambiguous end: the guest runs on the destination, the source says that it failed."""
    for _ in range(3):
        if answer_lost(a, b, slow):
            break
        # The question was lost as well, so the guest has stayed: that is another case.
        assert guests.state(a, slow) == "running"
        wait_equal("nothing is left on the destination", lambda: names(b), [])
    assert guests.state(b, slow) == "running"
    wait_equal("the source is rid of the shell", lambda: names(a), [], timeout=90)


def answer_lost(a: Host, b: Host, slow: Guest) -> bool:
    """Migrate, and lose what libvirt on hostb answers at the end; whether the guest has come that far."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(faults.throttle(a, Network.MIGRATION, 60))
        job = daemon.migrate(a, slow.name, b.name)
        wait_until("nearly all of the 128 MiB are sent", lambda: sent(a, job) > 116 << 20, timeout=90)
        # What acknowledges goes through: a connection that is not acknowledged sends nothing new, and the question
        # would be lost instead of its answer.
        stack.enter_context(faults.firewall_rule(b, "tcp sport 16514 ip length > 90 drop", hook="output"))
        wait_until(
            "it runs there or has failed",
            lambda: guests.state(b, slow) == "running" or bool(daemon.properties(a, job, daemon.JOB)["Result"]),
            timeout=90,
        )
        if guests.state(b, slow) != "running":
            return False
        assert daemon.wait(a, job, timeout=180) == "done"
    return True


@pytest.mark.parametrize(
    ("guest", "peer", "text"),
    [
        ("nobody", "hostb", "No guest 'nobody' is defined on hosta"),
        ("web", "hosty", "No peer called 'hosty' is configured; known peers: hostb"),
        ("web", "hosta", "hosta is this host itself"),
        ("", "hostb", "No guest is named"),
    ],
)
def test_names_that_are_wrong(a: Host, web: Guest, guest: str, peer: str, text: str) -> None:
    for verb in (daemon.migrate, daemon.check):
        with pytest.raises(daemon.CallFailed, match=text):
            verb(a, guest, peer)


def test_a_guest_that_is_shut_off(a: Host, b: Host, web: Guest) -> None:
    a.run("virsh", "destroy", web.name)
    with pytest.raises(daemon.CallFailed, match=r"web is shutoff.*virsh start web"):
        daemon.migrate(a, web.name, b.name)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"speed": ("t", "1")}, "speed"),
        ({"bandwidth": ("s", "fast")}, "bandwidth"),
        ({"bandwidth": ("i", "5")}, "bandwidth"),
    ],
)
def test_options_that_are_wrong(a: Host, b: Host, web: Guest, option: dict[str, tuple[str, str]], text: str) -> None:
    with pytest.raises(daemon.CallFailed, match=text):
        daemon.migrate(a, web.name, b.name, **option)
    assert guests.state(a, web) == "running"


def test_the_peers_daemon_is_down(a: Host, b: Host, web: Guest) -> None:
    with faults.stopped(b, "kvmigd.service"):
        daemon.wait_peer_state(a, b.name, "unreachable")
        with pytest.raises(daemon.CallFailed, match=r"hostb .*cannot be reached.*systemctl status kvmigd"):
            daemon.migrate(a, web.name, b.name)
        with pytest.raises(daemon.CallFailed, match="No peer can"):
            daemon.migrate(a, web.name)
    daemon.wait_connected(a, b)


def test_kvmigctl_migrates_with_lines_and_with_json(a: Host, b: Host, web: Guest) -> None:
    lines = a.run("kvmigctl", "migrate", web.name, b.name).stdout
    assert "web runs on hostb now" in lines
    last = json.loads(b.run("kvmigctl", "migrate", web.name, a.name, "--json").stdout.splitlines()[-1])
    assert last["result"] == "done"
