"""The segment behind a bridge: frames, VLANs, MTU; and links below macvtaps."""

from __future__ import annotations

from typing import Any

import pytest

from kvmigd.model.finding import Basis, Severity
from kvmigd.model.guest import Nic
from kvmigd.model.links import BridgeFact, BridgePort, LinkFact
from kvmigd.model.proof import FrameProof
from tests.unit.cases import BRIDGE, VIRBR, changed, only, told

UP = LinkFact(index=1, name="eth0", up=True, carrier=True, mtu=1500)
LOST = FrameProof(bridge="br0", mtu=1500, problem="lost", text="no frame sent on br0 arrived", taken_usec=7)
LARGE = FrameProof(bridge="br0", mtu=1500, problem="too-large", text="those of 1500 bytes do not", taken_usec=7)
WELL = FrameProof(bridge="br0", mtu=1500)


def nic(**changes: Any) -> tuple[Nic, ...]:
    """The guest's only interface, on br0."""
    return (Nic(mac="52:54:00:00:00:01", kind="bridge", source="br0", **changes),)


def bridges(**changes: Any) -> tuple[BridgeFact, ...]:
    """A host's bridges with a change to the first."""
    return (changed(BRIDGE, **changes), VIRBR)


def test_frames_are_lost() -> None:
    finding = only(proofs__frames=(LOST,))
    assert (finding.check, finding.severity, finding.host) == ("network.segment", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found) == ("br0", "no frame sent on br0 arrived")
    assert (finding.basis, finding.proved_usec) == (Basis.PROVED, 7)
    assert finding.summary == "The bridge br0 on hostb is another network segment than on hosta."
    assert "switch ports of eth0 of hostb" in finding.remedy
    assert told(proofs__frames=(WELL,)) == ()


@pytest.mark.parametrize("problem", ["no-bridge", "failed", "no-answer"])
def test_frames_that_could_not_be_sent_say_nothing(problem: str) -> None:
    assert told(proofs__frames=(changed(LOST, problem=problem),)) == ()


def test_frames_of_another_bridge_or_vlan_say_nothing() -> None:
    assert told(proofs__frames=(changed(LOST, bridge="br7"), changed(LOST, vlan=5))) == ()


def test_an_isolated_bridge_is_a_segment_of_its_own() -> None:
    isolated = bridges(uplinks=(), carrier=False)
    assert told(proofs__frames=(LOST,), source__bridges=isolated, destination__bridges=isolated) == ()
    assert told(proofs__frames=(changed(LOST, bridge="virbr1"),)) == ()
    unplugged = (changed(UP, carrier=False),)
    assert told(proofs__frames=(LOST,), source__state__links__links=unplugged) == (), "it reaches nobody here either"


def test_a_bridge_that_leads_nowhere_there_is_told_once() -> None:
    finding = only(proofs__frames=(LOST,), destination__bridges=bridges(uplinks=(), carrier=False))
    assert finding.check == "network.uplink"


def filtering(*vlans: str, kind: str = "linux") -> tuple[BridgeFact, ...]:
    """Bridges of which the first lets these VLANs through its uplink."""
    ports = (BridgePort(name="eth0", uplink=True, vlans=vlans), BridgePort(name="vnet0", uplink=False, vlans=("10*",)))
    return bridges(kind=kind, vlan_filtering=kind == "linux", ports=ports)


@pytest.mark.parametrize(
    ("there", "found", "remedy"),
    [
        (filtering("1*", "20-30"), "eth0 with VLANs 1*, 20-30", "On hostb: bridge vlan add dev eth0 vid 10"),
        (filtering(), "eth0 with VLANs none", "On hostb: bridge vlan add dev eth0 vid 10"),
        (
            bridges(kind="linux"),
            "a bridge that does not filter VLANs",
            "On hostb: ip link set br0 type bridge vlan_filt",
        ),
    ],
)
def test_the_vlan_does_not_lead_out_there(there: tuple[BridgeFact, ...], found: str, remedy: str) -> None:
    changes = {"guest__nics": nic(vlans=(10,)), "source__bridges": filtering("1*", "5-12")}
    finding = only(**changes, destination__bridges=there)
    assert (finding.check, finding.severity, finding.host) == ("network.vlan", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found, finding.basis) == ("br0, VLAN 10", found, Basis.COMPARED)
    assert finding.remedy.startswith(remedy)
    assert told(**changes, destination__bridges=filtering("1*", "10")) == ()
    assert told(**changes, destination__bridges=there, proofs__frames=(changed(WELL, vlan=10),)) == (), "it arrives"
    assert told(**changes | {"source__bridges": there}, destination__bridges=there) == (), "nor does it here"


def test_the_vlan_on_open_vswitch() -> None:
    here = {"guest__nics": nic(vlans=(10,), port="openvswitch"), "source__bridges": filtering(kind="openvswitch")}
    assert told(**here, destination__bridges=filtering(kind="openvswitch")) == (), "without a list all pass"
    finding = only(**here, destination__bridges=filtering("20", kind="openvswitch"))
    assert (finding.check, finding.found) == ("network.vlan", "eth0 with VLANs 20")
    assert finding.remedy.startswith("On hostb: ovs-vsctl add port eth0 trunks 10")


def test_the_vlan_tells_why_frames_are_lost() -> None:
    finding = only(
        guest__nics=nic(vlans=(10,)),
        source__bridges=filtering("10"),
        destination__bridges=filtering("20"),
        proofs__frames=(changed(LOST, vlan=10),),
    )
    assert (finding.check, finding.severity, finding.basis) == ("network.segment", Severity.BLOCK, Basis.PROVED)
    assert (finding.found, finding.subject) == ("eth0 with VLANs 20", "br0")
    assert finding.remedy.startswith("On hostb: bridge vlan add dev eth0 vid 10")
    assert "in VLAN 10" in finding.summary


def test_the_uplink_is_in_another_vlan() -> None:
    changes = {"source__bridges": filtering("1*"), "destination__bridges": filtering("5*")}
    finding = only(**changes)
    assert (finding.check, finding.severity, finding.host) == ("network.segment", Severity.WARN, "hostb")
    assert (finding.expected, finding.found) == ("VLAN 1 untagged, as on hosta", "VLAN 5 untagged")
    assert finding.basis is Basis.COMPARED
    assert told(**changes, proofs__frames=(WELL,)) == (), "a frame knows better"
    assert told(**changes | {"destination__bridges": filtering("1*", "100-200")}) == ()
    assert told(**changes | {"destination__bridges": filtering("100")}) == (), "not known to differ"
    assert told(source__bridges=bridges(kind="linux"), destination__bridges=filtering("1*")) == ()


def test_a_smaller_mtu_of_the_bridge_is_a_warning() -> None:
    finding = only(destination__bridges=bridges(mtu=1400))
    assert (finding.check, finding.severity, finding.host) == ("network.mtu", Severity.WARN, "hostb")
    assert (finding.subject, finding.expected, finding.found) == ("br0", "1500", "1400")
    assert finding.remedy.startswith("On hostb: ip link set br0 mtu 1500")
    assert only(destination__bridges=bridges(mtu=1400), proofs__frames=(WELL,)).severity is Severity.WARN


def test_a_smaller_mtu_of_the_uplink_is_a_warning() -> None:
    small = {"destination__state__links__links": (changed(UP, mtu=1400),)}
    finding = only(**small)
    assert (finding.check, finding.severity, finding.subject) == ("network.mtu", Severity.WARN, "eth0")
    assert finding.summary == "The uplink eth0 of bridge br0 has a smaller MTU on hostb."
    assert told(**small, proofs__frames=(WELL,)) == (), "it takes them all the same"
    assert told(**small, source__state__links__links=(changed(UP, mtu=1400),)) == (), "nor does more leave hosta"


def test_a_larger_mtu_there_does_no_harm() -> None:
    large = {"destination__state__links__links": (changed(UP, mtu=9000),)}
    assert told(destination__bridges=bridges(mtu=9000), **large) == ()
    assert told(destination__bridges=bridges(mtu=0)) == (), "not known"
    assert told(source__bridges=bridges(mtu=0)) == (), "not known"


def test_the_guests_own_mtu_counts() -> None:
    jumbo = bridges(mtu=9000)
    assert told(guest__nics=nic(mtu=1500), source__bridges=jumbo) == (), "it sends no larger ones"
    finding = only(guest__nics=nic(mtu=4000), source__bridges=jumbo)
    assert (finding.check, finding.severity, finding.basis) == ("network.mtu", Severity.BLOCK, Basis.COMPARED)
    assert (finding.expected, finding.found) == ("4000", "1500")
    assert told(guest__nics=nic(mtu=4000)) == (), "no larger ones pass hosta either"


def test_large_frames_are_lost() -> None:
    finding = only(proofs__frames=(LARGE,))
    assert (finding.check, finding.severity, finding.host) == ("network.mtu", Severity.BLOCK, "hostb")
    assert (finding.found, finding.basis, finding.proved_usec) == ("those of 1500 bytes do not", Basis.PROVED, 7)
    assert "switches between hosta and eth0 of hostb" in finding.remedy
    named = only(proofs__frames=(LARGE,), destination__state__links__links=(changed(UP, mtu=1400),))
    assert (named.subject, named.found, named.severity) == ("eth0", "MTU 1400 of eth0", Severity.BLOCK)
    assert named.remedy.startswith("On hostb: ip link set eth0 mtu 1500")


def test_large_frames_that_the_guest_does_not_send() -> None:
    jumbo = {"source__bridges": bridges(mtu=9000), "destination__bridges": bridges(mtu=9000)}
    proof = changed(LARGE, mtu=9000)
    assert told(guest__nics=nic(mtu=1500), proofs__frames=(proof,), **jumbo) == ()
    assert only(guest__nics=nic(), proofs__frames=(proof,), **jumbo).severity is Severity.BLOCK
    assert told(proofs__frames=(LARGE,), source__state__links__links=(changed(UP, mtu=1400),)) == (), (
        "hosta's own fault"
    )


DIRECT = (Nic(mac="52:54:00:00:00:01", kind="direct", source="eth0", mode="bridge"),)
SIDES = {"source__state__links__links": (UP,), "destination__state__links__links": (UP,)}


@pytest.mark.parametrize(
    ("links", "found", "remedy"),
    [
        ((), "no such link", "On hostb: ip link show"),
        ((changed(UP, up=False, carrier=False),), "down", "On hostb: ip link set eth0 up"),
        ((changed(UP, carrier=False),), "no carrier", "On hostb: ip link set eth0 up"),
        ((changed(UP, master="br0"),), "a port of br0", "On hostb: ip link set eth0 nomaster"),
    ],
)
def test_the_link_below_a_macvtap(links: tuple[LinkFact, ...], found: str, remedy: str) -> None:
    finding = only(guest__nics=DIRECT, **SIDES | {"destination__state__links__links": links})
    assert (finding.check, finding.severity, finding.host) == ("network.macvtap", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found) == ("eth0", found)
    assert finding.remedy.startswith(remedy)
    assert told(guest__nics=DIRECT, **SIDES) == ()


def test_a_macvtap_that_wants_its_link_alone() -> None:
    alone = (changed(DIRECT[0], mode="passthrough"),)
    other = LinkFact(index=5, name="macvtap0", kind="macvtap", parent="eth0")
    taken = SIDES | {"destination__state__links__links": (UP, other)}
    finding = only(guest__nics=alone, **taken)
    assert (finding.check, finding.severity, finding.found) == ("network.macvtap", Severity.BLOCK, "macvtap0")
    assert told(guest__nics=DIRECT, **taken) == ()
    assert told(guest__nics=alone, **SIDES) == ()


def test_the_mtu_below_a_macvtap() -> None:
    small = SIDES | {"destination__state__links__links": (changed(UP, mtu=1400),)}
    finding = only(guest__nics=DIRECT, **small)
    assert (finding.check, finding.severity) == ("network.macvtap", Severity.WARN)
    assert (finding.expected, finding.found) == ("1500", "1400")
    assert only(guest__nics=(changed(DIRECT[0], mtu=1500),), **small).severity is Severity.BLOCK
    assert told(guest__nics=(changed(DIRECT[0], mtu=1400),), **small) == ()
