"""What a migration is expected to take, and what is remembered of those that have ended."""

from __future__ import annotations

from typing import Literal

import msgspec

Converges = Literal["yes", "with-pause", "never"]
"""Whether a live migration ends by itself: at the allowed pause, only with a longer one, or with none."""


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """A forecast. Sizes are bytes, rates bytes a second; `low` and `high` hold the truth nine times out of ten."""

    guest: str
    peer: str
    memory: int
    """What the first pass over the memory sends."""
    rate: int
    rate_source: Literal["history", "proof", "link", "configured", "assumed"]
    dirty_rate: int = 0
    """What the guest writes to, over a second; 0 also where `dirty_known` is false."""
    dirty_known: bool = False
    working_set: int = 0
    max_pause_usec: int
    bytes: int
    duration_usec: int
    duration_low_usec: int
    duration_high_usec: int
    pause_usec: int
    pause_low_usec: int
    pause_high_usec: int
    converges: Converges
    pause_needed_usec: int = 0
    """The shortest pause with which it would converge; 0 where none helps, or none is needed."""
    iterations: int = 0
    corrected_by: int = 0
    """How many earlier migrations have sharpened it."""


class Passed(msgspec.Struct, frozen=True, kw_only=True):
    """One migration that has ended: what was forecast, and what happened."""

    job: str
    """UUID"""
    guest: str
    guest_uuid: str
    peer: str
    mode: str
    """live, offline, post-copy or definition"""
    result: str
    """done, failed, cancelled or needs-decision"""
    error: str = ""
    started_usec: int
    ended_usec: int
    forecast: Forecast | None = None
    duration_usec: int = 0
    """From the first byte to the guest's arrival."""
    pause_usec: int = 0
    overhead_usec: int = 0
    """Of the pause, what the handover adds to the stream's last part."""
    bytes: int = 0
    rate: int = 0
    dirty_rate: int = 0
    iterations: int = 0
    bandwidth: int = 0
    """The limit that it ran with, 0 for none."""
    max_pause_usec: int = 0
    """The pause that was allowed when it switched."""
    steps: tuple[str, ...] = ()
    """What was done to help it, in order."""
