"""Who the two hosts are: libvirt alive, UUIDs that differ, names that resolve."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Hosts, HostView
from kvmigd.host.system import is_loopback
from kvmigd.model.finding import Basis, Finding, Severity

ALIVE = Check(
    id="hypervisor.alive",
    severity=Severity.BLOCK,
    title="libvirt answers on both hosts.",
    why="Without libvirt no guest can be moved, and nothing is known of the guests.",
    known="Each daemon holds a connection to its libvirt and hears at once when it is gone.",
    remedy="systemctl status libvirtd (virtqemud with modular libvirt) on the host that is named.",
    fixed=True,
)
REMOTE = Check(
    id="hypervisor.remote",
    severity=Severity.BLOCK,
    title="libvirt on the source reaches libvirt on the destination.",
    why="A peer-to-peer migration is led by the two; modular libvirt without its proxy socket, or a closed "
    "port, ends it before it begins, after 135 s where a firewall drops.",
    known="A connection to the port of the peer's libvirt URI; a success is believed for a minute.",
    remedy="systemctl enable --now libvirtd-tls.socket (virtproxyd-tls.socket) there, and open TCP port 16514.",
)
ACCEPTING = Check(
    id="host.accepting",
    severity=Severity.BLOCK,
    title="The destination takes guests.",
    why="A host in maintenance, or one that is going down, admits nobody.",
    known="The other daemon says so.",
    remedy="kvmigctl maintenance off on the destination, or another peer.",
    fixed=True,
)
HOST_UUID = Check(
    id="host.uuid",
    severity=Severity.BLOCK,
    title="The hosts have different UUIDs.",
    why="libvirt takes two hosts with one UUID for the same and refuses to migrate; some vendors ship boards with one "
    "for all.",
    known="libvirt's capabilities on both hosts.",
    remedy='host_uuid = "$(uuidgen)" in libvirtd.conf or virtqemud.conf, and restart it.',
    fixed=True,
)
HOST_NAME = Check(
    id="host.name",
    severity=Severity.BLOCK,
    title="A host's own name does not resolve to localhost on it.",
    why="libvirt on the destination gives its own name for the stream; one that means localhost makes it refuse.",
    known="The name is resolved on the host itself, by the resolver that libvirt uses.",
    remedy="Remove the host's name from the 127.x and ::1 lines of /etc/hosts.",
)
RESOLVE = Check(
    id="host.resolve",
    severity=Severity.BLOCK,
    title="Each host's name resolves on the other, and not to localhost.",
    why="libvirt and QEMU connect by these names.",
    known="Both daemons resolve the other's name, by the resolver that libvirt uses.",
    remedy="Add the name to DNS or to /etc/hosts on both hosts.",
)


@rule(Scope.HOSTS, reads="facts", tells=(ALIVE,))
def hypervisor_alive(hosts: Hosts) -> Iterator[Finding]:
    """libvirt answers on both hosts."""
    for side in (hosts.source, hosts.destination):
        if not side.facts.hypervisor_alive:
            yield ALIVE.finding(
                f"libvirt on {side.facts.name} does not answer.",
                host=side.facts.name,
                subject="libvirt",
                expected="a connection to libvirt",
                found=side.facts.hypervisor_problem or "no connection",
                remedy=f"On {side.facts.name}: systemctl start libvirtd (or virtqemud)",
                basis=Basis.PROVED,
            )


@rule(Scope.HOSTS, reads="facts", tells=(REMOTE,), back=True)
def hypervisor_remote(hosts: Hosts) -> Iterator[Finding]:
    """libvirt on the source reaches libvirt on the destination; peer-to-peer migrations are led by the two."""
    remote = hosts.source.remote
    if remote is not None and remote.problem and hosts.destination.facts.hypervisor_alive:
        yield REMOTE.finding(
            f"libvirt on {hosts.there} cannot be reached from {hosts.here}: {remote.problem}.",
            host=hosts.there,
            subject=remote.uri,
            expected="a connection to libvirt's port",
            found=remote.problem,
            remedy=f"On {hosts.there}: systemctl stop libvirtd; systemctl enable --now libvirtd-tls.socket (or "
            "virtproxyd-tls.socket with modular libvirt); and open TCP port 16514 in its firewall",
            basis=Basis.PROVED,
        )


@rule(Scope.HOSTS, reads="facts", tells=(ACCEPTING,))
def host_accepting(hosts: Hosts) -> Iterator[Finding]:
    """The destination takes guests: it is not in maintenance and not going down."""
    facts = hosts.destination.facts
    if not facts.accepting and facts.hypervisor_alive:
        yield ACCEPTING.finding(
            f"{facts.name} takes no guests.",
            host=facts.name,
            subject=facts.name,
            expected="a host that accepts guests",
            found=facts.not_accepting_reason,
            remedy=f"On {facts.name}: kvmigctl maintenance off",
            basis=Basis.PROVED,
        )


@rule(Scope.HOSTS, reads="facts", tells=(HOST_UUID,))
def host_uuid(hosts: Hosts) -> Iterator[Finding]:
    """The hosts' UUIDs differ; libvirt refuses to migrate between hosts with the same."""
    here, there = hosts.source.facts.host_id, hosts.destination.facts.host_id
    if here and here == there:
        yield HOST_UUID.finding(
            "Both hosts have the same host UUID.",
            host=hosts.there,
            subject="host UUID",
            expected=f"a UUID other than {hosts.here}'s",
            found=f"{there} on both hosts",
            remedy=f'On {hosts.there}: set host_uuid = "$(uuidgen)" in /etc/libvirt/libvirtd.conf (or virtqemud.conf) '
            "and restart it",
        )


@rule(Scope.HOSTS, reads="facts", tells=(HOST_NAME, RESOLVE))
def host_name(hosts: Hosts) -> Iterator[Finding]:
    """Each host's name resolves on the other, and none resolves to localhost."""
    yield from _own_name(hosts.destination)
    yield from _name_of_other(hosts.source, hosts.there)
    yield from _name_of_other(hosts.destination, hosts.here)


def _own_name(side: HostView) -> Iterator[Finding]:
    # libvirt's destination gives its own host name for the stream's URI; one that is localhost makes it refuse.
    if any(is_loopback(address) for address in side.facts.addresses):
        yield HOST_NAME.finding(
            f"The name of {side.facts.name} resolves to localhost on {side.facts.name} itself.",
            host=side.facts.name,
            subject=side.facts.name,
            expected="an address that other hosts can reach",
            found=", ".join(side.facts.addresses),
            remedy=f"On {side.facts.name}: remove its name from the 127.x and ::1 lines of /etc/hosts",
            basis=Basis.PROVED,
        )


def _name_of_other(side: HostView, other: str) -> Iterator[Finding]:
    resolved = side.other
    if resolved is None:
        return
    bad = not resolved.addresses or any(is_loopback(address) for address in resolved.addresses)
    if bad:
        yield RESOLVE.finding(
            f"The name {other} {'resolves to localhost' if resolved.addresses else 'does not resolve'} "
            f"on {side.facts.name}.",
            host=side.facts.name,
            subject=other,
            expected=f"an address of {other}",
            found=", ".join(resolved.addresses) or resolved.problem,
            remedy=f"On {side.facts.name}: add {other}'s address to DNS or /etc/hosts",
            basis=Basis.PROVED,
        )
