"""The guest's network interfaces: their bridges on the destination, and the port of the stream."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.case import Case, PortProof, blocks, warns
from kvmigd.model.finding import Basis, Finding
from kvmigd.model.links import BridgeFact

_FIRST, _LAST = 49152, 49215
"""QEMU's ports by default (`migration_port_min`, `migration_port_max` in qemu.conf)."""


def network_bridge(case: Case) -> Iterator[Finding]:
    """The bridge of each interface exists on the destination, is up and leads somewhere.

    libvirt migrates a guest to a bridge that is down or has no uplink without a word; the guest then has no network.
    """
    there = {fact.name: fact for fact in case.destination.bridges}
    here = {fact.name: fact for fact in case.source.bridges}
    networks = {network.name: network for network in case.destination.networks}
    for kind, source in dict.fromkeys((nic.kind, nic.source) for nic in case.guest.nics):
        name = source
        if kind == "network":
            network = networks.get(source)
            if network is None or not network.active:
                yield blocks(
                    "network.defined",
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
        yield blocks(
            "network.bridge",
            f"There is no bridge {name} on {case.there}.",
            host=case.there,
            subject=name,
            expected=f"a bridge called {name}, as on {case.here}",
            found="a link that is no bridge" if fact and fact.exists else "no such link",
            remedy=f"On {case.there}: ip link add {name} type bridge && ip link set {name} up, and in its network "
            "configuration",
        )
    elif not fact.up:
        yield blocks(
            "network.bridge",
            f"The bridge {name} on {case.there} is down.",
            host=case.there,
            subject=name,
            expected="up",
            found="down",
            remedy=f"On {case.there}: ip link set {name} up",
        )
    elif mine is not None and mine.uplinks and not fact.uplinks:
        yield blocks(
            "network.uplink",
            f"The bridge {name} on {case.there} leads nowhere.",
            host=case.there,
            subject=name,
            expected=f"an uplink, as on {case.here} ({', '.join(mine.uplinks)})",
            found="no port but those of guests",
            remedy=f"On {case.there}: ip link set DEVICE master {name}, and in its network configuration",
        )
    elif mine is not None and mine.uplinks and mine.carrier and not fact.carrier:
        yield blocks(
            "network.uplink",
            f"The uplink of bridge {name} on {case.there} has no carrier.",
            host=case.there,
            subject=name,
            expected="an uplink with a carrier",
            found=f"{', '.join(fact.uplinks)} without carrier",
            remedy=f"On {case.there}: ip link set {fact.uplinks[0]} up, or look at its cable and switch",
        )
    elif mine is not None and mine.mtu and fact.mtu != mine.mtu:
        yield warns(
            "network.mtu",
            f"The bridge {name} has another MTU on {case.there}.",
            host=case.there,
            expected=str(mine.mtu),
            found=str(fact.mtu),
            remedy=f"On {case.there}: ip link set {name} mtu {mine.mtu}, and in its network configuration",
        )


def port_reachable(case: Case) -> Iterator[Finding]:
    """The port that the migration will use can be reached: a real connection was made to it."""
    if case.port is not None:
        yield from port_open(case.port, here=case.here, there=case.there)


def port_open(proof: PortProof, *, here: str, there: str) -> Iterator[Finding]:
    """What a proof of the port says; the migration itself proves the port that it was given with the same words."""
    if proof.problem:
        ports = f"{_FIRST}-{_LAST}" if _FIRST <= proof.port <= _LAST else str(proof.port)
        yield blocks(
            "port.open",
            f"Port {proof.port} of {there} cannot be reached from {here}: {proof.text}.",
            host=there,
            subject=f"{proof.address}:{proof.port}/tcp",
            expected="a connection to the port that the migration will use",
            found=proof.problem,
            remedy=f"On {there}, with firewalld: firewall-cmd --permanent --add-port={ports}/tcp && "
            f"firewall-cmd --reload; with nftables: accept tcp dport {ports} from "
            f"{here} in /etc/nftables.conf and `systemctl reload nftables`",
            basis=Basis.PROVED,
        )
