"""kvmigctl pki from end to end, judged by other programs, and with traps in its way."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from kvmigd.bundle import MEMBER_LIMIT, MEMBERS, PLACES, Bundle, install, qemu_group, write_new
from kvmigd.cli.pki import pki
from kvmigd.errors import CertificateInvalid, InvalidArguments
from kvmigd.peer.certificates import certificate_facts
from kvmigd.pki import Authority
from tests.unit import peer_lab as lab


def kvmigctl(*words: object) -> Result:
    return CliRunner().invoke(pki, [str(word) for word in words])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system with QEMU's group, which is one that the test may give files to."""
    made = tmp_path / "root"
    (made / "etc").mkdir(parents=True)
    (made / "etc/group").write_text(f"root:x:0:\nlibvirt-qemu:x:{os.getegid()}:\n")
    return made


def modes(root: Path) -> dict[str, int]:
    return {place.path: stat.S_IMODE((root / place.path).stat().st_mode) for place in PLACES}


def test_from_ca_to_host(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmigd.pki.KEY_BITS", 2048)
    ca = tmp_path / "ca"
    made = kvmigctl("init", "--directory", ca)
    assert made.exit_code == 0, made.output
    assert stat.S_IMODE(ca.stat().st_mode) == 0o700
    assert stat.S_IMODE((ca / "ca-key.pem").stat().st_mode) == 0o600
    assert kvmigctl("init", "--directory", ca).exit_code == 1
    bundle = tmp_path / "hosta.tar"
    options = ("--directory", ca, "--output", bundle, "--address", "10.0.0.1", "--address", "fd00::1")
    issued = kvmigctl("issue", "hosta", *options)
    assert issued.exit_code == 0, issued.output
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
    assert kvmigctl("issue", "hosta", *options).exit_code == 2  # never overwritten
    done = kvmigctl("install", bundle, "--root", root)
    assert done.exit_code == 0, done.output
    for told in ("servercert.pem", "group libvirt-qemu", "libvirtd-tls.socket", "systemctl reload kvmigd"):
        assert told in done.output
    assert modes(root) == {place.path: place.mode for place in PLACES}
    assert stat.S_IMODE((root / "etc/pki/libvirt/private").stat().st_mode) == 0o700
    assert not list(root.rglob(".*"))  # nothing half written
    facts = certificate_facts(lab.pki_below(root), name="hosta", qemu_conf=Path("/nonexistent"))
    assert [fact.problem for fact in facts] == [""] * 10
    assert kvmigctl("install", bundle, "--root", root).exit_code == 0  # again is harmless
    monkeypatch.setattr("kvmigd.peer.certificates.QemuUser.find", lambda _conf: None)  # who could not come in here
    pki = msgspec.structs.asdict(lab.pki_below(root))
    places = "\n".join(f'{key} = "{path}"' for key, path in pki.items())
    (tmp_path / "kvmigd.toml").write_text(f'name = "hosta"\n[pki]\n{places}\n', encoding="utf-8")
    shown = kvmigctl("show", "--config", tmp_path)
    assert shown.exit_code == 0, shown.output
    (root / "etc/pki/qemu/client-key.pem").unlink()
    shown = kvmigctl("show", "--config", tmp_path)
    assert shown.exit_code == 1
    assert "client-key.pem does not exist." in shown.output


def test_what_is_issued() -> None:
    made = lab.authority().issue("hosta.example", addresses=["10.0.0.1"])
    certificate = x509.load_pem_x509_certificate(made.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hosta.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert usage.key_encipherment
    assert not usage.key_cert_sign
    assert set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert certificate.not_valid_after_utc <= lab.authority().certificate.not_valid_after_utc
    long = "a" * 60 + "." + "b" * 60
    assert made.check() is None
    assert lab.authority().issue(long).check() is None


@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_agrees(tmp_path: Path, purpose: str) -> None:
    if not shutil.which("openssl"):
        pytest.skip("no openssl here")
    made = lab.bundle("hostb")
    (tmp_path / "ca.pem").write_bytes(made.ca)
    (tmp_path / "cert.pem").write_bytes(made.certificate)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.pem", "-purpose", purpose]
    subprocess.run([*command, "-verify_hostname", "hostb", "cert.pem"], cwd=tmp_path, check=True)
    refused = subprocess.run([*command, "-verify_hostname", "hostc", "cert.pem"], cwd=tmp_path, check=False)
    assert refused.returncode != 0


def test_gnutls_agrees(tmp_path: Path) -> None:
    """libvirt and QEMU use GnuTLS."""
    if not shutil.which("certtool"):
        pytest.skip("no certtool here")
    made = lab.bundle("hostb")
    (tmp_path / "ca.pem").write_bytes(made.ca)
    (tmp_path / "cert.pem").write_bytes(made.certificate)
    for purpose in ("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"):
        command = ["certtool", "--verify", "--load-ca-certificate", "ca.pem", "--infile", "cert.pem"]
        told = subprocess.run(
            [*command, "--verify-purpose", purpose, "--verify-hostname", "hostb"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        assert "Chain verification output: Verified." in told.stdout


@pytest.mark.parametrize("name", ["", "a b", "../x", "-", "x" * 300, "host*"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidArguments):
        lab.authority().issue(name)


def test_addresses_that_are_none() -> None:
    with pytest.raises(InvalidArguments, match="'hostb' does not appear to be an IPv4 or IPv6 address"):
        lab.authority().issue("hosta", addresses=["hostb"])


def test_a_ca_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CertificateInvalid, match="There is no CA in"):
        Authority.load(tmp_path)
    lab.authority().save(tmp_path / "one")
    lab.authority(2).save(tmp_path / "two")
    assert Authority.load(tmp_path / "one").pem == lab.authority().pem
    shutil.copy(tmp_path / "one/ca-key.pem", tmp_path / "two/ca-key.pem")
    with pytest.raises(CertificateInvalid, match="is not the RSA key of"):
        Authority.load(tmp_path / "two")
    (tmp_path / "two/ca-key.pem").write_text("-----BEGIN nonsense-----")
    with pytest.raises(CertificateInvalid, match="cannot be decoded"):
        Authority.load(tmp_path / "two")


# Another CA's material


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*.pem"))}


def test_another_ca_stays(root: Path) -> None:
    install(lab.bundle("hosta", ca=2), root)
    before = contents(root)
    with pytest.raises(CertificateInvalid, match=r"cacert\.pem belongs to another CA; nothing was changed"):
        install(lab.bundle("hosta"), root)
    assert contents(root) == before
    install(lab.bundle("hosta"), root, force=True)
    assert contents(root)[str(root / "etc/pki/CA/cacert.pem")] == lab.authority().pem


def test_one_foreign_certificate_suffices(root: Path) -> None:
    place = root / "etc/pki/qemu/server-cert.pem"
    place.parent.mkdir(parents=True)
    place.write_bytes(lab.bundle("hosta", ca=2).certificate)
    with pytest.raises(CertificateInvalid, match=r"server-cert\.pem belongs to another CA"):
        install(lab.bundle("hosta"), root)
    assert list(contents(root)) == [str(place)]


# Traps in the file system


def test_links_are_replaced_not_followed(root: Path, tmp_path: Path) -> None:
    victim = tmp_path / "shadow"
    victim.write_text("secret")
    place = root / "etc/pki/qemu/server-key.pem"
    place.parent.mkdir(parents=True)
    place.symlink_to(victim)
    install(lab.bundle("hosta"), root)
    assert victim.read_text() == "secret"
    assert not place.is_symlink()


@pytest.mark.parametrize("step", ["etc/pki", "etc/pki/libvirt", "etc/pki/libvirt/private"])
def test_directories_that_are_links(root: Path, tmp_path: Path, step: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / step).parent.mkdir(parents=True, exist_ok=True)
    (root / step).symlink_to(elsewhere)
    with pytest.raises(CertificateInvalid, match="is a link or a file; a directory is expected"):
        install(lab.bundle("hosta"), root)
    assert list(elsewhere.iterdir()) == []


def test_without_qemu(tmp_path: Path) -> None:
    done = install(lab.bundle("hosta"), tmp_path)
    assert done.group == ""
    assert modes(tmp_path)["etc/pki/qemu/server-key.pem"] == 0o600


def test_groups(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text("kvm:x:104:\nqemu:x:107:\nbroken\nlibvirt-qemu:x:\n")
    assert qemu_group(tmp_path) == ("qemu", 107)


def test_new_files_are_new(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(InvalidArguments, match="exists already"):
        write_new(tmp_path / "link", b"", mode=0o600)
    assert not (tmp_path / "target").exists()
    with pytest.raises(InvalidArguments, match="cannot be written: No such file"):
        write_new(tmp_path / "no/where", b"", mode=0o600)


# Bundles that are none


def tar(*members: tuple[str, bytes, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(content)
            if kind == tarfile.SYMTYPE:
                member.linkname = "/etc/shadow"
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def members(**changed: tuple[str, bytes, bytes]) -> list[tuple[str, bytes, bytes]]:
    made = lab.bundle("hosta")
    usual = {part: (name, tarfile.REGTYPE, getattr(made, part)) for name, part in MEMBERS.items()}
    return list({**usual, **changed}.values())


BAD_BUNDLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "is missing|empty"),
    "noise": (lambda: b"x" * 5000, "is not a bundle"),
    "cut": (lambda: lab.bundle("hosta").pack()[:1500], "is not a bundle|end of data"),
    "huge": (lambda: b"\0" * ((1 << 20) + 1), "too large"),
    "path": (lambda: tar(*members(x=("../evil", tarfile.REGTYPE, b"x"))), r"it holds '\.\./evil'"),
    "absolute": (lambda: tar(*members(x=("/etc/passwd", tarfile.REGTYPE, b"x"))), "it holds '/etc/passwd'"),
    "link": (lambda: tar(*members(key=("key.pem", tarfile.SYMTYPE, b""))), "it holds 'key.pem'"),
    "device": (lambda: tar(*members(key=("key.pem", tarfile.CHRTYPE, b""))), "it holds 'key.pem'"),
    "twice": (lambda: tar(*members(), *members()), "twice"),
    "large": (lambda: tar(*members(key=("key.pem", tarfile.REGTYPE, b"x" * (MEMBER_LIMIT + 1)))), "it holds"),
    "incomplete": (lambda: tar(*members()[:2]), "key.pem is missing"),
    "no PEM": (lambda: tar(*members(key=("key.pem", tarfile.REGTYPE, b"x"))), "parts cannot be used"),
    "other key": (
        lambda: tar(*members(key=("key.pem", tarfile.REGTYPE, lab.bundle("hostb").key))),
        "does not match",
    ),
    "other CA": (
        lambda: tar(*members(ca=("cacert.pem", tarfile.REGTYPE, lab.authority(2).pem))),
        "parts cannot be used|not issued by its CA",
    ),
    "expired": (lambda: lab.dated("hosta", begins=-30, days=10).pack(), "not today"),
}


@pytest.mark.parametrize("name", BAD_BUNDLES)
def test_bundles_that_are_none(tmp_path: Path, name: str) -> None:
    make, told = BAD_BUNDLES[name]
    path = tmp_path / "b.tar"
    path.write_bytes(make())
    with pytest.raises(CertificateInvalid, match=told):
        Bundle.unpack(path)


def test_no_bundle(tmp_path: Path, root: Path) -> None:
    result = kvmigctl("install", tmp_path / "none.tar", "--root", root)
    assert result.exit_code == 1
    assert "cannot be read: No such file" in result.output
    good = tmp_path / "good.tar"
    good.write_bytes(lab.bundle("hosta").pack())
    assert Bundle.unpack(good) == lab.bundle("hosta")
    result = kvmigctl("install", good, "--root", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "Cannot install below" in result.output
