"""Who the two hosts are."""

from __future__ import annotations

import pytest

from kvmigd.model.finding import Basis, Severity
from kvmigd.model.host import RemoteFact, ResolvedName
from tests.unit.cases import SOURCE, only, told


@pytest.mark.parametrize(("side", "host"), [("source", "hosta"), ("destination", "hostb")])
def test_libvirt_is_away(side: str, host: str) -> None:
    finding = only(**{f"{side}__facts__hypervisor_alive": False, f"{side}__facts__hypervisor_problem": "no socket"})
    assert (finding.check, finding.severity, finding.host) == ("hypervisor.alive", Severity.BLOCK, host)
    assert finding.found == "no socket"
    assert finding.remedy.startswith(f"On {host}: systemctl start libvirtd")
    assert only(**{f"{side}__facts__hypervisor_alive": False}).found == "no connection"


def test_libvirt_there_cannot_be_reached_from_here() -> None:
    remote = RemoteFact(uri="qemu+tls://hostb/system", problem="hostb port 16514 refuses the connection")
    finding = only(source__remote=remote)
    assert (finding.check, finding.severity, finding.host) == ("hypervisor.remote", Severity.BLOCK, "hostb")
    assert "16514" in finding.summary
    assert "libvirtd-tls.socket" in finding.remedy
    assert told(source__remote=None) == ()


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


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1", "::1"])
def test_a_name_that_means_localhost(address: str) -> None:
    finding = only(destination__facts__addresses=("192.0.2.2", address))
    assert (finding.check, finding.severity, finding.host) == ("host.name", Severity.BLOCK, "hostb")
    assert "on hostb itself" in finding.summary
    assert address in finding.found
    assert "/etc/hosts" in finding.remedy
    assert told(source__facts__addresses=(address,)) == (), "nobody asks the source for its address"


@pytest.mark.parametrize(("side", "host", "other"), [("source", "hosta", "hostb"), ("destination", "hostb", "hosta")])
def test_the_other_name_does_not_resolve(side: str, host: str, other: str) -> None:
    unknown = ResolvedName(name=other, problem="Name or service not known")
    finding = only(**{f"{side}__other": unknown})
    assert (finding.check, finding.severity, finding.host) == ("host.resolve", Severity.BLOCK, host)
    assert finding.summary == f"The name {other} does not resolve on {host}."
    assert finding.found == "Name or service not known"
    assert finding.remedy.startswith(f"On {host}: add {other}'s address")
    finding = only(**{f"{side}__other": ResolvedName(name=other, addresses=("127.0.1.1",))})
    assert finding.summary == f"The name {other} resolves to localhost on {host}."
    assert finding.basis is Basis.PROVED
    assert told(**{f"{side}__other": None}) == ()
