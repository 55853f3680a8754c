"""libvirt's own: networks, their port groups, network filters."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case
from kvmigd.model.devices import Nic
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.hypervisor import NetworkFact

DEFINED = Check(
    id="network.defined",
    severity=Severity.BLOCK,
    title="Each libvirt network of the guest is defined and active on the destination, and the same as here.",
    why="QEMU cannot be started there without it; one that leads elsewhere takes the guest's network away.",
    known="The networks that libvirt on both hosts tells, kept by its events.",
    remedy="virsh net-dumpxml here, virsh net-define and virsh net-start there.",
)
PORT_GROUP = Check(
    id="network.port_group",
    severity=Severity.WARN,
    title="The libvirt network on the destination has the port group that the guest's interface names.",
    why="A guest that comes is without the port group's VLANs, bandwidth and virtual port there, and at its next start "
    "libvirt refuses it.",
    known="The port groups of the networks that libvirt on both hosts tells.",
    remedy="virsh net-edit NETWORK there: add the <portgroup> that virsh net-dumpxml shows here.",
)
FILTER = Check(
    id="network.filter",
    severity=Severity.BLOCK,
    title="The destination has the network filters of the guest's interfaces.",
    why="libvirt does not start a guest without its filter.",
    known="The names of the network filters that libvirt on the destination tells.",
    remedy="virsh nwfilter-dumpxml here, virsh nwfilter-define there.",
)
CONNTRACK = Check(
    id="network.conntrack",
    severity=Severity.WARN,
    title="The guest's connections do not depend on what its host keeps in mind.",
    why="Behind the NAT of a libvirt network, the host translates each connection and remembers it; the other host "
    "does not, and connections that stand are lost.",
    known="The kind of the guest's libvirt networks.",
    remedy="Give the guest an interface on a bridge with an uplink; or let its connections be made anew.",
)


@rule(Scope.PAIR, reads="guest hypervisor", tells=(DEFINED, PORT_GROUP, CONNTRACK))
def network_defined(case: Case) -> Iterator[Finding]:
    """Each libvirt network is defined and active there, of the same kind, with the port group that is asked for."""
    told: list[tuple[str, str]] = []
    for nic in case.local.guest.nics:
        if nic.kind != "network" or (nic.source, nic.port_group) in told:
            continue
        told.append((nic.source, nic.port_group))
        network = case.hosts.destination.networks.get(nic.source)
        if network is None or not network.active:
            yield _missing(case, nic.source, network)
            continue
        if nic.port_group and nic.port_group not in network.port_groups:
            yield _no_port_group(case, nic, network)
        mine = case.hosts.source.networks.get(nic.source)
        if mine is not None:
            yield from _another(case, mine, network)


def _missing(case: Case, name: str, network: NetworkFact | None) -> Finding:
    exists = network is not None and network.exists
    problem = "" if exists else _untold(case, "networks")
    if problem:
        return DEFINED.finding(
            f"Whether {case.there} has the libvirt network {name} is not known.",
            host=case.there,
            subject=name,
            expected=f"an active network called {name}",
            found=problem,
            remedy=f"On {case.there}: systemctl status virtnetworkd (or libvirtd); virsh net-list --all",
            severity=Severity.UNKNOWN,
        )
    return DEFINED.finding(
        f"The libvirt network {name} is not {'active' if exists else 'defined'} on {case.there}.",
        host=case.there,
        subject=name,
        expected=f"an active network called {name}",
        found="inactive" if exists else "none",
        remedy=f"On {case.there}: virsh net-start {name} && virsh net-autostart {name}"
        if exists
        else f"On {case.here}: virsh net-dumpxml {name} > net.xml; on {case.there}: "
        f"virsh net-define net.xml && virsh net-start {name} && virsh net-autostart {name}",
    )


def _no_port_group(case: Case, nic: Nic, network: NetworkFact) -> Finding:
    return PORT_GROUP.finding(
        f"The libvirt network {nic.source} has no port group {nic.port_group} on {case.there}.",
        host=case.there,
        subject=nic.port_group,
        expected=f"a port group called {nic.port_group}, as on {case.here}",
        found=", ".join(network.port_groups) or "none",
        remedy=f"On {case.here}: virsh net-dumpxml {nic.source} shows it; on {case.there}: virsh net-edit "
        f"{nic.source}, then virsh net-destroy {nic.source} && virsh net-start {nic.source} while no guest uses it",
    )


def _another(case: Case, mine: NetworkFact, network: NetworkFact) -> Iterator[Finding]:
    """What differs between the network here and the network of the same name there."""
    if mine.forward != network.forward:
        kind, other = mine.forward or "isolated", network.forward or "isolated"
    elif mine.forward == "bridge" and mine.bridge and network.bridge and mine.bridge != network.bridge:
        # The names of bridges that libvirt makes itself mean nothing; these are the host's own.
        kind, other = f"the bridge {mine.bridge}", f"the bridge {network.bridge}"
    else:
        kind = other = ""
    if kind:
        yield DEFINED.finding(
            f"The libvirt network {mine.name} is another on {case.there}.",
            host=case.there,
            subject=mine.name,
            expected=f"{kind}, as on {case.here}",
            found=other,
            remedy=f"On both hosts: virsh net-dumpxml {mine.name}; on {case.there}: virsh net-edit {mine.name}",
            severity=Severity.WARN,
        )
    elif mine.forward == "nat":
        yield CONNTRACK.finding(
            f"Connections of {case.guest.name} through the NAT of network {mine.name} will be lost.",
            host=case.here,
            subject=mine.name,
            expected="a network that leads out without NAT",
            found=f"nat on {case.here} and {case.there}",
            remedy=f"On {case.here}: virsh edit {case.guest.name}: an interface on a bridge that both hosts have; or "
            "expect its connections to be made anew",
        )


@rule(Scope.PAIR, reads="guest hypervisor", tells=(FILTER,))
def network_filter(case: Case) -> Iterator[Finding]:
    """The network filters of the guest's interfaces are defined there."""
    told: list[str] = []
    for nic in case.local.guest.nics:
        name = nic.filter
        if not name or name in case.hosts.destination.state.hypervisor.filters or name in told:
            continue
        told.append(name)
        problem = _untold(case, "filters")
        yield FILTER.finding(
            f"Whether {case.there} has the network filter {name} is not known."
            if problem
            else f"The network filter {name} is not defined on {case.there}.",
            host=case.there,
            subject=name,
            expected=f"a network filter called {name}, as on {case.here}",
            found=problem or "none",
            remedy=f"On {case.there}: systemctl status virtnwfilterd (or libvirtd); virsh nwfilter-list"
            if problem
            else f"On {case.here}: virsh nwfilter-dumpxml {name} > filter.xml; on {case.there}: "
            "virsh nwfilter-define filter.xml, after the filters that it refers to",
            basis=Basis.COMPARED,
            severity=Severity.UNKNOWN if problem else None,
        )


def _untold(case: Case, part: str) -> str:
    """Why libvirt on the destination could not tell a part of itself; empty where it has."""
    lines = case.hosts.destination.state.hypervisor.missing
    return next((line for line in lines if line.startswith(f"{part}: ")), "")
