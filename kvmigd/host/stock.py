"""Takes stock of what libvirt has: all of it, or what has changed. What asks libvirt blocks: it belongs in threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import libvirt
import msgspec

from kvmigd.errors import HypervisorFailed
from kvmigd.host import domains, resources
from kvmigd.model.guest import Guest, GuestState
from kvmigd.model.hypervisor import HypervisorState

T = TypeVar("T")
_PARTS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "networks": resources.networks,
    "pools": resources.pools,
    "secrets": resources.secrets,
    "filters": resources.filters,
}
_AWAY = (libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_CONN)


def take(
    connection: Any, before: HypervisorState | None, changed: frozenset[str], jobs: Mapping[str, str]
) -> HypervisorState:
    """The state of everything that changes. `before` None reads all; `jobs` are the guests' migrations by UUID.

    A part that libvirt cannot tell (a modular daemon that is not there) is empty, and named in `missing`.
    """
    state = before or HypervisorState(problem="")
    missing = {line.partition(":")[0]: line for line in state.missing}
    for part, read in _PARTS.items():
        if before is None or part in changed:
            missing.pop(part, None)
            try:
                state = msgspec.structs.replace(state, **{part: read(connection)})
            except (libvirt.libvirtError, HypervisorFailed) as error:
                if isinstance(error, libvirt.libvirtError) and not connection.isAlive():
                    raise
                missing[part] = f"{part}: {str(error).rstrip('.')}"
                state = msgspec.structs.replace(state, **{part: ()})
    known = {guest.uuid: guest for guest in state.guests}
    if before is None:
        wanted = domains.uuids(connection)
        known = {uuid: guest for uuid, guest in known.items() if uuid in set(wanted)}
    else:
        wanted = [what.partition(":")[2] for what in changed if what.startswith("guest:")]
    for uuid in wanted:
        guest = _guest(connection, uuid, jobs)
        if guest is None:
            known.pop(uuid, None)
        else:
            known[uuid] = guest
    guests = tuple(sorted(known.values(), key=lambda guest: (guest.name, guest.uuid)))
    return msgspec.structs.replace(state, guests=guests, missing=tuple(missing.values()), problem="")


def _guest(connection: Any, uuid: str, jobs: Mapping[str, str]) -> Guest | None:
    """A guest as it is now; None if it is gone. One whose definition cannot be read is known by its name only."""
    try:
        domain = domains.by_uuid(connection, uuid)
        if domain is None:
            return None
        try:
            guest = domains.guest(domain)
        except HypervisorFailed as error:
            return _unreadable(domain.name(), uuid, error.message)
        return msgspec.structs.replace(guest, job=jobs.get(uuid) or ("outgoing" if _is_leaving(guest) else "none"))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _is_leaving(guest: Guest) -> bool:
    """The last part of a migration that began before anybody listened."""
    return guest.state is GuestState.PAUSED and guest.reason == "migrating"


def _unreadable(name: str, uuid: str, why: str) -> Guest:
    return Guest(
        name=name,
        uuid=uuid,
        state=GuestState.UNKNOWN,
        memory=0,
        vcpus=0,
        arch="",
        machine="",
        domain_type="",
        emulator="",
        problem=why,
    )
