"""The connections that are asked about, and what packet filters answer."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable

import msgspec

from kvmigd.model.firewall import Answer

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """The first packet of a TCP connection from a peer to this host."""

    source: str
    port: int
    link: str = ""
    """The link by which it comes in; empty where that is not known."""
    destination: str = ""
    """Our own address; empty where that is not known."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a connection, and by which rule."""

    answer: Answer
    by: str = ""


@functools.lru_cache(maxsize=256)
def address(text: str) -> Address | None:
    """An address as ipaddress has it, a zone (`%eth0`) cut off; None for what is none."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """All of them have to let a connection through: one that closes closes, one that is unknown leaves it unknown."""
    found = list(verdicts)
    for answer in (Answer.CLOSED, Answer.UNKNOWN, Answer.OPEN):
        those = [verdict for verdict in found if verdict.answer is answer]
        if those:
            return next((verdict for verdict in those if verdict.by), those[0])
    return Verdict(answer=Answer.OPEN)
