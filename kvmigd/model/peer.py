"""A peer: the daemon on another host, as this one sees it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from kvmigd.model.host import HostFacts
from kvmigd.model.state import HostState


class PeerState(StrEnum):
    """What is known of the connection to a peer."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    UNREACHABLE = "unreachable"
    NOT_TRUSTED = "not-trusted"
    INCOMPATIBLE = "incompatible"


class PeerView(msgspec.Struct, frozen=True, kw_only=True):
    """A peer's state for properties and messages. `facts` are the last ones heard, also when they are stale."""

    name: str
    address: str
    state: PeerState = PeerState.CONNECTING
    problem: str = ""
    protocol: int = 0
    facts: HostFacts | None = None
    picture: HostState = HostState()
    """What is true on the peer, as far as it matters here; unknown while it is not connected."""
    round_trip_usec: int = 0
    last_seen_usec: int = 0
    """Wall clock, microseconds since 1970; 0 for never."""

    @property
    def is_connected(self) -> bool:
        """The watch stream is alive, so `facts` are at most two seconds old."""
        return self.state is PeerState.CONNECTED
