"""Bridges and networks of the guest's interfaces, and the stream's port."""

from __future__ import annotations

from typing import Any

import pytest

from kvmigd.model.finding import Basis, Severity
from kvmigd.model.guest import Nic
from kvmigd.model.hypervisor import NetworkFact
from kvmigd.model.links import BridgeFact, LinkFact
from kvmigd.model.proof import PortProof
from tests.unit.cases import BRIDGE, LAN, VIRBR, changed, only, told


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
    assert finding.remedy.startswith("On hostb: ip link add br0 type bridge")


def test_the_bridge_is_down() -> None:
    finding = only(destination__bridges=there(up=False, carrier=False))
    assert (finding.check, finding.severity, finding.host) == ("network.bridge", Severity.BLOCK, "hostb")
    assert (finding.expected, finding.found) == ("up", "down")
    assert finding.remedy == "On hostb: ip link set br0 up"


def test_the_bridge_leads_nowhere() -> None:
    finding = only(destination__bridges=there(uplinks=(), carrier=False))
    assert (finding.check, finding.severity, finding.host) == ("network.uplink", Severity.BLOCK, "hostb")
    assert "eth0" in finding.expected
    assert finding.remedy.startswith("On hostb: ip link set eth0 master br0")


def test_the_uplink_has_no_carrier() -> None:
    finding = only(destination__bridges=there(uplinks=("eth1", "eth2"), carrier=False))
    assert (finding.check, finding.severity, finding.host) == ("network.uplink", Severity.BLOCK, "hostb")
    assert finding.found == "eth1, eth2 without carrier"
    assert finding.remedy.startswith("On hostb: ip link set eth1 up")


def test_a_bridge_that_leads_nowhere_here_need_not_lead_anywhere_there() -> None:
    isolated = changed(BRIDGE, uplinks=(), carrier=False)
    assert told(source__bridges=(isolated, VIRBR), destination__bridges=(isolated, VIRBR)) == ()
    assert told(source__bridges=(VIRBR,), destination__bridges=(isolated, VIRBR)) == (), "not known here"
    unplugged = changed(BRIDGE, carrier=False)
    assert told(source__bridges=(unplugged, VIRBR), destination__bridges=(unplugged, VIRBR)) == ()


def test_another_mtu_is_a_warning() -> None:
    finding = only(destination__bridges=there(mtu=1400))
    assert (finding.check, finding.severity, finding.host) == ("network.mtu", Severity.WARN, "hostb")
    assert (finding.expected, finding.found) == ("1500", "1400")
    assert finding.remedy.startswith("On hostb: ip link set br0 mtu 1500")


@pytest.mark.parametrize(
    ("networks", "word", "remedy"),
    [
        ((), "defined", "On hosta: virsh net-dumpxml lan"),
        ((NetworkFact(name="lan", exists=False),), "defined", "On hosta: virsh net-dumpxml lan"),
        ((NetworkFact(name="lan", exists=True),), "active", "On hostb: virsh net-start lan"),
    ],
)
def test_the_network_is_not_there(networks: tuple[NetworkFact, ...], word: str, remedy: str) -> None:
    finding = only(destination__networks=networks)
    assert (finding.check, finding.severity, finding.host) == ("network.defined", Severity.BLOCK, "hostb")
    assert finding.summary == f"The libvirt network lan is not {word} on hostb."
    assert finding.remedy.startswith(remedy)


def test_the_bridge_behind_a_network_is_looked_at_too() -> None:
    finding = only(destination__bridges=(BRIDGE, changed(VIRBR, up=False)))
    assert (finding.check, finding.subject) == ("network.bridge", "virbr1")
    assert told(destination__networks=(changed(LAN, bridge=""),)) == (), "a network without a bridge of its own"


def test_two_interfaces_on_one_bridge_are_told_once() -> None:
    nics = tuple(Nic(mac=f"52:54:00:00:00:0{number}", kind="bridge", source="br0") for number in (1, 2))
    assert only(guest__nics=nics, destination__bridges=()).check == "network.bridge"


def test_other_kinds_of_interface_are_libvirts_business() -> None:
    nics = (Nic(mac="", kind="user"), Nic(mac="", kind="direct", source="eth0"), Nic(mac="", kind="bridge"))
    assert told(guest__nics=nics, destination__bridges=(), destination__networks=()) == ()


@pytest.mark.parametrize(("port", "ports"), [(49152, "49152-49215"), (49215, "49152-49215"), (50001, "50001")])
def test_the_port_cannot_be_reached(port: int, ports: str) -> None:
    text = f"192.0.2.2 port {port} does not answer"
    proof = PortProof(to="hostb", address="192.0.2.2", port=port, problem="timeout", text=text, taken_usec=7)
    finding = only(proofs__ports=(proof,))
    assert (finding.check, finding.severity, finding.host) == ("port.open", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found, finding.basis) == (f"192.0.2.2:{port}/tcp", "timeout", Basis.PROVED)
    assert finding.summary == (
        f"Port {port} of hostb cannot be reached from hosta: 192.0.2.2 port {port} does not answer."
    )
    assert f"--add-port={ports}/tcp" in finding.remedy
    assert f"accept tcp dport {ports} from hosta" in finding.remedy


def test_a_port_that_was_not_proved_is_no_finding() -> None:
    assert told(proofs__ports=()) == ()
