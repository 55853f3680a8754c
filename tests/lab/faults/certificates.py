"""Faults of certificates: what a host shows is expired, another's, or of a CA that the others do not know."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.lab.faults.files import file_changed
from tests.lab.host import Host

LIBVIRT_SERVER = ("/etc/pki/libvirt/servercert.pem", "/etc/pki/libvirt/private/serverkey.pem")
"""Certificate and key that libvirtd shows, which it reads when it starts."""

LIBVIRT_CLIENT = ("/etc/pki/libvirt/clientcert.pem", "/etc/pki/libvirt/private/clientkey.pem")
"""Certificate and key by which a host connects to another's libvirtd."""

QEMU_SERVER = ("/etc/pki/qemu/server-cert.pem", "/etc/pki/qemu/server-key.pem")
"""Certificate and key of the receiving end of a migration stream, which QEMU reads for each migration."""

QEMU_CLIENT = ("/etc/pki/qemu/client-cert.pem", "/etc/pki/qemu/client-key.pem")


@contextmanager
def certificate_replaced(
    host: Host,
    place: tuple[str, str],
    *,
    authority: Host | None,
    name: str = "",
    address: str = "",
    days: float = 30,
) -> Iterator[None]:
    """Give a host another certificate in one place: for that name and address, its own where they are empty.

    It is signed by the CA that `authority` keeps in /root/pki, or by a new one where that is None; valid for `days`
    from now, or expired so long ago where they are negative.
    """
    certificate, key = _issue(authority, name or host.name, address or host.address, days)
    with ExitStack() as stack:
        for path, content in zip(place, (certificate, key), strict=True):
            stack.enter_context(file_changed(host, path, content))
        yield


def other_ca() -> bytes:
    """The certificate of a CA that has issued nothing here."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody else's CA")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def _issue(authority: Host | None, name: str, address: str, days: float) -> tuple[bytes, bytes]:
    # RSA, and as small as libvirt's GnuTLS still takes: libvirt 9 refuses ECDSA
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if authority is None:
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody else's CA")])
        signer = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    else:
        issuer = x509.load_pem_x509_certificate(authority.read("/root/pki/cacert.pem").encode()).subject
        loaded = load_pem_private_key(authority.read("/root/pki/ca-key.pem").encode(), password=None)
        if not isinstance(loaded, rsa.RSAPrivateKey):
            raise TypeError("the lab's CA has another kind of key than RSA")
        signer = loaded
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    usage = {
        **dict.fromkeys(("digital_signature", "key_encipherment"), True),
        **dict.fromkeys(("content_commitment", "data_encipherment", "key_agreement", "key_cert_sign"), False),
        **dict.fromkeys(("crl_sign", "encipher_only", "decipher_only"), False),
    }
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - timedelta(days=30))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private
