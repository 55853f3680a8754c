"""Netlink's framing: messages, attributes, requests (netlink(7), rtnetlink(7)).

Ours and not pyroute2's: importing any part of pyroute2 imports all of it, 9.4 MiB of resident memory, for the dozen
attributes that are needed. Tests hold this one against pyroute2's.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

ERROR, DONE = 2, 3
"""NLMSG_ERROR, NLMSG_DONE."""
_REQUEST, _DUMP = 0x1, 0x300
DUMP_INTERRUPTED = 0x10
"""NLM_F_DUMP_INTR: what is dumped has changed meanwhile, so that something may be missing."""

NEW_LINK, DEL_LINK, GET_LINK = 16, 17, 18
NEW_ADDRESS, DEL_ADDRESS, GET_ADDRESS = 20, 21, 22
NEW_ROUTE, DEL_ROUTE, GET_ROUTE = 24, 25, 26
NEW_RULE, DEL_RULE = 32, 33
NEW_VLAN, DEL_VLAN = 112, 113

AF_BRIDGE = 7
_IFLA_EXT_MASK = 29
_BRIDGE_VLANS_COMPRESSED, _SKIP_STATISTICS = 4, 8
"""RTEXT_FILTER_BRVLAN_COMPRESSED: VLANs as ranges; RTEXT_FILTER_SKIP_STATS: a fifth less to read."""
_RTA_DST, _RTA_OIF = 1, 4

GROUPS = (
    *(1, 5, 9),  # RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR
    *(7, 11, 8, 19),  # RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE
    33,  # RTNLGRP_BRVLAN, since Linux 5.6
)

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""


class Message:
    """One netlink message. `body` is what follows the header."""

    __slots__ = ("body", "flags", "kind", "sequence")

    def __init__(self, kind: int, flags: int, sequence: int, body: bytes) -> None:
        self.kind = kind
        self.flags = flags
        self.sequence = sequence
        self.body = body

    @property
    def error(self) -> int:
        """The errno in it; 0 for an acknowledgement, and where it is none. A dump can end with one in NLMSG_DONE."""
        if self.kind not in (ERROR, DONE) or len(self.body) < 4:
            return 0
        return -int.from_bytes(self.body[:4], "little" if _LITTLE else "big", signed=True)


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram; what is cut off or says a wrong length ends it."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > len(data):
            return
        yield Message(kind, flags, sequence, data[offset + 16 : offset + length])
        offset += (length + 3) & ~3


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type from `offset` on; of one that comes several times, the last."""
    return dict(each_attribute(data, offset))


def each_attribute(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """All attributes in their order, also those that come several times."""
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            return
        yield kind & _TYPE, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def number(data: bytes | None) -> int:
    """An unsigned number of any width in the host's byte order; 0 where there is none."""
    return int.from_bytes(data[:8], "little" if _LITTLE else "big") if data else 0


def text(data: bytes | None) -> str:
    """A string up to its end; bytes that are no UTF-8 are kept as escapes (names of links may have any)."""
    return data.partition(b"\0")[0].decode("utf-8", "backslashreplace") if data else ""


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _request(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(16 + len(body), kind, _REQUEST | flags, sequence, 0) + body


def dump_links(sequence: int) -> bytes:
    """Ask for all links, without statistics."""
    mask = attribute(_IFLA_EXT_MASK, struct.pack("=I", _SKIP_STATISTICS))
    return _request(GET_LINK, _DUMP, sequence, bytes(16) + mask)


def dump_bridge_ports(sequence: int) -> bytes:
    """Ask for all ports of bridges, with their VLANs."""
    mask = attribute(_IFLA_EXT_MASK, struct.pack("=I", _BRIDGE_VLANS_COMPRESSED))
    return _request(GET_LINK, _DUMP, sequence, bytes([AF_BRIDGE]) + bytes(15) + mask)


def dump_addresses(sequence: int) -> bytes:
    """Ask for all addresses."""
    return _request(GET_ADDRESS, _DUMP, sequence, bytes(8))


def get_route(sequence: int, address: bytes, *, link: int = 0) -> bytes:
    """Ask for the way to an address, packed; `link` is the index of the link that a link-local one is at."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    body = struct.pack("=BBBBBBBBI", family, len(address) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(_RTA_DST, address)
    if link:
        body += attribute(_RTA_OIF, struct.pack("=I", link))
    return _request(GET_ROUTE, 0, sequence, body)
