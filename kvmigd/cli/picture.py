"""The picture of the host as Describe tells it, and words for what is in it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from kvmigd.errors import InternalError
from kvmigd.model.state import HostState


def decode(text: str) -> HostState:
    """The picture; raises InternalError if this is a daemon of another kind of picture."""
    try:
        return msgspec.json.decode(text, type=HostState)
    except msgspec.ValidationError as error:
        raise InternalError(
            f"The daemon's picture of the host is not understood: {error}.",
            hint="Are kvmigctl and kvmigd of the same version? --json prints it as it is.",
        ) from error


def clock(usec: int) -> str:
    """A moment in this place's time: the time of today, else with the date; empty for never."""
    if not usec:
        return ""
    moment = datetime.fromtimestamp(usec / 1e6).astimezone()
    today = moment.date() == datetime.now().astimezone().date()
    return moment.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")


def since(usec: int) -> str:
    """` since 12:00:01`, or nothing where the moment is not known."""
    return f" since {clock(usec)}" if usec else ""


def yes(value: bool | None) -> str:  # noqa: FBT001 - it is what it is about
    """yes, no, or unknown."""
    return "unknown" if value is None else "yes" if value else "no"


def speed(mbits: int) -> str:
    """Mbit/s as people write it; empty where it is not known."""
    if not mbits:
        return ""
    return f"{mbits / 1000:g} Gbit/s" if mbits >= 1000 else f"{mbits} Mbit/s"


def words(value: Any) -> str:
    """Any value of the picture, in a line."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return yes(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(item)}" for key, item in value.items() if item not in ("", [], None))
    if isinstance(value, list):
        return " ".join(f"({words(item)})" if isinstance(item, dict) else words(item) for item in value) or "none"
    return str(value) or "none"
