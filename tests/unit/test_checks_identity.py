"""Who the two hosts are: UUIDs, names, clocks; and libvirt on both."""

from __future__ import annotations

from typing import Any

import pytest

from kvmigd.model.finding import Basis, Severity, Verdict, verdict_of
from kvmigd.model.host import RemoteCause, RemoteFact, ResolvedName
from kvmigd.model.links import LinkFact
from kvmigd.model.system import Clock
from tests.unit.cases import SOURCE, only, told


@pytest.mark.parametrize(("side", "host"), [("source", "hosta"), ("destination", "hostb")])
def test_libvirt_is_away(side: str, host: str) -> None:
    finding = only(**{f"{side}__facts__hypervisor_alive": False, f"{side}__facts__hypervisor_problem": "no socket"})
    assert (finding.check, finding.severity, finding.host) == ("hypervisor.alive", Severity.BLOCK, host)
    assert finding.found == "no socket"
    assert finding.remedy.startswith(f"On {host}: systemctl start libvirtd")
    assert only(**{f"{side}__facts__hypervisor_alive": False}).found == "no connection"


@pytest.mark.parametrize(
    ("uri", "daemon", "does", "does_not"),
    [
        (
            "qemu+tls://hostb/system",
            "libvirtd",
            "stop kvmigd.service libvirtd.service; systemctl enable --now libvirtd-tls.socket; systemctl start",
            "virtproxyd",
        ),
        ("qemu+tls://hostb/system", "virtqemud", "systemctl enable --now virtproxyd-tls.socket", "libvirtd-tls"),
        ("qemu+tls://hostb/system", "", "with modular libvirt: systemctl enable --now virtproxyd-tls.socket", "ssh"),
        ("qemu://hostb/system", "virtqemud", "open TCP port 16514", "16509"),
        ("qemu+tcp://hostb/system", "virtqemud", "systemctl enable --now virtproxyd-tcp.socket", "16514"),
        ("qemu+ssh://root@hostb/system", "virtqemud", "systemctl status sshd", "virtproxyd"),
    ],
)
def test_libvirt_there_cannot_be_reached_from_here(uri: str, daemon: str, does: str, does_not: str) -> None:
    remote = RemoteFact(uri=uri, problem="hostb port 16514 refuses the connection", cause=RemoteCause.UNREACHED)
    finding = only(source__remote=remote, destination__state__hypervisor__daemon=daemon)
    assert (finding.check, finding.severity, finding.host) == ("hypervisor.remote", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found, finding.basis) == (uri, remote.problem, Basis.PROVED)
    assert finding.remedy.startswith("On hostb: ")
    assert does in finding.remedy
    assert does_not not in finding.remedy
    assert told(source__remote=None) == ()


@pytest.mark.parametrize(
    ("cause", "problem", "daemon", "does", "does_not"),
    [
        (
            RemoteCause.THEIRS,
            "the certificate of hostb port 16514 has expired",
            "libvirtd",
            "on hostb: kvmigctl pki install BUNDLE, virt-admin -c libvirtd:///system server-update-tls libvirtd",
            "systemctl",
        ),
        (
            RemoteCause.THEIRS,
            "the certificate of hostb port 16514 is for another host",
            "virtqemud",
            "virtproxyd:///system",
            "libvirtd",
        ),
        (
            RemoteCause.OURS,
            "hostb port 16514 refuses the client certificate /etc/pki/libvirt/clientcert.pem",
            "libvirtd",
            "kvmigctl pki issue hosta; on hosta: kvmigctl pki install BUNDLE",
            "issue hostb",
        ),
        (
            RemoteCause.OURS,
            "hostb port 16514 refuses the client certificate /etc/pki/libvirt/clientcert.pem",
            "virtqemud",
            "see tls_allowed_dn_list in /etc/libvirt/virtproxyd.conf and journalctl -u virtproxyd",
            "libvirtd",
        ),
        (
            RemoteCause.MUTE,
            "hostb port 16514 takes the connection, but is silent for 3 s",
            "virtqemud",
            "On hostb: systemctl status virtproxyd; journalctl -u virtproxyd; systemctl restart virtqemud",
            "certificate",
        ),
        (
            RemoteCause.MUTE,
            "hostb port 16514 ends the connection in the TLS handshake",
            "",
            "journalctl -u libvirtd (or virtproxyd)",
            "pki",
        ),
    ],
)
def test_libvirt_there_is_reached_and_does_not_speak_with_here(
    cause: RemoteCause, problem: str, daemon: str, does: str, does_not: str
) -> None:
    remote = RemoteFact(uri="qemu+tls://hostb/system", problem=problem, cause=cause)
    finding = only(source__remote=remote, destination__state__hypervisor__daemon=daemon)
    assert (finding.check, finding.severity, finding.found) == ("hypervisor.remote", Severity.BLOCK, problem)
    assert does in finding.remedy
    assert does_not not in finding.remedy
    assert ("certificate" in finding.expected) == (cause is not RemoteCause.MUTE)


def test_libvirt_here_cannot_be_reached_from_there() -> None:
    finding = only(destination__remote=RemoteFact(uri="qemu+tls://hosta/system", problem="no answer"))
    assert (finding.check, finding.severity, finding.way) == ("hypervisor.remote", Severity.WARN, "back")
    assert finding.host == "hosta"


def test_a_libvirt_that_is_down_is_told_once() -> None:
    remote = RemoteFact(uri="qemu+tls://hostb/system", problem="refused")
    down = {"hypervisor_alive": False, "accepting": False, "not_accepting_reason": "libvirt does not answer"}
    findings = told(source__remote=remote, **{f"destination__facts__{key}": value for key, value in down.items()})
    assert [finding.check for finding in findings] == ["hypervisor.alive"]


def test_the_destination_takes_no_guests() -> None:
    finding = only(
        destination__facts__accepting=False, destination__facts__not_accepting_reason="hostb is in maintenance"
    )
    assert (finding.check, finding.severity, finding.host) == ("host.accepting", Severity.BLOCK, "hostb")
    assert finding.found == "hostb is in maintenance"
    assert finding.remedy == "On hostb: kvmigctl maintenance off"
    assert told(source__facts__accepting=False) == (), "a host in maintenance is to be left"


def test_both_have_one_uuid() -> None:
    finding = only(destination__facts__host_id=SOURCE.facts.host_id)
    assert (finding.check, finding.severity, finding.host) == ("host.uuid", Severity.BLOCK, "hostb")
    assert SOURCE.facts.host_id in finding.found
    assert "host_uuid" in finding.remedy
    assert told(source__facts__host_id="", destination__facts__host_id="") == (), "not known is not the same"


@pytest.mark.parametrize(("side", "host"), [("source", "hosta"), ("destination", "hostb")])
def test_a_uuid_that_many_boards_have(side: str, host: str) -> None:
    uuid = "03000200-0400-0500-0006-000700080009"
    finding = only(**{f"{side}__facts__host_id": uuid})
    assert (finding.check, finding.severity, finding.host) == ("host.uuid", Severity.WARN, host)
    assert (finding.expected, finding.found) == ("a UUID of its own", uuid)
    assert finding.remedy.startswith(f"On {host}: set host_uuid")
    both = told(source__facts__host_id=uuid, destination__facts__host_id=uuid)
    assert [(finding.check, finding.severity) for finding in both] == [("host.uuid", Severity.BLOCK)]


@pytest.mark.parametrize("name", ["localhost", "localhost.localdomain"])
def test_a_host_that_is_called_localhost(name: str) -> None:
    finding = only(destination__state__hypervisor__host_name=name)
    assert (finding.check, finding.severity, finding.host) == ("host.name", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found) == (name, name)
    assert finding.remedy.startswith("On hostb: hostnamectl hostname hostb")
    back = only(source__state__hypervisor__host_name=name)
    assert (back.check, back.severity, back.host, back.way) == ("host.name", Severity.WARN, "hosta", "back")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1", "::1"])
def test_a_name_that_means_localhost(address: str) -> None:
    """Debian's installer leaves it so, and migrations work."""
    finding = only(destination__facts__addresses=("192.0.2.2", address))
    assert (finding.check, finding.severity, finding.host) == ("host.name", Severity.WARN, "hostb")
    assert "on hostb itself" in finding.summary
    assert address in finding.found
    assert "/etc/hosts" in finding.remedy
    assert told(source__facts__addresses=(address,)) == (), "nobody asks the source for its address"


SIDES = pytest.mark.parametrize(
    ("side", "host", "other", "way", "severity"),
    [("source", "hosta", "hostb", "", Severity.BLOCK), ("destination", "hostb", "hosta", "back", Severity.WARN)],
)


@SIDES
def test_the_other_name_does_not_resolve(side: str, host: str, other: str, way: str, severity: Severity) -> None:
    unknown = ResolvedName(name=other, problem="Name or service not known")
    finding = only(**{f"{side}__other": unknown})
    assert (finding.check, finding.severity, finding.host) == ("host.resolve", severity, host)
    assert finding.way == way
    assert f"he name {other} does not resolve on {host}." in finding.summary
    assert finding.found == "Name or service not known"
    assert finding.remedy.startswith(f"On {host}: add {other}'s address")
    assert told(**{f"{side}__other": None}) == ()


@SIDES
def test_the_other_name_is_localhost(side: str, host: str, other: str, way: str, severity: Severity) -> None:
    finding = only(**{f"{side}__other": ResolvedName(name=other, addresses=("127.0.1.1",))})
    assert (finding.check, finding.severity, finding.way) == ("host.resolve", severity, way)
    assert f"he name {other} resolves to localhost on {host}." in finding.summary
    assert finding.basis is Basis.PROVED


def with_addresses(resolved: str, *, here: str = "192.0.2.1/24", there: str = "192.0.2.2/24") -> dict[str, Any]:
    """The source resolves the destination's name to this; the hosts have these addresses and libvirt's bridge."""
    same = LinkFact(index=9, name="virbr0", addresses=("192.168.122.1/24", "fe80::1/64"))
    return {
        "source__other": ResolvedName(name="hostb", addresses=(resolved,)),
        "source__state__links__links": (LinkFact(index=2, name="eth0", addresses=(here,)), same),
        "destination__state__links__links": (LinkFact(index=2, name="eth0", addresses=(there,)), same),
    }


def test_the_other_name_is_an_address_of_another_host() -> None:
    finding = only(**with_addresses("192.0.2.77"))
    assert (finding.check, finding.severity, finding.host) == ("host.resolve", Severity.BLOCK, "hosta")
    assert (finding.found, finding.basis) == ("192.0.2.77", Basis.COMPARED)
    assert finding.summary == "The name hostb resolves to an address that hostb does not have on hosta."


def test_an_address_may_be_translated_on_the_way() -> None:
    finding = only(**with_addresses("203.0.113.5"))
    assert (finding.check, finding.severity) == ("host.resolve", Severity.WARN)
    assert told(**with_addresses("192.0.2.2")) == ()
    assert told(**(with_addresses("2001:db8::2%eth0", there="2001:db8::2/64"))) == ()


@pytest.mark.parametrize("address", ["192.0.2.1", "192.168.122.1"])
def test_the_other_name_is_an_address_of_our_own(address: str) -> None:
    finding = only(**with_addresses(address))
    assert (finding.check, finding.severity, finding.host) == ("host.resolve", Severity.BLOCK, "hosta")
    assert "an address of hosta itself" in finding.summary


@pytest.mark.parametrize(("side", "late", "good"), [("source", "hosta", "hostb"), ("destination", "hostb", "hosta")])
def test_one_clock_is_not_synchronised(side: str, late: str, good: str) -> None:
    other = "destination" if side == "source" else "source"
    clocks = {
        f"{side}__state__system__clock": Clock(synchronised=False),
        f"{other}__state__system__clock": Clock(synchronised=True),
    }
    finding = only(**clocks)
    assert (finding.check, finding.severity, finding.host) == ("clock.skew", Severity.WARN, late)
    assert finding.summary == f"The clock of {late} is not synchronised, that of {good} is."
    assert finding.remedy.startswith(f"On {late}: systemctl enable --now chronyd")
    assert verdict_of(told(**clocks)) is Verdict.DEGRADED


@pytest.mark.parametrize("clocks", [(False, False), (True, True), (None, False), (True, None)])
def test_clocks_that_are_not_known_to_differ(clocks: tuple[bool | None, bool | None]) -> None:
    here, there = (Clock(synchronised=one) for one in clocks)
    assert told(source__state__system__clock=here, destination__state__system__clock=there) == ()
