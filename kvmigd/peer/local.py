"""What the peer server needs of this host; the daemon implements it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from kvmigd.host.picture import Picture
from kvmigd.model.guest import Guest, Whereabouts
from kvmigd.model.host import Examination, HostFacts
from kvmigd.model.job import Progress


class LocalHost(Protocol):
    """This host, as the server tells peers about it. Calls may raise the errors of kvmigd.errors."""

    @property
    def facts(self) -> HostFacts:
        """What the host says of itself now."""

    @property
    def picture(self) -> Picture:
        """What is true on the host."""

    def refresh(self) -> None:
        """Look again at what the kernel has no event for, like free memory."""

    def on_facts(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever `facts` may have changed."""

    async def examine(self, guests: Sequence[Guest], other: str, *, uri: str = "") -> Examination:
        """Look at guests that run on the peer called `other` and may come here; `uri` is that of its libvirt."""

    async def whereabouts(self, uuid: str) -> Whereabouts:
        """Where the guest stands on this host, asked of libvirt now."""

    async def settle_arrived(self, uuid: str, *, autostart: bool) -> Progress | None:
        """The guest has arrived for good; start it with the host or not. May be called again.

        Returns what libvirt counted of the stream, None where it has forgotten.
        """

    def accepting(self) -> str:
        """Why the host takes no guests; empty if it does."""

    def memory_free(self) -> int:
        """MemAvailable less the configured reserve, bytes. What the desk has promised is not taken off."""
