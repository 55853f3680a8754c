"""Keeps the hypervisor in the picture true, by libvirt's events."""

from __future__ import annotations

import asyncio

import structlog

from kvmigd.errors import HypervisorFailed, HypervisorUnavailable
from kvmigd.host.hypervisor import ALL, Hypervisor
from kvmigd.host.picture import Picture
from kvmigd.model.hypervisor import HypervisorState

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 0.005
"""Events come in bursts: a guest that starts is defined, started, resumed, and its agent connects."""
RETRY_SECONDS = 5.0
AFTERWARDS_SECONDS = 1.0, 5.0, 20.0
"""After a connection everything is read again so much later: a libvirt that was just started ends guests that it
cannot keep, like those that were on their way to it, and has no event for that (qemuProcessReconnect in
src/qemu/qemu_process.c).
"""


class InventoryMonitor:
    """Publishes HypervisorState. After an event only what it names is read again."""

    def __init__(self, picture: Picture, hypervisor: Hypervisor) -> None:
        self._picture = picture
        self._hypervisor = hypervisor
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        hypervisor.on_change(self._on_connection)
        hypervisor.on_inventory(self.changed)

    def _on_connection(self) -> None:
        self.changed(ALL)
        if self._hypervisor.alive:
            for seconds in AFTERWARDS_SECONDS:
                asyncio.get_running_loop().call_later(seconds, self.changed, ALL)
        else:
            # At once: who asks in the meantime is not answered with what was true before.
            self._picture.unknown(HypervisorState, self._problem())

    def changed(self, what: str) -> None:
        """Something may have changed, called as `Hypervisor.on_inventory` calls it."""
        self._changed.add(what)
        self._wake.set()

    async def read(self, what: str) -> None:
        """Read anew what libvirt has no events of, like "filters"; returns when it, or why not, is in the picture."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self.changed(what)
        await done

    def _problem(self) -> str:
        return self._hypervisor.problem.rstrip(".") or "libvirt is not connected"

    async def run(self) -> None:
        """Keep it true, for ever."""
        self._changed.add(ALL)
        while True:
            changed, self._changed = self._changed, set()
            waiting, self._waiting = self._waiting, []
            self._wake.clear()
            fine = not self._hypervisor.alive or await self._look(frozenset(changed))
            if not self._hypervisor.alive:
                self._picture.unknown(HypervisorState, self._problem())
            for done in waiting:
                if not done.done():  # who waited may have gone
                    done.set_result(None)
            if not fine:
                self._changed.add(ALL)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await self._wake.wait()
            await asyncio.sleep(SETTLE_SECONDS)

    async def _look(self, changed: frozenset[str]) -> bool:
        """Read what has changed, and publish; false if libvirt failed although it is connected."""
        before = self._picture.state.hypervisor
        try:
            state = await self._hypervisor.inventory(before if before.is_known else None, changed)
        except (HypervisorFailed, HypervisorUnavailable) as error:
            log.warning("inventory not read", error=error.message)
            why = self._problem() if not self._hypervisor.alive else error.message.rstrip(".")
            self._picture.unknown(HypervisorState, why)
            return not self._hypervisor.alive
        if self._hypervisor.alive:
            self._picture.publish(state)
        return True
