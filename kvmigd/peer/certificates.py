"""Judging certificate and key files of this host: present, readable, in date, of one CA, for the right name and use.

OpenSSL judges: every pair of certificate and key goes through a TLS handshake in memory, with exactly the checks that
a peer will make. The `cryptography` package would cost the daemon 8 MiB of memory for the same answers.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kvmigd.config import Pki
from kvmigd.errors import CertificateInvalid
from kvmigd.host.qemuuser import QEMU_CONF, QemuUser
from kvmigd.host.verification import why_refused
from kvmigd.model.host import CertificateFact

Role = Literal["server", "client"]
SIZE_LIMIT = 1 << 20
INSTALL_HINT = "Install this host's bundle: kvmigctl pki install BUNDLE"

_RSA_KEY = bytes.fromhex("06092a864886f70d010101")
"""rsaEncryption as an object identifier; in a certificate only the public key's algorithm has it."""
_KEY_USAGE = bytes.fromhex("0603551d0f")


class Pair(NamedTuple):
    """A certificate with its key and the CA that must have issued it."""

    role: Role
    certificate: Path
    key: Path
    ca: Path


class Subject(NamedTuple):
    """What a certificate says of itself."""

    names: tuple[str, ...]
    not_before: float
    not_after: float


def names_in(certificate: dict[str, Any]) -> tuple[str, ...]:
    """The names of a certificate as `SSLSocket.getpeercert` tells it; the common name only if there is no other."""
    alternative = certificate.get("subjectAltName", ())
    names = tuple(value for kind, value in alternative if kind in ("DNS", "IP Address"))
    if alternative:
        return names
    common = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return tuple(common[-1:])


def read(path: Path, what: str) -> bytes:
    """The content of a PEM file; raises CertificateInvalid."""
    try:
        # Without O_NONBLOCK a FIFO there would stop the daemon.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CertificateInvalid(f"{what} {path} is not a regular file.")
            content = file.read(SIZE_LIMIT) or b""
    except FileNotFoundError:
        raise CertificateInvalid(f"{what} {path} does not exist.", hint=INSTALL_HINT) from None
    except OSError as error:
        raise CertificateInvalid(f"{what} {path} cannot be read: {error.strerror}.") from error
    if b"-----BEGIN" not in content:
        raise CertificateInvalid(f"{what} {path} is not a PEM file.", hint=INSTALL_HINT)
    return content


def subject_of(path: Path) -> Subject:
    """Names and dates of the first certificate in a PEM file; raises CertificateInvalid."""
    read(path, "Certificate")
    try:
        # Nothing public decodes a certificate that has not been verified, and here are those that will not verify.
        told = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined]
    except ssl.SSLError as error:
        raise CertificateInvalid(f"Certificate {path} cannot be decoded.") from error
    return Subject(
        names_in(told), ssl.cert_time_to_seconds(told["notBefore"]), ssl.cert_time_to_seconds(told["notAfter"])
    )


def context(pair: Pair) -> ssl.SSLContext:
    """TLS 1.3 with certificates both ways; raises CertificateInvalid naming the file and what is wrong with it."""
    read(pair.ca, "CA certificate")
    read(pair.certificate, "Certificate")
    read(pair.key, "Private key")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if pair.role == "server" else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    try:
        made.load_verify_locations(pair.ca)
        for revoked in (pair.ca.with_name("cacrl.pem"), pair.ca.with_name("ca-crl.pem")):  # libvirt's place, QEMU's
            if revoked.exists():
                made.load_verify_locations(revoked)
                made.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except ssl.SSLError as error:
        raise CertificateInvalid(f"CA certificate {pair.ca} cannot be decoded.") from error
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        made.load_cert_chain(pair.certificate, pair.key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateInvalid(
                f"Private key {pair.key} does not match certificate {pair.certificate}."
            ) from error
        if error.reason in ("BAD_DECRYPT", "BAD_PASSWORD_READ") or b"ENCRYPTED" in read(pair.key, "Private key"):
            raise CertificateInvalid(f"Private key {pair.key} is encrypted; a service cannot use it.") from error
        raise CertificateInvalid(f"Certificate {pair.certificate} or its key {pair.key} cannot be decoded.") from error
    except ValueError as error:
        raise CertificateInvalid(f"Private key {pair.key} cannot be decoded: {error}.") from error
    if pair.role == "server":
        made.num_tickets = 0  # a resumed session would not judge the client's certificate again
    else:
        # Older PKI has certificates without alternative names; libvirt takes their common name too.
        made.hostname_checks_common_name = True
    return made


def rehearse(pair: Pair, name: str = "") -> None:
    """A handshake in memory, with this host as its own peer; raises CertificateInvalid as a peer would refuse it."""
    judged = context(pair)
    judge = context(pair._replace(role="client" if pair.role == "server" else "server"))
    judged.check_hostname = False
    judged.verify_mode = ssl.CERT_NONE
    if judge.check_hostname:
        judge.check_hostname = bool(name)
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    server, client = (judged, judge) if pair.role == "server" else (judge, judged)
    sides = (
        client.wrap_bio(inward, outward, server_hostname=name or None),
        server.wrap_bio(outward, inward, server_side=True),
    )
    try:
        for side in sides * 2:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        text = f"Certificate {pair.certificate} {why_refused(error)}"
        if error.verify_code in (62, 64):
            text = f"Certificate {pair.certificate} is for {spoken(subject_of(pair.certificate).names)}, not for {name}"
        elif error.verify_code in (9, 10):
            text += f" ({_dates(subject_of(pair.certificate))})"
        raise CertificateInvalid(f"{text}.", hint=INSTALL_HINT) from error
    except ssl.SSLError as error:
        raise CertificateInvalid(f"Certificate {pair.certificate} cannot be used for TLS: {error}.") from error


def spoken(names: Iterable[str]) -> str:
    """Names for a sentence."""
    return ", ".join(names) or "nobody"


def _dates(subject: Subject) -> str:
    return f"valid from {rfc3339(subject.not_before)} to {rfc3339(subject.not_after)}"


def rfc3339(seconds: float) -> str:
    """A time as certificates and facts show it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pairs(pki: Pki) -> Iterator[tuple[str, Pair]]:
    """Every certificate that migration needs, with what it is for."""
    yield "libvirt and kvmigd, server", Pair("server", pki.server_certificate, pki.server_key, pki.ca)
    yield "libvirt and kvmigd, client", Pair("client", pki.client_certificate, pki.client_key, pki.ca)
    for role in ("server", "client"):
        certificate, key = pki.qemu / f"{role}-cert.pem", pki.qemu / f"{role}-key.pem"
        yield f"migration stream, {role}", Pair(role, certificate, key, pki.qemu / "ca-cert.pem")


def certificate_facts(pki: Pki, *, name: str = "", qemu_conf: Path = QEMU_CONF) -> tuple[CertificateFact, ...]:
    """Judge every certificate and key file; with `name`, also whether the certificates are for that host.

    Blocks for some 30 ms (files and handshakes): call it in a thread.
    """
    facts = [_judge_ca(pki.ca, "CA")]
    user = QemuUser.find(qemu_conf)
    for purpose, pair in pairs(pki):
        of_qemu = pair.certificate.parent == pki.qemu
        if of_qemu and pair.role == "server":
            facts.append(_judge_ca(pair.ca, "migration stream, CA"))
        facts.append(_judge_certificate(pair, purpose, name))
        facts.append(_judge_key(pair, f"{purpose} key", user if of_qemu else None))
    return tuple(facts)


def _problem(*checks: Callable[[], object]) -> str:
    try:
        for check in checks:
            check()
    except CertificateInvalid as error:
        return error.message
    return ""


def _judge_ca(path: Path, purpose: str) -> CertificateFact:
    try:
        subject = subject_of(path)
    except CertificateInvalid as error:
        return CertificateFact(path=str(path), purpose=purpose, problem=error.message)
    problem = ""
    if not subject.not_before <= time.time() <= subject.not_after:
        problem = f"CA certificate {path} is out of date ({_dates(subject)})."
    return CertificateFact(
        path=str(path), purpose=purpose, problem=problem, not_after=rfc3339(subject.not_after), names=subject.names
    )


def _judge_certificate(pair: Pair, purpose: str, name: str) -> CertificateFact:
    path = pair.certificate
    try:
        subject = subject_of(path)
    except CertificateInvalid as error:
        return CertificateFact(path=str(path), purpose=purpose, problem=error.message)

    def is_named() -> None:
        if name and name.casefold() not in {known.casefold() for known in subject.names}:
            raise CertificateInvalid(f"Certificate {path} is for {spoken(subject.names)}, not for {name}.")

    # A problem of the key is told at the key.
    problem = ""
    if not _problem(lambda: context(pair)):
        problem = _problem(lambda: rehearse(pair, name if pair.role == "server" else ""), is_named)
    problem = problem or _problem(lambda: _libvirt_takes(path))
    return CertificateFact(
        path=str(path), purpose=purpose, problem=problem, not_after=rfc3339(subject.not_after), names=subject.names
    )


def _libvirt_takes(path: Path) -> None:
    """What libvirt asks beyond OpenSSL (virnettlscert.c): a key that can encipher keys, which only RSA can."""
    pem = re.search(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", read(path, "Certificate"), re.DOTALL)
    try:
        der = ssl.PEM_cert_to_DER_cert(pem[0].decode() if pem else "")
    except ValueError as error:
        raise CertificateInvalid(f"Certificate {path} cannot be decoded.") from error
    if _RSA_KEY not in der:
        raise CertificateInvalid(f"Certificate {path} has no RSA key; libvirt 9 refuses others (key encipherment).")
    usage = re.search(re.escape(_KEY_USAGE) + rb"(\x01\x01\xff)?\x04.\x03..(.)", der, re.DOTALL)
    if usage and usage[1] and (usage[2][0] & 0xA0) != 0xA0:
        raise CertificateInvalid(
            f"Certificate {path} does not permit digital signature and key encipherment, which libvirt demands."
        )


def _judge_key(pair: Pair, purpose: str, user: QemuUser | None) -> CertificateFact:
    def is_private() -> None:
        if pair.key.stat().st_mode & stat.S_IRWXO:
            raise CertificateInvalid(f"Private key {pair.key} can be read by everybody.", hint=f"chmod o= {pair.key}")

    checks: list[Callable[[], object]] = [lambda: read(pair.key, "Private key"), is_private]
    if user is not None:
        checks.append(lambda: user.can_read(pair.key))
    if pair.certificate.exists() and pair.ca.exists():
        checks.append(lambda: context(pair))
    return CertificateFact(path=str(pair.key), purpose=purpose, problem=_problem(*checks))
