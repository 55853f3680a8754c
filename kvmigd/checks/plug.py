"""Where the guest's interfaces are plugged in: the bridge here and the bridge there. What rules look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from kvmigd.checks.view import Case, Hosts, HostView
from kvmigd.model.devices import Nic
from kvmigd.model.finding import Finding
from kvmigd.model.links import BridgeFact


class Plug(NamedTuple):
    """An interface of the guest that is, or shall be, a port of a bridge."""

    nic: Nic
    here: str
    """The bridge on the source; empty where it is not known."""
    there: str
    mine: BridgeFact | None
    theirs: BridgeFact | None

    @property
    def is_in(self) -> bool:
        """The guest's cable is plugged in, as far as libvirt knows."""
        return self.nic.link != "down"

    @property
    def usable(self) -> BridgeFact | None:
        """The bridge there, if it is one and up."""
        bridge = self.theirs
        return bridge if bridge is not None and bridge.exists and bridge.is_bridge and bridge.up else None


Judge = Callable[[Hosts, Plug], Iterator[Finding]]


def told(case: Case, judge: Judge) -> Iterator[Finding]:
    """What is told of the guest's interfaces, once for each thing that is wrong.

    `judge` is asked once for all guests that are plugged in alike: it knows nothing of a guest but its plug.
    """
    hosts = case.hosts
    remembered = hosts.remembered
    before: tuple[Finding, ...] = ()
    for nic in case.local.guest.nics:
        key = judge, nic.kind, nic.source, nic.bridge, nic.port, nic.link, nic.vlans, nic.mtu
        findings = remembered.get(key)
        if findings is None:
            plug = plug_of(hosts, nic)
            findings = remembered[key] = tuple(judge(hosts, plug)) if plug is not None else ()
        if findings:
            yield from (finding for finding in findings if finding not in before)
            before = (*before, *findings)


def plug_of(hosts: Hosts, nic: Nic) -> Plug | None:
    """Where an interface is plugged in, also by a libvirt network; None where libvirt has no bridge for it.

    A network that is missing there, or not active, is networks' own business.
    """
    here = there = nic.source
    if nic.kind == "network":
        network = hosts.destination.networks.get(nic.source)
        if network is None or not network.active:
            return None
        there = network.bridge
        known = hosts.source.networks.get(nic.source)
        here = nic.bridge or (known.bridge if known is not None else "")
    elif nic.kind != "bridge":
        return None
    if not there:
        return None
    return Plug(nic, here, there, hosts.source.bridges.get(here), hosts.destination.bridges.get(there))


def leads_out(host: HostView, bridge: BridgeFact) -> bool:
    """Whether an uplink of the bridge has a carrier. The bridge's own counts the taps of guests, too."""
    links = host.links
    for name in bridge.uplinks:
        link = links.get(name)
        if bridge.carrier if link is None else link.carrier:
            return True
    return False


def narrowest(host: HostView, bridge: BridgeFact) -> tuple[int, str]:
    """The smallest MTU on the way out of the host by a bridge, and the link that has it."""
    smallest, where = bridge.mtu, bridge.name
    for name in bridge.uplinks:
        link = host.links.get(name)
        if link is not None and 0 < link.mtu < smallest:
            smallest, where = link.mtu, name
    return smallest, where
