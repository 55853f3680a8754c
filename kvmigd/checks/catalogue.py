"""All rules, in the order in which their findings are told."""

from __future__ import annotations

from kvmigd.checks import guest, identity, machine, network, software, storage
from kvmigd.checks.case import Case, Rule
from kvmigd.model.finding import Finding, ordered

RULES: tuple[Rule, ...] = (
    identity.hypervisor_alive,
    identity.hypervisor_remote,
    identity.host_accepting,
    identity.host_uuid,
    identity.host_name,
    software.certificates,
    guest.guest_state,
    guest.guest_place,
    storage.storage_path,
    storage.storage_mount,
    storage.storage_shared,
    network.network_bridge,
    network.port_reachable,
    machine.machine_type,
    machine.cpu_model,
    guest.guest_memory,
    software.release,
    software.versions,
    software.stream_tls,
)


def judge(case: Case) -> tuple[Finding, ...]:
    """All findings about a case, what blocks first."""
    return ordered(finding for rule in RULES for finding in rule(case))
