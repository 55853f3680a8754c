"""A migration in libvirt's terms: flags and typed parameters of virDomainMigrateToURI3 for what a Stream asks for."""

from __future__ import annotations

from typing import Any

import libvirt

from kvmigd.host.hypervisor import Stream

NO_LIMIT_MEBIBYTES = (1 << 63) // (1 << 20) - 1
"""What libvirt itself gives QEMU when there is no limit: QEMU_DOMAIN_MIG_BANDWIDTH_MAX (src/qemu/qemu_domain.h)."""


def flags_of(stream: Stream) -> int:
    """VIR_MIGRATE_*. UNDEFINE_SOURCE takes effect only when the guest has arrived."""
    flags = (
        libvirt.VIR_MIGRATE_LIVE
        | libvirt.VIR_MIGRATE_PEER2PEER
        | libvirt.VIR_MIGRATE_PERSIST_DEST
        | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    )
    for wanted, flag in (
        (stream.tls, libvirt.VIR_MIGRATE_TLS),
        (stream.paused, libvirt.VIR_MIGRATE_PAUSED),
        (stream.post_copy, libvirt.VIR_MIGRATE_POSTCOPY),
        (stream.auto_converge, libvirt.VIR_MIGRATE_AUTO_CONVERGE),
        (stream.streams > 1, libvirt.VIR_MIGRATE_PARALLEL),
        (stream.disks, libvirt.VIR_MIGRATE_NON_SHARED_DISK),
        (stream.unsafe, libvirt.VIR_MIGRATE_UNSAFE),
    ):
        if wanted:
            flags |= flag
    return int(flags)


def parameters_of(stream: Stream) -> dict[str, Any]:
    """VIR_MIGRATE_PARAM_*."""
    parameters: dict[str, Any] = {libvirt.VIR_MIGRATE_PARAM_URI: stream.stream_uri}
    if stream.tls and stream.tls_name:
        parameters[libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION] = stream.tls_name
    if stream.bandwidth:
        parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = mebibytes(stream.bandwidth)
    if stream.auto_converge and stream.throttle_initial:
        parameters[libvirt.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL] = stream.throttle_initial
    if stream.auto_converge and stream.throttle_increment:
        parameters[libvirt.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT] = stream.throttle_increment
    if stream.streams > 1:
        parameters[libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS] = stream.streams
    if stream.disks:
        parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(stream.disks)
        if stream.disks_uri:
            parameters[libvirt.VIR_MIGRATE_PARAM_DISKS_URI] = stream.disks_uri
    return parameters


def mebibytes(bandwidth: int) -> int:
    """Bytes a second in MiB a second, which libvirt counts in; never its 0, which is no limit."""
    return max(1, bandwidth >> 20)


def milliseconds(usec: int) -> int:
    """A pause as libvirt counts it; never its 0, with which no migration would end."""
    return max(1, usec // 1000)
