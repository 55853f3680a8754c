"""Guests on the bus: org.kvmigd1.Guest, and how the objects are kept in step with the guests."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from kvmigd.bus import path
from kvmigd.bus.pace import Pace
from kvmigd.bus.publisher import Implementation, Publisher
from kvmigd.model.readiness import Standing
from kvmigd.operations import Operations


class GuestObject(Implementation):
    """One guest of this host."""

    interface: ClassVar[str] = path.GUEST

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._properties = _properties_of(standing)

    def show(self, standing: Standing) -> None:
        """Have it show another standing. What is read again and again is made once."""
        if standing is not self._standing:
            self._standing = standing
            self._properties = _properties_of(standing)

    def properties(self) -> dict[str, Any]:
        return self._properties


def _properties_of(standing: Standing) -> dict[str, Any]:
    return {
        "Name": standing.name,
        "UUID": standing.uuid,
        "State": str(standing.state),
        "Readiness": str(standing.readiness or ""),
        "Destinations": [[it.peer, str(it.verdict), it.proved_usec] for it in standing.destinations],
        "Obstacle": standing.obstacle,
    }


class GuestObjects:
    """An object for each guest. When many have changed they are told in slices, between which the loop turns."""

    def __init__(self, publisher: Publisher, operations: Operations) -> None:
        self._publisher = publisher
        self._operations = operations
        self._objects: dict[str, GuestObject] = {}
        self._readiness: dict[str, str] = {}
        self._changed: dict[str, None] = {}
        self._timer: asyncio.Handle | None = None
        for uuid in operations.standings:
            self._update(uuid)

    def close(self) -> None:
        """Tell nothing any longer."""
        if self._timer is not None:
            self._timer.cancel()

    def changed(self, uuid: str) -> None:
        """A guest's standing changed, or the guest came or went."""
        self._changed[uuid] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._timer = None
        pace = Pace()
        while self._changed and not pace.is_due:
            uuid = next(iter(self._changed))
            del self._changed[uuid]
            self._update(uuid)
        if self._changed:
            self._timer = asyncio.get_running_loop().call_soon(self._tell)

    def _update(self, uuid: str) -> None:
        standing = self._operations.standings.get(uuid)
        place = path.guest_path(uuid)
        known = self._objects.get(uuid)
        if standing is None:
            self._readiness.pop(uuid, None)
            if self._objects.pop(uuid, None) is not None:
                self._publisher.unexport(place)
            return
        if known is None:
            self._objects[uuid] = GuestObject(standing)
            self._publisher.export(place, self._objects[uuid])
        else:
            known.show(standing)
            self._publisher.changed(place)
        readiness = str(standing.readiness or "")
        if self._readiness.get(uuid) not in (None, readiness):
            self._publisher.emit(
                path.ROOT, path.MANAGER, "ReadinessChanged", standing.name, uuid, readiness, standing.summary
            )
        self._readiness[uuid] = readiness
