"""The guest's network: bridges, their uplinks, segments and MTU; libvirt's networks and filters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.situations.ground import Ground, with_interface
from tests.bench.situations.harmless import NETWORK
from tests.bench.situations.situation import BROKEN, FAILS, WORKS, left_out, situation
from tests.lab import faults, guests
from tests.lab.host import Host
from tests.lab.network import Network


@situation(FAILS, "network.bridge")
def bridge_missing(ground: Ground) -> Iterator[None]:
    """The bridge is missing there."""
    ground.linux()
    with faults.bridge_removed(ground.b):
        yield


@situation(BROKEN, "network.bridge")
def bridge_down(ground: Ground) -> Iterator[None]:
    """The bridge is down there."""
    ground.linux()
    with faults.bridge_down(ground.b):
        yield


@situation(BROKEN, "network.uplink")
def bridge_without_uplink(ground: Ground) -> Iterator[None]:
    """The bridge has no uplink there."""
    ground.linux()
    with faults.bridge_without_uplink(ground.b):
        yield


@situation(BROKEN, "network.uplink")
def uplink_without_carrier(ground: Ground) -> Iterator[None]:
    """The bridge's uplink has no carrier there."""
    ground.linux()
    with faults.unplugged(ground.b, Network.GUESTS):
        yield


@situation(BROKEN, "network.uplink")
def uplink_down(ground: Ground) -> Iterator[None]:
    """The bridge's uplink is down there."""
    ground.linux()
    ground.b.run("ip", "link", "set", "gst0", "down")
    try:
        yield
    finally:
        ground.b.run("ip", "link", "set", "gst0", "up")


@situation(BROKEN, "network.segment")
def other_segment(ground: Ground) -> Iterator[None]:
    """The bridge's uplink is plugged into another switch there."""
    ground.linux()
    with faults.plugged_elsewhere(ground.b):
        yield


@situation(BROKEN, "network.segment")
def segment_cut(ground: Ground) -> Iterator[None]:
    """The switch between the bridges carries nothing to the other host, whose link is up."""
    ground.linux()
    with faults.cut(ground.b, Network.GUESTS):
        yield


@situation(BROKEN, "network.segment", "network.mtu")
def segment_loses_large_frames(ground: Ground) -> Iterator[None]:
    """The switch between the bridges loses frames as large as the bridges' MTU."""
    ground.linux()
    with faults.large_frames_lost(ground.b, Network.GUESTS):
        yield


@situation(BROKEN, "network.mtu", "network.segment")
def smaller_mtu_there(ground: Ground) -> Iterator[None]:
    """The bridge and its uplink carry smaller frames there."""
    ground.linux()
    with faults.mtu_changed(ground.b, "gst0", 1400), faults.mtu_changed(ground.b, "br0", 1400):
        yield


@situation(BROKEN, "network.mtu", "network.segment")
def smaller_mtu_of_uplink_there(ground: Ground) -> Iterator[None]:
    """The bridge's uplink alone carries smaller frames there."""
    ground.linux()
    ground.b.run("ip", "link", "set", "br0", "mtu", "1500")  # set by hand it no longer follows its ports
    with faults.mtu_changed(ground.b, "gst0", 1400):
        yield


@contextmanager
def _in_network(ground: Ground, source: str, *, there: str | None, active: bool = True) -> Iterator[None]:
    """A Linux guest in a network of libvirt's; `there` is the network on the other host."""
    here = "<forward mode='bridge'/><bridge name='br0'/><portgroup name='staff'/>"
    interface = with_interface(f"<interface type='network'><source network='lan' {source}/>")
    with faults.network_defined(ground.a, "lan", inside=here):
        ground.start(guests.linux("web", number=2), edits=(interface,))
        if there is None:
            yield
        else:
            with faults.network_defined(ground.b, "lan", inside=there, active=active):
                yield


@situation(FAILS, "network.defined")
def network_missing(ground: Ground) -> Iterator[None]:
    """The network of libvirt's is not defined there."""
    with _in_network(ground, "", there=None):
        yield


@situation(FAILS, "network.defined")
def network_inactive(ground: Ground) -> Iterator[None]:
    """The network of libvirt's is defined there, and not started."""
    with _in_network(ground, "", there=NETWORK, active=False):
        yield


@situation(BROKEN, "network.defined", "network.bridge", "network.uplink", "network.segment")
def network_leads_elsewhere(ground: Ground) -> Iterator[None]:
    """The network of libvirt's leads to another bridge there, which has no uplink."""
    there = "<forward mode='bridge'/><bridge name='br7'/>"
    with faults.bridge_added(ground.b, "br7"), _in_network(ground, "", there=there):
        yield


@situation(WORKS, may=("network.defined",))
def network_bridge_differs(ground: Ground) -> Iterator[None]:
    """The network of libvirt's leads to a bridge of another name there, on the same segment."""
    there = "<forward mode='bridge'/><bridge name='br7'/>"
    join = "ip link add j0 type veth peer name j1; ip link set j0 master br0 up; ip link set j1 master br7 up"
    with faults.bridge_added(ground.b, "br7"):
        ground.b.sh(join)
        try:
            with _in_network(ground, "", there=there):
                yield
        finally:
            ground.b.run("ip", "link", "del", "j0", check=False)


@situation(WORKS, "network.port_group")
def port_group_missing(ground: Ground) -> Iterator[None]:
    """The network's port group is missing there."""
    with _in_network(ground, "portgroup='staff'", there=NETWORK):
        yield


FILTER = "<filter name='guard'><rule action='accept' direction='inout'/></filter>"


@contextmanager
def _filter(host: Host) -> Iterator[None]:
    host.run("virsh", "--quiet", "nwfilter-define", "/dev/stdin", input=FILTER)
    try:
        yield
    finally:
        host.run("virsh", "--quiet", "nwfilter-undefine", "guard", check=False)


def _filtered(ground: Ground) -> None:
    edit = ("<model type='virtio'/>", "<model type='virtio'/><filterref filter='guard'/>")
    ground.start(edits=(edit,))


@situation(WORKS)
def network_filter(ground: Ground) -> Iterator[None]:
    """An interface with a network filter, which both hosts have."""
    with _filter(ground.a), _filter(ground.b):
        _filtered(ground)
        try:
            yield
        finally:
            ground.clean()


@situation(FAILS, "network.filter")
def network_filter_missing(ground: Ground) -> Iterator[None]:
    """The interface's network filter is missing there."""
    with _filter(ground.a):
        _filtered(ground)
        try:
            yield
        finally:
            ground.clean()


@situation(BROKEN, "network.firewall", "network.segment", "network.filter")
def forwarding_dropped_there(ground: Ground) -> Iterator[None]:
    """The firewall there lets nothing through from a bridge's port to another, as container engines have it."""
    ground.linux()
    rules = "iifname gst0 drop\noifname gst0 drop"
    with faults.firewall_rule(ground.b, rules, hook="forward", family="bridge"):
        yield


left_out("vlan", "The bridge lets other VLANs through there", reason="the lab's kernel has no 802.1Q filtering")
left_out("bond", "The uplink is a bond with a dead leg there", reason="the lab's kernel has no bonds")
left_out("macvtap", "The link under a macvtap is missing there", reason="the lab's kernel has no macvtap")
left_out("openvswitch", "The Open vSwitch bridge is missing there", reason="the lab's kernel has no Open vSwitch")
left_out("offload", "Other features of tap devices there", reason="the hosts share the machine's kernel")
