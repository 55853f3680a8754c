"""Software and certificates: the same release, versions that go together, TLS material that works."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.case import Case, blocks, warns
from kvmigd.model.finding import Finding
from kvmigd.model.system import Release


def version(number: int) -> str:
    """A version as libvirt counts it (1000000a + 1000b + c) in the usual writing."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def release(case: Case) -> Iterator[Finding]:
    """Both hosts run the same release of the same distribution."""
    here, there = case.source.facts.software.release, case.destination.facts.software.release
    if (here.id, here.version_id) != (there.id, there.version_id):
        yield warns(
            "software.release",
            f"{case.there} runs another release than {case.here}.",
            host=case.there,
            expected=_called(here),
            found=_called(there),
            remedy="Bring both hosts to the same release",
        )


def _called(release: Release) -> str:
    return (
        release.pretty_name or f"{release.id} {release.version_id}".strip() or "a release that does not tell its name"
    )


def versions(case: Case) -> Iterator[Finding]:
    """QEMU and libvirt are the same; an older QEMU on the destination may not understand the newer one's stream."""
    here, there = case.source.facts.software, case.destination.facts.software
    for name, mine, theirs in (("QEMU", here.qemu, there.qemu), ("libvirt", here.libvirt, there.libvirt)):
        if not mine or not theirs or mine == theirs:
            continue
        older = theirs < mine
        yield warns(
            f"software.{name.lower()}",
            f"{name} on {case.there} is {'older' if older else 'newer'} than on {case.here}"
            + ("." if older else "; the way back may be closed."),
            host=case.there if older else case.here,
            expected=version(mine),
            found=version(theirs),
            remedy=f"Update {case.there if older else case.here}",
        )


def certificates(case: Case) -> Iterator[Finding]:
    """Certificates and keys of both hosts can be used by libvirt, QEMU and kvmigd."""
    for side in (case.source, case.destination):
        for fact in side.facts.certificates:
            optional = fact.is_for_stream and not (case.source.facts.stream_tls or case.destination.facts.stream_tls)
            if fact.problem and not optional:
                yield blocks(
                    "tls.material",
                    f"TLS on {side.facts.name}: {fact.problem.rstrip('.')}.",
                    host=side.facts.name,
                    subject=fact.path,
                    expected=f"a valid {fact.purpose}",
                    found=fact.problem,
                    remedy=f"Where the CA is: kvmigctl pki issue {side.facts.name}; on {side.facts.name}: "
                    "kvmigctl pki install BUNDLE",
                )


def stream_tls(case: Case) -> Iterator[Finding]:
    """The guest's memory travels encrypted, unless the owner switched that off."""
    if not (case.source.facts.stream_tls and case.destination.facts.stream_tls):
        missing = case.there if case.source.facts.stream_tls else case.here
        yield warns(
            "tls.stream",
            f"The guest's memory would travel unencrypted: {missing} has no TLS for QEMU's stream.",
            host=missing,
            expected="certificates in /etc/pki/qemu on both hosts and tls = true under [migration] in kvmigd.toml",
            found="none that can be used, or switched off",
            remedy=f"On {missing}: kvmigctl pki install BUNDLE",
        )
