"""TLS: certificates and keys that can be used, and a stream that is encrypted with them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache

from kvmigd.checks.check import Check
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Hosts
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.host import CertificateFact

MATERIAL = Check(
    id="tls.material",
    severity=Severity.BLOCK,
    title="Certificates and keys of both hosts can be used by libvirt, QEMU and kvmigd.",
    why="With a certificate that is missing, expired, of another CA or for another name the connection is refused.",
    known="Each host tries its own files in a TLS handshake, whenever they change and every hour.",
    remedy="kvmigctl pki issue HOST where the CA is, kvmigctl pki install BUNDLE on the host.",
)
HANDSHAKE = Check(
    id="tls.handshake",
    severity=Severity.BLOCK,
    title="QEMU's certificates on both hosts accept each other.",
    why="QEMU on either side ends an encrypted stream as soon as it does not trust the other's certificate.",
    known="Both daemons make a TLS handshake with the very certificates, keys and CAs that QEMU will use.",
    remedy="Issue the certificates of both hosts from one CA: kvmigctl pki issue HOST, kvmigctl pki install BUNDLE.",
)
STREAM = Check(
    id="tls.stream",
    severity=Severity.WARN,
    title="The guest's memory travels encrypted.",
    why="Without TLS everybody on the way can read the guest's memory, with all its keys and passwords.",
    known="Both hosts say whether they have certificates for QEMU's streams and whether [migration] tls is on.",
    remedy="kvmigctl pki install BUNDLE on both hosts, and tls = true under [migration] in kvmigd.toml.",
)
EXPIRING = Check(
    id="tls.expiring",
    severity=Severity.WARN,
    title="No certificate expires within two weeks.",
    why="When it does, the hosts lose each other, and no guest can leave until somebody has issued new ones.",
    known="Each host tells until when its certificates are valid, compared with the time of the last proof.",
    remedy="kvmigctl pki issue HOST where the CA is, kvmigctl pki install BUNDLE on the host.",
)

EXPIRING_DAYS = 14
_DAY_USEC = 86_400_000_000


@rule(Scope.HOSTS, reads="facts", tells=(MATERIAL,))
def certificates(hosts: Hosts) -> Iterator[Finding]:
    """Certificates and keys of both hosts can be used by libvirt, QEMU and kvmigd."""
    for side in (hosts.source, hosts.destination):
        for fact in side.facts.certificates:
            if not fact.problem:
                continue
            if fact.is_for_stream and not (hosts.source.facts.stream_tls or hosts.destination.facts.stream_tls):
                continue  # nobody encrypts the stream, and tls.stream says so
            yield MATERIAL.finding(
                f"TLS on {side.facts.name}: {fact.problem.rstrip('.')}.",
                host=side.facts.name,
                subject=fact.path,
                expected=f"a valid {fact.purpose}",
                found=fact.problem,
                remedy=_issue(side.facts.name),
                basis=Basis.PROVED,
                # The destination's QEMU is a client only on the way back.
                severity=Severity.WARN if side is hosts.destination and _is_stream_client(fact) else None,
            )


def _is_stream_client(fact: CertificateFact) -> bool:
    return fact.is_for_stream and "client" in fact.purpose


@rule(Scope.HOSTS, reads="facts proofs", tells=(HANDSHAKE,), back=True)
def handshake(hosts: Hosts) -> Iterator[Finding]:
    """QEMU's certificates on both hosts accept each other, where the stream is to be encrypted.

    What failed for a reason of its own may go well the next time, so it is only a warning.
    """
    for proof in hosts.proofs.tls:
        if proof.to != hosts.there or proof.problem not in ("refused", "failed"):
            continue
        if hosts.source.facts.stream_tls and hosts.destination.facts.stream_tls:
            refused = proof.problem == "refused"
            yield HANDSHAKE.finding(
                f"QEMU on {hosts.here} and {hosts.there} would not come to an encrypted stream: "
                f"{proof.text.rstrip('.')}.",
                host=hosts.there,
                subject="/etc/pki/qemu",
                expected="a TLS handshake with QEMU's certificates",
                found=proof.text or proof.problem,
                remedy=f"{_issue(hosts.there)}; and the same for {hosts.here} if its certificates are of another CA"
                if refused
                else f"On {hosts.here}: kvmigctl check GUEST {hosts.there} tries it again; "
                "openssl verify -CAfile /etc/pki/qemu/ca-cert.pem /etc/pki/qemu/server-cert.pem on both",
                basis=Basis.PROVED,
                severity=None if refused else Severity.WARN,
                proved_usec=proof.taken_usec,
            )


@rule(Scope.HOSTS, reads="facts", tells=(STREAM,))
def stream_tls(hosts: Hosts) -> Iterator[Finding]:
    """The guest's memory travels encrypted, unless the owner switched that off."""
    if not (hosts.source.facts.stream_tls and hosts.destination.facts.stream_tls):
        missing = hosts.there if hosts.source.facts.stream_tls else hosts.here
        yield STREAM.finding(
            f"The guest's memory would travel unencrypted: {missing} has no TLS for QEMU's stream.",
            host=missing,
            subject="/etc/pki/qemu",
            expected="certificates in /etc/pki/qemu on both hosts and tls = true under [migration] in kvmigd.toml",
            found="none that can be used, or switched off",
            remedy=f"On {missing}: kvmigctl pki install BUNDLE",
        )


@rule(Scope.HOSTS, reads="facts proofs", tells=(EXPIRING,))
def expiring(hosts: Hosts) -> Iterator[Finding]:
    """Certificates are valid for two weeks more. Rules have no clock: now is when something was last proved."""
    proofs = hosts.proofs
    now = max((proof.taken_usec for proof in (*proofs.tls, *proofs.ports)), default=0)
    if not now:
        return
    limit = _in_two_weeks(now // _DAY_USEC)
    for side in (hosts.source, hosts.destination):
        for fact in side.facts.certificates:
            if fact.not_after and fact.not_after < limit and not fact.problem:
                yield EXPIRING.finding(
                    f"A certificate of {side.facts.name} expires on {fact.not_after[:10]}.",
                    host=side.facts.name,
                    subject=fact.path,
                    expected=f"a {fact.purpose} that is valid for {EXPIRING_DAYS} days more",
                    found=f"valid until {fact.not_after}",
                    remedy=_issue(side.facts.name),
                )


@lru_cache(maxsize=32)
def _in_two_weeks(day: int) -> str:
    """Two weeks after a day since 1970, as certificates' times are written; these compare as texts, being UTC."""
    try:
        when = datetime.fromtimestamp((day + EXPIRING_DAYS) * 86_400, UTC)
    except (OverflowError, ValueError, OSError):
        return ""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _issue(host: str) -> str:
    return f"Where the CA is: kvmigctl pki issue {host}; on {host}: kvmigctl pki install BUNDLE"
