"""Ports of the destination: the stream's and the disks', proved by a connection, or read from its firewall."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, Hosts
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.firewall import Answer, Duration, Firewall, FirewallBackend, PortHint
from kvmigd.model.proof import PortProof

OPEN = Check(
    id="port.open",
    severity=Severity.BLOCK,
    title="The port that the migration will use can be reached from the source.",
    why="A port that is dropped makes the migration wait for 135 s before it fails; a rejected one fails at once.",
    known="A connection through all firewalls to the very port, while the destination's daemon listens on it. Without "
    "one the destination's own rules are read, which is a warning: they say nothing of the way to it.",
    remedy="Open the ports 49152-49215/tcp on the destination for the source.",
    fixed=True,
)
DISKS = Check(
    id="port.disks",
    severity=Severity.BLOCK,
    title="The port for copying disks (NBD) can be reached from the source.",
    why="With --copy-disks QEMU sends the disks by a connection of their own, to a second port of the range.",
    known="A connection through all firewalls, as for port.open; asked only where disks are to be copied.",
    remedy="Open the ports 49152-49215/tcp on the destination for the source.",
)
FREE = Check(
    id="port.free",
    severity=Severity.BLOCK,
    title="A port of the migration range is free on the destination.",
    why="QEMU cannot listen on a port that another program has, and kvmigd gives each migration one of its own.",
    known="The destination's daemon looks for one to be proved.",
    remedy="ss -ltnp on the destination shows who has them; port_max under [migration] in kvmigd.toml gives more.",
)
PERMANENT = Check(
    id="port.permanent",
    severity=Severity.WARN,
    title="The ports are still open when the destination's firewall is reloaded.",
    why="What firewall-cmd opens without --permanent is closed again by the next reload or boot.",
    known="firewalld's zone of the source, as it is in force and as it is stored.",
    remedy="firewall-cmd --runtime-to-permanent on the destination.",
)

_FIRST, _LAST = 49152, 49215
"""QEMU's ports by default (`migration_port_min`, `migration_port_max` in qemu.conf)."""
_NOT_ASKED = Firewall()
_SHUT = frozenset({"timeout", "refused", "no-route", "wrong-nonce"})
"""Problems of a proof that say something of the port; others say that it could not be tried."""


@rule(Scope.HOSTS, reads="proofs firewall", tells=(OPEN, FREE), back=True)
def port_stream(hosts: Hosts) -> Iterator[Finding]:
    """The port that the migration will use is free and can be reached: a real connection was made to it."""
    yield from _judge(OPEN, hosts, "stream")


@rule(Scope.PAIR, reads="proofs firewall", tells=(DISKS, FREE))
def port_disks(case: Case) -> Iterator[Finding]:
    """So is the port for disks, where they are to be copied."""
    if case.options.copy_disks:
        yield from _judge(DISKS, case.hosts, "disks")


def _judge(check: Check, hosts: Hosts, purpose: str) -> Iterator[Finding]:
    proof = hosts.ports.get(purpose)
    if proof is not None and not proof.problem:
        return
    firewall = hosts.destination.state.firewall
    hint = _hint(firewall, hosts.here, purpose)
    if proof is not None and proof.problem in _SHUT:
        yield _shut(check, proof, here=hosts.here, there=hosts.there, firewall=firewall, hint=hint)
    elif proof is not None and proof.problem == "busy":
        yield FREE.finding(
            f"{hosts.there} has no port for a migration: {proof.text.rstrip('.') or 'none is free'}.",
            host=hosts.there,
            subject=f"{_range(firewall)}/tcp",
            expected="a free port",
            found=proof.text or "none",
            remedy=f"On {hosts.there}: ss -ltnp '( sport >= :{_range(firewall).replace('-', ' and sport <= :')} )' "
            "shows who has them; end them, or raise port_max under [migration] in kvmigd.toml",
            basis=Basis.PROVED,
            proved_usec=proof.taken_usec,
        )
    elif hint is not None and hint.answer is Answer.CLOSED:
        yield check.finding(
            f"The firewall of {hosts.there} does not let {hosts.here} reach the ports for "
            f"{'disks' if purpose == 'disks' else 'migrations'}.",
            host=hosts.there,
            subject=f"{_range(firewall)}/tcp",
            expected=f"open for {hosts.here}",
            found=hint.by or "closed",
            remedy=_opening(hosts.here, hosts.there, firewall.backends, _range(firewall)),
            basis=Basis.ASSUMED,
            severity=Severity.WARN,
        )


def port_open(proof: PortProof, *, here: str, there: str) -> Iterator[Finding]:
    """What a proof of the port says; the migration itself proves the port that it was given with the same words."""
    if proof.problem:
        yield _shut(OPEN, proof, here=here, there=there)


def _shut(
    check: Check,
    proof: PortProof,
    *,
    here: str,
    there: str,
    firewall: Firewall = _NOT_ASKED,
    hint: PortHint | None = None,
) -> Finding:
    ports = _range(firewall)
    first, last = map(int, ports.split("-"))
    if not first <= proof.port <= last:
        ports = str(proof.port)
    if hint is not None and hint.answer is Answer.OPEN:
        # The destination's own rules are not it.
        remedy = (
            f"On {here}: nft list ruleset; ip route get {proof.address}; the rules of {there} let it pass, so look at "
            f"those of {here} and at every firewall between the hosts for TCP ports {ports}"
        )
    else:
        remedy = _opening(here, there, firewall.backends, ports)
    return check.finding(
        f"Port {proof.port} of {there} cannot be reached from {here}: {proof.text.rstrip('.')}.",
        host=there,
        subject=f"{proof.address}:{proof.port}/tcp",
        expected="a connection to the port that the migration will use",
        found=f"{proof.problem} ({hint.by})" if hint and hint.by and hint.answer is Answer.CLOSED else proof.problem,
        remedy=remedy,
        basis=Basis.PROVED,
        proved_usec=proof.taken_usec,
    )


@rule(Scope.HOSTS, reads="firewall", tells=(PERMANENT,))
def port_permanent(hosts: Hosts) -> Iterator[Finding]:
    """What is open now is open after a reload, too."""
    firewall = hosts.destination.state.firewall
    hint = _hint(firewall, hosts.here, "stream")
    if hint is not None and hint.answer is Answer.OPEN and hint.duration is Duration.RUNTIME:
        yield PERMANENT.finding(
            f"The migration ports of {hosts.there} are open until its firewall is reloaded.",
            host=hosts.there,
            subject=f"{_range(firewall)}/tcp",
            expected="open in the permanent configuration",
            found=f"open at runtime only ({hint.by})" if hint.by else "open at runtime only",
            remedy=f"On {hosts.there}: firewall-cmd --permanent --add-port={_range(firewall)}/tcp",
        )


@rule(Scope.HOSTS, reads="firewall", tells=(OPEN,))
def port_of_virsh(hosts: Hosts) -> Iterator[Finding]:
    """The ports that qemu.conf gives to migrations which virsh starts, where they are others than kvmigd's."""
    firewall = hosts.destination.state.firewall
    hint = _hint(firewall, hosts.here, "libvirt-streams")
    if hint is not None and hint.answer is Answer.CLOSED:
        ports = _range(firewall, "libvirt-streams")
        yield OPEN.finding(
            f"Migrations that virsh starts would come to other ports of {hosts.there} than kvmigd's, and its firewall "
            f"does not let {hosts.here} reach them.",
            host=hosts.there,
            subject=f"{ports}/tcp",
            expected=f"open for {hosts.here}, or the range that kvmigd uses ({_range(firewall)})",
            found=hint.by or "closed",
            remedy=_opening(hosts.here, hosts.there, firewall.backends, ports)
            + "; or remove migration_port_min and migration_port_max from /etc/libvirt/qemu.conf",
            basis=Basis.ASSUMED,
            severity=Severity.WARN,
        )


def _hint(firewall: Firewall, peer: str, purpose: str) -> PortHint | None:
    for hint in firewall.hints:
        if hint.peer == peer and hint.purpose == purpose:
            return hint
    return None


def _range(firewall: Firewall, purpose: str = "stream") -> str:
    for use in firewall.ports:
        if use.purpose == purpose:
            return f"{use.first}-{use.last}"
    return f"{_FIRST}-{_LAST}"


def _opening(here: str, there: str, backends: tuple[FirewallBackend, ...], ports: str) -> str:
    """What opens ports of `there` for `here`, by the packet filters that are in force there."""
    ways = {
        "firewalld": f"firewall-cmd --permanent --add-port={ports}/tcp && firewall-cmd --reload",
        "nftables": f"accept tcp dport {ports} from {here} in /etc/nftables.conf (`ip saddr {here} tcp dport {ports} "
        "accept` before what drops) and `systemctl reload nftables`",
        "iptables-legacy": f"iptables-legacy -I INPUT -p tcp -s {here} --dport {ports.replace('-', ':')} -j ACCEPT, "
        "and where iptables-restore reads it from",
    }
    active = [backend.name for backend in backends if backend.active and backend.name in ways]
    if "firewalld" in active:
        active = ["firewalld"]  # the rules in nftables are its own then
    if len(active) == 1:
        return f"On {there}: {ways[active[0]]}"
    return f"On {there}, " + "; ".join(f"with {name}: {ways[name]}" for name in active or ("firewalld", "nftables"))
