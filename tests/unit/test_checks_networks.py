"""libvirt's networks, port groups and filters."""

from __future__ import annotations

import pytest

from kvmigd.model.finding import Severity, Verdict, verdict_of
from kvmigd.model.guest import Nic
from kvmigd.model.hypervisor import NetworkFact
from tests.unit.cases import BRIDGE, LAN, VIRBR, changed, only, told


@pytest.mark.parametrize(
    ("networks", "word", "found", "remedy"),
    [
        ((), "defined", "none", "On hosta: virsh net-dumpxml lan > net.xml; on hostb: virsh net-define net.xml"),
        ((NetworkFact(name="lan", exists=False),), "defined", "none", "On hosta: virsh net-dumpxml lan"),
        ((NetworkFact(name="lan", exists=True),), "active", "inactive", "On hostb: virsh net-start lan"),
    ],
)
def test_the_network_is_not_there(networks: tuple[NetworkFact, ...], word: str, found: str, remedy: str) -> None:
    finding = only(destination__networks=networks)
    assert (finding.check, finding.severity, finding.host) == ("network.defined", Severity.BLOCK, "hostb")
    assert finding.summary == f"The libvirt network lan is not {word} on hostb."
    assert (finding.subject, finding.found) == ("lan", found)
    assert finding.remedy.startswith(remedy)


def test_networks_that_libvirt_could_not_tell() -> None:
    missing = ("networks: Failed to connect socket to '/run/libvirt/virtnetworkd-sock'",)
    finding = only(destination__networks=(), destination__state__hypervisor__missing=missing)
    assert (finding.check, finding.severity, finding.found) == ("network.defined", Severity.UNKNOWN, missing[0])
    assert "virtnetworkd" in finding.remedy
    assert verdict_of((finding,)) is Verdict.UNKNOWN


def test_the_network_is_of_another_kind() -> None:
    finding = only(destination__networks=(changed(LAN, forward="nat"),))
    assert (finding.check, finding.severity, finding.host) == ("network.defined", Severity.WARN, "hostb")
    assert (finding.expected, finding.found) == ("isolated, as on hosta", "nat")


def test_the_network_leads_to_another_bridge() -> None:
    here, there = changed(LAN, forward="bridge", bridge="br0"), changed(LAN, forward="bridge", bridge="br9")
    bridges = (BRIDGE, changed(BRIDGE, name="br9"))
    finding = only(source__networks=(here,), destination__networks=(there,), destination__bridges=bridges)
    assert (finding.check, finding.severity, finding.host) == ("network.defined", Severity.WARN, "hostb")
    assert (finding.expected, finding.found) == ("the bridge br0, as on hosta", "the bridge br9")
    own = (changed(LAN, bridge="virbr0"),)
    assert told(source__networks=own, source__bridges=(BRIDGE, changed(VIRBR, name="virbr0"))) == (), (
        "libvirt's own bridges are numbered"
    )


def test_connections_through_nat_are_lost() -> None:
    nat = (changed(LAN, forward="nat"),)
    finding = only(source__networks=nat, destination__networks=nat)
    assert (finding.check, finding.severity, finding.host) == ("network.conntrack", Severity.WARN, "hosta")
    assert finding.found == "nat on hosta and hostb"
    assert finding.remedy.startswith("On hosta: virsh edit web")
    assert told(guest__nics=(), source__networks=nat, destination__networks=nat) == ()


def test_the_port_group_is_missing() -> None:
    nics = (Nic(mac="52:54:00:00:00:01", kind="network", source="lan", port_group="staff"),)
    finding = only(guest__nics=nics)
    assert (finding.check, finding.severity, finding.host) == ("network.port_group", Severity.WARN, "hostb")
    assert (finding.subject, finding.found) == ("staff", "none")
    assert "virsh net-edit lan" in finding.remedy
    assert only(guest__nics=nics, destination__networks=(changed(LAN, port_groups=("all",)),)).found == "all"
    assert told(guest__nics=nics, destination__networks=(changed(LAN, port_groups=("all", "staff")),)) == ()


def test_the_filter_is_missing() -> None:
    nics = tuple(Nic(mac=f"52:54:00:00:00:0{n}", kind="bridge", source="br0", filter="guard") for n in (1, 2))
    finding = only(guest__nics=nics)
    assert (finding.check, finding.severity, finding.host) == ("network.filter", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found) == ("guard", "none")
    assert finding.remedy.startswith(
        "On hosta: virsh nwfilter-dumpxml guard > filter.xml; on hostb: virsh nwfilter-def"
    )
    assert told(guest__nics=nics, destination__state__hypervisor__filters=("clean-traffic", "guard")) == ()
    missing = ("filters: no driver",)
    unknown = only(guest__nics=nics, destination__state__hypervisor__missing=missing)
    assert (unknown.check, unknown.severity, unknown.found) == ("network.filter", Severity.UNKNOWN, missing[0])


def test_a_network_is_told_once() -> None:
    nics = tuple(Nic(mac=f"52:54:00:00:00:0{n}", kind="network", source="lan") for n in (1, 2))
    assert only(guest__nics=nics, destination__networks=()).check == "network.defined"
