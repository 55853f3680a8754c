"""firewalld's zones: which one a peer is in, and whether it lets the peer reach a port. Pure."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from kvmigd.host.firewall.packet import Packet, address
from kvmigd.model.firewall import Answer

Ports = tuple[tuple[int, int], ...]


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """One zone as it is in force, or as it is stored."""

    name: str
    target: str = "default"
    """default, ACCEPT, DROP or %%REJECT%%."""
    ports: Ports = ()
    """TCP ports, those of services too."""
    rich_rules: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    problem: str = ""
    """What of it could not be found out."""

    def judge(self, packet: Packet) -> Answer:
        """Whether the zone lets a connection in.

        Rich rules that drop or reject come before ports and services, those that accept beside them (no priorities).
        """
        rich = [_rich(rule, packet) for rule in self.rich_rules]
        if Answer.CLOSED in rich:
            return Answer.CLOSED
        if self.target == "ACCEPT" or Answer.OPEN in rich or any(a <= packet.port <= b for a, b in self.ports):
            return Answer.UNKNOWN if Answer.UNKNOWN in rich else Answer.OPEN
        return Answer.UNKNOWN if self.problem or Answer.UNKNOWN in rich else Answer.CLOSED


class Zones(msgspec.Struct, frozen=True, kw_only=True):
    """All zones that are bound to something, and the default zone."""

    default: str = ""
    zones: tuple[Zone, ...] = ()

    def of(self, packet: Packet) -> Zone | None:
        """The zone of a peer: the one with its address, else the one with the link, else the default zone."""
        source = address(packet.source)
        best: tuple[int, Zone] | None = None
        for zone in self.zones:
            for text in zone.sources:
                network = _network(text)
                if source is None or network is None or source not in network:
                    continue
                if best is None or network.prefixlen > best[0]:
                    best = (network.prefixlen, zone)
        if best is not None:
            return best[1]
        bound = (zone for zone in self.zones if packet.link and packet.link in zone.interfaces)
        return next(bound, None) or next((zone for zone in self.zones if zone.name == self.default), None)


def zone(name: str, settings: Mapping[str, Any], services: Mapping[str, Ports | None]) -> Zone:
    """A zone from its settings (getZoneSettings2, getSettings2); services that are not known make it uncertain."""
    ports = list(tcp_ports(settings.get("ports")))
    missing = []
    for service in _strings(settings.get("services")):
        known = services.get(service)
        if known is None:
            missing.append(service)
        else:
            ports += known
    if any(protocol in ("tcp", "6") for protocol in _strings(settings.get("protocols"))):
        ports.append((1, 65535))
    return Zone(
        name=name,
        target=str(settings.get("target", "default")),
        ports=tuple(ports),
        rich_rules=_strings(settings.get("rules_str")),
        interfaces=_strings(settings.get("interfaces")),
        sources=_strings(settings.get("sources")),
        problem=f"services not known: {', '.join(missing)}" if missing else "",
    )


def tcp_ports(value: Any) -> Ports:
    """TCP's of a list of (port or range, protocol)."""
    found = []
    for item in value if isinstance(value, (list, tuple)) else ():
        if isinstance(item, (list, tuple)) and len(item) == 2 and item[1] == "tcp":
            span = _span(str(item[0]))
            if span is not None:
                found.append(span)
    return tuple(found)


def _span(text: str) -> tuple[int, int] | None:
    first, dash, last = text.partition("-")
    ends = (first, last if dash else first)
    if not all(end.isascii() and end.isdigit() and len(end) <= 5 for end in ends):
        return None
    return int(ends[0]), int(ends[1])


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, (list, tuple)) else ()


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _rich(text: str, packet: Packet) -> Answer | None:
    """What a rich rule does with a connection: open, closed, unknown, or None where it is about something else."""
    try:
        words = shlex.split(text)
    except ValueError:
        return Answer.UNKNOWN
    action = next((word for word in words if word in ("accept", "drop", "reject")), "")
    if not action:
        # log, audit, mark, masquerade, forward-port: none of them opens or closes, but forward-port leads elsewhere
        return Answer.UNKNOWN if "forward-port" in words else None
    named = dict(_pairs(words))
    if "priority" in named or "service" in words or "ipset" in named or "NOT" in words or "mac" in named:
        return Answer.UNKNOWN
    family = named.get("family")
    if family and family != ("ipv6" if ":" in packet.source else "ipv4"):
        return None
    if named.get("protocol", "tcp") not in ("tcp", "6") or named.get("value", "tcp") not in ("tcp", "6"):
        return None
    if any(word in words for word in ("icmp-block", "icmp-type", "source-port")):
        return None if "source-port" not in words else Answer.UNKNOWN
    if "port" in words:
        span = _span(named.get("port", ""))
        if span is None:
            return Answer.UNKNOWN
        if not span[0] <= packet.port <= span[1]:
            return None
    if "address" in named:
        where = _place(words)
        network = _network(named["address"])
        if network is None or where != "source":
            return Answer.UNKNOWN
        source = address(packet.source)
        if source is None or source not in network:
            return None
    return Answer.OPEN if action == "accept" else Answer.CLOSED


def _place(words: list[str]) -> str:
    """Whether the address is the source's or the destination's; empty for both."""
    both = [word for word in words if word in ("source", "destination")]
    return both[0] if len(both) == 1 else ""


def _pairs(words: Iterable[str]) -> Iterable[tuple[str, str]]:
    for word in words:
        name, equals, value = word.partition("=")
        if equals:
            yield name, value
