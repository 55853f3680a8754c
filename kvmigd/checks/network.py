"""The bridges of the guest's interfaces: that they are there, up, of the right kind, and lead somewhere."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.plug import Plug, leads_out, told
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, Hosts, HostView
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.links import BondFact, BridgeFact

BRIDGE = Check(
    id="network.bridge",
    severity=Severity.BLOCK,
    title="The bridge of each interface of the guest exists on the destination and is up.",
    why="Without the bridge the migration fails; to a bridge that is down it succeeds, and the guest has no network.",
    known="The kernel's links on both hosts, kept by rtnetlink events, and Open vSwitch's database.",
    remedy="ip link add BRIDGE type bridge; ip link set BRIDGE up; and the same in the network configuration.",
)
KIND = Check(
    id="network.kind",
    severity=Severity.BLOCK,
    title="The bridge is one of the kernel's, or one of Open vSwitch's, as the guest's definition has it.",
    why="libvirt connects a guest to the two in different ways, and fails with the other.",
    known="The kind of the bridge there, and the virtual port of the guest's interface.",
    remedy="Make the bridge of the same kind: ovs-vsctl add-br BRIDGE, or ip link add BRIDGE type bridge.",
)
OPENVSWITCH = Check(
    id="network.openvswitch",
    severity=Severity.UNKNOWN,
    title="Open vSwitch on the destination tells its bridges, where the guest uses one.",
    why="Without its database it is not known whether the bridge is there, and QEMU cannot be connected to it.",
    known="The connection to ovsdb-server on the destination.",
    remedy="systemctl status openvswitch-switch (openvswitch on Fedora and its relatives) on the destination.",
    fixed=True,
)
UPLINK = Check(
    id="network.uplink",
    severity=Severity.BLOCK,
    title="A bridge that leads out of the source leads out of the destination too.",
    why="libvirt migrates a guest to a bridge without an uplink without a word, and the guest has no network.",
    known="The ports of the bridges on both hosts, less those of guests, with their carriers and STP states.",
    remedy="ip link set DEVICE master BRIDGE, and in the network configuration; or look at cable and switch.",
)
STP = Check(
    id="network.stp",
    severity=Severity.WARN,
    title="The bridge does not make the guest wait for the spanning tree where it does not here.",
    why="With STP the guest's new port listens and learns for twice the forward delay, 30 s, before it forwards.",
    known="Whether STP is on, on the bridges of both hosts.",
    remedy="ip link set BRIDGE type bridge stp_state 0, if nothing can loop; else a small forward_delay.",
)
BONDS = Check(
    id="network.bonds",
    severity=Severity.WARN,
    title="Where the uplink here is a bond, it is one there, with all its members.",
    why="The guest stays reachable when a cable fails only as long as another one is there.",
    known="Bonds and the carriers of their members on both hosts.",
    remedy="Look at cables and switch ports of the members; or make the uplink a bond.",
)
SPEED = Check(
    id="network.speed",
    severity=Severity.WARN,
    title="The uplink there is not slower than here by ten times or more.",
    why="What the guest is used to send and to receive does not fit through it.",
    known="The speeds that the drivers of both uplinks tell.",
    remedy="ethtool DEVICE; look at cable and switch, or choose another peer.",
)

_SLOWER = 10
_DEPTH = 8
"""Links stand on each other only so deep (the kernel's MAX_NEST_DEV)."""


@rule(Scope.PAIR, reads="guest links hypervisor", tells=(BRIDGE, KIND, OPENVSWITCH, UPLINK, STP, BONDS, SPEED))
def network_bridge(case: Case) -> Iterator[Finding]:
    """The bridge of each interface exists on the destination, is up and leads somewhere.

    libvirt migrates a guest to a bridge that is down or has no uplink without a word; the guest then has no network.
    """
    yield from told(case, _bridge)


def _bridge(hosts: Hosts, plug: Plug) -> Iterator[Finding]:
    if plug.usable is None:
        yield _none(hosts, plug)
        return
    yield from _of_another_kind(hosts, plug, plug.usable)
    if plug.is_in and plug.mine is not None and plug.mine.uplinks:
        yield from _uplink(hosts, plug.mine, plug.usable)


def _none(hosts: Hosts, plug: Plug) -> Finding:
    """There is no such bridge, or it is down."""
    bridge, name = plug.theirs, plug.there
    is_open = plug.nic.port == "openvswitch" or (plug.mine is not None and plug.mine.kind == "openvswitch")
    problem = hosts.destination.state.links.openvswitch
    if bridge is not None and bridge.exists and bridge.is_bridge:
        return BRIDGE.finding(
            f"The bridge {name} on {hosts.there} is down.",
            host=hosts.there,
            subject=name,
            expected="up",
            found="down",
            remedy=f"On {hosts.there}: ip link set {name} up",
        )
    if bridge is None and is_open and problem:
        return OPENVSWITCH.finding(
            f"Whether {hosts.there} has the Open vSwitch bridge {name} is not known.",
            host=hosts.there,
            subject=name,
            expected="Open vSwitch's database",
            found=problem,
            remedy=f"On {hosts.there}: systemctl status openvswitch-switch (or openvswitch); ovs-vsctl show",
        )
    make = f"ovs-vsctl add-br {name}" if is_open else f"ip link add {name} type bridge && ip link set {name} up"
    return BRIDGE.finding(
        f"There is no bridge {name} on {hosts.there}.",
        host=hosts.there,
        subject=name,
        expected=f"a bridge called {name}, as on {hosts.here}",
        found="a link that is no bridge" if name in hosts.destination.links else "no such link",
        remedy=f"On {hosts.there}: {make}, connect it as on {hosts.here}, and in its network configuration",
    )


def _of_another_kind(hosts: Hosts, plug: Plug, bridge: BridgeFact) -> Iterator[Finding]:
    if plug.nic.kind != "bridge" or not bridge.kind:
        return  # the definition of a network has its own virtual port there
    wanted = "openvswitch" if plug.nic.port == "openvswitch" else "linux"
    if bridge.kind != wanted:
        kinds = {"openvswitch": "a bridge of Open vSwitch", "linux": "a bridge of the kernel's"}
        make = f"ovs-vsctl add-br {plug.there}" if wanted == "openvswitch" else f"ip link add {plug.there} type bridge"
        yield KIND.finding(
            f"The bridge {plug.there} is of another kind on {hosts.there}.",
            host=hosts.there,
            subject=plug.there,
            expected=kinds[wanted],
            found=kinds.get(bridge.kind, bridge.kind),
            remedy=f"On {hosts.there}: {make}, in place of the one that is there, and in its network configuration",
        )


def _uplink(hosts: Hosts, mine: BridgeFact, bridge: BridgeFact) -> Iterator[Finding]:
    """What the guest reaches by the bridge here it has to reach there."""
    name = bridge.name
    if not bridge.uplinks:
        yield UPLINK.finding(
            f"The bridge {name} on {hosts.there} leads nowhere.",
            host=hosts.there,
            subject=name,
            expected=f"an uplink, as on {hosts.here} ({', '.join(mine.uplinks)})",
            found="no port but those of guests",
            remedy=f"On {hosts.there}: "
            + (f"ovs-vsctl add-port {name} DEVICE" if bridge.kind == "openvswitch" else _join(hosts, mine, name))
            + ", and in its network configuration",
        )
        return
    if not leads_out(hosts.source, mine):
        return  # the guest has no network here either
    if not leads_out(hosts.destination, bridge):
        yield UPLINK.finding(
            f"The uplink of bridge {name} on {hosts.there} has no carrier.",
            host=hosts.there,
            subject=name,
            expected="an uplink with a carrier",
            found=f"{', '.join(bridge.uplinks)} without carrier",
            remedy=f"On {hosts.there}: ip link set {bridge.uplinks[0]} up, or look at its cable and switch",
        )
    elif blocked := _blocked(hosts.destination, bridge):
        yield UPLINK.finding(
            f"The spanning tree blocks the uplink of bridge {name} on {hosts.there}.",
            host=hosts.there,
            subject=name,
            expected="an uplink that forwards",
            found=blocked,
            remedy=f"On {hosts.there}: bridge -d link show; look at root, costs and priorities of bridge and switch",
        )
    else:
        yield from _lesser(hosts, mine, bridge)


def _join(hosts: Hosts, mine: BridgeFact, name: str) -> str:
    """The command that gives a bridge its uplink: the link that is called like the one here, if it is free."""
    free = (uplink for uplink in mine.uplinks if (link := hosts.destination.links.get(uplink)) and not link.master)
    return f"ip link set {next(free, 'DEVICE')} master {name}"


def _blocked(host: HostView, bridge: BridgeFact) -> str:
    """The states of a bridge's uplinks if STP lets none of them forward, now or soon."""
    if not bridge.stp:
        return ""
    ports = host.uplinks[bridge.name]
    if not ports or any(port.state not in ("blocking", "disabled") for port in ports):
        return ""
    return ", ".join(f"{port.name} {port.state}" for port in ports)


def _lesser(hosts: Hosts, mine: BridgeFact, bridge: BridgeFact) -> Iterator[Finding]:
    """What works there, but not as well as here."""
    if bridge.stp and not mine.stp:
        yield STP.finding(
            f"The bridge {bridge.name} on {hosts.there} has STP, and a new port waits before it forwards.",
            host=hosts.there,
            subject=bridge.name,
            expected=f"no STP, as on {hosts.here}",
            found="STP is on",
            remedy=f"On {hosts.there}, if nothing can loop: "
            + (
                f"ovs-vsctl set bridge {bridge.name} stp_enable=false"
                if bridge.kind == "openvswitch"
                else f"ip link set {bridge.name} type bridge stp_state 0"
            ),
        )
    if hosts.source.bonds and (bond := _bond(hosts.source, mine)) is not None:
        yield from _bonds(hosts, bond, bridge)
    fast, slow = _speed(hosts.source, mine), _speed(hosts.destination, bridge)
    if 0 < slow * _SLOWER <= fast:
        yield SPEED.finding(
            f"The uplink of bridge {bridge.name} is much slower on {hosts.there}.",
            host=hosts.there,
            subject=bridge.name,
            expected=f"{fast} Mbit/s, as on {hosts.here}",
            found=f"{slow} Mbit/s",
            remedy=f"On {hosts.there}: ethtool {bridge.uplinks[0]}; look at cable and switch, or choose another peer",
        )


def _speed(host: HostView, bridge: BridgeFact) -> int:
    """Mbit/s of the fastest uplink; 0 where no driver says."""
    fastest = 0
    for name in bridge.uplinks:
        link = host.links.get(name)
        if link is not None and link.speed > fastest:
            fastest = link.speed
    return fastest


def _bond(host: HostView, bridge: BridgeFact) -> BondFact | None:
    """The bond of several links that an uplink of the bridge is, or stands on."""
    for uplink in bridge.uplinks:
        name = uplink
        for _ in range(_DEPTH):
            if name in host.bonds:
                return host.bonds[name] if len(host.bonds[name].members) > 1 else None
            link = host.links.get(name)
            if link is None or not link.parent:
                break
            name = link.parent
    return None


def _dead(host: HostView, bond: BondFact) -> list[str]:
    """Members without a carrier; of an active-backup bond the others are no less alive for being passive."""
    links = host.links
    return [name for name in bond.members if name in links and not links[name].carrier]


def _bonds(hosts: Hosts, mine: BondFact, bridge: BridgeFact) -> Iterator[Finding]:
    bond = _bond(hosts.destination, bridge)
    if bond is None:
        yield BONDS.finding(
            f"The uplink of bridge {bridge.name} is a single link on {hosts.there}.",
            host=hosts.there,
            subject=bridge.name,
            expected=f"a bond, as on {hosts.here} ({', '.join(mine.members)})",
            found=", ".join(bridge.uplinks),
            remedy=f"On {hosts.there}: make the uplink a bond, in its network configuration",
        )
    elif (dead := _dead(hosts.destination, bond)) and not _dead(hosts.source, mine):
        yield BONDS.finding(
            f"The bond {bond.name} below bridge {bridge.name} on {hosts.there} is not whole.",
            host=hosts.there,
            subject=bond.name,
            expected=f"{', '.join(bond.members)} with a carrier",
            found=f"{', '.join(dead)} without carrier",
            remedy=f"On {hosts.there}: ip link set {dead[0]} up, or look at its cable and switch; "
            f"cat /proc/net/bonding/{bond.name}",
            basis=Basis.COMPARED,
        )
