"""libvirt's events, as words for what has changed: what is read again is what they name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libvirt
import structlog

log = structlog.get_logger(__name__)

Tell = Callable[[str], None]
"""Called in libvirt's own thread with `guest:UUID`, `job:UUID:KIND`, `networks`, `pools` or `secrets`."""

_ABOUT_GUESTS = (
    *("METADATA_CHANGE", "DEVICE_ADDED", "DEVICE_REMOVED", "DEVICE_REMOVAL_FAILED", "TUNABLE", "DISK_CHANGE"),
    *("TRAY_CHANGE", "BLOCK_JOB_2", "AGENT_LIFECYCLE", "MEMORY_DEVICE_SIZE_CHANGE"),
)
"""Domain events after which its definition or state is another one. Balloon, RTC and graphics come often and do not
matter to migration."""
_PARTS = (
    ("networks", "networkEventRegisterAny", "VIR_NETWORK_EVENT_ID_LIFECYCLE"),
    ("pools", "storagePoolEventRegisterAny", "VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE"),
    ("pools", "storagePoolEventRegisterAny", "VIR_STORAGE_POOL_EVENT_ID_REFRESH"),
    ("secrets", "secretEventRegisterAny", "VIR_SECRET_EVENT_ID_LIFECYCLE"),
)
"""Network filters have no events."""


_ENDS = (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED, libvirt.VIR_DOMAIN_EVENT_CRASHED)


def register(connection: Any, tell: Tell) -> None:
    """Have the connection tell of changes.

    What this libvirt does not know, or the daemon behind it does not have, is passed over: it will not change there.
    """

    def about_guest(_connection: Any, domain: Any, *_rest: Any) -> None:
        tell(f"guest:{domain.UUIDString()}")

    def iteration(_connection: Any, domain: Any, *_rest: Any) -> None:
        tell(f"job:{domain.UUIDString()}:outgoing")

    def completed(_connection: Any, domain: Any, *_rest: Any) -> None:
        tell(f"job:{domain.UUIDString()}:none")

    for name in _ABOUT_GUESTS:
        _one(connection, f"VIR_DOMAIN_EVENT_ID_{name}", "domainEventRegisterAny", about_guest)
    # No event says that a migration begins; the first round of its stream is the first that is heard.
    _one(connection, "VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION", "domainEventRegisterAny", iteration)
    _one(connection, "VIR_DOMAIN_EVENT_ID_JOB_COMPLETED", "domainEventRegisterAny", completed)
    for part, function, name in _PARTS:
        _one(connection, name, function, lambda *_, part=part: tell(part))


def _one(connection: Any, name: str, function: str, callback: Callable[..., None]) -> None:
    number = getattr(libvirt, name, None)
    if number is None:
        return
    try:
        getattr(connection, function)(None, number, callback, None)
    except libvirt.libvirtError as error:
        log.info("events not heard", kind=name, reason=str(error))


def job_after(event: int, detail: int) -> str:
    """What a lifecycle event says of a guest's migration: outgoing, incoming, none, or nothing (empty)."""
    match event, detail:
        case libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED:
            return "incoming"
        case libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED:
            return "outgoing"
        case libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED:
            return "none"
        case _:
            return "none" if event in _ENDS else ""
