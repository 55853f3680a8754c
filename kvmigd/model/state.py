"""The picture of a host: one immutable snapshot of all its subjects, with a generation."""

from __future__ import annotations

import msgspec

from kvmigd.model.firewall import Firewall
from kvmigd.model.hypervisor import HypervisorState
from kvmigd.model.links import Links
from kvmigd.model.mounts import Mounts
from kvmigd.model.storage import Storage
from kvmigd.model.subject import Subject
from kvmigd.model.system import System


class HostState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that live migration depends on. `generation` grows with each change, from 0 at the daemon's start."""

    generation: int = 0
    mounts: Mounts = Mounts()
    storage: Storage = Storage()
    links: Links = Links()
    firewall: Firewall = Firewall()
    system: System = System()
    hypervisor: HypervisorState = HypervisorState()

    def subject(self, name: str) -> Subject:
        """A subject by its name; raises KeyError."""
        if name not in SUBJECTS:
            raise KeyError(name)
        found: Subject = getattr(self, name)
        return found

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the subjects that are not known."""
        return tuple(name for name in SUBJECTS if not self.subject(name).is_known)


SUBJECTS: tuple[str, ...] = tuple(name for name in HostState.__struct_fields__ if name != "generation")
"""Names of all subjects, in the order in which they are told."""


class StateChange(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the picture: what it was, what it is, and which subjects differ."""

    before: HostState
    now: HostState
    subjects: tuple[str, ...]
