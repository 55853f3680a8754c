"""All links of the host as the kernel's messages build them up, each message in its turn."""

from __future__ import annotations

from enum import Flag, auto

import msgspec

from kvmigd.host.links import netlink
from kvmigd.host.links.messages import (
    Link,
    Port,
    family,
    parse_address,
    parse_index,
    parse_link,
    parse_port,
    parse_vlan_change,
    with_vlans,
    without_vlans,
)
from kvmigd.host.links.netlink import Message


class Touched(Flag):
    """What a message has changed."""

    NOTHING = 0
    LINKS = auto()
    ROUTES = auto()
    """The ways to other hosts may be different ones now; every change of links changes them too."""


_LINKS = Touched.LINKS | Touched.ROUTES


class LinkTable:
    """Links, ports of bridges and addresses, by index of the link."""

    def __init__(self) -> None:
        self.links: dict[int, Link] = {}
        self.ports: dict[int, Port] = {}
        self.addresses: dict[int, frozenset[str]] = {}

    def apply(self, message: Message) -> Touched:
        """Take one message in; those of other kinds, and what cannot be read, change nothing."""
        body = message.body
        match message.kind:
            case netlink.NEW_LINK if family(body) == netlink.AF_BRIDGE:
                return self._set_port(parse_port(body))
            case netlink.DEL_LINK if family(body) == netlink.AF_BRIDGE:
                # The port leaves its bridge; the link stays.
                return _links(self.ports.pop(parse_index(body), None) is not None)
            case netlink.NEW_LINK:
                return self._set_link(parse_link(body))
            case netlink.DEL_LINK:
                return self._remove_link(parse_index(body))
            case netlink.NEW_ADDRESS | netlink.DEL_ADDRESS:
                return self._change_address(body, present=message.kind == netlink.NEW_ADDRESS)
            case netlink.NEW_VLAN | netlink.DEL_VLAN:
                return self._change_vlans(body, present=message.kind == netlink.NEW_VLAN)
            case netlink.NEW_ROUTE | netlink.DEL_ROUTE | netlink.NEW_RULE | netlink.DEL_RULE:
                return Touched.ROUTES
            case _:
                return Touched.NOTHING

    def _set_link(self, link: Link | None) -> Touched:
        if link is None or self.links.get(link.index) == link:
            return Touched.NOTHING
        self.links[link.index] = link
        if not link.master:
            self.ports.pop(link.index, None)
        return _LINKS

    def _remove_link(self, index: int) -> Touched:
        self.ports.pop(index, None)
        self.addresses.pop(index, None)
        return _links(self.links.pop(index, None) is not None)

    def _set_port(self, port: Port | None) -> Touched:
        if port is None or self.ports.get(port.index) == port:
            return Touched.NOTHING
        self.ports[port.index] = port
        return _LINKS

    def _change_vlans(self, body: bytes, *, present: bool) -> Touched:
        change = parse_vlan_change(body)
        port = self.ports.get(change.index) if change else None
        if change is None or port is None:  # of the bridge itself
            return Touched.NOTHING
        vlans = (with_vlans if present else without_vlans)(port.vlans, change.ranges)
        return self._set_port(msgspec.structs.replace(port, vlans=vlans))

    def _change_address(self, body: bytes, *, present: bool) -> Touched:
        address = parse_address(body)
        if address is None:
            return Touched.NOTHING
        before = self.addresses.get(address.index, frozenset())
        now = before | {address.text} if present else before - {address.text}
        self.addresses[address.index] = now
        return _links(now != before)


def _links(changed: object) -> Touched:
    return _LINKS if changed else Touched.NOTHING
