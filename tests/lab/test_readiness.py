"""Readiness on real hosts: it follows what happens to either of them by itself, and the journal says who is stuck."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import Any

import pytest

from kvmigd.bus import path
from kvmigd.readiness.notice import FREE, STUCK
from tests.lab import daemon, faults, guests
from tests.lab.guests import Guest
from tests.lab.host import Host, wait_equal, wait_for, wait_until

PROVED = 240.0
"""So long a proof is waited for: one that did not go as it must is made again after a minute, and then after two."""


@pytest.fixture
def web(a: Host, b: Host) -> Guest:
    """A guest that runs on hosta, of which everything is known and proved."""
    guest = guests.create(a, guests.boot_sector("web", memory=64))
    wait_until("it is proved", lambda: proved(a, guest) > 0, timeout=PROVED)
    wait_ready(a, guest, timeout=PROVED)
    return guest


def wait_ready(host: Host, guest: Guest, *, timeout: float = 60.0) -> None:
    """Wait until nothing stands in a guest's way."""
    wait_for("it is ready", lambda: stands(host, guest), lambda known: known["Readiness"] == "ready", timeout=timeout)


def wait_stuck(host: Host, guest: Guest, words: str) -> None:
    """Wait until a guest can go nowhere, for that reason, and all of the host says so."""
    wait_for(
        f"it is stuck for {words}",
        lambda: stands(host, guest),
        lambda known: known["Readiness"] == "blocked" and words in known["Obstacle"],
        timeout=60,
    )
    wait_equal("the host says so", lambda: stuck(host), [guest.name])
    wait_equal("it is the worst", lambda: daemon.properties(host, path.ROOT, path.MANAGER)["Readiness"], "blocked")


def stands(host: Host, guest: Guest) -> dict[str, Any]:
    """The properties of a guest; empty while it is not there."""
    try:
        return daemon.properties(host, path.guest_path(guest.uuid), path.GUEST)
    except daemon.CallFailed:
        return {"Readiness": "", "Obstacle": "", "Destinations": []}


def proved(host: Host, guest: Guest) -> int:
    """When the guest's way to the only peer was proved."""
    return next((usec for _peer, _verdict, usec in stands(host, guest)["Destinations"]), 0)


def stuck(host: Host) -> list[str]:
    """Names of the guests that can go nowhere."""
    names: list[str] = daemon.properties(host, path.ROOT, path.MANAGER)["Stuck"]
    return names


def told(host: Host, message: str, guest: Guest) -> list[dict[str, str]]:
    """Entries of the journal with a message ID about a guest, since the last boot."""
    matches = (f"MESSAGE_ID={message}", f"KVMIGD_UUID={guest.uuid}")
    shown = host.run("journalctl", "--boot", "--output=json", *matches, check=False)
    return [json.loads(line) for line in shown.stdout.splitlines()]


def what_stands_in_the_way(kind: str, b: Host) -> AbstractContextManager[None]:
    """Make a fault."""
    if kind == "bridge":
        return faults.bridge_down(b, "br0")
    if kind == "port":
        return faults.reject_port(b, "49152-49215")
    return faults.mount_removed(b, "/srv/vm")


@pytest.mark.parametrize(("kind", "words"), [("bridge", "br0"), ("port", "Port 49"), ("storage", "/srv/vm/guests/web")])
def test_what_happens_to_the_peer_is_noticed_and_so_is_its_end(
    a: Host, b: Host, web: Guest, kind: str, words: str
) -> None:
    with what_stands_in_the_way(kind, b):
        wait_stuck(a, web, words)
    wait_ready(a, web, timeout=PROVED)
    wait_equal("it is free again", lambda: stuck(a), [])


def test_the_journal_says_who_is_stuck_and_who_is_free_again(a: Host, b: Host, web: Guest) -> None:
    with faults.bridge_down(b, "br0"):
        entries = wait_for("the journal has it", lambda: told(a, STUCK, web), bool, timeout=60)
        assert [it["KVMIGD_GUEST"] for it in entries] == [web.name]
        assert "br0 on hostb is down" in entries[0]["KVMIGD_OBSTACLE"]
    entries = wait_for("the journal has it", lambda: told(a, FREE, web), bool, timeout=60)
    assert [it["KVMIGD_GUEST"] for it in entries] == [web.name]
    a.run("journalctl", "--update-catalog", check=False)
    shown = a.run("journalctl", "--catalog", "--boot", f"MESSAGE_ID={STUCK}", check=False).stdout
    assert "web can go nowhere" in shown


def test_check_without_proofs_knows_what_readiness_knows(a: Host, b: Host, web: Guest) -> None:
    known = ("b", "false")
    daemon.wait_checked(a, web.name, b.name, "ready", prove=known)
    with faults.bridge_down(b, "br0"):
        wait_stuck(a, web, "br0")
        verdict, (finding, *_) = daemon.check(a, web.name, "", prove=known)
        assert (verdict, finding.check) == ("blocked", "network.bridge")


def test_a_guest_that_moves_takes_its_readiness_along(a: Host, b: Host, web: Guest) -> None:
    assert daemon.moved(a, web.name, b.name)["Result"] == "done"
    wait_for("it is gone here", lambda: stands(a, web), lambda known: not known["Readiness"])
    wait_ready(b, web, timeout=PROVED)
    wait_until("it is proved there", lambda: proved(b, web) > 0, timeout=PROVED)


def test_a_peer_that_is_away_is_unknown(a: Host, b: Host, web: Guest) -> None:
    b.run("systemctl", "stop", "kvmigd.service")
    try:
        wait_for(
            "it is noticed",
            lambda: stands(a, web),
            lambda known: known["Readiness"] == "unknown" and "hostb does not answer" in known["Obstacle"],
        )
    finally:
        b.run("systemctl", "start", "kvmigd.service")
    wait_ready(a, web, timeout=PROVED)
