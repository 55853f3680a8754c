"""Which guests libvirt migrates, saves or copies at the moment, whoever asked it to.

Events tell that a migration goes on (the first round of its stream) and that it has succeeded. Nothing tells that it
was aborted or has failed, so a job that is known is asked for again each second, for as long as it runs and no longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import libvirt

from kvmigd.errors import HypervisorFailed, HypervisorUnavailable
from kvmigd.host import domains
from kvmigd.host.libvirtconnection import LibvirtConnection

AGAIN_SECONDS = 1.0
THREADS = 2
"""libvirtd serves 5 requests of a connection at a time. The question can wait for a QEMU that hangs, for 30 s."""


class GuestJobs:
    """The jobs of the guests. Calls belong on the event loop."""

    def __init__(self, connection: LibvirtConnection, changed: Callable[[str], None]) -> None:
        """`changed(uuid)` is called when a guest's job has begun or ended."""
        self.known: dict[str, str] = {}
        """outgoing, incoming or other, by the guest's UUID."""
        self._connection = connection
        self._changed = changed
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="libvirt-jobs")
        self._ask: set[str] = set()
        self._wake = asyncio.Event()
        connection.on_change.append(self._on_connection)

    def _on_connection(self) -> None:
        self.known.clear()  # all guests are read again anyway
        self._ask.clear()

    def heard(self, uuid: str, job: str) -> None:
        """An event has told of a job: outgoing, incoming, or none any longer."""
        self._note(uuid, job)
        self._wake.set()

    def look(self, uuids: Iterable[str]) -> None:
        """Ask whether these guests have jobs."""
        self._ask.update(uuids)
        self._wake.set()

    async def run(self) -> None:
        """Ask for jobs as long as there are any."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            asked, self._ask = self._ask, set()
            while True:
                await asyncio.gather(*(self._look(uuid) for uuid in asked))
                if not self.known:
                    break
                await asyncio.sleep(AGAIN_SECONDS)
                asked, self._ask = self._ask | self.known.keys(), set()

    async def _look(self, uuid: str) -> None:
        try:
            self._note(uuid, await self._connection.ask_in(self._threads, lambda connection: _job(connection, uuid)))
        except HypervisorUnavailable:
            self.known.pop(uuid, None)  # all are asked when the connection is back
        except HypervisorFailed:
            # Its QEMU or its lock is held by something: whatever it is, the guest is not free.
            self._note(uuid, "other")

    def _note(self, uuid: str, job: str) -> None:
        before = self.known.get(uuid, "none")
        if job == "none":
            self.known.pop(uuid, None)
        else:
            self.known[uuid] = job
        if job != before:
            self._changed(uuid)


def _job(connection: Any, uuid: str) -> str:
    """The job of a guest; none where it is gone or does not run."""
    try:
        domain = domains.by_uuid(connection, uuid)
        return domains.job_kind(domain) if domain is not None and domain.isActive() else "none"
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return "none"
        raise
