"""Ports: proved, read from the firewall, free, and open for good."""

from __future__ import annotations

from typing import Any

import pytest

from kvmigd.checks.ports import port_open
from kvmigd.model.finding import Basis, Severity, Verdict, verdict_of
from kvmigd.model.firewall import Answer, Duration, Firewall, FirewallBackend, PortHint, PortUse
from kvmigd.model.job import CheckOptions
from kvmigd.model.proof import PortProof
from tests.unit.cases import only, told

TEXT = "192.0.2.2 port 49152 does not answer"
SHUT = PortProof(to="hostb", address="192.0.2.2", port=49152, problem="timeout", text=TEXT, taken_usec=7)
OPEN = PortProof(to="hostb", address="192.0.2.2", port=49152)
CLOSED = PortHint(peer="hosta", address="192.0.2.1", purpose="stream", answer=Answer.CLOSED, by="zone public")
COPYING = CheckOptions(copy_disks=True)


def firewall(*hints: PortHint, backends: tuple[str, ...] = (), ports: tuple[PortUse, ...] = ()) -> Firewall:
    """A firewall that is known, with these backends in force."""
    return Firewall(
        problem="",
        hints=hints,
        ports=ports,
        backends=tuple(FirewallBackend(name=name, active=True) for name in backends),
    )


@pytest.mark.parametrize(("port", "ports"), [(49152, "49152-49215"), (49215, "49152-49215"), (50001, "50001")])
def test_the_port_cannot_be_reached(port: int, ports: str) -> None:
    text = f"192.0.2.2 port {port} does not answer"
    proof = PortProof(to="hostb", address="192.0.2.2", port=port, problem="timeout", text=text, taken_usec=7)
    finding = only(proofs__ports=(proof,))
    assert (finding.check, finding.severity, finding.host) == ("port.open", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found) == (f"192.0.2.2:{port}/tcp", "timeout")
    assert (finding.basis, finding.proved_usec) == (Basis.PROVED, 7)
    assert finding.summary == (
        f"Port {port} of hostb cannot be reached from hosta: 192.0.2.2 port {port} does not answer."
    )
    assert f"--add-port={ports}/tcp" in finding.remedy
    assert f"accept tcp dport {ports} from hosta" in finding.remedy


def test_the_migration_says_it_with_the_same_words() -> None:
    (finding,) = port_open(SHUT, here="hosta", there="hostb")
    assert finding == only(proofs__ports=(SHUT,))
    assert list(port_open(OPEN, here="hosta", there="hostb")) == []


@pytest.mark.parametrize("problem", ["refused", "no-route", "wrong-nonce"])
def test_every_way_of_being_shut(problem: str) -> None:
    proof = PortProof(to="hostb", address="192.0.2.2", port=49152, problem=problem, text="no.")
    finding = only(proofs__ports=(proof,))
    assert (finding.check, finding.found) == ("port.open", problem)
    assert finding.summary.endswith("hosta: no.")


def test_the_way_back_is_shut() -> None:
    back = PortProof(to="hosta", address="192.0.2.1", port=49152, problem="timeout", text="no answer")
    finding = only(proofs__ports=(OPEN, back))
    assert (finding.check, finding.severity, finding.way) == ("port.open", Severity.WARN, "back")
    assert (finding.host, finding.subject) == ("hosta", "192.0.2.1:49152/tcp")
    assert verdict_of((finding,)) is Verdict.DEGRADED


@pytest.mark.parametrize(
    ("backends", "command", "other"),
    [
        (("firewalld",), "On hostb: firewall-cmd --permanent --add-port=49152-49215/tcp && firewall-cmd", "nft"),
        (("firewalld", "nftables"), "On hostb: firewall-cmd --permanent", "nft"),
        (("nftables",), "On hostb: accept tcp dport 49152-49215 from hosta in /etc/nftables.conf", "firewall-cmd"),
        (("iptables-legacy",), "On hostb: iptables-legacy -I INPUT -p tcp -s hosta --dport 49152:49215", "nft"),
    ],
)
def test_the_remedy_is_by_the_firewall(backends: tuple[str, ...], command: str, other: str) -> None:
    finding = only(proofs__ports=(SHUT,), destination__state__firewall=firewall(backends=backends))
    assert finding.remedy.startswith(command)
    assert other not in finding.remedy


def test_what_the_rules_there_say_of_a_port_that_is_shut() -> None:
    finding = only(proofs__ports=(SHUT,), destination__state__firewall=firewall(CLOSED))
    assert finding.found == "timeout (zone public)"
    passing = PortHint(peer="hosta", address="192.0.2.1", purpose="stream", answer=Answer.OPEN)
    finding = only(proofs__ports=(SHUT,), destination__state__firewall=firewall(passing))
    assert finding.remedy.startswith("On hosta: nft list ruleset"), "it is not the rules there"


@pytest.mark.parametrize("proofs", [(), (PortProof(to="hostb", problem="no-answer", text="the peer is silent"),)])
def test_a_port_that_was_not_proved_is_assumed(proofs: tuple[PortProof, ...]) -> None:
    finding = only(proofs__ports=proofs, destination__state__firewall=firewall(CLOSED, backends=("firewalld",)))
    assert (finding.check, finding.severity, finding.host) == ("port.open", Severity.WARN, "hostb")
    assert (finding.basis, finding.found, finding.proved_usec) == (Basis.ASSUMED, "zone public", 0)
    assert finding.expected == "open for hosta"
    assert "firewall-cmd --permanent" in finding.remedy
    assert told(proofs__ports=(OPEN,), destination__state__firewall=firewall(CLOSED)) == (), "a proof knows better"


def test_a_port_that_was_not_proved_is_no_finding() -> None:
    assert told(proofs__ports=()) == ()
    unknown = PortHint(peer="hosta", address="192.0.2.1", purpose="stream", answer=Answer.UNKNOWN)
    another = PortHint(peer="hostc", address="192.0.2.3", purpose="stream", answer=Answer.CLOSED)
    assert told(proofs__ports=(), destination__state__firewall=firewall(unknown, another)) == ()
    assert told(proofs__ports=(), source__state__firewall=firewall(CLOSED)) == ()


def test_no_port_is_free() -> None:
    text = "No port of the migration range 49152-49215 is free"
    busy = PortProof(to="hostb", problem="busy", text=text, taken_usec=7)
    finding = only(proofs__ports=(busy,))
    assert (finding.check, finding.severity, finding.host) == ("port.free", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found, finding.basis) == ("49152-49215/tcp", text, Basis.PROVED)
    assert "ss -ltnp '( sport >= :49152 and sport <= :49215 )'" in finding.remedy


@pytest.mark.parametrize("duration", Duration)
def test_open_until_the_next_reload(duration: Duration) -> None:
    hint = PortHint(
        peer="hosta", address="192.0.2.1", purpose="stream", answer=Answer.OPEN, duration=duration, by="zone public"
    )
    changes: dict[str, Any] = {"destination__state__firewall": firewall(hint)}
    if duration is not Duration.RUNTIME:
        assert told(**changes) == ()
        return
    finding = only(**changes)
    assert (finding.check, finding.severity, finding.host) == ("port.permanent", Severity.WARN, "hostb")
    assert finding.found == "open at runtime only (zone public)"
    assert finding.remedy == "On hostb: firewall-cmd --permanent --add-port=49152-49215/tcp"


def test_the_port_for_disks_matters_only_where_disks_are_copied() -> None:
    disks = PortProof(to="hostb", purpose="disks", address="192.0.2.2", port=49153, problem="timeout", text="no answer")
    assert told(proofs__ports=(OPEN, disks)) == ()
    finding = only(proofs__ports=(OPEN, disks), options=COPYING)
    assert (finding.check, finding.severity, finding.host) == ("port.disks", Severity.BLOCK, "hostb")
    assert finding.subject == "192.0.2.2:49153/tcp"


def test_the_port_for_disks_by_the_rules() -> None:
    hint = PortHint(peer="hosta", address="192.0.2.1", purpose="disks", answer=Answer.CLOSED)
    finding = only(destination__state__firewall=firewall(hint), options=COPYING)
    assert (finding.check, finding.severity, finding.found) == ("port.disks", Severity.WARN, "closed")
    assert told(destination__state__firewall=firewall(hint)) == ()


def test_the_ports_that_virsh_would_use() -> None:
    uses = (
        PortUse(purpose="stream", first=49152, last=49215),
        PortUse(purpose="libvirt-streams", first=50000, last=50020),
    )
    hint = PortHint(peer="hosta", address="192.0.2.1", purpose="libvirt-streams", answer=Answer.CLOSED, by="drop")
    finding = only(destination__state__firewall=firewall(hint, ports=uses))
    assert (finding.check, finding.severity, finding.basis) == ("port.open", Severity.WARN, Basis.ASSUMED)
    assert (finding.subject, finding.found) == ("50000-50020/tcp", "drop")
    assert "migration_port_min" in finding.remedy
    assert told(destination__state__firewall=firewall(ports=uses)) == (), "another range alone does no harm"


def test_a_range_of_ports_of_one_s_own() -> None:
    uses = (PortUse(purpose="stream", first=50000, last=50020),)
    proof = PortProof(to="hostb", address="192.0.2.2", port=50000, problem="refused", text="refused")
    finding = only(proofs__ports=(proof,), destination__state__firewall=firewall(ports=uses, backends=("firewalld",)))
    assert "--add-port=50000-50020/tcp" in finding.remedy
