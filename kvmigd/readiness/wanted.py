"""What has to be proved for guests to move: folders of their disks, segments of their interfaces, ports, TLS."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping

from kvmigd.model.guest import Guest
from kvmigd.model.host import Look
from kvmigd.model.mounts import MountFact
from kvmigd.model.state import HostState
from kvmigd.prove.wanted import Segment, Wanted

KINDS = frozenset({"ports", "storage", "frames", "tls", "throughput"})
"""Kinds of proofs."""


def wanted_for(
    guests: Iterable[Guest],
    state: HostState,
    *,
    looks: Mapping[str, Look | None],
    tls: bool,
    disks: bool = False,
    throughput: bool = False,
) -> Wanted:
    """Everything that these guests need to have proved. `state` is this host's, `looks` are its looks by UUID.

    `tls` says that both hosts have certificates for QEMU's streams, `disks` that disks are copied.
    """
    guests = tuple(guests)
    shared = _Shared(state)
    folders = {folder for guest in guests for folder in _folders(guest, looks.get(guest.uuid), shared)}
    segments = {
        (segment.bridge, segment.vlan): segment
        for segment in sorted(
            (segment for guest in guests for segment in _segments(guest, state)),
            key=lambda segment: (segment.bridge, segment.vlan, segment.mtu),
        )
    }
    return Wanted(
        ports=("stream", "disks") if disks else ("stream",),
        back=("stream",),
        storage=tuple(sorted(folders)),
        frames=tuple(segments.values()),
        tls=tls,
        throughput=throughput,
    )


class _Shared:
    """Whether a path lies on shared storage, for those that nobody has looked at yet."""

    def __init__(self, state: HostState) -> None:
        self._points: dict[str, MountFact] = {
            mount.point: mount for mount in state.mounts.mounts if mount.is_storage and not mount.covered
        }

    def holds(self, path: str) -> bool:
        """The mount on which the path lies as it is written is shared."""
        while True:
            if mount := self._points.get(path):
                return mount.shared
            if path in ("/", ""):
                return False
            path = posixpath.dirname(path)


def _folders(guest: Guest, look: Look | None, shared: _Shared) -> Iterator[str]:
    """The first image of each disk tells which storage it is; layers below mostly lie beside it."""
    facts = {fact.path: fact for fact in look.paths} if look is not None else {}
    for disk in guest.local_disks:
        for path in disk.paths:
            fact = facts.get(path)
            if fact is None:
                if shared.holds(path) and disk.kind == "file":
                    yield posixpath.dirname(path)
            elif fact.exists and not fact.is_block and fact.mount is not None and fact.mount.shared:
                yield posixpath.dirname(path)


def _segments(guest: Guest, state: HostState) -> Iterator[Segment]:
    """Bridges that lead out of this host; one that does not is a network of this host alone, as libvirt's NAT is."""
    networks = {network.name: network for network in state.hypervisor.networks}
    bridges = {bridge.name: bridge for bridge in state.links.bridges}
    for nic in guest.nics:
        name = nic.source if nic.kind == "bridge" else nic.bridge
        if nic.kind == "network" and not name and nic.source in networks:
            name = networks[nic.source].bridge
        bridge = bridges.get(name)
        if bridge is None or not bridge.is_bridge or not bridge.uplinks:
            continue
        for vlan in nic.vlans or (0,):
            yield Segment(bridge=name, vlan=vlan, mtu=nic.mtu or bridge.mtu or 1500)
