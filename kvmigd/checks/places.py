"""Mounts as rules look at them: what is true of each is found out once for a host, however many guests are on it."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from kvmigd.checks.view import HostView
from kvmigd.model.mounts import MountFact, MountKind
from kvmigd.model.storage import PathFact

_OPTIONS = ("vers", "soft", "softerr", "nolock", "sec", "context", "local_lock", "fs", "fsid", "subdir")
"""Options without which a mount is another one, or behaves like another one; the rest is the kernel's own choice."""
_FLAGS = ("soft", "softerr", "nolock", "nobrl")
_VALUES = ("vers", "sec", "local_lock", "context")
_USUAL = ("local_lock=none", "sec=sys")
_UNTOLD = "whether it answers is not known"
"""How a mount's problem begins where nobody could ask it."""


class Place(NamedTuple):
    """A mount, and what is true of it."""

    mount: MountFact
    common: bool
    """Several hosts can have it: by a network, or as a cluster."""
    readonly: bool
    problem: str
    """Why its storage does not answer; empty where it does, or where nobody could ask."""
    options: frozenset[str]
    """Those that matter for disks; what is usual is left out."""


def is_common(mount: MountFact) -> bool:
    """Whether several hosts can have it: by a network, or as a cluster."""
    return mount.shared or mount.kind is MountKind.NETWORK or mount.kind is MountKind.CLUSTER


def _judged(mount: MountFact) -> Place:
    return Place(
        mount,
        is_common(mount),
        "ro" in mount.options or "ro" in mount.super_options,
        "" if mount.problem.startswith(_UNTOLD) else mount.problem,
        frozenset(one for one in mount.super_options if _matters(one)),
    )


def _matters(option: str) -> bool:
    key = option.partition("=")[0]
    return key in _FLAGS or (key in _VALUES and option not in _USUAL)


class _Places(NamedTuple):
    """All mounts of a host that are in its picture."""

    by_id: dict[int, Place]
    by_device: dict[str, Place]
    by_point: dict[str, Place]


def _places(host: HostView) -> _Places:
    known: _Places | None = host.__dict__.get("_places")
    if known is None:
        all_of_them = [_judged(mount) for mount in host.state.mounts.mounts]
        open_ones = [place for place in all_of_them if not place.mount.covered]
        known = host.__dict__["_places"] = _Places(
            {place.mount.id: place for place in all_of_them},
            {place.mount.device: place for place in reversed(open_ones)},
            {place.mount.point: place for place in open_ones},
        )
    return known


def place_of(host: HostView, fact: PathFact) -> Place | None:
    """Where a path ends, as it is now: where a link leads elsewhere, the mount of the file itself."""
    mount = fact.mount
    if mount is None:
        return None
    places = _places(host)
    found: Place | None
    if fact.device != mount.device and fact.device and mount.device and not fact.is_block:
        # btrfs and overlay give files numbers that no mount has, and then the path says where they are
        found = places.by_device.get(fact.device)
        if found is not None:
            return found
    found = places.by_id.get(mount.id)
    if found is None or found.mount.point != mount.point:
        now = host.mounts.get(mount.key)
        found = _judged(mount) if now is None else _judged(now)
    return found


def mount_of(host: HostView, fact: PathFact) -> MountFact | None:
    """The mount of `place_of`."""
    place = place_of(host, fact)
    return None if place is None else place.mount


def containing(host: HostView, path: str) -> MountFact | None:
    """The mount that a path is on, whether the path is there or not."""
    points = _places(host).by_point
    at = path
    while at:
        if at in points:
            return points[at].mount
        at = at.rpartition("/")[0]
    root = points.get("/")
    return None if root is None else root.mount


def described(mount: MountFact) -> str:
    """A mount for people."""
    root = f" {mount.root}" if mount.root != "/" else ""
    return f"{mount.source}{root} ({mount.fs_type}) on {mount.point}"


def mount_command(mount: MountFact, *, over: MountFact | None = None) -> str:
    """The command that mounts the same; `over` is what is mounted at that place instead."""
    command = f"mount -t {mount.fs_type.removeprefix('fuse.')}"
    options = [one for one in mount.super_options if one.partition("=")[0] in _OPTIONS]
    if options:
        command += f" -o {shlex.quote(','.join(options))}"
    command += f" {shlex.quote(mount.source)} {shlex.quote(mount.point)}"
    if over is not None and over.point == mount.point:
        return f"umount {shlex.quote(mount.point)} && {command}"
    return command
