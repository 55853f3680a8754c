"""What the watch stream says: this host's facts and the parts of its picture that other hosts need, as they change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import structlog

from kvmigd.model.firewall import Firewall
from kvmigd.model.guest import Guest
from kvmigd.model.host import HostFacts
from kvmigd.model.hypervisor import HypervisorState
from kvmigd.model.links import Links
from kvmigd.model.mounts import MountFact, MountKind, Mounts
from kvmigd.model.state import SUBJECTS, HostState
from kvmigd.model.storage import Storage
from kvmigd.model.subject import Subject
from kvmigd.model.system import System
from kvmigd.peer import wire

log = structlog.get_logger(__name__)

MOUNTS_LIMIT = 1000
"""Mounts that peers are told of: those of network and cluster file systems come first."""


class News(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the watch stream. What is None has not changed; a subject that is there replaces the one before."""

    generation: int = 0
    facts: HostFacts | None = None
    mounts: Mounts | None = None
    storage: Storage | None = None
    links: Links | None = None
    firewall: Firewall | None = None
    system: System | None = None
    hypervisor: HypervisorState | None = None

    def applied(self, state: HostState) -> HostState:
        """The peer's picture after this line."""
        told = {name: value for name in SUBJECTS if (value := getattr(self, name)) is not None}
        return msgspec.structs.replace(state, generation=self.generation or state.generation, **told)


def for_peers(subject: Subject) -> Subject:
    """A subject without what no other host needs to know."""
    if isinstance(subject, Mounts):
        return msgspec.structs.replace(subject, mounts=_mounts(subject.mounts))
    if isinstance(subject, HypervisorState):
        return msgspec.structs.replace(subject, guests=tuple(_brief(guest) for guest in subject.guests))
    return subject


def _mounts(mounts: tuple[MountFact, ...]) -> tuple[MountFact, ...]:
    storage = [mount for mount in mounts if mount.is_storage and not mount.covered]
    if len(storage) > MOUNTS_LIMIT:
        storage.sort(key=lambda mount: (not mount.kind.is_remote, mount.kind is not MountKind.DISK))
        del storage[MOUNTS_LIMIT:]
        storage.sort(key=lambda mount: mount.id)
    return tuple(storage)


def _brief(guest: Guest) -> Guest:
    """Who it is, how it is and how much it takes; what it is made of is told when it wants to move."""
    return Guest(
        **{name: getattr(guest, name) for name in ("name", "uuid", "state", "persistent", "autostart", "memory")},
        **{name: getattr(guest, name) for name in ("vcpus", "arch", "machine", "domain_type", "emulator", "vsock")},
    )


class Newsreader:
    """Knows what has been told to all watchers, and puts what is new into lines."""

    def __init__(self, facts: Callable[[], HostFacts], state: Callable[[], HostState]) -> None:
        self._facts = facts
        self._state = state
        self._told_facts: HostFacts | None = None
        self._told = HostState()
        self._generation = 0
        self._told_lines: dict[str, bytes] = {}
        self._lines: dict[str, tuple[Subject, bytes]] = {}

    @property
    def generation(self) -> int:
        """The generation of the picture that `changes` has told."""
        return self._generation

    def whole(self) -> bytes:
        """Everything, for somebody who knows nothing yet."""
        state = self._state()
        return b"".join(
            [
                wire.encode(News(facts=self._facts())) + b"\n",
                *(self._line(state, name) for name in SUBJECTS),
                wire.encode(News(generation=state.generation)) + b"\n",
            ]
        )

    def changes(self) -> bytes:
        """What has changed since the last call; empty if nothing has."""
        facts, state = self._facts(), self._state()
        lines = []
        if facts != self._told_facts:
            self._told_facts = facts
            lines.append(wire.encode(News(facts=facts)) + b"\n")
        for name in self._changed(state):
            line = self._line(state, name)
            if self._told_lines.get(name) != line:  # what has changed may be of no interest to peers
                self._told_lines[name] = line
                lines.append(line)
        if lines:
            self._generation = state.generation
            lines.append(wire.encode(News(generation=state.generation)) + b"\n")
        self._told = state
        return b"".join(lines)

    def _changed(self, state: HostState) -> Iterator[str]:
        return (name for name in SUBJECTS if state.subject(name) is not self._told.subject(name))

    def _line(self, state: HostState, name: str) -> bytes:
        """A subject as a line; kept, because each watcher that comes asks for all of them."""
        subject = state.subject(name)
        known = self._lines.get(name)
        if known is not None and known[0] is subject:
            return known[1]
        line = _encoded(name, for_peers(subject))
        if len(line) > wire.LINE_LIMIT:
            log.warning("subject too large for peers", subject=name, bytes=len(line), limit=wire.LINE_LIMIT)
            line = _encoded(name, type(subject)(problem=f"it is too large to be told: {len(line)} bytes"))
        self._lines[name] = subject, line
        return line


def _encoded(name: str, subject: Subject) -> bytes:
    fields: dict[str, Any] = {name: subject}
    return wire.encode(News(**fields)) + b"\n"
