"""Emptying a host: by hand, and by itself when the host goes down."""

from __future__ import annotations

import pytest

from tests.lab import daemon, faults, guests
from tests.lab.host import Host, wait_equal, wait_for, wait_until
from tests.lab.lab import Lab
from tests.lab.network import Network


def lines(host: Host, job: str) -> dict[str, tuple[str, str, str]]:
    """The guests of an evacuation: peer, state, message."""
    rows = daemon.properties(host, job, daemon.EVACUATION)["Guests"]
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


def test_every_running_guest_leaves_and_maintenance_stays_on(a: Host, b: Host) -> None:
    for number in (1, 2, 3):
        guests.create(a, guests.boot_sector(f"web{number}", memory=64, number=number))
    guests.define(a, guests.boot_sector("off", memory=64, number=9))
    job = daemon.evacuate(a)
    assert daemon.wait(a, job) == "done"
    assert lines(a, job) == {f"web{number}": ("hostb", "done", "") for number in (1, 2, 3)}
    assert [guests.state(b, f"web{number}") for number in (1, 2, 3)] == ["running"] * 3
    assert guests.state(a, "off") == "shut off", "a guest that does not run is left alone"
    assert daemon.state(a) == "maintenance"
    # nothing comes back while it lasts, also after a restart of the daemon
    daemon.restart(a)
    daemon.wait_connected(a, b)
    assert daemon.moved(b, "web1", a.name)["ErrorName"] == "org.kvmigd1.Error.Blocked"
    a.run("kvmigctl", "maintenance", "off")
    daemon.wait_free(b, "web1", a.name)
    assert daemon.moved(b, "web1", a.name)["Result"] == "done"


def test_a_guest_that_cannot_leave_stops_nobody_else(a: Host, b: Host) -> None:
    guests.create(a, guests.boot_sector("web1", memory=64))
    stuck = guests.Guest(name="stuck", kind=guests.Kind.BOOT_SECTOR, memory=64, number=2, bridge="br1")
    with faults.bridge_added(a, "br1"):
        guests.create(a, stuck)
        done = a.run("kvmigctl", "evacuate", check=False)
        assert done.returncode == 1
        told = done.stdout + done.stderr
        assert "stuck" in told
        assert "no bridge br1 on hostb" in told
        assert guests.state(b, "web1") == "running"
        assert guests.state(a, stuck) == "running"
        a.run("virsh", "destroy", "stuck")


def test_cancelling_stops_orderly(a: Host, b: Host) -> None:
    for number in (1, 2):
        guests.create(a, guests.boot_sector(f"web{number}", memory=192, filled=128, number=number))
    with faults.throttle(a, Network.MIGRATION, 40):
        job = daemon.evacuate(a)
        wait_equal("the first one streams", lambda: guests.state(b, "web1"), "paused")
        daemon.call(a, job, daemon.JOB, "Cancel", "a{sv}", "0")
        assert daemon.wait(a, job) == "cancelled"
    wait_equal(
        "both run where they were", lambda: [guests.state(a, f"web{number}") for number in (1, 2)], ["running"] * 2
    )
    assert {state for _peer, state, _message in lines(a, job).values()} == {"cancelled"}


@pytest.mark.parametrize("command", [("reboot",), ("systemctl", "reboot")])
def test_a_plain_reboot_saves_the_guests_first(a: Host, b: Host, command: tuple[str, ...]) -> None:
    machines = [guests.create(a, guests.linux(name, number=number)) for number, name in enumerate(("web", "db"), 1)]
    before = [guests.tick(b, guest) for guest in machines]
    boot = a.boot_id()
    a.run(*command)
    a.wait_up(after=boot)
    for guest, tick in zip(machines, before, strict=True):
        assert guests.state(b, guest) == "running"
        guests.wait_counting(b, guest)
        assert guests.tick(b, guest).boot == tick.boot, "it ran on all the while"
    assert a.run("virsh", "list", "--all", "--name").stdout.split() == []
    daemon.wait_in_order(a, b)
    assert daemon.state(a) == "ready", "going down is no maintenance"
    daemon.wait_free(b, "web", a.name)
    assert daemon.moved(b, "web", a.name)["Result"] == "done"


def test_a_poweroff_saves_the_guests_too(a: Host, b: Host) -> None:
    guest = guests.create(a, guests.linux("web"))
    before = guests.tick(b, guest)
    a.run("poweroff")
    a.wait_off()
    assert guests.state(b, guest) == "running"
    guests.wait_counting(b, guest)
    assert guests.tick(b, guest).boot == before.boot
    a.boot()
    a.wait_up()
    daemon.wait_connected(a, b)


def test_a_restart_of_units_moves_nobody(a: Host, b: Host) -> None:
    guest = guests.create(a, guests.boot_sector("web", memory=64))
    for command in (
        ("restart", "kvmigd.service"),
        ("restart", "kvmigd-evacuate.service"),
        ("stop", "kvmigd-evacuate.service"),
        ("start", "kvmigd-evacuate.service"),
        ("restart", "libvirtd.service"),
        ("daemon-reexec",),
    ):
        a.run("systemctl", *command)
    daemon.wait_in_order(a, b)
    wait_equal("it runs", lambda: guests.state(a, guest), "running")
    assert guests.state(b, guest) == ""
    assert a.is_active("kvmigd-evacuate.service")


def test_a_host_that_goes_down_with_no_peer_left_does_not_wait(a: Host, b: Host) -> None:
    guest = guests.create(a, guests.boot_sector("web", memory=64))
    with faults.stopped(b, "kvmigd.service"):
        daemon.wait_peer_state(a, b.name, "unreachable")
        job = daemon.evacuate(a, shutdown=("b", "true"))
        assert daemon.wait(a, job) == "failed"
        assert "hostb" in lines(a, job)["web"][2]
        assert daemon.state(a) == "draining"
    daemon.wait_connected(a, b)
    # a host that is going down takes nobody, so that two of them do not play ping-pong
    wait_until("the peer has heard", lambda: not accepting(b, "hosta"))
    assert guests.state(a, guest) == "running"
    daemon.restart(a)
    daemon.wait_connected(a, b)


def test_the_peer_with_the_most_free_memory_is_chosen(lab3: Lab) -> None:
    a, b, c = (lab3.host(name) for name in ("hosta", "hostb", "hostc"))
    lab3.reset()
    daemon.wait_in_order(a, b, c)
    before = free(a, "hostb")
    settings = 'name = "hostb"\n[migration]\nmemory_reserve = 6442450944\n'
    with faults.file_changed(b, "/etc/kvmigd/kvmigd.toml", settings):
        b.run("systemctl", "reload", "kvmigd.service")
        wait_for(
            "hosta has heard",
            lambda: (free(a, "hostb"), free(a, "hostc")),
            lambda known: known[0] < known[1] - (1 << 30),
        )
        guests.create(a, guests.boot_sector("web", memory=64))
        job = daemon.evacuate(a)
        assert daemon.wait(a, job) == "done"
        assert lines(a, job)["web"][0] == "hostc"
    b.run("systemctl", "reload", "kvmigd.service")
    c.run("kvmigctl", "maintenance", "on")
    a.run("kvmigctl", "maintenance", "off")
    wait_until("hosta has heard of the maintenance", lambda: not accepting(a, "hostc"))
    wait_for("hosta has heard of the reserve", lambda: free(a, "hostb"), lambda known: known > before // 2)
    guests.create(a, guests.boot_sector("db", memory=64, number=2))
    job = daemon.evacuate(a)
    assert daemon.wait(a, job) == "done"
    assert lines(a, job)["db"][0] == "hostb", "a host in maintenance takes nobody"
    lab3.reset()


def free(host: Host, peer: str) -> int:
    """Free memory of a peer, as a host knows it."""
    return int(daemon.properties(host, f"{daemon.ROOT}/peer/{peer}", daemon.PEER)["MemoryFree"])


def accepting(host: Host, peer: str) -> bool:
    """Whether a peer takes guests, as a host knows it."""
    return bool(daemon.properties(host, f"{daemon.ROOT}/peer/{peer}", daemon.PEER)["Accepting"])
