"""The way to the other host, and what confines guests there."""

from __future__ import annotations

from typing import Any

import pytest

from kvmigd.model.finding import Basis, Severity
from kvmigd.model.job import CheckOptions
from kvmigd.model.links import RouteFact
from kvmigd.model.proof import Throughput
from tests.unit.cases import GIB, only, told


def test_there_is_no_way() -> None:
    route = RouteFact(peer="hostb", address="192.0.2.2", problem="there is no way to 192.0.2.2: Network is unreachable")
    finding = only(source__state__links__routes=(route,))
    assert (finding.check, finding.severity, finding.host) == ("link.path", Severity.WARN, "hosta")
    assert (finding.subject, finding.found) == ("192.0.2.2", route.problem)
    assert finding.remedy.startswith("On hosta: ip route get 192.0.2.2")
    well = RouteFact(peer="hostb", address="192.0.2.2", link="eth0")
    other = RouteFact(peer="hostc", address="192.0.2.3", problem="no way")
    assert told(source__state__links__routes=(well, other)) == ()


def test_a_connection_that_carries_nothing() -> None:
    burst = Throughput(problem="lost", text="only 0 bytes of a burst arrived at hostb", taken_usec=7)
    route = RouteFact(peer="hostb", address="192.0.2.2", mtu=9000)
    finding = only(proofs__throughput=burst, source__state__links__routes=(route,))
    assert (finding.check, finding.severity, finding.host) == ("link.data", Severity.BLOCK, "hostb")
    assert (finding.found, finding.basis, finding.proved_usec) == (burst.text, Basis.PROVED, 7)
    assert finding.remedy.startswith("On hosta: ping -M do -s 8972 hostb")
    assert "-s 1472 " in only(proofs__throughput=burst).remedy
    for problem in ("failed", "busy", "no-answer"):
        assert told(proofs__throughput=Throughput(problem=problem)) == (), "not known"


def test_a_guest_that_takes_long() -> None:
    slow = Throughput(rate=GIB // 700, taken_usec=7)
    finding = only(proofs__throughput=slow)
    assert (finding.check, finding.severity, finding.host) == ("link.throughput", Severity.WARN, "hostb")
    assert finding.summary.startswith("web would take 11 minutes to hostb")
    assert (finding.expected, finding.found) == ("1024 MiB within 10 minutes", "1.5 MB/s")
    assert (finding.basis, finding.proved_usec) == (Basis.PROVED, 7)
    assert finding.ways == ("offline", "shutdown")
    assert told(proofs__throughput=slow, options=CheckOptions(offline=True)) == ()
    assert told(proofs__throughput=Throughput(rate=GIB // 500)) == ()
    assert told(proofs__throughput=Throughput()) == ()


@pytest.mark.parametrize(
    ("there", "found"),
    [(("apparmor:0", "dac:0"), "apparmor"), (("none:0", "dac:0"), "none")],
)
def test_other_means_to_confine_guests(there: tuple[str, ...], found: str) -> None:
    here = {"source__state__hypervisor__security_models": ("selinux:0", "dac:0")}
    finding = only(**here, destination__state__hypervisor__security_models=there)
    assert (finding.check, finding.severity, finding.host) == ("security.model", Severity.WARN, "hostb")
    assert (finding.expected, finding.found) == ("selinux, as on hosta", found)
    assert finding.remedy.startswith("On hostb: security_driver in /etc/libvirt/qemu.conf")
    assert told(**here, destination__state__hypervisor__security_models=("dac:0", "selinux:1")) == ()
    assert told(**here) == (), "not known"


def test_what_the_kernel_says_where_libvirt_does_not() -> None:
    def kernels(here: str, there: str) -> dict[str, Any]:
        return {"source__state__system__security": here, "destination__state__system__security": there}

    assert only(**kernels("apparmor", "none")).found == "none"
    assert told(**kernels("selinux-enforcing", "selinux-permissive")) == ()
