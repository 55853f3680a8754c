"""Who the two hosts are: UUIDs that differ, names that resolve, clocks that are kept."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Hosts, HostView
from kvmigd.host.system import is_loopback
from kvmigd.model.finding import Basis, Finding, Severity

HOST_UUID = Check(
    id="host.uuid",
    severity=Severity.BLOCK,
    title="The hosts have different UUIDs.",
    why="libvirt takes two hosts with one UUID for the same and refuses to migrate; some vendors ship boards with one "
    "for all, of which a warning tells before the second such host is there.",
    known="libvirt's capabilities on both hosts.",
    remedy='host_uuid = "$(uuidgen)" in libvirtd.conf or virtqemud.conf, and restart it.',
    fixed=True,
)
HOST_NAME = Check(
    id="host.name",
    severity=Severity.BLOCK,
    title="A host's own name is not localhost, and does not resolve to it on the host itself.",
    why="libvirt on the destination gives its own name for the stream and refuses one that is localhost. A name that "
    "only resolves to 127.0.1.1, as Debian's installer leaves it, is a warning: other programs take it for an address.",
    known="libvirt tells the name, and the host resolves it by the resolver that libvirt uses.",
    remedy="hostnamectl hostname NAME; remove the name from the 127.x and ::1 lines of /etc/hosts.",
)
RESOLVE = Check(
    id="host.resolve",
    severity=Severity.BLOCK,
    title="Each host's name resolves on the other, and to that host.",
    why="libvirt and QEMU connect by these names. An address that the other host does not have may be translated on "
    "the way, which is a warning; in one of its own networks it is another host's.",
    known="Both daemons resolve the other's name, by the resolver that libvirt uses, and know the other's addresses.",
    remedy="Add the name to DNS or to /etc/hosts on both hosts.",
)
SKEW = Check(
    id="clock.skew",
    severity=Severity.WARN,
    title="Where one host's clock is synchronised, the other's is too.",
    why="Clocks drift apart by seconds a day: the guest's time jumps when it moves, and TLS may take certificates for "
    "not valid yet.",
    known="adjtimex(2) on both hosts. Two hosts that nobody synchronises are not known to differ.",
    remedy="systemctl enable --now chronyd (or systemd-timesyncd).",
)

VENDORS_UUIDS = frozenset(
    {
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "12345678-1234-1234-1234-123456789abc",
        "11111111-2222-3333-4444-555555555555",
        "fefefefe-fefe-fefe-fefe-fefefefefefe",
    }
)
"""UUIDs that vendors have left in the firmware of whole series of boards."""


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
            remedy=_other_uuid(hosts.there),
        )
        return
    for side in (hosts.source, hosts.destination):
        if side.facts.host_id in VENDORS_UUIDS:
            yield HOST_UUID.finding(
                f"{side.facts.name} has a host UUID that its vendor gave to many boards.",
                host=side.facts.name,
                subject="host UUID",
                expected="a UUID of its own",
                found=side.facts.host_id,
                remedy=_other_uuid(side.facts.name),
                severity=Severity.WARN,
            )


def _other_uuid(host: str) -> str:
    return f'On {host}: set host_uuid = "$(uuidgen)" in /etc/libvirt/libvirtd.conf (or virtqemud.conf) and restart it'


@rule(Scope.HOSTS, reads="facts hypervisor", tells=(HOST_NAME,), back=True)
def host_name(hosts: Hosts) -> Iterator[Finding]:
    """The destination does not call itself localhost: libvirt there gives its own name for the stream's URI."""
    side = hosts.destination
    called = side.state.hypervisor.host_name
    if called.startswith("localhost"):
        yield HOST_NAME.finding(
            f"libvirt on {hosts.there} calls itself {called}.",
            host=hosts.there,
            subject=called,
            expected="a name by which other hosts reach it",
            found=called,
            remedy=f"On {hosts.there}: hostnamectl hostname {hosts.there}, and restart libvirt",
            basis=Basis.PROVED,
        )
    elif any(map(is_loopback, side.facts.addresses)):
        yield HOST_NAME.finding(
            f"The name of {hosts.there} resolves to localhost on {hosts.there} itself.",
            host=hosts.there,
            subject=hosts.there,
            expected="an address that other hosts can reach",
            found=", ".join(side.facts.addresses),
            remedy=f"On {hosts.there}: remove its name from the 127.x and ::1 lines of /etc/hosts",
            basis=Basis.PROVED,
            severity=Severity.WARN,
        )


@rule(Scope.HOSTS, reads="facts links", tells=(RESOLVE,), back=True)
def host_resolve(hosts: Hosts) -> Iterator[Finding]:
    """The destination's name resolves on the source, to an address that the destination has."""
    resolved = hosts.source.other
    if resolved is None:
        return
    bare = [address.partition("%")[0] for address in resolved.addresses]
    own, theirs = hosts.source.addresses, hosts.destination.addresses
    severity = Severity.BLOCK
    if not bare:
        what = "does not resolve"
    elif any(map(is_loopback, bare)):
        what = "resolves to localhost"
    elif not own.isdisjoint(bare):
        what = f"resolves to an address of {hosts.here} itself"
    elif theirs and theirs.isdisjoint(bare):
        what = f"resolves to an address that {hosts.there} does not have"
        if not any(_is_near(hosts.destination, address) for address in bare):
            severity = Severity.WARN  # it may be translated on the way
    else:
        return
    yield RESOLVE.finding(
        f"The name {hosts.there} {what} on {hosts.here}.",
        host=hosts.here,
        subject=hosts.there,
        expected=f"an address of {hosts.there}",
        found=", ".join(resolved.addresses) or resolved.problem,
        remedy=f"On {hosts.here}: add {hosts.there}'s address to DNS or /etc/hosts; getent ahosts {hosts.there} shows "
        "what is found",
        basis=Basis.COMPARED if bare and what.endswith("not have") else Basis.PROVED,
        severity=severity,
    )


def _is_near(host: HostView, address: str) -> bool:
    """Whether an address is of a network that the host is in: nothing translates addresses within one."""
    try:
        wanted = ipaddress.ip_address(address)
        return any(
            wanted in ipaddress.ip_interface(mine).network for link in host.state.links.links for mine in link.addresses
        )
    except ValueError:
        return False


@rule(Scope.HOSTS, reads="system", tells=(SKEW,))
def clock_skew(hosts: Hosts) -> Iterator[Finding]:
    """Either both clocks are synchronised, or it is not known that they differ."""
    here, there = hosts.source.state.system.clock.synchronised, hosts.destination.state.system.clock.synchronised
    if here is there or here is None or there is None:
        return
    late, good = (hosts.here, hosts.there) if there else (hosts.there, hosts.here)
    yield SKEW.finding(
        f"The clock of {late} is not synchronised, that of {good} is.",
        host=late,
        subject="clock",
        expected="a clock that is synchronised",
        found="not synchronised",
        remedy=f"On {late}: systemctl enable --now chronyd (or systemd-timesyncd); timedatectl shows when it is done",
    )
