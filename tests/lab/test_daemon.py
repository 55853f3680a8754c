"""The daemon as a service: its unit, its name on the bus, its configuration, and who may call it."""

from __future__ import annotations

import pytest

from tests.lab import daemon, faults, guests
from tests.lab.host import Host, wait_equal, wait_for, wait_until

UNIT = "kvmigd.service"
DROP_IN = f"/etc/systemd/system/{UNIT}.d/test.conf"


def shown(host: Host, name: str) -> str:
    """A property of the unit."""
    return host.run("systemctl", "show", UNIT, "--value", f"--property={name}").stdout.strip()


def wait_journal(host: Host, words: str, *, since: str = "") -> None:
    """Wait until the journal of the unit has this: it is written a little later."""
    wait_for(f"the journal has {words!r}", lambda: host.journal(UNIT, since=since), lambda text: words in text)


def now(host: Host) -> str:
    """The time of day, as journalctl takes it."""
    return host.sh("date +@%s")


def test_it_runs_under_the_shipped_unit(a: Host) -> None:
    daemon.wait_ready(a)
    assert shown(a, "Type") == "notify"
    assert shown(a, "WatchdogUSec") == "30s"
    assert shown(a, "FragmentPath").endswith("/lib/systemd/system/kvmigd.service")
    assert shown(a, "DropInPaths") == ""
    wait_equal("systemd was told", lambda: shown(a, "StatusText"), "Ready")
    for unit in (UNIT, "kvmigd-storage@x.service"):
        exposure = a.run("systemd-analyze", "security", "--no-pager", unit).stdout.splitlines()[-1]
        level = float(exposure.split("exposure level for ")[1].split(": ")[1].split()[0])
        assert level < 3.0, exposure
    capabilities = a.sh('grep CapBnd /proc/"$1"/status', str(a.main_pid(UNIT))).split()[1]
    # CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_NET_RAW and nothing else
    assert int(capabilities, 16) == 1 << 2 | 1 << 12 | 1 << 13


def test_it_is_started_by_a_call_and_stops_cleanly(a: Host) -> None:
    a.run("systemctl", "stop", UNIT)
    assert shown(a, "Result") == "success"
    assert daemon.properties(a, daemon.ROOT, daemon.MANAGER)["HostName"] == "hosta"
    # it answers a moment before it tells systemd that it is ready
    wait_until("it is active", lambda: a.is_active(UNIT))


def test_systemd_kills_and_restarts_it_when_its_loop_hangs(a: Host) -> None:
    with faults.file_changed(a, DROP_IN, "[Service]\nWatchdogSec=4\n"):
        a.sh("systemctl daemon-reload; systemctl reset-failed kvmigd.service; systemctl restart kvmigd.service")
        pid, began = a.main_pid(UNIT), now(a)
        a.run("kill", "-STOP", str(pid))
        wait_for("it has been restarted", lambda: a.main_pid(UNIT), lambda other: other not in (0, pid), timeout=90)
        wait_journal(a, "Watchdog timeout", since=began)
    a.sh("systemctl daemon-reload; systemctl reset-failed kvmigd.service; systemctl restart kvmigd.service")


def test_the_journal_has_fields(a: Host, b: Host) -> None:
    web = guests.create(a, guests.boot_sector("web", memory=64))
    daemon.moved(a, web.name, b.name)
    fields = (f"_SYSTEMD_UNIT={UNIT}", "KVMIGD_GUEST=web", "KVMIGD_PEER=hostb")
    wait_for(
        "the journal has it",
        lambda: a.run("journalctl", "--boot", "--output=cat", *fields, check=False).stdout,
        lambda entries: "guest arrived" in entries,
    )


def test_broken_toml_fails_the_start_with_file_line_and_column(a: Host) -> None:
    with faults.file_changed(a, "/etc/kvmigd/kvmigd.toml", 'name = "hosta"\n[migration]\nport_min = oops\n'):
        assert a.run("systemctl", "restart", UNIT, check=False).returncode != 0
        wait_journal(a, "/etc/kvmigd/kvmigd.toml:3:12:")
        assert not a.is_active(UNIT)
    a.sh("systemctl reset-failed kvmigd.service; systemctl start kvmigd.service")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('name = "hosta"\n\nlog_level = 3\n', "kvmigd.toml:3:1: "),
        ('name = "hosta"\n[migration]\n  spede = 3\n', "kvmigd.toml:3:3: "),
        ('name = "hosta"\n[migration\n', "kvmigd.toml:2:11: "),
    ],
)
def test_broken_toml_at_reload_keeps_the_old_configuration(a: Host, b: Host, text: str, place: str) -> None:
    daemon.wait_connected(a, b)
    pid = a.main_pid(UNIT)
    with faults.file_changed(a, "/etc/kvmigd/kvmigd.toml", text):
        with pytest.raises(daemon.CallFailed, match=place.replace(".", r"\.")):
            daemon.call(a, daemon.ROOT, daemon.MANAGER, "Reload")
        began = now(a)
        a.run("systemctl", "reload", UNIT)
        wait_journal(a, "configuration not reloaded", since=began)
        assert daemon.peer_state(a, "hostb") == "connected"
    assert a.main_pid(UNIT) == pid


def test_sighup_reloads(a: Host) -> None:
    with faults.file_changed(a, "/etc/kvmigd/kvmigd.toml", 'name = "hosta"\nlog_level = "debug"\n'):
        began = now(a)
        a.run("systemctl", "reload", UNIT)
        wait_journal(a, "configuration reloaded", since=began)
    a.run("systemctl", "reload", UNIT)


def test_it_starts_without_libvirt_says_so_and_recovers(a: Host) -> None:
    sockets = ("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd-tls.socket")
    with faults.stopped(a, "libvirtd.service", *sockets, "libvirtd-tcp.socket"):
        began = now(a)
        daemon.restart(a)
        assert a.is_active(UNIT)
        assert daemon.state(a) == "no-hypervisor"
        wait_for(
            "systemd was told",
            lambda: shown(a, "StatusText"),
            lambda text: text.startswith("Waiting for libvirt: "),
        )
        wait_journal(a, "hypervisor unavailable", since=began)
    daemon.wait_ready(a)
    wait_equal("systemd was told", lambda: shown(a, "StatusText"), "Ready")


def test_it_survives_a_restart_of_libvirt_and_one_that_hangs(a: Host, b: Host) -> None:
    web = guests.create(a, guests.boot_sector("web", memory=64))
    a.run("systemctl", "restart", "libvirtd.service")
    daemon.wait_ready(a)
    daemon.wait_checked(a, web.name, b.name, "ready")
    with faults.paused(a, "libvirtd.service"):
        verdict, findings = daemon.check(a, web.name, b.name)
        # When it is asked nobody may know yet that it hangs; who asks later hears that libvirt here does not answer.
        assert (verdict, findings[0].check) in (("unknown", "peer.answers"), ("blocked", "hypervisor.alive"))
        assert findings[0].details["host"] == "hosta"
        assert "libvirt" in findings[0].details["remedy"]
        assert daemon.properties(a, daemon.ROOT, daemon.MANAGER)["HostName"] == "hosta", "the bus is answered"
    daemon.wait_ready(a)
    daemon.wait_checked(a, web.name, b.name, "ready")


@pytest.mark.parametrize(
    ("member", "signature", "arguments"),
    [
        ("Migrate", "ssa{sv}", ("web", "hostb", "0")),
        ("Evacuate", "a{sv}", ("0",)),
        ("SetMaintenance", "ba{sv}", ("true", "0")),
        ("Reload", "", ()),
        ("Check", "ssa{sv}", ("web", "hostb", "0")),
    ],
)
def test_a_caller_without_the_right_is_refused(
    a: Host, member: str, signature: str, arguments: tuple[str, ...]
) -> None:
    words = (signature, *arguments) if signature else ()
    with pytest.raises(daemon.CallFailed, match=r"org\.kvmigd1\.\w+"):
        daemon.call(a, daemon.ROOT, daemon.MANAGER, member, *words, user="nobody")
    assert daemon.properties(a, daemon.ROOT, daemon.MANAGER)["Maintenance"] is False
    (answer,) = daemon.call(a, daemon.ROOT, daemon.MANAGER, f"Can{member}", user="nobody")
    assert answer in ("no", "challenge")


def test_polkit_rules_of_the_admin_count(a: Host, b: Host) -> None:
    web = guests.create(a, guests.boot_sector("web", memory=64))
    rule = """polkit.addRule(function(action, subject) {
    if (action.id == "org.kvmigd1.check" && subject.user == "nobody" && action.lookup("guest") == "web")
        return polkit.Result.YES;
});
"""
    with faults.file_changed(a, "/etc/polkit-1/rules.d/10-test.rules", rule):
        a.sh("chmod 644 /etc/polkit-1/rules.d/10-test.rules; systemctl restart polkit.service")
        asked = (daemon.ROOT, daemon.MANAGER, "Check", "ssa{sv}", web.name, b.name, "0")
        wait_for("it is ready", lambda: daemon.call(a, *asked, user="nobody"), lambda told: told[0] == "ready")
        with pytest.raises(daemon.CallFailed):
            daemon.call(a, daemon.ROOT, daemon.MANAGER, "Check", "ssa{sv}", "db", b.name, "0", user="nobody")
    a.run("systemctl", "restart", "polkit.service")


def test_exit_statuses_of_kvmigctl(a: Host, b: Host) -> None:
    web = guests.create(a, guests.boot_sector("web", memory=64))

    def status(*words: str, user: str = "") -> int:
        command = ("runuser", "-u", user, "--", "kvmigctl", *words) if user else ("kvmigctl", *words)
        return a.run(*command, check=False).returncode

    wait_equal("the way is free", lambda: status("check", web.name, b.name), 0)
    assert status("migrate", "nobody", b.name) == 1
    assert status("migrate") == 2
    with faults.bridge_down(b):
        wait_equal("the bridge stands in the way", lambda: status("check", web.name, b.name), 3)
        assert status("migrate", web.name, b.name) == 3
    assert status("evacuate", user="nobody") == 4
    activation = "/usr/share/dbus-1/system-services/org.kvmigd1.service"
    with faults.file_changed(a, activation, None), faults.stopped(a, UNIT):
        a.run("systemctl", "reload", "dbus.service")
        assert status("status") == 5
    a.run("systemctl", "reload", "dbus.service")
