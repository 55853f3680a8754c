"""Bridges of the guest's interfaces, and where they lead."""

from __future__ import annotations

from typing import Any

import pytest

from kvmigd.model.finding import Severity, Verdict, verdict_of
from kvmigd.model.guest import Nic
from kvmigd.model.links import BondFact, BridgeFact, BridgePort, LinkFact
from tests.unit.cases import BRIDGE, LAN, VIRBR, changed, only, told

UP = LinkFact(index=1, name="eth0", up=True, carrier=True)
OPEN = changed(BRIDGE, kind="openvswitch")
LINUX = changed(BRIDGE, kind="linux")


def there(**changes: Any) -> tuple[BridgeFact, ...]:
    """The destination's bridges with a change to the first."""
    return (changed(BRIDGE, **changes), VIRBR)


@pytest.mark.parametrize(
    ("bridges", "links", "found"),
    [
        ((VIRBR,), (), "no such link"),
        (there(exists=False, is_bridge=False), (), "no such link"),
        ((VIRBR,), (LinkFact(index=7, name="br0", kind="dummy"),), "a link that is no bridge"),
        (there(is_bridge=False), (LinkFact(index=7, name="br0", kind="dummy"),), "a link that is no bridge"),
    ],
)
def test_there_is_no_such_bridge(bridges: tuple[BridgeFact, ...], links: tuple[LinkFact, ...], found: str) -> None:
    finding = only(destination__bridges=bridges, destination__state__links__links=links)
    assert (finding.check, finding.severity, finding.host) == ("network.bridge", Severity.BLOCK, "hostb")
    assert finding.summary == "There is no bridge br0 on hostb."
    assert finding.found == found
    assert finding.remedy.startswith("On hostb: ip link add br0 type bridge && ip link set br0 up")


def test_the_bridge_is_down() -> None:
    finding = only(destination__bridges=there(up=False, carrier=False))
    assert (finding.check, finding.severity, finding.host) == ("network.bridge", Severity.BLOCK, "hostb")
    assert (finding.expected, finding.found) == ("up", "down")
    assert finding.remedy == "On hostb: ip link set br0 up"


def test_the_bridge_leads_nowhere() -> None:
    finding = only(destination__bridges=there(uplinks=(), carrier=False))
    assert (finding.check, finding.severity, finding.host) == ("network.uplink", Severity.BLOCK, "hostb")
    assert "eth0" in finding.expected
    assert finding.remedy.startswith("On hostb: ip link set eth0 master br0"), "it is there, and free"
    taken = (changed(UP, master="br7"),)
    finding = only(destination__bridges=there(uplinks=()), destination__state__links__links=taken)
    assert finding.remedy.startswith("On hostb: ip link set DEVICE master br0")


def test_the_uplink_has_no_carrier() -> None:
    finding = only(destination__bridges=there(uplinks=("eth1", "eth2"), carrier=False))
    assert (finding.check, finding.severity, finding.host) == ("network.uplink", Severity.BLOCK, "hostb")
    assert finding.found == "eth1, eth2 without carrier"
    assert finding.remedy.startswith("On hostb: ip link set eth1 up")


def test_the_taps_of_other_guests_are_no_carrier() -> None:
    finding = only(destination__state__links__links=(changed(UP, carrier=False),))
    assert (finding.check, finding.found) == ("network.uplink", "eth0 without carrier")
    links = (changed(UP, carrier=False), LinkFact(index=2, name="eth1", up=True, carrier=True))
    assert told(destination__bridges=there(uplinks=("eth0", "eth1")), destination__state__links__links=links) == ()


def test_a_bridge_that_leads_nowhere_here_need_not_lead_anywhere_there() -> None:
    isolated = changed(BRIDGE, uplinks=(), carrier=False)
    assert told(source__bridges=(isolated, VIRBR), destination__bridges=(isolated, VIRBR)) == ()
    assert told(source__bridges=(VIRBR,), destination__bridges=(isolated, VIRBR)) == (), "not known here"
    unplugged = (changed(UP, carrier=False),)
    assert told(source__state__links__links=unplugged, destination__state__links__links=unplugged) == ()


def test_the_spanning_tree_blocks_the_uplink() -> None:
    def bridges(state: str, *others: BridgePort) -> tuple[BridgeFact, ...]:
        ports = (BridgePort(name="eth0", uplink=True, state=state), BridgePort(name="vnet0", uplink=False), *others)
        return there(stp=True, ports=ports)

    here = (changed(BRIDGE, stp=True), VIRBR)
    finding = only(source__bridges=here, destination__bridges=bridges("blocking"))
    assert (finding.check, finding.severity, finding.host) == ("network.uplink", Severity.BLOCK, "hostb")
    assert finding.found == "eth0 blocking"
    assert told(source__bridges=here, destination__bridges=bridges("forwarding")) == ()
    second = BridgePort(name="eth1", uplink=True, state="forwarding")
    assert told(source__bridges=here, destination__bridges=bridges("blocking", second)) == ()


def test_a_spanning_tree_makes_the_guest_wait() -> None:
    finding = only(destination__bridges=there(stp=True))
    assert (finding.check, finding.severity, finding.host) == ("network.stp", Severity.WARN, "hostb")
    assert finding.found == "STP is on"
    assert "ip link set br0 type bridge stp_state 0" in finding.remedy
    assert told(source__bridges=(changed(BRIDGE, stp=True), VIRBR)) == (), "without it there is no waiting"
    isolated = {"uplinks": (), "carrier": False}
    bridges = changed(BRIDGE, **isolated), VIRBR
    assert told(source__bridges=bridges, destination__bridges=there(stp=True, **isolated)) == ()


def test_differences_that_do_no_harm() -> None:
    ports = (BridgePort(name="eno1", uplink=True, carrier=True), BridgePort(name="vnet7", uplink=False))
    links = (changed(UP, name="eno1", index=3, mac="02:00:00:00:00:09"),)
    other = there(uplinks=("eno1",), ports=ports, addresses=("192.0.2.9/24",))
    more = changed(BRIDGE, name="br7", mtu=1280, up=False)
    assert told(destination__bridges=(*other, more), destination__state__links__links=links) == ()


def test_the_bridge_behind_a_network_is_looked_at_too() -> None:
    finding = only(destination__bridges=(BRIDGE, changed(VIRBR, up=False)))
    assert (finding.check, finding.subject) == ("network.bridge", "virbr1")
    assert told(destination__networks=(changed(LAN, bridge=""),)) == (), "a network without a bridge of its own"


def test_the_bridge_behind_a_network_there_counts() -> None:
    here, other = changed(LAN, forward="bridge", bridge="br0"), changed(LAN, forward="bridge", bridge="br7")
    alone = changed(BRIDGE, name="br7", uplinks=(), carrier=False)
    nics = (Nic(mac="52:54:00:00:00:01", kind="network", source="lan"),)
    changes = {"guest__nics": nics, "source__networks": (here,), "destination__networks": (other,)}
    findings = told(**changes, destination__bridges=(BRIDGE, alone))
    assert [(finding.check, finding.subject) for finding in findings] == [
        ("network.uplink", "br7"),
        ("network.defined", "lan"),
    ]


def test_two_interfaces_on_one_bridge_are_told_once() -> None:
    nics = tuple(Nic(mac=f"52:54:00:00:00:0{number}", kind="bridge", source="br0") for number in (1, 2))
    assert only(guest__nics=nics, destination__bridges=()).check == "network.bridge"


def test_an_interface_without_a_cable_needs_no_uplink() -> None:
    nics = (Nic(mac="52:54:00:00:00:01", kind="bridge", source="br0", link="down"),)
    assert told(guest__nics=nics, destination__bridges=there(uplinks=(), mtu=1280)) == ()
    assert only(guest__nics=nics, destination__bridges=()).check == "network.bridge"


def test_other_kinds_of_interface_have_no_bridge() -> None:
    nics = (Nic(mac="", kind="user"), Nic(mac="", kind="bridge"), Nic(mac="", kind="ethernet"))
    assert told(guest__nics=nics, destination__bridges=(), destination__networks=()) == ()


@pytest.mark.parametrize(
    ("port", "bridge", "expected", "remedy"),
    [
        ("openvswitch", LINUX, "a bridge of Open vSwitch", "On hostb: ovs-vsctl add-br br0"),
        ("", OPEN, "a bridge of the kernel's", "On hostb: ip link add br0 type bridge"),
    ],
)
def test_a_bridge_of_another_kind(port: str, bridge: BridgeFact, expected: str, remedy: str) -> None:
    nics = (Nic(mac="52:54:00:00:00:01", kind="bridge", source="br0", port=port),)
    finding = only(guest__nics=nics, destination__bridges=(bridge,))
    assert (finding.check, finding.severity, finding.host) == ("network.kind", Severity.BLOCK, "hostb")
    assert finding.expected == expected
    assert finding.remedy.startswith(remedy)
    fitting = OPEN if bridge is LINUX else LINUX
    assert told(guest__nics=nics, destination__bridges=(fitting,)) == ()


def test_open_vswitch_does_not_tell_its_bridges() -> None:
    nics = (Nic(mac="52:54:00:00:00:01", kind="bridge", source="br0", port="openvswitch"),)
    silent = {"destination__bridges": (), "destination__state__links__openvswitch": "ovsdb-server does not answer"}
    finding = only(guest__nics=nics, **silent)
    assert (finding.check, finding.severity, finding.host) == ("network.openvswitch", Severity.UNKNOWN, "hostb")
    assert finding.found == "ovsdb-server does not answer"
    assert verdict_of((finding,)) is Verdict.UNKNOWN
    assert (
        only(destination__bridges=(VIRBR,), destination__state__links__openvswitch="silent").check == "network.bridge"
    )
    missing = only(guest__nics=nics, destination__bridges=())
    assert missing.remedy.startswith("On hostb: ovs-vsctl add-br br0")


BOND = BondFact(name="bond0", mode="802.3ad", members=("eth1", "eth2"), active=("eth1", "eth2"))


def bonded(*carriers: bool, uplink: str = "bond0") -> dict[str, Any]:
    """Links of a host whose bridge has a bond with two members, maybe by a VLAN link."""
    members = [
        LinkFact(index=n, name=f"eth{n}", up=True, carrier=carrier) for n, carrier in enumerate(carriers, start=1)
    ]
    vlan = [LinkFact(index=8, name="bond0.5", kind="vlan", parent="bond0", up=True, carrier=True)]
    bond = LinkFact(index=9, name="bond0", kind="bond", up=True, carrier=True)
    return {
        "state__links__links": (*members, *vlan, bond),
        "state__links__bonds": (BOND,),
        "bridges": (changed(BRIDGE, uplinks=(uplink,)), VIRBR),
    }


def both(here: dict[str, Any], there: dict[str, Any]) -> dict[str, Any]:
    """The same changes of both hosts."""
    return {f"source__{key}": value for key, value in here.items()} | {
        f"destination__{key}": value for key, value in there.items()
    }


@pytest.mark.parametrize("uplink", ["bond0", "bond0.5"])
def test_a_bond_with_a_dead_leg(uplink: str) -> None:
    changes = both(bonded(True, True, uplink=uplink), bonded(True, False, uplink=uplink))  # noqa: FBT003
    finding = only(**changes)
    assert (finding.check, finding.severity, finding.host) == ("network.bonds", Severity.WARN, "hostb")
    assert (finding.subject, finding.found) == ("bond0", "eth2 without carrier")
    assert finding.remedy.startswith("On hostb: ip link set eth2 up")
    whole = bonded(True, True, uplink=uplink)  # noqa: FBT003
    assert told(**both(whole, whole)) == ()
    halved = bonded(True, False, uplink=uplink)  # noqa: FBT003
    assert told(**both(halved, halved)) == ()


def test_no_bond_there() -> None:
    finding = only(**{f"source__{key}": value for key, value in bonded(True, True).items()})  # noqa: FBT003
    assert (finding.check, finding.severity, finding.host) == ("network.bonds", Severity.WARN, "hostb")
    assert (finding.expected, finding.found) == ("a bond, as on hosta (eth1, eth2)", "eth0")
    assert told(**{f"destination__{key}": value for key, value in bonded(True, True).items()}) == ()  # noqa: FBT003


@pytest.mark.parametrize(("speed", "slow"), [(1000, True), (100, True), (2500, False), (0, False), (100_000, False)])
def test_a_much_slower_uplink(speed: int, slow: bool) -> None:  # noqa: FBT001
    changes = {
        "source__state__links__links": (changed(UP, speed=10_000),),
        "destination__state__links__links": (changed(UP, speed=speed),),
    }
    if not slow:
        assert told(**changes) == ()
        return
    finding = only(**changes)
    assert (finding.check, finding.severity, finding.host) == ("network.speed", Severity.WARN, "hostb")
    assert finding.found == f"{speed} Mbit/s"
    assert finding.remedy.startswith("On hostb: ethtool eth0")
