"""Questions about one domain, asked on a connection of libvirt's library. All of them block: they belong in threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import libvirt

from kvmigd.host.definition import guest_of
from kvmigd.model.guest import Guest, GuestState, Whereabouts
from kvmigd.model.host import NameFact
from kvmigd.model.job import Progress

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: GuestState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: GuestState.BLOCKED,
    libvirt.VIR_DOMAIN_PAUSED: GuestState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: GuestState.SHUTDOWN,
    libvirt.VIR_DOMAIN_SHUTOFF: GuestState.SHUTOFF,
    libvirt.VIR_DOMAIN_CRASHED: GuestState.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: GuestState.SUSPENDED,
}
# The words of `virsh domstate --reason`, indexed by virDomainRunningReason and its like.
_REASONS: dict[GuestState, tuple[str, ...]] = {
    GuestState.RUNNING: (
        *("", "booted", "migrated", "restored", "from snapshot", "unpaused", "migration canceled"),
        *("save canceled", "event wakeup", "crashed", "post-copy", "post-copy failed"),
    ),
    GuestState.PAUSED: (
        *("", "user", "migrating", "saving", "dumping", "I/O error", "watchdog", "from snapshot", "shutting down"),
        *("creating snapshot", "crashed", "starting up", "post-copy", "post-copy failed", "api error"),
    ),
    GuestState.SHUTOFF: (
        *("", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot", "daemon"),
    ),
}


def lookup(connection: Any, key: str) -> Any:
    """The domain that a person means by a name or UUID, a name first; None if there is none."""
    found = by_name(connection, key)
    return by_uuid(connection, key) if found is None else found


def by_name(connection: Any, name: str) -> Any:
    """The domain of that name, None if there is none."""
    return _found(connection.lookupByName, name)


def by_uuid(connection: Any, uuid: str) -> Any:
    """The domain with that UUID, None if there is none. A domain may be named like another one's UUID."""
    return _found(connection.lookupByUUIDString, uuid)


def _found(find: Callable[[str], Any], key: str) -> Any:
    try:
        return find(key)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG):
            return None
        raise


def names(connection: Any, name: str, uuid: str) -> NameFact:
    """Who holds this name and this UUID."""
    namesake, twin = by_name(connection, name), by_uuid(connection, uuid)
    active = twin is not None and bool(twin.isActive())
    return NameFact(
        uuid_of_name=namesake.UUIDString() if namesake is not None else "",
        name_of_uuid=twin.name() if twin is not None else "",
        uuid_is_active=active,
        uuid_has_save=twin is not None and not active and bool(twin.isPersistent() and twin.hasManagedSaveImage()),
    )


def guest(domain: Any) -> Guest:
    """The domain's definition and state. Its job is not asked for: that can wait for a QEMU that does not answer."""
    number, code = domain.state()
    state = _STATES.get(number, GuestState.UNKNOWN)
    persistent = bool(domain.isPersistent())
    xml = domain.XMLDesc()
    # The migratable definition differs in the CPU; without a model there is nothing in it to compare.
    named_cpu = "<cpu" in xml and "<model" in xml
    return guest_of(
        xml,
        state=state,
        persistent=persistent,
        autostart=persistent and bool(domain.autostart()),
        migratable_xml=domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE) if named_cpu else None,
        reason=_reason(state, code),
        managed_save=persistent and bool(domain.hasManagedSaveImage()),
        snapshots=domain.snapshotNum(),
        checkpoints=_checkpoints(domain),
    )


def _reason(state: GuestState, code: int) -> str:
    words = _REASONS.get(state, ())
    return words[code] if 0 <= code < len(words) else ""


def _checkpoints(domain: Any) -> int:
    try:
        return len(domain.listAllCheckpoints())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            raise
        return 0  # a QEMU that is too old for them


def uuids(connection: Any) -> list[str]:
    """UUIDs of all domains."""
    return [domain.UUIDString() for domain in connection.listAllDomains()]


def whereabouts(connection: Any, uuid: str, *, host: str) -> Whereabouts:
    """Where a guest stands on the host that the connection is to; its name is only told."""
    domain = by_uuid(connection, uuid)
    if domain is None:
        return Whereabouts(host=host, known=False)
    try:
        number, reason = domain.state()
        state = _STATES.get(number, GuestState.UNKNOWN)
        return Whereabouts(
            host=host,
            known=True,
            state=state,
            reason=_reason(state, reason),
            persistent=bool(domain.isPersistent()),
            job=job_kind(domain) if state.is_active else "none",
        )
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return Whereabouts(host=host, known=False)
        raise


def job_kind(domain: Any) -> str:
    """What libvirt does with it now: none, outgoing, incoming or other."""
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError as error:
        # "migration statistics are available only on the source host"
        if error.get_error_code() in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_OPERATION_UNSUPPORTED):
            return "incoming"
        raise
    if stats.get("type", 0) == libvirt.VIR_DOMAIN_JOB_NONE:
        return "none"
    operation = stats.get("operation", 0)
    if operation == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
        return "outgoing"
    return "incoming" if operation == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN else "other"


def remove_remainder(connection: Any, uuid: str) -> None:
    """Destroy and undefine what is left of a guest that runs elsewhere; its NVRAM and TPM state stay."""
    domain = by_uuid(connection, uuid)
    if domain is None:
        return
    if domain.isActive():
        domain.destroy()
    domain = by_uuid(connection, uuid)  # a transient guest is gone with its process
    if domain is not None and domain.isPersistent():
        domain.undefineFlags(
            libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | getattr(libvirt, "VIR_DOMAIN_UNDEFINE_KEEP_TPM", 0)
        )


def progress(stats: dict[str, Any]) -> Progress:
    """virDomainGetJobStats' fields (libvirt-domain.h); times there are milliseconds, the dirty rate pages a second."""
    remaining = int(stats.get("data_remaining", 0))
    rate = int(stats.get("memory_bps", 0)) + int(stats.get("disk_bps", 0))
    dirty = int(stats.get("memory_dirty_rate", 0)) * int(stats.get("memory_page_size", 4096))
    net = rate - dirty
    now = time.time_ns() // 1000
    return Progress(
        total=int(stats.get("data_total", 0)),
        processed=int(stats.get("data_processed", 0)),
        remaining=remaining,
        rate=rate,
        dirty_rate=dirty,
        iteration=int(stats.get("memory_iteration", 0)),
        elapsed_usec=int(stats.get("time_elapsed", 0)) * 1000,
        # What is left and what is dirtied meanwhile, at the present rates.
        expected_end_usec=now + remaining * 1_000_000 // net if net > 0 and remaining else 0,
        pause_usec=int(stats.get("downtime", 0)) * 1000,
    )
