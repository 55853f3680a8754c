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
from tests.lab.host import Host, wait_until


@pytest.fixture
def web(a: Host, b: Host) -> Guest:
    """A guest that runs on hosta, of which everything is known and proved."""
    guest = guests.create(a, guests.boot_sector("web", memory=64))
    wait_until("it is proved", lambda: proved(a, guest) > 0)
    wait_until("it is ready", lambda: stands(a, guest)["Readiness"] == "ready")
    return guest


def stands(host: Host, guest: Guest) -> dict[str, Any]:
    """The properties of a guest; empty while it is not there."""
    try:
        return daemon.properties(host, path.guest_path(guest.uuid), path.GUEST)
    except Exception:
        return {"Readiness": "", "Destinations": []}


def proved(host: Host, guest: Guest) -> int:
    """When the guest's way to the only peer was proved."""
    return next((usec for _peer, _verdict, usec in stands(host, guest)["Destinations"]), 0)


def stuck(host: Host) -> list[str]:
    """Names of the guests that can go nowhere."""
    names: list[str] = daemon.properties(host, path.ROOT, path.MANAGER)["Stuck"]
    return names


def told(host: Host, message: str) -> list[dict[str, str]]:
    """Entries of the journal with a message ID, since the last boot."""
    shown = host.run("journalctl", "--boot", "--output=json", f"MESSAGE_ID={message}", check=False)
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
        wait_until("it is stuck", lambda: stuck(a) == [web.name])
        assert words in stands(a, web)["Obstacle"]
        assert daemon.properties(a, path.ROOT, path.MANAGER)["Readiness"] == "blocked"
    wait_until("it is free again", lambda: stuck(a) == [])
    assert stands(a, web)["Readiness"] == "ready"


def test_the_journal_says_who_is_stuck_and_who_is_free_again(a: Host, b: Host, web: Guest) -> None:
    with faults.bridge_down(b, "br0"):
        wait_until("the journal has it", lambda: [it["KVMIGD_GUEST"] for it in told(a, STUCK)][-1:] == [web.name])
        assert "br0 on hostb is down" in told(a, STUCK)[-1]["KVMIGD_OBSTACLE"]
    wait_until("the journal has it", lambda: [it["KVMIGD_GUEST"] for it in told(a, FREE)][-1:] == [web.name])
    a.run("journalctl", "--update-catalog", check=False)
    shown = a.run("journalctl", "--catalog", "--boot", f"MESSAGE_ID={STUCK}", check=False).stdout
    assert "web can go nowhere" in shown


def test_check_without_proofs_knows_what_readiness_knows(a: Host, b: Host, web: Guest) -> None:
    known = ("b", "false")
    assert daemon.check(a, web.name, b.name, prove=known) == ("ready", [])
    with faults.bridge_down(b, "br0"):
        wait_until("it is stuck", lambda: stuck(a) == [web.name])
        verdict, (finding, *_) = daemon.check(a, web.name, "", prove=known)
        assert (verdict, finding.check) == ("blocked", "network.bridge")


def test_a_guest_that_moves_takes_its_readiness_along(a: Host, b: Host, web: Guest) -> None:
    assert daemon.moved(a, web.name, b.name)["Result"] == "done"
    wait_until("it is gone here", lambda: not stands(a, web)["Readiness"])
    wait_until("it is ready there", lambda: stands(b, web)["Readiness"] == "ready")
    wait_until("it is proved there", lambda: proved(b, web) > 0)


def test_a_peer_that_is_away_is_unknown(a: Host, b: Host, web: Guest) -> None:
    b.run("systemctl", "stop", "kvmigd.service")
    try:
        wait_until("it is noticed", lambda: stands(a, web)["Readiness"] == "unknown")
        assert "hostb does not answer" in stands(a, web)["Obstacle"]
    finally:
        b.run("systemctl", "start", "kvmigd.service")
    wait_until("it is ready again", lambda: stands(a, web)["Readiness"] == "ready")
