"""Network links, bridges and routes."""

from __future__ import annotations

import msgspec

from kvmigd.model.subject import Subject


class LinkFact(msgspec.Struct, frozen=True, kw_only=True):
    """One network link, from rtnetlink."""

    index: int
    name: str
    kind: str = ""
    """The kernel's kind: bridge, bond, vlan, macvtap, tun, veth, openvswitch …; empty for hardware."""
    up: bool = False
    """It is administratively up (IFF_UP)."""
    carrier: bool = False
    mtu: int = 0
    mac: str = ""
    master: str = ""
    """The bridge, bond or switch that it is a port of."""
    parent: str = ""
    """The link that it stands on: of a VLAN, macvtap."""
    vlan: int = 0
    """Its VLAN ID, where it is a VLAN link."""
    speed: int = 0
    """Mbit/s; 0 where the driver does not say."""
    addresses: tuple[str, ...] = ()
    """address/prefix, sorted."""

    @property
    def key(self) -> str:
        """Its name."""
        return self.name


class BridgePort(msgspec.Struct, frozen=True, kw_only=True):
    """One port of a bridge."""

    name: str
    uplink: bool
    """It leads out of the host: not the tap or veth of a guest."""
    state: str = ""
    """STP's: forwarding, blocking, disabled …"""
    carrier: bool = False
    vlans: tuple[str, ...] = ()
    """VLAN IDs and ranges, the untagged one with `*`: `1*`, `100-200`."""


class BridgeFact(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge, or the link that should be one, as this host has it."""

    name: str
    exists: bool
    is_bridge: bool = False
    kind: str = ""
    """linux or openvswitch."""
    up: bool = False
    carrier: bool = False
    """True if a port of the bridge has a link."""
    mtu: int = 0
    uplinks: tuple[str, ...] = ()
    """Names of the ports that are not taps of guests."""
    ports: tuple[BridgePort, ...] = ()
    vlan_filtering: bool = False
    stp: bool = False
    addresses: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name."""
        return self.name


class BondFact(msgspec.Struct, frozen=True, kw_only=True):
    """A bond."""

    name: str
    mode: str
    members: tuple[str, ...] = ()
    active: tuple[str, ...] = ()
    """Members that carry traffic now."""

    @property
    def key(self) -> str:
        """Its name."""
        return self.name


class RouteFact(msgspec.Struct, frozen=True, kw_only=True):
    """How packets go to a peer."""

    peer: str
    address: str
    link: str = ""
    source: str = ""
    gateway: str = ""
    mtu: int = 0
    speed: int = 0
    """Mbit/s of the slowest link on this host's part of the way; 0 where no driver says."""
    problem: str = ""

    @property
    def key(self) -> str:
        """The peer."""
        return self.peer


class Links(Subject, frozen=True, kw_only=True):
    """All links of the host, and what is built of them."""

    links: tuple[LinkFact, ...] = ()
    bridges: tuple[BridgeFact, ...] = ()
    bonds: tuple[BondFact, ...] = ()
    routes: tuple[RouteFact, ...] = ()
    openvswitch: str = ""
    """Why Open vSwitch's bridges are not known; empty while they are or where there is none."""
