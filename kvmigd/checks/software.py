"""Software and certificates: the same release, versions that go together, TLS material that works."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Hosts
from kvmigd.model.finding import Finding, Severity
from kvmigd.model.system import Release

RELEASE = Check(
    id="software.release",
    severity=Severity.WARN,
    title="Both hosts run the same release of the same distribution.",
    why="Other releases bring other QEMUs and libvirts; the way to the newer one is mostly open, the way back not.",
    known="os-release(5) of both hosts is compared.",
    remedy="Bring both hosts to the same release.",
)
QEMU = Check(
    id="software.qemu",
    severity=Severity.WARN,
    title="QEMU is of the same version on both hosts.",
    why="An older QEMU may not understand what a newer one sends; then the guest stays, or it cannot come back.",
    known="The versions that libvirt tells are compared.",
    remedy="Update QEMU on the host with the older one.",
)
LIBVIRT = Check(
    id="software.libvirt",
    severity=Severity.WARN,
    title="libvirt is of the same version on both hosts.",
    why="An older libvirt may refuse definitions and options of a newer one.",
    known="The versions that libvirt tells are compared.",
    remedy="Update libvirt on the host with the older one.",
)
MATERIAL = Check(
    id="tls.material",
    severity=Severity.BLOCK,
    title="Certificates and keys of both hosts can be used by libvirt, QEMU and kvmigd.",
    why="With a certificate that is missing, expired, of another CA or for another name the connection is refused.",
    known="Each host tries its own files in a TLS handshake, whenever they change and every hour.",
    remedy="kvmigctl pki issue HOST where the CA is, kvmigctl pki install BUNDLE on the host.",
)
STREAM = Check(
    id="tls.stream",
    severity=Severity.WARN,
    title="The guest's memory travels encrypted.",
    why="Without TLS everybody on the way can read the guest's memory, with all its keys and passwords.",
    known="Both hosts say whether they have certificates for QEMU's streams and whether [migration] tls is on.",
    remedy="kvmigctl pki install BUNDLE on both hosts, and tls = true under [migration] in kvmigd.toml.",
)


def version(number: int) -> str:
    """A version as libvirt counts it (1000000a + 1000b + c) in the usual writing."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


@rule(Scope.HOSTS, reads="facts", tells=(RELEASE,))
def release(hosts: Hosts) -> Iterator[Finding]:
    """Both hosts run the same release of the same distribution."""
    here, there = hosts.source.facts.software.release, hosts.destination.facts.software.release
    if (here.id, here.version_id) != (there.id, there.version_id):
        yield RELEASE.finding(
            f"{hosts.there} runs another release than {hosts.here}.",
            host=hosts.there,
            expected=_called(here),
            found=_called(there),
            remedy="Bring both hosts to the same release",
        )


def _called(release: Release) -> str:
    return (
        release.pretty_name or f"{release.id} {release.version_id}".strip() or "a release that does not tell its name"
    )


@rule(Scope.HOSTS, reads="facts", tells=(QEMU, LIBVIRT))
def versions(hosts: Hosts) -> Iterator[Finding]:
    """QEMU and libvirt are the same; an older QEMU on the destination may not understand the newer one's stream."""
    here, there = hosts.source.facts.software, hosts.destination.facts.software
    for check, name, mine, theirs in (
        (QEMU, "QEMU", here.qemu, there.qemu),
        (LIBVIRT, "libvirt", here.libvirt, there.libvirt),
    ):
        if not mine or not theirs or mine == theirs:
            continue
        older = theirs < mine
        yield check.finding(
            f"{name} on {hosts.there} is {'older' if older else 'newer'} than on {hosts.here}"
            + ("." if older else "; the way back may be closed."),
            host=hosts.there if older else hosts.here,
            expected=version(mine),
            found=version(theirs),
            remedy=f"Update {hosts.there if older else hosts.here}",
        )


@rule(Scope.HOSTS, reads="facts", tells=(MATERIAL,))
def certificates(hosts: Hosts) -> Iterator[Finding]:
    """Certificates and keys of both hosts can be used by libvirt, QEMU and kvmigd."""
    for side in (hosts.source, hosts.destination):
        for fact in side.facts.certificates:
            optional = fact.is_for_stream and not (hosts.source.facts.stream_tls or hosts.destination.facts.stream_tls)
            if fact.problem and not optional:
                yield MATERIAL.finding(
                    f"TLS on {side.facts.name}: {fact.problem.rstrip('.')}.",
                    host=side.facts.name,
                    subject=fact.path,
                    expected=f"a valid {fact.purpose}",
                    found=fact.problem,
                    remedy=f"Where the CA is: kvmigctl pki issue {side.facts.name}; on {side.facts.name}: "
                    "kvmigctl pki install BUNDLE",
                )


@rule(Scope.HOSTS, reads="facts", tells=(STREAM,))
def stream_tls(hosts: Hosts) -> Iterator[Finding]:
    """The guest's memory travels encrypted, unless the owner switched that off."""
    if not (hosts.source.facts.stream_tls and hosts.destination.facts.stream_tls):
        missing = hosts.there if hosts.source.facts.stream_tls else hosts.here
        yield STREAM.finding(
            f"The guest's memory would travel unencrypted: {missing} has no TLS for QEMU's stream.",
            host=missing,
            expected="certificates in /etc/pki/qemu on both hosts and tls = true under [migration] in kvmigd.toml",
            found="none that can be used, or switched off",
            remedy=f"On {missing}: kvmigctl pki install BUNDLE",
        )
