"""The guest's network interfaces: their bridges on the destination, and the port of the stream."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, Hosts
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.links import BridgeFact
from kvmigd.model.proof import PortProof

DEFINED = Check(
    id="network.defined",
    severity=Severity.BLOCK,
    title="Each libvirt network of the guest is defined and active on the destination.",
    why="QEMU cannot be started there without it.",
    known="The networks that libvirt on both hosts tells, kept by its events.",
    remedy="virsh net-dumpxml here, virsh net-define and virsh net-start there.",
)
BRIDGE = Check(
    id="network.bridge",
    severity=Severity.BLOCK,
    title="The bridge of each interface of the guest exists on the destination and is up.",
    why="Without the bridge the migration fails; to a bridge that is down it succeeds, and the guest has no network.",
    known="The kernel's links on both hosts, kept by rtnetlink events.",
    remedy="ip link add BRIDGE type bridge; ip link set BRIDGE up; and the same in the network configuration.",
)
UPLINK = Check(
    id="network.uplink",
    severity=Severity.BLOCK,
    title="A bridge that leads out of the source leads out of the destination too.",
    why="libvirt migrates a guest to a bridge without an uplink without a word, and the guest has no network.",
    known="The ports of the bridges on both hosts, less those of guests, with their carriers.",
    remedy="ip link set DEVICE master BRIDGE, and in the network configuration; or look at cable and switch.",
)
MTU = Check(
    id="network.mtu",
    severity=Severity.WARN,
    title="A bridge has the same MTU on both hosts.",
    why="Where the destination's is smaller, large frames of the guest are lost, and connections that stood hang.",
    known="The MTUs of the bridges on both hosts are compared; a frame as large as the guest's MTU proves it.",
    remedy="ip link set BRIDGE mtu N, and in the network configuration.",
)
PORT = Check(
    id="port.open",
    severity=Severity.BLOCK,
    title="The port that the migration will use can be reached from the source.",
    why="A port that is dropped makes the migration wait for 135 s before it fails; a rejected one fails at once.",
    known="A connection through all firewalls to the very port, while the destination's daemon listens on it.",
    remedy="Open the ports 49152-49215/tcp on the destination for the source.",
    fixed=True,
)

_FIRST, _LAST = 49152, 49215
"""QEMU's ports by default (`migration_port_min`, `migration_port_max` in qemu.conf)."""


@rule(Scope.PAIR, reads="guest links hypervisor", tells=(DEFINED, BRIDGE, UPLINK, MTU))
def network_bridge(case: Case) -> Iterator[Finding]:
    """The bridge of each interface exists on the destination, is up and leads somewhere.

    libvirt migrates a guest to a bridge that is down or has no uplink without a word; the guest then has no network.
    """
    there, here, networks = case.destination.bridges, case.source.bridges, case.destination.networks
    for kind, source in dict.fromkeys((nic.kind, nic.source) for nic in case.guest.nics):
        name = source
        if kind == "network":
            network = networks.get(source)
            if network is None or not network.active:
                yield DEFINED.finding(
                    f"The libvirt network {source} is not {'active' if network and network.exists else 'defined'} "
                    f"on {case.there}.",
                    host=case.there,
                    subject=source,
                    expected=f"an active network called {source}",
                    found="inactive" if network and network.exists else "none",
                    remedy=f"On {case.there}: virsh net-start {source}"
                    if network and network.exists
                    else f"On {case.here}: virsh net-dumpxml {source} > net.xml; on {case.there}: "
                    f"virsh net-define net.xml && virsh net-start {source}",
                )
                continue
            name = network.bridge
        elif kind != "bridge":
            continue
        if name:
            yield from _bridge(case, there.get(name), here.get(name), name)


def _bridge(case: Case, fact: BridgeFact | None, mine: BridgeFact | None, name: str) -> Iterator[Finding]:
    if fact is None or not fact.exists or not fact.is_bridge:
        yield BRIDGE.finding(
            f"There is no bridge {name} on {case.there}.",
            host=case.there,
            subject=name,
            expected=f"a bridge called {name}, as on {case.here}",
            found="a link that is no bridge" if name in case.destination.links else "no such link",
            remedy=f"On {case.there}: ip link add {name} type bridge && ip link set {name} up, and in its network "
            "configuration",
        )
    elif not fact.up:
        yield BRIDGE.finding(
            f"The bridge {name} on {case.there} is down.",
            host=case.there,
            subject=name,
            expected="up",
            found="down",
            remedy=f"On {case.there}: ip link set {name} up",
        )
    elif mine is not None and mine.uplinks and not fact.uplinks:
        yield UPLINK.finding(
            f"The bridge {name} on {case.there} leads nowhere.",
            host=case.there,
            subject=name,
            expected=f"an uplink, as on {case.here} ({', '.join(mine.uplinks)})",
            found="no port but those of guests",
            remedy=f"On {case.there}: ip link set DEVICE master {name}, and in its network configuration",
        )
    elif mine is not None and mine.uplinks and mine.carrier and not fact.carrier:
        yield UPLINK.finding(
            f"The uplink of bridge {name} on {case.there} has no carrier.",
            host=case.there,
            subject=name,
            expected="an uplink with a carrier",
            found=f"{', '.join(fact.uplinks)} without carrier",
            remedy=f"On {case.there}: ip link set {fact.uplinks[0]} up, or look at its cable and switch",
        )
    elif mine is not None and mine.mtu and fact.mtu != mine.mtu:
        yield MTU.finding(
            f"The bridge {name} has another MTU on {case.there}.",
            host=case.there,
            expected=str(mine.mtu),
            found=str(fact.mtu),
            remedy=f"On {case.there}: ip link set {name} mtu {mine.mtu}, and in its network configuration",
        )


@rule(Scope.HOSTS, reads="proofs", tells=(PORT,), back=True)
def port_reachable(hosts: Hosts) -> Iterator[Finding]:
    """The port that the migration will use can be reached: a real connection was made to it."""
    if proof := hosts.ports.get("stream"):
        yield from port_open(proof, here=hosts.here, there=hosts.there)


def port_open(proof: PortProof, *, here: str, there: str) -> Iterator[Finding]:
    """What a proof of the port says; the migration itself proves the port that it was given with the same words."""
    if proof.problem:
        ports = f"{_FIRST}-{_LAST}" if _FIRST <= proof.port <= _LAST else str(proof.port)
        yield PORT.finding(
            f"Port {proof.port} of {there} cannot be reached from {here}: {proof.text}.",
            host=there,
            subject=f"{proof.address}:{proof.port}/tcp",
            expected="a connection to the port that the migration will use",
            found=proof.problem,
            remedy=f"On {there}, with firewalld: firewall-cmd --permanent --add-port={ports}/tcp && "
            f"firewall-cmd --reload; with nftables: accept tcp dport {ports} from "
            f"{here} in /etc/nftables.conf and `systemctl reload nftables`",
            basis=Basis.PROVED,
            proved_usec=proof.taken_usec,
        )
