"""Who the two hosts are: libvirt alive, UUIDs that differ, names that resolve."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.case import Case, blocks
from kvmigd.host.system import is_loopback
from kvmigd.model.finding import Basis, Finding
from kvmigd.model.host import Examination


def hypervisor_alive(case: Case) -> Iterator[Finding]:
    """libvirt answers on both hosts."""
    for side in (case.source, case.destination):
        if not side.facts.hypervisor_alive:
            yield blocks(
                "hypervisor.alive",
                f"libvirt on {side.facts.name} does not answer.",
                host=side.facts.name,
                subject="libvirt",
                expected="a connection to libvirt",
                found=side.facts.hypervisor_problem or "no connection",
                remedy=f"On {side.facts.name}: systemctl start libvirtd (or virtqemud)",
                basis=Basis.PROVED,
            )


def hypervisor_remote(case: Case) -> Iterator[Finding]:
    """libvirt on the source reaches libvirt on the destination; peer-to-peer migrations are led by the two."""
    remote = case.source.remote
    if remote is not None and remote.problem and case.destination.facts.hypervisor_alive:
        yield blocks(
            "hypervisor.remote",
            f"libvirt on {case.there} cannot be reached from {case.here}: {remote.problem}.",
            host=case.there,
            subject=remote.uri,
            expected="a connection to libvirt's port",
            found=remote.problem,
            remedy=f"On {case.there}: systemctl stop libvirtd; systemctl enable --now libvirtd-tls.socket (or "
            "virtproxyd-tls.socket with modular libvirt); and open TCP port 16514 in its firewall",
            basis=Basis.PROVED,
        )


def host_accepting(case: Case) -> Iterator[Finding]:
    """The destination takes guests: it is not in maintenance and not going down."""
    facts = case.destination.facts
    if not facts.accepting and facts.hypervisor_alive:
        yield blocks(
            "host.accepting",
            f"{facts.name} takes no guests.",
            host=facts.name,
            subject=facts.name,
            expected="a host that accepts guests",
            found=facts.not_accepting_reason,
            remedy=f"On {facts.name}: kvmigctl maintenance off",
            basis=Basis.PROVED,
        )


def host_uuid(case: Case) -> Iterator[Finding]:
    """The hosts' UUIDs differ; libvirt refuses to migrate between hosts with the same."""
    here, there = case.source.facts.host_id, case.destination.facts.host_id
    if here and here == there:
        yield blocks(
            "host.uuid",
            "Both hosts have the same host UUID.",
            host=case.there,
            subject="host UUID",
            expected=f"a UUID other than {case.here}'s",
            found=f"{there} on both hosts",
            remedy=f'On {case.there}: set host_uuid = "$(uuidgen)" in /etc/libvirt/libvirtd.conf (or virtqemud.conf) '
            "and restart it",
        )


def host_name(case: Case) -> Iterator[Finding]:
    """Each host's name resolves on the other, and none resolves to localhost."""
    yield from _own_name(case.destination)
    yield from _name_of_other(case.source, case.there)
    yield from _name_of_other(case.destination, case.here)


def _own_name(side: Examination) -> Iterator[Finding]:
    # libvirt's destination gives its own host name for the stream's URI; one that is localhost makes it refuse.
    if any(is_loopback(address) for address in side.facts.addresses):
        yield blocks(
            "host.name",
            f"The name of {side.facts.name} resolves to localhost on {side.facts.name} itself.",
            host=side.facts.name,
            subject=side.facts.name,
            expected="an address that other hosts can reach",
            found=", ".join(side.facts.addresses),
            remedy=f"On {side.facts.name}: remove its name from the 127.x and ::1 lines of /etc/hosts",
            basis=Basis.PROVED,
        )


def _name_of_other(side: Examination, other: str) -> Iterator[Finding]:
    resolved = side.other
    if resolved is None:
        return
    bad = not resolved.addresses or any(is_loopback(address) for address in resolved.addresses)
    if bad:
        yield blocks(
            "host.name",
            f"The name {other} {'resolves to localhost' if resolved.addresses else 'does not resolve'} "
            f"on {side.facts.name}.",
            host=side.facts.name,
            subject=other,
            expected=f"an address of {other}",
            found=", ".join(resolved.addresses) or resolved.problem,
            remedy=f"On {side.facts.name}: add {other}'s address to DNS or /etc/hosts",
            basis=Basis.PROVED,
        )
