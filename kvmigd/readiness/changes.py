"""What a change of a picture, or of facts, means: which rules have to be asked again, and what is proved no longer."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kvmigd.model.firewall import Firewall
from kvmigd.model.guest import Guest
from kvmigd.model.host import HostFacts
from kvmigd.model.hypervisor import HypervisorState
from kvmigd.model.links import BridgeFact, LinkFact, Links
from kvmigd.model.mounts import MountFact, Mounts
from kvmigd.model.state import SUBJECTS, HostState
from kvmigd.model.storage import Storage

ROOT = "/"


def changed_here(before: HostState, now: HostState) -> frozenset[str]:
    """Subjects of this host's picture in which something has changed that rules can see.

    Mounts that are no storage come and go with every container. A guest that changes is told by itself: rules look at
    the other guests of a host only to see whether a name, or something else, is taken.
    """
    words = set()
    for name in SUBJECTS:
        old, new = before.subject(name), now.subject(name)
        if old is new:
            continue
        if isinstance(old, Mounts) and isinstance(new, Mounts) and old.problem == new.problem:
            if not any(mount.is_storage for some in _others(old, new) for mount in some):
                continue
        elif isinstance(old, HypervisorState) and isinstance(new, HypervisorState) and _same_hypervisor(old, new):
            continue
        words.add(name)
    return frozenset(words)


def _others(before: Mounts, now: Mounts) -> tuple[list[MountFact], list[MountFact]]:
    """Mounts that went or were, and that came or are now: what stays is the same object. A host can have 10,000."""
    was, kept = set(map(id, before.mounts)), set(map(id, now.mounts))
    return (
        [mount for mount in before.mounts if id(mount) not in kept],
        [mount for mount in now.mounts if id(mount) not in was],
    )


def _same_hypervisor(old: HypervisorState, new: HypervisorState) -> bool:
    return _who(old.guests) == _who(new.guests) and msgspec.structs.replace(
        old, guests=(), since_usec=0
    ) == msgspec.structs.replace(new, guests=(), since_usec=0)


def _who(guests: Iterable[Guest]) -> set[tuple[str, str, bool]]:
    return {(guest.uuid, guest.name, guest.state.is_active) for guest in guests}


def changed_there(before: HostState, now: HostState) -> frozenset[str]:
    """The same of a peer's picture: it tells only what matters to others."""
    return frozenset(name for name in SUBJECTS if before.subject(name) is not now.subject(name))


def changed_facts(before: HostFacts | None, now: HostFacts | None, *, here: bool = False) -> frozenset[str]:
    """The word `facts` where these have changed; of this host's free memory there is one of its own."""
    if before == now:
        return frozenset()
    if here and before and now and msgspec.structs.replace(before, memory_free=now.memory_free) == now:
        return frozenset({"memory-here"})
    return frozenset({"facts"})


# What was looked at or proved, and has to be again


def places(before: HostState, now: HostState) -> frozenset[str]:
    """Where something else is mounted than before, or another file system; everything is below the root."""
    found: set[str] = set()
    if before.mounts is not now.mounts:
        if before.mounts.is_known != now.mounts.is_known:
            return frozenset({ROOT})
        gone, come = _others(before.mounts, now.mounts)
        was = {mount.key: mount for mount in gone}
        for mount in come:
            old_one = was.pop(mount.key, None)
            # Room in a file system comes and goes, and changes nothing of where a path leads.
            if old_one is None or msgspec.structs.replace(old_one, space=mount.space) != mount:
                found.update(it.point for it in (old_one, mount) if it is not None)
        found.update(mount.point for mount in was.values())
    if before.storage is not now.storage:
        if before.storage.is_known != now.storage.is_known:
            return frozenset({ROOT})
        old, new = ({it.point: it for it in state.storage.filesystems} for state in (before, now))
        found.update(point for point in old.keys() | new.keys() if old.get(point) != new.get(point))
    return frozenset(found)


def devices_changed(before: Storage, now: Storage) -> bool:
    """Block devices, or what leads to them, have changed."""
    return before is not now and msgspec.structs.replace(
        before, filesystems=(), since_usec=0
    ) != msgspec.structs.replace(now, filesystems=(), since_usec=0)


def lies_below(paths: Iterable[str], points: frozenset[str]) -> bool:
    """One of the paths lies at or below one of the places, none of which is the root (which is above everything)."""
    for path in paths:
        while path not in ("/", ""):
            if path in points:
                return True
            path = path.rpartition("/")[0]
    return False


def segments(before: Links, now: Links) -> frozenset[str]:
    """Names of the bridges that lead elsewhere than before; the taps of guests do not matter."""
    if before is now:
        return frozenset()
    old, new = _ways(before), _ways(now)
    return frozenset(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _ways(links: Links) -> dict[str, object]:
    known = {link.name: link for link in links.links}
    return {bridge.name: _way(bridge, known) for bridge in links.bridges}


def _way(bridge: BridgeFact, known: dict[str, LinkFact]) -> object:
    ports = tuple(port for port in bridge.ports if port.uplink)
    uplinks = tuple(known.get(name) for name in bridge.uplinks)
    return bridge.exists, bridge.up, bridge.mtu, bridge.vlan_filtering, ports, uplinks


def firewall_changed(before: Firewall, now: Firewall) -> bool:
    """Rules may let other connections through than before."""
    return before is not now and msgspec.structs.replace(before, since_usec=0) != msgspec.structs.replace(
        now, since_usec=0
    )


def names_taken(before: HypervisorState, now: HypervisorState) -> frozenset[str]:
    """Names and UUIDs of a peer's guests that came, went, started or ended."""
    if before is now:
        return frozenset()
    return frozenset(word for uuid, name, _active in _who(before.guests) ^ _who(now.guests) for word in (uuid, name))


def machine_changed(before: HypervisorState, now: HypervisorState) -> bool:
    """libvirt may say something else of machine types and CPUs than before."""

    def what(state: HypervisorState) -> object:
        return state.libvirt, state.qemu, state.machine_types, state.cpu_model, state.cpu_features

    return before is not now and what(before) != what(now)
