"""Faults of the networks: they act between the hosts, where no host can see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum

from tests.lab import holder, network
from tests.lab.faults.fault import fault, undo
from tests.lab.host import Host, wait_until
from tests.lab.network import Network


class Direction(StrEnum):
    """Seen from the host."""

    IN = "in"
    OUT = "out"
    BOTH = "both"


@contextmanager
def drop_one_way(host: Host, network_: Network, direction: Direction, *, match: str = "") -> Iterator[None]:
    """Drop what comes to a host or leaves it, silently; `match` narrows it (nftables: `tcp dport 16515`)."""
    link = network.outer(host.name, network_)
    ways = {Direction.OUT: ("iifname",), Direction.IN: ("oifname",), Direction.BOTH: ("iifname", "oifname")}[direction]
    rules = "\n".join(f'{way} "{link}" {match} drop' for way in ways)
    table = fault()
    text = f"table bridge {table} {{\nchain forward {{\ntype filter hook forward priority -200\n{rules}\n}}\n}}\n"
    holder.run_inside(host.places, "nft", "-f", "-", input=text)
    try:
        yield
    finally:
        holder.run_inside(host.places, "nft", "delete", "table", "bridge", table, check=False)


def cut(host: Host, network_: Network = Network.MIGRATION) -> AbstractContextManager[None]:
    """Drop everything between a host and a network, both ways, as a broken switch does: its link stays up."""
    return drop_one_way(host, network_, Direction.BOTH)


@contextmanager
def unplugged(host: Host, network_: Network = Network.MIGRATION) -> Iterator[None]:
    """Pull the cable: the host's link has no carrier."""
    link = network.outer(host.name, network_)
    holder.run_inside(host.places, "ip", "link", "set", link, "down")
    try:
        yield
    finally:
        holder.run_inside(host.places, "ip", "link", "set", link, "up", check=False)
        if host.is_on and network_ is not Network.GUESTS:
            # networkd gives the address back when it has seen the carrier
            address = f"{network.address(host.name, network_)}/"
            show = ("ip", "-4", "-brief", "address", "show", "dev", network_.link)
            wait_until(f"{host.name} has its address again", lambda: address in host.run(*show, check=False).stdout)


@contextmanager
def throttle(host: Host, network_: Network, mbit: float, *, direction: Direction = Direction.BOTH) -> Iterator[None]:
    """Limit the rate between a host and a network, in Mbit/s."""
    # a bucket smaller than one super-packet would have it cut up, one of a few timer ticks keeps the rate exact
    burst = max(131072, int(mbit * 1e6 / 8 * 0.01))
    shape = ("root", "tbf", "rate", f"{mbit}mbit", "burst", str(burst), "latency", "100ms")
    link = network.outer(host.name, network_)
    if direction is not Direction.OUT:
        holder.run_inside(host.places, "tc", "qdisc", "replace", "dev", link, *shape)
    if direction is not Direction.IN:
        host.run("tc", "qdisc", "replace", "dev", network_.link, *shape)
    try:
        yield
    finally:
        if direction is not Direction.OUT:
            holder.run_inside(host.places, "tc", "qdisc", "del", "dev", link, "root", check=False)
        undo(host, "tc", "qdisc", "del", "dev", network_.link, "root")


def large_frames_lost(host: Host, network_: Network, *, above: int = 1400) -> AbstractContextManager[None]:
    """Lose what is longer than so many bytes on its way to a host, as a switch with too small an MTU does, silently."""
    # the length that the kernel sees, of several segments put together, which a wire would carry one by one
    return drop_one_way(host, network_, Direction.IN, match=f"meta length > {above}")


@contextmanager
def plugged_elsewhere(host: Host, network_: Network = Network.GUESTS) -> Iterator[None]:
    """Plug the host's cable into a switch of its own: its link has a carrier, and nobody else is there."""
    link = network.outer(host.name, network_)
    switch = f"lab-{network_}-x"
    make = 'ip link add "$1" type bridge forward_delay 0 stp_state 0 mcast_snooping 0; ip link set "$1" up'
    holder.run_inside(host.places, "sh", "-ec", make, "sh", switch)
    holder.run_inside(host.places, "ip", "link", "set", link, "master", switch)
    try:
        yield
    finally:
        holder.run_inside(host.places, "ip", "link", "set", link, "master", network_.bridge, check=False)
        holder.run_inside(host.places, "ip", "link", "del", switch, check=False)
