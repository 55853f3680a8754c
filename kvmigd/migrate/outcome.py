"""Where a guest is after a migration, and what follows, from what both hosts' libvirts say now and from nothing else.

libvirt's own answer does not settle it: when the answer to its Finish phase is lost, the source reports an error
while the guest is on the destination (src/qemu/qemu_migration.c, qemuMigrationSrcPerformPeer2Peer3).
"""

from __future__ import annotations

from enum import StrEnum

from kvmigd.model.guest import Copy, GuestState, Whereabouts


class Outcome(StrEnum):
    """How a migration ended, or what is to be done next about it."""

    ARRIVED = "arrived"
    STAYED = "stayed"
    WAKE = "wake"
    """It exists on the destination only, which has all of it: it may run there."""
    FENCE = "fence"
    """The destination has all of it; what stands still on the source must end before it may run there."""
    RESUME = "resume"
    """It stands still on the source and nowhere else: what the destination has of it must end before it goes on."""
    PENDING = "pending"
    """libvirt has not finished on one side, or a side does not answer; ask again."""
    BOTH = "both"
    """The guest runs on both hosts: nobody may touch anything but a person."""
    LOST = "lost"
    """The guest runs on neither host, and nothing is under way."""

    @property
    def is_final(self) -> bool:
        """Nothing is to be done any more to find out where the guest runs."""
        return self in (Outcome.ARRIVED, Outcome.STAYED, Outcome.BOTH, Outcome.LOST)


def decide(
    source: Whereabouts | None,
    destination: Whereabouts | None,
    *,
    fenced: bool,
    gone: bool = False,
    suspended: bool = False,
) -> Outcome:
    """What is true, or to be done, of a guest that was to leave `source` for `destination`.

    A host is None while it does not answer. With a `fenced` handover the destination lets the guest run only when this
    host, the source, has said so. `gone` says that the source's QEMU was seen to have ended, whatever libvirt knows;
    `suspended` that kvmigd has suspended the guest.
    """
    if destination is None:
        return _alone(source, fenced=fenced)
    if source is None:
        return _unseen(destination, fenced=fenced, gone=gone)
    if source.is_executing:
        return _executing(source, destination)
    if destination.copy is Copy.RUNNING:
        return Outcome.ARRIVED
    if destination.copy is Copy.REST:
        return Outcome.PENDING
    if source.is_active and not gone:
        return _standing(source, destination, suspended=suspended)
    return _ended(destination)


def _alone(source: Whereabouts | None, *, fenced: bool) -> Outcome:
    """Without the destination's word: it cannot have let the guest run, if only the source allows that."""
    if fenced and source is not None and source.is_executing and source.job == "none":
        return Outcome.STAYED
    return Outcome.PENDING


def _unseen(destination: Whereabouts, *, fenced: bool, gone: bool) -> Outcome:
    """libvirt on the source does not answer."""
    if destination.copy is Copy.RUNNING and (fenced or gone):
        return Outcome.ARRIVED
    if destination.copy is Copy.WHOLE and gone:
        return Outcome.WAKE
    return Outcome.PENDING


def _executing(source: Whereabouts, destination: Whereabouts) -> Outcome:
    if source.job != "none":
        return Outcome.PENDING
    # With post-copy the source has handed its CPUs over before it is rid of them in libvirt's eyes.
    if destination.copy is Copy.RUNNING:
        return Outcome.BOTH
    return Outcome.PENDING if destination.copy is Copy.REST else Outcome.STAYED


def _standing(source: Whereabouts, destination: Whereabouts, *, suspended: bool) -> Outcome:
    if source.job != "none" or source.reason.startswith("post-copy"):
        return Outcome.PENDING
    if destination.copy is Copy.WHOLE:
        return Outcome.FENCE
    ours = suspended or source.reason in ("migrating", "")
    return Outcome.RESUME if ours and source.state is GuestState.PAUSED else Outcome.STAYED


def _ended(destination: Whereabouts) -> Outcome:
    if destination.copy is Copy.WHOLE:
        return Outcome.WAKE
    return Outcome.LOST if destination.copy is Copy.NONE else Outcome.PENDING


def has_remainder(source: Whereabouts) -> bool:
    """The source still has something of a guest that arrived elsewhere; it would boot twice one day."""
    return source.known
