"""The way to the other host: that there is one, that it carries data, and how long a guest takes on it."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check, Way
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, Hosts
from kvmigd.model.finding import Basis, Finding, Severity

PATH = Check(
    id="link.path",
    severity=Severity.WARN,
    title="The source knows a way to the destination.",
    why="Streams go by the addresses of the peer's name in kvmigd's configuration, and by the kernel's routes.",
    known="The name is resolved, and the kernel is asked for the route, at every change.",
    remedy="ip route get ADDRESS on the source; the peer's address in kvmigd's configuration.",
)
CARRIES = Check(
    id="link.data",
    severity=Severity.BLOCK,
    title="A connection to the destination carries data.",
    why="Where large packets are lost on the way, a connection is made, and the stream hangs until it is given up.",
    known="A short burst of data over a connection to a migration port, of which nothing arrived.",
    remedy="ping -M do -s SIZE PEER finds the largest packet that passes; one MTU for both links and what is between.",
)
SLOW = Check(
    id="link.throughput",
    severity=Severity.WARN,
    title="The guest's memory is sent within ten minutes.",
    why="A guest that works writes to its memory meanwhile, and the more the longer it takes; it may never come to an "
    "end.",
    known="The rate of a short burst of data to the destination, and the guest's memory; what it writes comes on top.",
    remedy="A faster link between the hosts, or move the guest offline.",
    ways=(Way.OFFLINE, Way.SHUTDOWN),
)

SLOW_SECONDS = 600


@rule(Scope.HOSTS, reads="links", tells=(PATH,))
def link_path(hosts: Hosts) -> Iterator[Finding]:
    """The kernel knows a way to the peer."""
    for route in hosts.source.state.links.routes:
        if route.peer == hosts.there and route.problem:
            yield PATH.finding(
                f"{hosts.here} knows no way to {hosts.there}: {route.problem.rstrip('.')}.",
                host=hosts.here,
                subject=route.address or hosts.there,
                expected=f"a route to {hosts.there}",
                found=route.problem,
                remedy=f"On {hosts.here}: ip route get {route.address or hosts.there}; getent ahosts {hosts.there}",
            )


@rule(Scope.HOSTS, reads="links proofs", tells=(CARRIES,))
def link_data(hosts: Hosts) -> Iterator[Finding]:
    """Data arrives by a connection that can be made."""
    burst = hosts.proofs.throughput
    if burst is not None and burst.problem == "lost":
        routes = hosts.source.state.links.routes
        mtu = next((route.mtu for route in routes if route.peer == hosts.there and route.mtu), 1500)
        yield CARRIES.finding(
            f"A connection from {hosts.here} to {hosts.there} is made, and no data arrives by it.",
            host=hosts.there,
            subject=f"the way to {hosts.there}",
            expected="a burst of data to arrive",
            found=burst.text or "nothing arrived",
            remedy=f"On {hosts.here}: ping -M do -s {mtu - 28} {hosts.there}; where it is silent, packets of {mtu} "
            "bytes are lost: give both links, and what is between them, the same MTU (ip link set DEVICE mtu N)",
            basis=Basis.PROVED,
            proved_usec=burst.taken_usec,
        )


@rule(Scope.PAIR, reads="guest proofs", tells=(SLOW,))
def link_throughput(case: Case) -> Iterator[Finding]:
    """The guest's memory is sent in a reasonable time."""
    burst = case.hosts.proofs.throughput
    if burst is None or burst.problem or not burst.rate or case.options.offline:
        return
    seconds = case.local.guest.memory // burst.rate
    if seconds > SLOW_SECONDS:
        yield SLOW.finding(
            f"{case.guest.name} would take {seconds // 60} minutes to {case.there}, and longer while it writes.",
            host=case.there,
            subject=f"the way to {case.there}",
            expected=f"{case.guest.memory >> 20} MiB within {SLOW_SECONDS // 60} minutes",
            found=f"{burst.rate / 1_000_000:.1f} MB/s",
            remedy=f"On {case.here}: ethtool and ip route get show the link to {case.there}; use a faster one, or move "
            f"{case.guest.name} offline",
            basis=Basis.PROVED,
            proved_usec=burst.taken_usec,
        )
