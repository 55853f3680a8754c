"""What the expressions of nftables (libnftables-json(5)) say of one packet: it matches, it does not, or who knows.

Everything here is total: an expression that is not understood is `None`, never an exception.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kvmigd.host.firewall.packet import Address, Packet, address

Named = Mapping[str, Any]
"""Elements of the sets and maps of a table, by name."""


class _Mark:
    """A value that is none."""


UNKNOWN = _Mark()
"""The packet has such a field, but what is in it is not known."""
ABSENT = _Mark()
"""The packet has no such field, so whatever is asked of it does not match: `ip saddr` of IPv6, a port of UDP."""

_NUMERIC: Mapping[Any, str] = {6: "tcp", 1: "icmp", 17: "udp", 58: "ipv6-icmp"}


class Subject:
    """A packet with what nftables' expressions ask of it."""

    def __init__(self, packet: Packet) -> None:
        self.packet = packet
        self.source = address(packet.source)
        self.destination = address(packet.destination) if packet.destination else None
        self.family = "ip" if not isinstance(self.source, ipaddress.IPv6Address) else "ip6"
        self.is_tracked = True
        """No `notrack` may have touched it; then its state is `new`."""

    def field(self, left: Any) -> Any:
        """The value of an expression."""
        if not isinstance(left, dict) or len(left) != 1:
            return UNKNOWN
        ((kind, body),) = left.items()
        if kind == "concat" and isinstance(body, list):
            parts = [self.field(part) for part in body]
            return ABSENT if any(part is ABSENT for part in parts) else tuple(parts)
        reader = _FIELDS.get(kind)
        return reader(self, body) if reader is not None and isinstance(body, dict) else UNKNOWN

    def _payload(self, body: dict[str, Any]) -> Any:
        protocol, name = body.get("protocol"), body.get("field")
        if protocol in ("ip", "ip6"):
            if protocol != self.family:
                return ABSENT
            if name == "saddr":
                return self.source or UNKNOWN
            if name == "daddr":
                return self.destination or UNKNOWN
            return "tcp" if name in ("protocol", "nexthdr") else UNKNOWN
        if protocol in ("tcp", "th"):
            if name == "dport":
                return self.packet.port
            return {"syn"} if name == "flags" else UNKNOWN
        other = ("udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "igmp", "esp", "ah", "comp", "arp")
        return ABSENT if protocol in other else UNKNOWN

    def _meta(self, body: dict[str, Any]) -> Any:
        key = body.get("key")
        if key in ("iif", "iifname", "iiftype"):
            return (self.packet.link or UNKNOWN) if key != "iiftype" else UNKNOWN
        family = {"nfproto": ("ipv4", "ipv6"), "protocol": ("ip", "ip6")}.get(str(key))
        if family is not None:
            return family[self.family == "ip6"]
        return {"l4proto": "tcp", "pkttype": "host"}.get(str(key), UNKNOWN)

    def _ct(self, body: dict[str, Any]) -> Any:
        if not self.is_tracked:
            return UNKNOWN
        # A rule that may translate the address makes the verdict unknown by itself, so there was no translation here.
        return {"state": {"new"}, "status": set(), "direction": "original"}.get(str(body.get("key")), UNKNOWN)

    def _fib(self, body: dict[str, Any]) -> Any:
        flags = body.get("flags")
        flags = flags if isinstance(flags, list) else [flags]
        if body.get("result") == "type" and "daddr" in flags:
            return "local"  # it is sent to us
        if body.get("result") == "oif" and "saddr" in flags and self.packet.link:
            return True  # the reverse path: the link in question is the one of the route to the peer
        return UNKNOWN


_FIELDS: Mapping[str, Callable[[Subject, dict[str, Any]], Any]] = {
    "payload": Subject._payload,
    "meta": Subject._meta,
    "ct": Subject._ct,
    "fib": Subject._fib,
}


def matches(subject: Subject, body: Any, sets: Named) -> bool | None:
    """What a `match` statement says."""
    if not isinstance(body, dict) or "right" not in body:
        return None
    left, right, operator = body.get("left"), body["right"], body.get("op", "==")
    if isinstance(left, dict) and set(left) == {"&"}:
        return _masked(subject, left["&"], right, operator)
    value = subject.field(left)
    if value is ABSENT:
        return False
    if operator in ("==", "in", "!="):
        found = equal(value, right, sets)
        return found if operator != "!=" or found is None else not found
    if isinstance(value, int) and isinstance(right, int) and not isinstance(right, bool):
        return {"<": value < right, ">": value > right, "<=": value <= right, ">=": value >= right}.get(str(operator))
    return None


def _masked(subject: Subject, terms: Any, right: Any, operator: Any) -> bool | None:
    """`tcp flags & (fin | syn) == syn`: flags are known, other masks are not looked into."""
    if not isinstance(terms, list) or len(terms) != 2:
        return None
    value, mask = subject.field(terms[0]), _names(terms[1])
    wanted = set() if right == 0 else _names(right)
    if value is ABSENT:
        return False
    if not isinstance(value, set) or mask is None or wanted is None or operator not in ("==", "!="):
        return None
    return (value & mask == wanted) is (operator == "==")


def _names(value: Any) -> set[str] | None:
    """Flags: one, a list of them, or joined by `|`."""
    if isinstance(value, dict) and set(value) == {"|"}:
        value = value["|"]
    if isinstance(value, list):
        parts = [_names(part) for part in value]
        return set().union(*(part for part in parts if part)) if None not in parts else None
    return {value} if isinstance(value, str) else None


def equal(value: Any, right: Any, sets: Named) -> bool | None:
    """Whether a value is one of what stands on the right: a value, range, prefix, set, named set or concatenation."""
    if value is UNKNOWN or value is ABSENT:
        return None
    if isinstance(right, str) and right.startswith("@"):
        elements = sets.get(right[1:])
        return any_of(equal(value, _key(element), sets) for element in elements) if isinstance(elements, list) else None
    if isinstance(right, dict) and len(right) == 1:
        ((kind, body),) = right.items()
        if kind == "set":
            members = body if isinstance(body, list) else [body]
            return any_of(equal(value, _key(member), sets) for member in members)
        if kind == "elem" and isinstance(body, dict):
            return equal(value, body.get("val"), sets)
        if kind == "concat" and isinstance(body, list) and isinstance(value, tuple) and len(body) == len(value):
            return all_of(equal(one, other, sets) for one, other in zip(value, body, strict=True))
        return _in_span(value, kind, body)
    if isinstance(value, set):
        return _has_flags(value, right)
    if isinstance(right, list):
        return any_of(equal(value, one, sets) for one in right)
    return _same(value, right)


def _has_flags(value: set[str], right: Any) -> bool | None:
    """`ct state established,related`: one of them is enough."""
    names = _names(right)
    return bool(value & names) if names is not None else None


def _key(element: Any) -> Any:
    """What of an element is looked up: maps have pairs."""
    return element[0] if isinstance(element, list) and len(element) == 2 else element


def _in_span(value: Any, kind: str, body: Any) -> bool | None:
    if kind == "prefix" and isinstance(body, dict):
        network = _network(body.get("addr"), body.get("len"))
        return value in network if network is not None and _is_address(value) else None
    if kind == "range" and isinstance(body, list) and len(body) == 2:
        first, last = body
        if isinstance(value, int) and all(isinstance(end, int) for end in body):
            return bool(first <= value <= last)
        if _is_address(value) and all(isinstance(end, str) for end in body):
            ends = address(first), address(last)
            if all(type(end) is type(value) for end in ends):
                return bool(ends[0] <= value <= ends[1])
    return None


def _network(text: Any, length: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    return _parsed(f"{text}/{length}")


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _is_address(value: Any) -> bool:
    return isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address))


def _same(value: Any, right: Any) -> bool | None:
    if isinstance(right, bool) or isinstance(value, bool):
        return value is right if isinstance(right, bool) and isinstance(value, bool) else None
    if _is_address(value):
        other: Address | None = address(right) if isinstance(right, str) else None
        return value == other if other is not None else None
    if isinstance(value, int):
        return value == right if isinstance(right, int) else None
    if isinstance(value, str):
        right = _NUMERIC.get(right, right) if isinstance(right, int) else right
        if not isinstance(right, str):
            return None
        if right.endswith("*") and not right.endswith("\\*"):
            return value.startswith(right[:-1])
        return value == right.replace("\\*", "*")
    return None


def any_of(answers: Iterable[bool | None]) -> bool | None:
    """True if one is, None if one may be."""
    unknown = False
    for answer in answers:
        if answer:
            return True
        unknown = unknown or answer is None
    return None if unknown else False


def all_of(answers: Iterable[bool | None]) -> bool | None:
    """False if one is, None if one may be."""
    unknown = False
    for answer in answers:
        if answer is False:
            return False
        unknown = unknown or answer is None
    return None if unknown else True
