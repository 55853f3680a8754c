"""What a guest needs of its hosts' storage: paths, what each is for, and what the hosts say of it."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from kvmigd.checks.places import Place, is_common, place_of
from kvmigd.checks.view import Case, Local
from kvmigd.model.guest import Disk, Guest
from kvmigd.model.storage import PathFact

_MEDIA = ("cdrom", "floppy")


class Need(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One path that QEMU opens."""

    path: str
    folder: str
    what: str
    """vda, backing file of vda, cdrom sda, boot file …"""
    disk: Disk | None = None
    written: bool = False
    """The guest writes to it."""
    top: bool = False
    """It is the disk itself, and nothing below it."""

    @property
    def is_medium(self) -> bool:
        """It can be taken out of its drive."""
        return self.disk is not None and self.disk.device in _MEDIA


def needs(local: Local) -> tuple[Need, ...]:
    """All paths that must be there on the destination, layers that only the images' headers name among them.

    What is copied along is not: see `copied`. It is put together once for a guest, however many peers are asked about.
    """
    known: tuple[Need, ...] | None = local.__dict__.get("_needs")
    if known is None:
        known = local.__dict__["_needs"] = tuple(_needs(local))
    return known


def _needs(local: Local) -> Iterator[Need]:
    seen: set[str] = set()
    for disk in local.guest.local_disks:
        if copied(local, disk):
            continue
        name = name_of(disk)
        data = {layer.data_file for layer in disk.layers[:1] if layer.data_file}
        for path in _chain(disk, local.paths_here):
            if path in seen:
                continue
            seen.add(path)
            top = path == disk.paths[0]
            what = name if top else f"data file of {name}" if path in data else f"backing file of {name}"
            folder = posixpath.dirname(path)
            yield Need(
                path=path,
                folder=folder,
                what=what,
                disk=disk,
                top=top,
                written=(top or path in data) and not disk.readonly,
            )
    for path in (*local.guest.files, *local.guest.firmware.acpi_tables):
        if path not in seen:
            seen.add(path)
            what = "firmware" if path == local.guest.firmware.loader else "boot file"
            yield Need(path=path, folder=posixpath.dirname(path), what=what)


class Seen(NamedTuple):
    """A need, and what one host says of it."""

    need: Need
    fact: PathFact
    place: Place | None


class Row(NamedTuple):
    """A need, and what both hosts say of it."""

    need: Need
    mine: PathFact | None
    here: Place | None
    theirs: PathFact | None
    there: Place | None


def seen(local: Local) -> tuple[Seen, ...]:
    """What the guest's host says of all needs that it has looked at."""
    known: tuple[Seen, ...] | None = local.__dict__.get("_seen")
    if known is None:
        facts = [(need, local.paths_here.get(need.path)) for need in needs(local)]
        known = local.__dict__["_seen"] = tuple(
            Seen(need, fact, place_of(local.source, fact)) for need, fact in facts if fact is not None
        )
    return known


def rows(case: Case) -> tuple[Row, ...]:
    """What both hosts say of all needs; nothing where the destination has not been asked. Put together once a case."""
    kept = case.__dict__
    known: tuple[Row, ...] | None = kept.get("_rows")
    if known is None:
        known = kept["_rows"] = _rows(case) if case.look is not None else ()
    return known


def _rows(case: Case) -> tuple[Row, ...]:
    there, host = case.paths_there, case.hosts.destination
    found = []
    for need, mine, here in _halves(case.local):
        theirs = there.get(need.path)
        found.append(Row(need, mine, here, theirs, None if theirs is None else place_of(host, theirs)))
    return tuple(found)


def _halves(local: Local) -> tuple[tuple[Need, PathFact | None, Place | None], ...]:
    """All needs, with what the guest's host says of them."""
    known: tuple[tuple[Need, PathFact | None, Place | None], ...] | None = local.__dict__.get("_halves")
    if known is None:
        here = {one.need.path: one for one in seen(local)}
        pairs = ((need, here.get(need.path)) for need in needs(local))
        known = local.__dict__["_halves"] = tuple((need, one and one.fact, one and one.place) for need, one in pairs)
    return known


def _chain(disk: Disk, facts: dict[str, PathFact]) -> Iterator[str]:
    """The layers that libvirt names, and those that the headers name below them."""
    waiting, seen = list(disk.paths), set()
    while waiting:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        yield path
        fact = facts.get(path)
        if fact is not None:
            waiting += [lower for lower in (fact.data_file, fact.backing) if lower.startswith("/")]


def copied(local: Local, disk: Disk) -> bool:
    """Whether the disk is taken along: it was asked for, and the disk is a file on storage of its host alone."""
    if not local.options.copy_disks or disk.readonly or disk.shareable or disk.kind != "file" or not disk.paths:
        return False
    fact = local.paths_here.get(disk.paths[0])
    return fact is not None and not fact.is_block and fact.mount is not None and not is_common(fact.mount)


def name_of(disk: Disk) -> str:
    """What people call a disk."""
    return disk.target if disk.device == "disk" else f"{disk.device} {disk.target}"


def listed(names: Iterable[str], *, most: int = 3) -> str:
    """Names for a sentence; what is more than `most` is counted."""
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def version_of(text: str) -> tuple[int, ...]:
    """The numbers at the start of a package's version, its epoch left out: 0.7.3-1 is (0, 7, 3)."""
    upstream = text.rpartition(":")[2] if ":" in text else text
    found = []
    for part in upstream.partition("-")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits or len(digits) > 9:
            break
        found.append(int(digits))
    return tuple(found)


def quoted(guest: Guest) -> str:
    """The guest's name as a shell takes it."""
    return shlex.quote(guest.name)
