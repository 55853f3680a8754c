"""What the links are together: bridges with their ports and uplinks, bonds, and how fast a way is."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from kvmigd.host.links.messages import Link, Port, vlan_texts
from kvmigd.host.links.table import LinkTable
from kvmigd.model.links import BondFact, BridgeFact, BridgePort, LinkFact

_GUEST_VETH = re.compile(r"(ve-|vb-|veth[0-9a-zA-Z]|vnet[0-9]|lxc|cali|lxdbr|tap)")
"""Names that systemd-nspawn, Docker, Podman, LXC, CNI plugins and libvirt give to the host's end of such a link."""

_STANDING = frozenset({"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec", "vxlan", "geneve", "ip6tnl", "gre"})
"""Kinds whose `below` is the link that they stand on; a veth's is its other end."""

_BUILT = frozenset({*_STANDING, "bridge", "bond", "tun", "dummy", "ifb", "openvswitch", "wireguard", "vrf", "nlmon"})
"""Kinds without a speed of their own: a tap's 10 Mbit/s is fiction, the others' is that of what they are made of."""

_DEPTH = 8
"""Links stand on each other only so deep (the kernel's MAX_NEST_DEV); a loop through other tables ends here too."""


def has_own_speed(link: Link) -> bool:
    """Whether its driver is worth being asked."""
    return link.kind not in _BUILT and link.carrier and link.name != "lo"


def is_uplink(link: Link) -> bool:
    """Whether a port of a bridge leads out of the host, and not to a guest or a container or nowhere.

    A veth whose other end is in another network namespace leads to a container, or out, where this host is a container
    itself: the kernel says the same of both. The names that container managers give decide.
    """
    if link.kind in ("tun", "macvtap", "ipvtap", "dummy"):
        return False
    return not (link.kind == "veth" and link.elsewhere and _GUEST_VETH.match(link.name))


class Composition:
    """The facts of one state of the table. `speeds` are Mbit/s by index, of links that have one of their own."""

    def __init__(
        self, table: LinkTable, speeds: Mapping[int, int], *, before: Mapping[int, LinkFact] | None = None
    ) -> None:
        self._links = table.links
        self._ports = table.ports
        self._addresses = table.addresses
        self._speeds = speeds
        self._before = before or {}
        self._members: dict[int, list[Link]] = {}
        for link in sorted(table.links.values(), key=lambda link: link.name):
            if link.master:
                self._members.setdefault(link.master, []).append(link)

    def links(self) -> dict[int, LinkFact]:
        """All links by index. One that is as it was before is the same object, which makes comparing cheap."""
        return {index: self._link(link) for index, link in sorted(self._links.items())}

    def _link(self, link: Link) -> LinkFact:
        fact = LinkFact(
            index=link.index,
            name=link.name,
            kind=link.kind,
            up=link.up,
            carrier=link.carrier,
            mtu=link.mtu,
            mac=link.mac,
            master=self._name(link.master),
            parent=self._name(link.below) if link.kind in _STANDING and not link.elsewhere else "",
            vlan=link.vlan,
            speed=self.speed(link.index),
            addresses=self._addresses_of(link.index),
        )
        before = self._before.get(link.index)
        return before if before is not None and before == fact else fact

    def bridges(self) -> tuple[BridgeFact, ...]:
        """The kernel's bridges, by name."""
        found = [self._bridge(link) for link in self._links.values() if link.kind == "bridge"]
        return tuple(sorted(found, key=lambda bridge: bridge.name))

    def _bridge(self, link: Link) -> BridgeFact:
        ports = tuple(self._port(member) for member in self._members.get(link.index, ()))
        return BridgeFact(
            name=link.name,
            exists=True,
            is_bridge=True,
            kind="linux",
            up=link.up,
            carrier=any(port.carrier for port in ports),
            mtu=link.mtu,
            uplinks=tuple(port.name for port in ports if port.uplink),
            ports=ports,
            vlan_filtering=link.vlan_filtering,
            stp=link.stp,
            addresses=self._addresses_of(link.index),
        )

    def _port(self, link: Link) -> BridgePort:
        told = self._ports.get(link.index, Port(index=link.index))
        return BridgePort(
            name=link.name,
            uplink=is_uplink(link),
            state=told.state or link.port_state,
            carrier=link.carrier,
            vlans=vlan_texts(told.vlans),
        )

    def bonds(self) -> tuple[BondFact, ...]:
        """The kernel's bonds and teams, by name."""
        found = [
            BondFact(
                name=link.name,
                mode=link.bond_mode or link.kind,
                members=tuple(member.name for member in self._members.get(link.index, ())),
                active=tuple(member.name for member in self._active(link)),
            )
            for link in self._links.values()
            if link.kind in ("bond", "team")
        ]
        return tuple(sorted(found, key=lambda bond: bond.name))

    def _active(self, bond: Link) -> list[Link]:
        """The members that carry traffic."""
        members = [link for link in self._members.get(bond.index, ()) if link.carrier]
        if bond.kind == "team":  # which of them its daemon uses is not told here
            return members
        if bond.bond_mode == "active-backup":
            return [link for link in members if link.index == bond.bond_active]
        return [link for link in members if link.member_active]

    def speed(self, index: int) -> int:
        """Mbit/s of a link: its own, or of the slowest of what it stands on; 0 where no driver says.

        That of a bond is the sum of its active members. One connection goes over one of them, so that it is an upper
        limit there; several streams can reach it.
        """
        return self._speed(self._links.get(index), _DEPTH)

    def _speed(self, link: Link | None, depth: int) -> int:
        if link is None or depth == 0:
            return 0
        if link.kind in _STANDING:
            return self._speed(self._links.get(link.below), depth - 1) if not link.elsewhere else 0
        if link.kind == "bond":
            speeds = [self._speed(member, depth - 1) for member in self._active(link)]
            if not speeds or 0 in speeds:
                return 0
            return min(speeds) if link.bond_mode == "broadcast" else sum(speeds)
        if link.kind == "bridge":
            uplinks = (port for port in self._members.get(link.index, ()) if is_uplink(port) and port.carrier)
            return min(filter(None, (self._speed(port, depth - 1) for port in uplinks)), default=0)
        return self._speeds.get(link.index, 0)

    def mtu(self, index: int) -> int:
        """Bytes; 0 where there is no such link."""
        link = self._links.get(index)
        return link.mtu if link else 0

    def name(self, index: int) -> str:
        """The name of a link; empty where there is no such one."""
        return self._name(index)

    def index(self, name: str) -> int:
        """The index of a link; 0 where there is no such one."""
        return next((link.index for link in self._links.values() if link.name == name), 0)

    def link(self, name: str) -> Link | None:
        """A link by its name."""
        return self._links.get(self.index(name))

    def addresses(self, name: str) -> tuple[str, ...]:
        """Addresses of a link, sorted."""
        return self._addresses_of(self.index(name))

    def _name(self, index: int) -> str:
        link = self._links.get(index)
        return link.name if link else ""

    def _addresses_of(self, index: int) -> tuple[str, ...]:
        return tuple(sorted(self._addresses.get(index, ())))


class Openvswitch(msgspec.Struct, frozen=True, kw_only=True):
    """What OVSDB adds."""

    bridges: tuple[BridgeFact, ...] = ()
    bonds: tuple[BondFact, ...] = ()
    problem: str = ""
    """Why nothing is known; empty where there is no Open vSwitch."""
