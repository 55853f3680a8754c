"""Peers on the bus: org.kvmigd1.Peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from kvmigd.bus import path
from kvmigd.bus.publisher import Implementation
from kvmigd.model.peer import PeerView


class PeerObject(Implementation):
    """One configured peer. What is not known of it is empty; memory and versions are the last ones heard."""

    interface: ClassVar[str] = path.PEER

    def __init__(self, look: Callable[[], PeerView]) -> None:
        self._look = look

    def properties(self) -> dict[str, Any]:
        view = self._look()
        facts = view.facts
        return {
            "Name": view.name,
            "Address": view.address,
            "State": str(view.state),
            "Problem": view.problem,
            "Accepting": bool(view.is_connected and facts and facts.accepting),
            "MemoryFree": facts.memory_free if facts else 0,
            "HostId": facts.host_id if facts else "",
            "Version": facts.software.kvmigd if facts else "",
            "RoundTripUSec": view.round_trip_usec,
            "LastSeenUSec": view.last_seen_usec,
        }
