"""Where a guest is after a migration, decided from what both hosts' libvirts say and from nothing else.

libvirt's own answer does not settle it: when the answer to its Finish phase is lost, the source reports an error
while the guest runs on the destination (src/qemu/qemu_migration.c, qemuMigrationSrcPerformPeer2Peer3).
"""

from __future__ import annotations

from enum import StrEnum

from kvmigd.model.guest import GuestState, Whereabouts


class Outcome(StrEnum):
    """How a migration ended, or that it is not known yet."""

    ARRIVED = "arrived"
    STAYED = "stayed"
    PENDING = "pending"
    """libvirt has not finished on one side, or a side does not answer; ask again."""
    BOTH = "both"
    """The guest runs on both hosts: nobody may touch anything but a person."""
    LOST = "lost"
    """The guest runs on neither host, and nothing is under way."""


def decide(source: Whereabouts, destination: Whereabouts | None) -> Outcome:
    """The outcome of a migration; `destination` is None while the peer does not answer."""
    if destination is None:
        return Outcome.PENDING
    if source.is_executing and destination.is_executing:
        return Outcome.BOTH
    if destination.is_executing:
        return Outcome.ARRIVED
    if source.is_executing:
        # The destination's QEMU may still be on its way out.
        return Outcome.PENDING if destination.known and destination.state.is_active else Outcome.STAYED
    if _gone(source) and _gone(destination):
        return Outcome.LOST
    return Outcome.PENDING


def has_remainder(source: Whereabouts) -> bool:
    """The source still has something of a guest that arrived elsewhere; it would boot twice one day."""
    return source.known


def _gone(side: Whereabouts) -> bool:
    return not side.known or side.state in (GuestState.SHUTOFF, GuestState.CRASHED)
