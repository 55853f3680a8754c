"""rtnetlink's messages about links, bridge ports, VLANs, addresses and routes, as frozen structs; no parser raises.

Numbers of attributes are the kernel's: include/uapi/linux/if_link.h, if_bridge.h, if_addr.h, rtnetlink.h.
"""

from __future__ import annotations

import ipaddress
import struct

import msgspec

from kvmigd.host.links.netlink import AF_BRIDGE, attributes, each_attribute, number, text

IFF_UP, IFF_LOOPBACK, IFF_LOWER_UP = 0x1, 0x8, 0x10000

_IFINFO = struct.Struct("=BxHiII")  # struct ifinfomsg
_IFADDR = struct.Struct("=BBBBI")  # struct ifaddrmsg
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_VLAN_MESSAGE = struct.Struct("=BxxxI")  # struct br_vlan_msg
_VLAN_INFO = struct.Struct("=HH")  # struct bridge_vlan_info: flags, VLAN ID
_VLAN_PVID, _VLAN_UNTAGGED, _VLAN_RANGE_BEGIN, _VLAN_RANGE_END = 0x2, 0x4, 0x8, 0x10

PORT_STATES = ("disabled", "listening", "learning", "forwarding", "blocking")
BOND_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")

Vlans = tuple[tuple[int, int, bool], ...]
"""Ranges of VLAN IDs, sorted: first, last, and whether frames without a tag are of it (PVID and untagged)."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A link as rtnetlink tells it; other links are named by index, 0 for none."""

    index: int
    name: str
    kind: str = ""
    flags: int = 0
    mtu: int = 0
    mac: str = ""
    master: int = 0
    below: int = 0
    """IFLA_LINK: the parent of a VLAN or macvtap; of a veth its other end."""
    elsewhere: bool = False
    """What is below is in another network namespace, and its index says nothing here."""
    vlan: int = 0
    stp: bool = False
    vlan_filtering: bool = False
    bond_mode: str = ""
    bond_active: int = 0
    """The member that carries the traffic of an active-backup bond."""
    port_state: str = ""
    """Of a port of a bridge."""
    member_active: bool = False
    """Of a member of a bond: it is in use and its link is up."""

    @property
    def up(self) -> bool:
        """It is administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def carrier(self) -> bool:
        """It is up and has a carrier, as /sys/class/net/*/carrier says."""
        return bool(self.flags & IFF_LOWER_UP)


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """What bridges tell of their ports, in messages of their own (AF_BRIDGE)."""

    index: int
    state: str = ""
    vlans: Vlans = ()


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """An address of a link."""

    index: int
    text: str
    """address/prefix."""


class VlanChange(msgspec.Struct, frozen=True, kw_only=True):
    """VLANs that have come to a port, or gone."""

    index: int
    ranges: Vlans


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """The way to an address."""

    kind: int
    """RTN_UNICAST, RTN_LOCAL …"""
    link: int = 0
    source: str = ""
    gateway: str = ""
    mtu: int = 0


def family(body: bytes) -> int:
    """The first byte of every message of rtnetlink's."""
    return body[0] if body else 0


def parse_link(body: bytes) -> Link | None:
    """A link; None where the message does not describe one as a whole, like those of wireless events."""
    if len(body) < _IFINFO.size:
        return None
    _family, _type, index, flags, _change = _IFINFO.unpack_from(body)
    found = attributes(body, _IFINFO.size)
    name = text(found.get(3))  # IFLA_IFNAME
    if index <= 0 or not name or 4 not in found or 11 in found:  # IFLA_MTU, IFLA_WIRELESS
        return None
    info = attributes(found.get(18, b""))  # IFLA_LINKINFO
    kind, member_of = text(info.get(1)), text(info.get(4))  # IFLA_INFO_KIND, IFLA_INFO_SLAVE_KIND
    data = attributes(info[2]) if 2 in info and kind in ("bridge", "bond", "vlan") else {}  # IFLA_INFO_DATA
    port = attributes(info[5]) if 5 in info and member_of in ("bridge", "bond") else {}  # IFLA_INFO_SLAVE_DATA
    return Link(
        index=index,
        name=name,
        kind=kind,
        flags=flags,
        mtu=number(found[4]),
        mac=found.get(1, b"").hex(":"),  # IFLA_ADDRESS
        master=number(found.get(10)),  # IFLA_MASTER
        below=number(found.get(5)),  # IFLA_LINK
        elsewhere=37 in found,  # IFLA_LINK_NETNSID
        vlan=number(data.get(1)) if kind == "vlan" else 0,  # IFLA_VLAN_ID
        stp=kind == "bridge" and number(data.get(5)) != 0,  # IFLA_BR_STP_STATE
        vlan_filtering=kind == "bridge" and number(data.get(7)) != 0,  # IFLA_BR_VLAN_FILTERING
        bond_mode=_named(BOND_MODES, number(data.get(1))) if kind == "bond" else "",  # IFLA_BOND_MODE
        bond_active=number(data.get(2)) if kind == "bond" else 0,  # IFLA_BOND_ACTIVE_SLAVE
        port_state=_named(PORT_STATES, number(port.get(1))) if member_of == "bridge" and 1 in port else "",
        # IFLA_BOND_SLAVE_STATE and IFLA_BOND_SLAVE_MII_STATUS: 0 is active and up
        member_active=member_of == "bond" and 1 in port and not number(port[1]) and not number(port.get(2)),
    )


def parse_index(body: bytes) -> int:
    """The index that a message about a link is about; 0 where it says none."""
    return max(0, _IFINFO.unpack_from(body)[2]) if len(body) >= _IFINFO.size else 0


def parse_port(body: bytes) -> Port | None:
    """A port of a bridge, of an AF_BRIDGE message; None for the bridge itself and for a switch in a network card."""
    if len(body) < _IFINFO.size or family(body) != AF_BRIDGE:
        return None
    found = attributes(body, _IFINFO.size)
    if 12 not in found or 10 not in found:  # IFLA_PROTINFO, IFLA_MASTER
        return None
    state = attributes(found[12]).get(1)  # IFLA_BRPORT_STATE
    return Port(
        index=parse_index(body),
        state=_named(PORT_STATES, number(state)) if state else "",
        vlans=_vlans(found.get(26, b"")),  # IFLA_AF_SPEC
    )


def _vlans(data: bytes) -> Vlans:
    found: Vlans = ()
    begin = 0
    for kind, value in each_attribute(data):
        if kind != 2 or len(value) < _VLAN_INFO.size:  # IFLA_BRIDGE_VLAN_INFO
            continue
        flags, vlan = _VLAN_INFO.unpack_from(value)
        if flags & _VLAN_RANGE_BEGIN:
            begin = vlan
            continue
        first = begin if flags & _VLAN_RANGE_END and begin else vlan
        begin = 0
        found = with_vlans(found, ((first, vlan, _is_untagged(flags)),))
    return found


def _is_untagged(flags: int) -> bool:
    """PVID takes frames without a tag in, UNTAGGED sends them out; VLANs that only do the one are told as tagged."""
    return flags & _VLAN_PVID != 0 and flags & _VLAN_UNTAGGED != 0


def parse_vlan_change(body: bytes) -> VlanChange | None:
    """VLANs of RTM_NEWVLAN and RTM_DELVLAN."""
    if len(body) < _VLAN_MESSAGE.size:
        return None
    _family, index = _VLAN_MESSAGE.unpack_from(body)
    ranges = []
    for kind, value in each_attribute(body, _VLAN_MESSAGE.size):
        if kind != 1:  # BRIDGE_VLANDB_ENTRY
            continue
        entry = attributes(value)
        info = entry.get(1, b"")  # BRIDGE_VLANDB_ENTRY_INFO
        if len(info) < _VLAN_INFO.size:
            continue
        flags, first = _VLAN_INFO.unpack_from(info)
        ranges.append((first, max(first, number(entry.get(2))), _is_untagged(flags)))  # BRIDGE_VLANDB_ENTRY_RANGE
    return VlanChange(index=index, ranges=tuple(ranges)) if ranges else None


def without_vlans(vlans: Vlans, gone: Vlans) -> Vlans:
    """Ranges less others."""
    for first, last, _ in gone:
        cut = []
        for low, high, untagged in vlans:
            if high < first or low > last:
                cut.append((low, high, untagged))
                continue
            if low < first:
                cut.append((low, first - 1, untagged))
            if high > last:
                cut.append((last + 1, high, untagged))
        vlans = tuple(cut)
    return vlans


def with_vlans(vlans: Vlans, new: Vlans) -> Vlans:
    """Ranges and others, which replace what they overlap; neighbours become one."""
    for one in new:
        low, high, untagged = one
        if untagged:  # there is one PVID; the kernel does not tell that another VLAN has ceased to be it
            vlans = with_vlans((), tuple((first, last, False) for first, last, _ in vlans))
        rest = sorted((*without_vlans(vlans, (one,)), (low, high, untagged)))
        merged: list[tuple[int, int, bool]] = []
        for first, last, plain in rest:
            if merged and merged[-1][2] == plain and merged[-1][1] + 1 == first:
                merged[-1] = (merged[-1][0], last, plain)
            else:
                merged.append((first, last, plain))
        vlans = tuple(merged)
    return vlans


def vlan_texts(vlans: Vlans) -> tuple[str, ...]:
    """`1*` for the untagged one, `100`, `200-299`."""
    return tuple(
        (f"{first}" if first == last else f"{first}-{last}") + "*" * untagged for first, last, untagged in vlans
    )


def parse_address(body: bytes) -> Address | None:
    """An address of a link; None where there is none in it."""
    if len(body) < _IFADDR.size:
        return None
    _family, prefix, _flags, _scope, index = _IFADDR.unpack_from(body)
    found = attributes(body, _IFADDR.size)
    # IFA_LOCAL is this end of a point-to-point link, IFA_ADDRESS the other; IPv6 has only the latter
    address = _address(found.get(2) or found.get(1))
    return Address(index=index, text=f"{address}/{prefix}") if address and index else None


def parse_route(body: bytes) -> Route | None:
    """The answer to RTM_GETROUTE; None where it is too short for one."""
    if len(body) < _ROUTE.size:
        return None
    kind = _ROUTE.unpack_from(body)[7]
    found = attributes(body, _ROUTE.size)
    via = found.get(18, b"")  # RTA_VIA: a gateway of the other family
    return Route(
        kind=kind,
        link=number(found.get(4)),  # RTA_OIF
        source=_address(found.get(7)),  # RTA_PREFSRC
        gateway=_address(found.get(5) or via[2:]),  # RTA_GATEWAY
        mtu=number(attributes(found.get(8, b"")).get(2)),  # RTAX_MTU in RTA_METRICS
    )


def _address(data: bytes | None) -> str:
    return str(ipaddress.ip_address(data)) if data and len(data) in (4, 16) else ""


def _named(names: tuple[str, ...], value: int) -> str:
    return names[value] if value < len(names) else str(value)
