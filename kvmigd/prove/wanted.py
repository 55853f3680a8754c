"""What shall be proved with a peer."""

from __future__ import annotations

from typing import Literal

import msgspec

Purpose = Literal["stream", "disks"]
"""What a port is for: QEMU's memory, or NBD."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge, or one VLAN on it, and how large the frames of guests there are."""

    bridge: str
    vlan: int = 0
    """0 for untagged frames."""
    mtu: int = 1500


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to prove; everything that is not named is left alone."""

    ports: tuple[Purpose, ...] = ()
    """From this host to the peer."""
    back: tuple[Purpose, ...] = ()
    """From the peer to this host."""
    storage: tuple[str, ...] = ()
    """Folders."""
    frames: tuple[Segment, ...] = ()
    tls: bool = False
    """Both ways."""
    throughput: bool = False
