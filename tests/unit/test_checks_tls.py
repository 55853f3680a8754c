"""Certificates, and the encrypted stream."""

from __future__ import annotations

import pytest

from kvmigd.model.finding import Basis, Severity, Verdict, verdict_of
from kvmigd.model.proof import TlsProof
from tests.unit.cases import CERTIFICATE, GOOD, STREAM_CERTIFICATE, changed, only, told


@pytest.mark.parametrize(("side", "host"), [("source", "hosta"), ("destination", "hostb")])
def test_a_certificate_that_cannot_be_used(side: str, host: str) -> None:
    bad = changed(CERTIFICATE, problem="/etc/pki/libvirt/servercert.pem has expired.")
    finding = only(**{f"{side}__facts__certificates": (bad, STREAM_CERTIFICATE)})
    assert (finding.check, finding.severity, finding.host) == ("tls.material", Severity.BLOCK, host)
    assert finding.summary == f"TLS on {host}: /etc/pki/libvirt/servercert.pem has expired."
    assert (finding.subject, finding.expected) == (bad.path, "a valid server certificate")
    assert finding.remedy.startswith(f"Where the CA is: kvmigctl pki issue {host};")


@pytest.mark.parametrize(("side", "host"), [("source", "hosta"), ("destination", "hostb")])
def test_a_stream_that_one_host_cannot_encrypt(side: str, host: str) -> None:
    bad = changed(STREAM_CERTIFICATE, problem="/etc/pki/qemu/server-cert.pem does not exist.")
    changes = {f"{side}__facts__certificates": (CERTIFICATE, bad), f"{side}__facts__stream_tls": False}
    material, stream = told(**changes)
    assert (material.check, material.severity, material.host) == ("tls.material", Severity.BLOCK, host)
    assert (stream.check, stream.severity, stream.host) == ("tls.stream", Severity.WARN, host)
    assert stream.remedy == f"On {host}: kvmigctl pki install BUNDLE"


def test_a_stream_that_nobody_encrypts_is_a_warning_only() -> None:
    bad = changed(STREAM_CERTIFICATE, problem="/etc/pki/qemu/server-cert.pem does not exist.")
    findings = told(
        source__facts__certificates=(CERTIFICATE, bad),
        source__facts__stream_tls=False,
        destination__facts__certificates=(CERTIFICATE, bad),
        destination__facts__stream_tls=False,
    )
    assert [finding.check for finding in findings] == ["tls.stream"]
    assert verdict_of(findings) is Verdict.DEGRADED


def test_certificates_that_do_not_accept_each_other() -> None:
    text = "on hostb, the client certificate of hosta was not issued by this host's CA"
    proof = TlsProof(to="hostb", problem="refused", text=text, taken_usec=7)
    finding = only(proofs__tls=(proof,))
    assert (finding.check, finding.severity, finding.host) == ("tls.handshake", Severity.BLOCK, "hostb")
    assert (finding.found, finding.basis, finding.proved_usec) == (text, Basis.PROVED, 7)
    assert "kvmigctl pki issue hostb" in finding.remedy
    assert told(proofs__tls=(TlsProof(to="hostb"), TlsProof(to="hosta"))) == ()


def test_certificates_that_do_not_accept_each_other_on_the_way_back() -> None:
    finding = only(proofs__tls=(TlsProof(to="hosta", problem="refused", text="no"),))
    assert (finding.check, finding.severity, finding.way) == ("tls.handshake", Severity.WARN, "back")


def test_a_handshake_that_failed_for_another_reason_is_a_warning() -> None:
    finding = only(proofs__tls=(TlsProof(to="hostb", problem="failed", text="on hosta: no shared cipher"),))
    assert (finding.check, finding.severity) == ("tls.handshake", Severity.WARN)
    for problem in ("none-here", "none-there", "no-answer", "busy"):
        assert told(proofs__tls=(TlsProof(to="hostb", problem=problem),)) == (), "tls.stream's business, or not known"


def test_a_stream_that_is_not_encrypted_needs_no_handshake() -> None:
    findings = told(proofs__tls=(TlsProof(to="hostb", problem="refused"),), source__facts__stream_tls=False)
    assert [finding.check for finding in findings] == ["tls.stream"]


NOW = 1_764_000_000_000_000
"""2025-11-24"""


@pytest.mark.parametrize(("side", "host"), [("source", "hosta"), ("destination", "hostb")])
def test_a_certificate_expires_soon(side: str, host: str) -> None:
    soon = changed(CERTIFICATE, not_after="2025-12-01T00:00:00Z")
    changes = {
        f"{side}__facts__certificates": (soon,),
        "proofs__ports": (changed(GOOD.hosts.proofs.ports[0], taken_usec=NOW),),
    }
    finding = only(**changes)
    assert (finding.check, finding.severity, finding.host) == ("tls.expiring", Severity.WARN, host)
    assert (finding.subject, finding.found) == (soon.path, "valid until 2025-12-01T00:00:00Z")
    assert finding.summary == f"A certificate of {host} expires on 2025-12-01."
    assert finding.remedy.startswith(f"Where the CA is: kvmigctl pki issue {host};")
    assert told(**{f"{side}__facts__certificates": (soon,)}) == (), "nobody knows what time it is"
    later = changed(CERTIFICATE, not_after="2025-12-10T00:00:00Z")
    assert told(**changes | {f"{side}__facts__certificates": (later,)}) == ()
