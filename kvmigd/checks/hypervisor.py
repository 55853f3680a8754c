"""libvirt on both hosts: it answers, each reaches the other's, and the destination takes guests."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from kvmigd.checks.check import Check
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Hosts
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.host import RemoteCause, RemoteFact

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
    why="A peer-to-peer migration is led by the two; modular libvirt without its proxy socket, a closed port or a "
    "certificate that is not taken ends it before it begins, after 135 s where a firewall drops.",
    known="A connection to the port of the peer's libvirt URI, for a tls URI with the handshake and libvirt's word "
    "that it takes the client certificate; a success is believed for a minute, but not with proofs.",
    remedy="systemctl enable --now libvirtd-tls.socket (virtproxyd-tls.socket) there, and open TCP port 16514; for a "
    "certificate that is refused kvmigctl pki issue HOST where the CA is, and kvmigctl pki install BUNDLE on the host.",
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

_SOCKETS = {"tls": "tls", "tcp": "tcp", "": "tls"}


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


@rule(Scope.HOSTS, reads="facts hypervisor", tells=(REMOTE,), back=True)
def hypervisor_remote(hosts: Hosts) -> Iterator[Finding]:
    """libvirt on the source reaches libvirt on the destination; peer-to-peer migrations are led by the two."""
    remote = hosts.source.remote
    if remote is not None and remote.problem and hosts.destination.facts.hypervisor_alive:
        yield REMOTE.finding(
            f"libvirt on {hosts.there} cannot be reached from {hosts.here}: {remote.problem}.",
            host=hosts.there,
            subject=remote.uri,
            expected="a TLS connection in which both hosts take each other's certificate"
            if remote.cause in (RemoteCause.OURS, RemoteCause.THEIRS)
            else "a connection to libvirt's port",
            found=remote.problem,
            remedy=_mended(hosts, remote),
            basis=Basis.PROVED,
        )


def _mended(hosts: Hosts, remote: RemoteFact) -> str:
    """What mends the problem, by its cause."""
    daemon = hosts.destination.state.hypervisor.daemon
    running = daemon or "libvirtd (or virtqemud)"
    # Of modular libvirt it is the proxy that listens, and that has read the files.
    listening = {"libvirtd": "libvirtd", "virtqemud": "virtproxyd"}.get(daemon, "libvirtd (or virtproxyd)")
    if remote.cause is RemoteCause.OURS:
        return (
            f"{_reissue(hosts.here)}; if it is good: on {hosts.there} compare /etc/pki/CA/cacert.pem with that of "
            f"{hosts.here}, see tls_allowed_dn_list in /etc/libvirt/{listening}.conf and journalctl -u {listening}"
        )
    if remote.cause is RemoteCause.THEIRS:
        return (
            f"{_reissue(hosts.there)}, virt-admin -c {listening}:///system server-update-tls {listening}; if it is of "
            f"another CA: the same for {hosts.here} from one CA"
        )
    if remote.cause is RemoteCause.MUTE:
        return f"On {hosts.there}: systemctl status {listening}; journalctl -u {listening}; systemctl restart {running}"
    return f"On {hosts.there}: {_listen(daemon, remote.uri)}"


def _reissue(name: str) -> str:
    return f"Where the CA is: kvmigctl pki issue {name}; on {name}: kvmigctl pki install BUNDLE"


def _listen(daemon: str, uri: str) -> str:
    """What makes libvirt listen for the URI, with what opens the port."""
    transport = urlsplit(uri).scheme.partition("+")[2]
    socket = _SOCKETS.get(transport)
    if socket is None:
        return f"systemctl status sshd; and try it from the other host: virsh -c {uri} uri"
    port, service = (16514, "libvirt-tls") if socket == "tls" else (16509, "libvirt")
    # systemd starts no socket of a service that runs, and kvmigd, which reconnects at once, would start it.
    monolithic = (
        f"systemctl stop kvmigd.service libvirtd.service; systemctl enable --now libvirtd-{socket}.socket; "
        "systemctl start libvirtd.service kvmigd.service"
    )
    modular = f"systemctl enable --now virtproxyd-{socket}.socket"
    listen = {"libvirtd": monolithic, "virtqemud": modular}.get(
        daemon, f"{monolithic} (with modular libvirt: {modular})"
    )
    return (
        f"{listen}; and open TCP port {port}: firewall-cmd --permanent --add-service={service} && "
        f"firewall-cmd --reload, or `tcp dport {port} accept` in the input chain of nftables"
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
