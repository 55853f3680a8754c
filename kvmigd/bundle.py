"""A host's bundle of CA certificate, certificate and key: one tar to carry, and the places where its parts belong."""

from __future__ import annotations

import grp
import io
import os
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import msgspec

from kvmigd.errors import CertificateInvalid, InvalidArguments

MEMBERS = {"cacert.pem": "ca", "cert.pem": "certificate", "key.pem": "key"}
MEMBER_LIMIT = 64 << 10
BUNDLE_LIMIT = 1 << 20
QEMU_GROUPS = ("libvirt-qemu", "qemu", "kvm")
"""Groups of the user as whom libvirt runs QEMU: Debian's, everybody else's, older Debian's."""

Part = Literal["ca", "certificate", "key"]


class Place(NamedTuple):
    """Where a part of the bundle belongs, and who may read it."""

    path: str
    part: Part
    mode: int = 0o644
    for_qemu: bool = False


PLACES = (
    Place("etc/pki/CA/cacert.pem", "ca"),
    Place("etc/pki/libvirt/private/serverkey.pem", "key", 0o600),
    Place("etc/pki/libvirt/servercert.pem", "certificate"),
    Place("etc/pki/libvirt/private/clientkey.pem", "key", 0o600),
    Place("etc/pki/libvirt/clientcert.pem", "certificate"),
    Place("etc/pki/qemu/ca-cert.pem", "ca"),
    Place("etc/pki/qemu/server-key.pem", "key", 0o640, for_qemu=True),
    Place("etc/pki/qemu/server-cert.pem", "certificate"),
    Place("etc/pki/qemu/client-key.pem", "key", 0o640, for_qemu=True),
    Place("etc/pki/qemu/client-cert.pem", "certificate"),
)


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """The parts as PEM; the one certificate serves all of the host's roles."""

    ca: bytes
    certificate: bytes
    key: bytes

    def pack(self) -> bytes:
        """The bundle as a tar."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, part in MEMBERS.items():
                content: bytes = getattr(self, part)
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o600
                archive.addfile(member, io.BytesIO(content))
        return packed.getvalue()

    @classmethod
    def unpack(cls, path: Path) -> Bundle:
        """Read a bundle and check that it is one, and that its parts belong together; raises CertificateInvalid."""
        try:
            with path.open("rb") as file:
                content = file.read(BUNDLE_LIMIT + 1)
        except OSError as error:
            raise CertificateInvalid(f"Bundle {path} cannot be read: {error.strerror}.") from error
        if len(content) > BUNDLE_LIMIT:
            raise CertificateInvalid(f"{path} is too large to be a bundle.")
        parts: dict[str, bytes] = {}
        try:
            # Only in memory and only under known names, so nothing in the archive can choose where to write.
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
                for member in archive:
                    if member.name not in MEMBERS or not member.isreg() or member.size > MEMBER_LIMIT:
                        raise CertificateInvalid(f"{path} is not a bundle: it holds {member.name[:80]!r}.")
                    file_in_it = archive.extractfile(member)
                    if member.name in parts or file_in_it is None:
                        raise CertificateInvalid(f"{path} is not a bundle: it holds {member.name!r} twice.")
                    parts[member.name] = file_in_it.read(MEMBER_LIMIT)
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise CertificateInvalid(
                f"{path} is not a bundle: {error}.", hint="Make one: kvmigctl pki issue"
            ) from error
        missing = MEMBERS.keys() - parts.keys()
        if missing:
            raise CertificateInvalid(f"{path} is not a bundle: {', '.join(sorted(missing))} is missing.")
        bundle = cls(**{part: parts[name] for name, part in MEMBERS.items()})
        bundle.check()
        return bundle

    def check(self) -> None:
        """Raises CertificateInvalid unless the CA issued the certificate, the key is its key, and it is in date."""
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            ca, certificate = x509.load_pem_x509_certificate(self.ca), x509.load_pem_x509_certificate(self.certificate)
            key = load_pem_private_key(self.key, password=None)
            certificate.verify_directly_issued_by(ca)
        except (ValueError, TypeError) as error:
            raise CertificateInvalid(f"The bundle's parts cannot be used: {error}.") from error
        except InvalidSignature as error:
            raise CertificateInvalid("The bundle's certificate was not issued by its CA.") from error
        if not isinstance(key, RSAPrivateKey):
            raise CertificateInvalid("The bundle's key is not an RSA key; libvirt refuses others.")
        if key.public_key() != certificate.public_key():
            raise CertificateInvalid("The bundle's key does not match its certificate.")
        if not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc:
            raise CertificateInvalid(
                f"The bundle's certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} "
                f"to {certificate.not_valid_after_utc:%Y-%m-%d}, not today."
            )

    def issued(self, pem: bytes) -> bool:
        """Whether a certificate is this bundle's CA or was issued by it."""
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature

        with suppress(ValueError, TypeError, InvalidSignature):
            x509.load_pem_x509_certificate(pem).verify_directly_issued_by(x509.load_pem_x509_certificate(self.ca))
            return True
        return False


class Installed(NamedTuple):
    """What was written; `group` owns QEMU's keys, empty where no such group exists."""

    paths: tuple[Path, ...]
    group: str


def install(bundle: Bundle, root: Path, *, force: bool = False) -> Installed:
    """Write every part to its places below `root`. Nothing is written if another CA's material is there already."""
    group, number = qemu_group(root)
    if not force:
        _refuse_foreign(bundle, root)
    written = []
    for place in PLACES:
        relative = PurePosixPath(place.path)
        owner = number if place.for_qemu else None
        mode = place.mode if owner is not None or not place.for_qemu else 0o600
        with _directory(root, relative.parent, create=True) as directory:
            _replace(directory, relative.name, getattr(bundle, place.part), mode=mode, group=owner)
        written.append(root / place.path)
    return Installed(tuple(written), group)


def _refuse_foreign(bundle: Bundle, root: Path) -> None:
    for place in PLACES:
        if place.part == "key":
            continue
        there = _read_there(root, PurePosixPath(place.path))
        if there is not None and not bundle.issued(there):
            raise CertificateInvalid(
                f"{root / place.path} belongs to another CA; nothing was changed.",
                hint="Replace everything with --force, on all hosts; or have that CA issue this host's certificates.",
            )


def _read_there(root: Path, relative: PurePosixPath) -> bytes | None:
    # A link there is somebody's material too: it is read through, but never written through.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    with (
        suppress(FileNotFoundError),
        _directory(root, relative.parent, create=False) as directory,
        open(os.open(relative.name, flags, dir_fd=directory), "rb") as file,
    ):
        return file.read(MEMBER_LIMIT)
    return None


@contextmanager
def _directory(root: Path, relative: PurePosixPath, *, create: bool) -> Iterator[int]:
    """A directory, opened step by step so that no link on the way is followed."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    with ExitStack() as stack:
        at = os.open(root, flags)
        stack.callback(os.close, at)
        walked = root
        for step in relative.parts:
            walked /= step
            if create:
                with suppress(FileExistsError):
                    os.mkdir(step, 0o700 if step == "private" else 0o755, dir_fd=at)
            try:
                at = os.open(step, flags | os.O_NOFOLLOW, dir_fd=at)
            except NotADirectoryError as error:
                raise CertificateInvalid(f"{walked} is a link or a file; a directory is expected.") from error
            stack.callback(os.close, at)
        yield at


def _replace(directory: int, name: str, content: bytes, *, mode: int, group: int | None) -> None:
    """Put a file in place at once and complete; what was there, also a link, is replaced and not written through."""
    temporary = f".{name}.{secrets.token_hex(4)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    number = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with open(number, "wb") as file:
            if group is not None:
                os.fchown(number, -1, group)
            os.fchmod(number, mode)
            file.write(content)
            file.flush()
            os.fsync(number)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise


def qemu_group(root: Path) -> tuple[str, int | None]:
    """The group that shall read QEMU's keys on the system below `root`, which has groups of its own unless it is /."""
    for name in QEMU_GROUPS:
        if root == Path("/"):
            with suppress(KeyError):
                return name, grp.getgrnam(name).gr_gid
        else:
            with suppress(OSError):
                for line in (root / "etc/group").read_text("utf-8", "replace").splitlines():
                    fields = line.split(":")
                    if fields[0] == name and len(fields) > 2 and fields[2].isdigit():
                        return name, int(fields[2])
    return "", None


def write_new(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file that must not be there yet, not even as a link; it never has another mode than this."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError as error:
        raise InvalidArguments(
            f"{path} exists already; it stays as it is.", hint="Remove it or name another."
        ) from error
    except OSError as error:
        raise InvalidArguments(f"{path} cannot be written: {error.strerror}.") from error
    with open(number, "wb") as file:
        os.fchmod(number, mode)
        file.write(content)
