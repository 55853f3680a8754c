"""Making a CA, and host certificates that libvirt, QEMU and kvmigd all accept."""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvmigd.bundle import Bundle, write_new
from kvmigd.config import Name
from kvmigd.errors import CertificateInvalid, InvalidArguments

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

KEY_BITS = 3072
CA_DAYS = 3650
HOST_DAYS = 1095
CLOCK_SLACK = timedelta(hours=1)
"""Certificates are valid from a little earlier, for hosts whose clocks are behind."""

CA_CERTIFICATE = "cacert.pem"
CA_KEY = "ca-key.pem"


class Authority:
    """A CA: it lives in a directory that only root can read, on one machine of the admin's choice."""

    def __init__(self, certificate: x509.Certificate, key: RSAPrivateKey) -> None:
        self.certificate = certificate
        self.key = key

    @classmethod
    def create(cls, *, days: int = CA_DAYS) -> Authority:
        """A new CA."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        # A name of its own: TLS finds an issuer by name, and another CA of the same name gives puzzling errors.
        name = _name(f"kvmigd CA {secrets.token_hex(4)}")
        now = datetime.now(UTC)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SLACK)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """The CA in a directory; raises CertificateInvalid."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            certificate = x509.load_pem_x509_certificate((directory / CA_CERTIFICATE).read_bytes())
            key = load_pem_private_key((directory / CA_KEY).read_bytes(), password=None)
        except FileNotFoundError as error:
            raise CertificateInvalid(
                f"There is no CA in {directory}: {Path(error.filename).name} is missing.",
                hint="Make one: kvmigctl pki init",
            ) from error
        except OSError as error:
            raise CertificateInvalid(f"The CA in {directory} cannot be read: {error.strerror}.") from error
        except (ValueError, TypeError) as error:
            raise CertificateInvalid(f"The CA in {directory} cannot be decoded: {error}.") from error
        if not isinstance(key, RSAPrivateKey) or key.public_key() != certificate.public_key():
            raise CertificateInvalid(f"{directory / CA_KEY} is not the RSA key of {directory / CA_CERTIFICATE}.")
        return cls(certificate, key)

    def save(self, directory: Path) -> None:
        """Put the CA into a directory; one that is there already is never replaced."""
        free_for_new_ca(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise CertificateInvalid(f"{directory} cannot be made: {error.strerror}.") from error
        write_new(directory / CA_KEY, pem_of_key(self.key), mode=0o600)
        write_new(directory / CA_CERTIFICATE, self.pem, mode=0o644)

    @property
    def pem(self) -> bytes:
        """The CA's certificate."""
        return pem_of_certificate(self.certificate)

    def issue(self, name: str, *, addresses: Sequence[str] = (), days: int = HOST_DAYS) -> Bundle:
        """A certificate and key for a host; raises InvalidArguments for names and addresses that are none."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import rsa

        try:
            msgspec.convert(name, Name)
            places: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        except ValueError as error:  # msgspec's ValidationError is one
            raise InvalidArguments(f"No certificate can be issued for that: {error}.") from error
        places.insert(0, _general_name(name))
        key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        certificate = self.sign(name, key=key, alternative=places, days=days)
        return Bundle(ca=self.pem, certificate=pem_of_certificate(certificate), key=pem_of_key(key))

    def sign(
        self,
        name: str,
        *,
        key: RSAPrivateKey,
        alternative: Sequence[x509.GeneralName],
        days: int,
        begins: datetime | None = None,
    ) -> x509.Certificate:
        """A certificate for both ends of TLS. libvirt wants key encipherment, which is why keys are RSA."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.x509.oid import ExtendedKeyUsageOID

        begins = begins or datetime.now(UTC) - CLOCK_SLACK
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name[:64]))  # a common name has no room for more
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(min(begins + timedelta(days=days), self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(purposes, critical=False)
            .add_extension(own, critical=False)
            .add_extension(issuer, critical=False)
        )
        if alternative:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def free_for_new_ca(directory: Path) -> None:
    """Raises CertificateInvalid if the directory holds a CA, or the rest of one."""
    for name in (CA_KEY, CA_CERTIFICATE):
        if os.path.lexists(directory / name):
            raise CertificateInvalid(
                f"{directory} already holds a CA ({name}); it stays as it is.",
                hint="Use it with kvmigctl pki issue, or give another --directory.",
            )


def _name(common: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_encipherment=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def pem_of_certificate(certificate: x509.Certificate) -> bytes:
    """A certificate as a file holds it."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def pem_of_key(key: RSAPrivateKey) -> bytes:
    """A key as a file holds it."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
