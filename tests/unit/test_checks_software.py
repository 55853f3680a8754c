"""Releases, versions and certificates."""

from __future__ import annotations

import pytest

from kvmigd.checks.software import version
from kvmigd.model.finding import Severity, Verdict, verdict_of
from kvmigd.model.system import Release
from tests.unit.cases import CERTIFICATE, STREAM_CERTIFICATE, changed, only, told

OTHER_RELEASE = Release(id="debian", version_id="13", pretty_name="Debian GNU/Linux 13")


def test_another_release_is_a_warning() -> None:
    finding = only(destination__facts__software__release=OTHER_RELEASE)
    assert (finding.check, finding.severity, finding.host) == ("software.release", Severity.WARN, "hostb")
    assert (finding.expected, finding.found) == ("Debian GNU/Linux 12", "Debian GNU/Linux 13")
    assert finding.remedy
    renamed = changed(OTHER_RELEASE, version_id="12")
    assert told(destination__facts__software__release=renamed) == (), "only id and version count"
    assert only(destination__facts__software__release=Release(id="arch")).found == "arch"
    assert "does not tell" in only(destination__facts__software__release=Release()).found


@pytest.mark.parametrize(
    ("field", "check", "name"), [("qemu", "software.qemu", "QEMU"), ("libvirt", "software.libvirt", "libvirt")]
)
def test_versions_that_differ_are_a_warning_for_the_older_host(field: str, check: str, name: str) -> None:
    older = only(**{f"destination__facts__software__{field}": 6_002_001})
    assert (older.check, older.severity, older.host) == (check, Severity.WARN, "hostb")
    assert older.summary == f"{name} on hostb is older than on hosta."
    assert (older.found, older.remedy) == ("6.2.1", "Update hostb")
    newer = only(**{f"destination__facts__software__{field}": 11_000_000})
    assert (newer.check, newer.severity, newer.host) == (check, Severity.WARN, "hosta")
    assert newer.summary == f"{name} on hostb is newer than on hosta; the way back may be closed."
    assert newer.remedy == "Update hosta"
    assert told(**{f"destination__facts__software__{field}": 0}) == (), "not known"
    assert told(**{f"source__facts__software__{field}": 0}) == ()


@pytest.mark.parametrize(("number", "text"), [(9_000_000, "9.0.0"), (7_002_011, "7.2.11"), (0, "0.0.0")])
def test_versions_are_written_as_usual(number: int, text: str) -> None:
    assert version(number) == text


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
