"""The fenced handover: the guest runs on the destination only after its QEMU on this host was seen gone.

libvirt streams with VIR_MIGRATE_PAUSED, so that the destination has all of the guest and lets it stand. libvirt's own
end of the source's QEMU follows a moment later; only if it does not come is QEMU ended by us. Ending it at once would
be no faster by much, and libvirt would take the guest for crashed and give its images back to root.
"""

from __future__ import annotations

import asyncio

import structlog

from kvmigd.errors import KvmigdError, NoLease, Unresolved
from kvmigd.migrate.departing import Departing
from kvmigd.model.guest import Copy
from kvmigd.model.job import Phase
from kvmigd.model.passage import Stage

log = structlog.get_logger(__name__)

END_SECONDS = 2.0
"""So long libvirt has for ending the source's QEMU itself; it takes some 15 ms."""
KILL_SECONDS = 10.0
"""A QEMU in an uninterruptible system call, on storage that hangs, does not end before that does."""
AGAIN_SECONDS = 0.5


async def hand_over(departing: Departing) -> None:
    """Wait until all of the guest has come to the destination, see its QEMU here gone, and let it run there.

    Returns when it was woken, or when libvirt lets it go on here after all. Raises KvmigdError when the destination
    could not be told, StateNotKept when QEMU should have been ended and that could not be written down.
    """
    await _landed(departing)
    job, fields = departing.job, {"job": departing.job.number, "guest": departing.record.guest}
    _enter(departing, Phase.FENCING)
    if not await departing.is_gone(END_SECONDS) and not await fence(departing):
        return
    _enter(departing, Phase.WAKING)
    # Written down beside the wake: what is true, that QEMU here is gone, anybody can see after a restart too.
    noting = asyncio.ensure_future(departing.note(stage=Stage.FENCED))
    try:
        where = await departing.link.wake(job.uuid, departing.uuid)
    finally:
        await noting
    log.info("guest handed over", **fields, peer=departing.record.peer, state=str(where.state))


async def _landed(departing: Departing) -> None:
    while True:
        try:
            where = await departing.link.landed(departing.job.uuid, departing.uuid)
        except KvmigdError as error:
            log.warning("destination cannot tell", guest=departing.record.guest, error=str(error))
            # Without a lease it is not waited for there, so not asked for either; it may be admitted again.
            await asyncio.sleep(AGAIN_SECONDS * (4 if isinstance(error, NoLease) else 1))
            continue
        if where.copy in (Copy.WHOLE, Copy.RUNNING):
            return


async def fence(departing: Departing) -> bool:
    """End the guest's QEMU here, which stands still while all of the guest is on the destination.

    False if libvirt has let the guest go on here: then it is the guest, and the copy on the destination is not.
    Raises Unresolved when that cannot be known, or QEMU does not end; StateNotKept and ends nothing.
    """
    here = await departing.here()
    if here is None:
        raise Unresolved(f"libvirt does not answer, and {departing.record.guest}'s QEMU has not ended.")
    if here.is_executing:
        return False
    if not await departing.is_gone():
        await departing.keep(stage=Stage.FENCING)
        log.warning("source's QEMU ended", guest=departing.record.guest, where=here.describe())
        assert departing.process is not None
        departing.process.kill()
        if not await departing.is_gone(KILL_SECONDS):
            raise Unresolved(f"{departing.record.guest}'s QEMU, pid {departing.process.identity[0]}, does not end.")
    return True


def _enter(departing: Departing, phase: Phase) -> None:
    """The job may be further already, where libvirt has failed meanwhile."""
    if departing.job.phase in (Phase.STARTING, Phase.STREAMING, Phase.SWITCHING, Phase.FENCING):
        departing.job.enter(phase)
