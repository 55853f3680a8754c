"""One guest that leaves this host: what all the steps of its migration share."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog

from kvmigd.errors import HypervisorFailed, HypervisorUnavailable, KvmigdError
from kvmigd.host.hypervisor import Hypervisor, Process
from kvmigd.jobs import Job
from kvmigd.migrate.journal import Records
from kvmigd.model.guest import Whereabouts
from kvmigd.model.passage import Departure
from kvmigd.peer.link import PeerLink
from kvmigd.peer.peers import Peers

log = structlog.get_logger(__name__)

NO_PROCESS = (0, 0)


class Departing:
    """A departure under way. `record` is always what the journal has of it."""

    def __init__(
        self, job: Job, record: Departure, *, hypervisor: Hypervisor, peers: Peers, records: Records[Departure]
    ) -> None:
        self.job = job
        self.record = record
        self.hypervisor = hypervisor
        self.process: Process | None = None
        """Its QEMU here; None when it had ended before this daemon looked, or never was."""
        self._peers = peers
        self._records = records

    @property
    def uuid(self) -> str:
        """The guest's UUID."""
        return self.record.guest_uuid

    @property
    def link(self) -> PeerLink:
        """The destination. Raises NoSuchPeer when it has been taken out of the configuration meanwhile."""
        return self._peers.get(self.record.peer)

    @property
    def fenced(self) -> bool:
        """The destination lets the guest run only when it is told to."""
        return self.record.handover == "fenced"

    async def keep(self, **changes: Any) -> None:
        """Write something down before it is done. Raises StateNotKept."""
        record = msgspec.structs.replace(self.record, **changes)
        await self._records.keep(record)
        self.record = record

    async def note(self, **changes: Any) -> None:
        """Write something down as well as it can be done."""
        self.record = msgspec.structs.replace(self.record, **changes)
        await self._records.note(self.record)

    async def close(self) -> None:
        """Both hosts agree, and nothing is left to be done."""
        await self._records.close(self.record.job)
        if self.process is not None:
            self.process.close()
            self.process = None

    async def is_gone(self, seconds: float = 0.0) -> bool:
        """Whether its QEMU here was seen to have ended; false also where it was never held."""
        if self.process is None:
            return self.record.process != NO_PROCESS
        return await self.process.gone(seconds)

    async def here(self) -> Whereabouts | None:
        """Where it stands on this host; None while libvirt does not answer."""
        try:
            return await self.hypervisor.whereabouts(self.uuid)
        except (HypervisorUnavailable, HypervisorFailed) as error:
            log.warning("source does not answer", guest=self.record.guest, error=error.message)
            return None

    async def there(self) -> Whereabouts | None:
        """Where it stands on the destination; None while that, or its libvirt, does not answer."""
        try:
            return await self.link.whereabouts(self.uuid)
        except KvmigdError as error:
            log.warning("destination does not answer", guest=self.record.guest, peer=self.record.peer, error=str(error))
            return None
