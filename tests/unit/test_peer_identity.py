"""Every way in which two hosts can fail to trust each other, each told in its own words."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kvmigd.bundle import Bundle
from kvmigd.config import Peer, Pki
from kvmigd.errors import CertificateInvalid, KvmigdError, PeerFailed, PeerNotTrusted, PeerUnreachable, ProtocolMismatch
from kvmigd.model.peer import PeerState
from kvmigd.peer.certificates import certificate_facts, names_in
from kvmigd.peer.identity import Credentials, peer_of
from kvmigd.pki import pem_of_certificate, pem_of_key
from tests.unit import peer_lab as lab


def replaced(pki: Pki, bundle: Bundle, *, role: str = "client") -> Pki:
    """Put another certificate and key where the installed ones are."""
    certificate, key = (
        (pki.client_certificate, pki.client_key) if role == "client" else (pki.server_certificate, pki.server_key)
    )
    certificate.write_bytes(bundle.certificate)
    key.write_bytes(bundle.key)
    return pki


async def complaint(pki: Pki, port: int, *, name: str = "hostb") -> KvmigdError:
    """What a call to hostb's server fails with."""
    async with lab.link_to(port, pki, name=name) as link:
        with pytest.raises(KvmigdError) as caught:
            await link.version()
        with pytest.raises(type(caught.value)):  # also without the first connection's surprises
            await link.whereabouts(lab.GUEST.uuid)
    return caught.value


@lab.asynchronous
async def test_trusted(tmp_path: Path) -> None:
    async with (
        lab.serving(tmp_path) as server,
        lab.link_to(server.port, lab.installed(tmp_path / "a", "hosta")) as link,
    ):
        assert (await link.version()).name == "hostb"


@lab.asynchronous
async def test_old_libvirt_pki(tmp_path: Path) -> None:
    """Certificates as libvirt's manual makes them: the client's has only a common name, and serves no server."""
    pki = lab.installed(tmp_path / "a", "hosta")
    replaced(pki, lab.named("hosta", alternative=()))
    async with lab.serving(tmp_path) as server, lab.link_to(server.port, pki) as link:
        assert (await link.version()).name == "hostb"


@lab.asynchronous
async def test_server_with_common_name_only(tmp_path: Path) -> None:
    of_b = replaced(lab.installed(tmp_path / "b", "hostb"), lab.named("hostb", alternative=()), role="server")
    async with (
        lab.serving(tmp_path, pki=of_b) as server,
        lab.link_to(server.port, lab.installed(tmp_path / "a", "hosta")) as link,
    ):
        assert (await link.version()).name == "hostb"


@lab.asynchronous
async def test_stranger(tmp_path: Path) -> None:
    """The right CA is not enough."""
    async with lab.serving(tmp_path) as server:
        error = await complaint(lab.installed(tmp_path / "c", "hostc"), server.port)
    assert isinstance(error, PeerNotTrusted)
    assert error.message == "The certificate is for hostc, and no such peer is configured here."


@lab.asynchronous
async def test_other_host_at_the_address(tmp_path: Path) -> None:
    """hostc's daemon, or somebody with its certificate, answers where hostb is configured."""
    async with lab.serving(tmp_path, pki=lab.installed(tmp_path / "c", "hostc")) as server:
        error = await complaint(lab.installed(tmp_path / "a", "hosta"), server.port)
    assert isinstance(error, PeerNotTrusted)
    assert "has a certificate for another name than hostb" in error.message


@lab.asynchronous
async def test_server_of_another_ca(tmp_path: Path) -> None:
    async with lab.serving(tmp_path, pki=lab.installed(tmp_path / "b", "hostb", ca=2)) as server:
        error = await complaint(lab.installed(tmp_path / "a", "hosta"), server.port)
    assert isinstance(error, PeerNotTrusted)
    assert "was not issued by this host's CA" in error.message


@lab.asynchronous
async def test_client_of_another_ca(tmp_path: Path) -> None:
    """Our own CA file knows the peer's CA, but the peer knows only its own."""
    pki = lab.installed(tmp_path / "a", "hosta", ca=2)
    pki.ca.write_bytes(lab.authority(1).pem + lab.authority(2).pem)
    async with lab.serving(tmp_path) as server:
        error = await complaint(pki, server.port)
    assert isinstance(error, PeerNotTrusted)
    assert "refuses this host's certificate: it was not issued by the CA there" in error.message


@lab.asynchronous
async def test_server_certificate_expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ran out while the daemon was running: at its start it would have refused to listen."""
    of_b = replaced(lab.installed(tmp_path / "b", "hostb"), lab.dated("hostb", begins=-30, days=10), role="server")
    with monkeypatch.context() as blind:
        blind.setattr("kvmigd.peer.identity.rehearse", lambda _pair: None)
        async with lab.serving(tmp_path, pki=of_b) as server:
            error = await complaint(lab.installed(tmp_path / "a", "hosta"), server.port)
    assert isinstance(error, PeerNotTrusted)
    assert error.message.endswith("has expired.")


@lab.asynchronous
async def test_client_certificate_expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pki = replaced(lab.installed(tmp_path / "a", "hosta"), lab.dated("hosta", begins=-30, days=10))
    async with lab.serving(tmp_path) as server:
        error = await complaint(pki, server.port)
        assert isinstance(error, CertificateInvalid)
        assert "clientcert.pem has expired (valid from" in error.message
        with monkeypatch.context() as blind:
            blind.setattr("kvmigd.peer.identity.rehearse", lambda _pair: None)
            error = await complaint(pki, server.port)
    assert isinstance(error, PeerNotTrusted)
    assert "refuses this host's certificate: it has expired" in error.message


@lab.asynchronous
async def test_not_yet_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pki = replaced(lab.installed(tmp_path / "a", "hosta"), lab.dated("hosta", begins=3, days=10))
    with pytest.raises(CertificateInvalid, match=r"clientcert\.pem is not valid yet \(valid from"):
        Credentials(pki).get("client")
    of_b = replaced(lab.installed(tmp_path / "b", "hostb"), lab.dated("hostb", begins=3, days=10), role="server")
    monkeypatch.setattr("kvmigd.peer.identity.rehearse", lambda _pair: None)
    async with lab.serving(tmp_path, pki=of_b) as server:
        error = await complaint(lab.installed(tmp_path / "a2", "hosta"), server.port)
    assert error.message.endswith("is not valid yet.")


@lab.asynchronous
async def test_no_certificate_shown(tmp_path: Path) -> None:
    """Somebody without a certificate is turned away in the handshake, and the server goes on."""
    pki = lab.installed(tmp_path / "a", "hosta")
    bare = ssl.create_default_context(cafile=str(pki.ca))
    async with lab.serving(tmp_path) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=bare, server_hostname="hostb")
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            await reader.read(1)
        writer.transport.abort()
        async with lab.link_to(server.port, pki) as link:
            await link.version()


@lab.asynchronous
async def test_not_even_tls(tmp_path: Path) -> None:
    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await _reader.read()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as other:
        error = await complaint(lab.installed(tmp_path / "a", "hosta"), other.sockets[0].getsockname()[1])
    assert isinstance(error, PeerNotTrusted)
    assert "is not a kvmigd: it does not speak TLS" in error.message


@lab.asynchronous
async def test_tls_12_is_refused(tmp_path: Path) -> None:
    pki = lab.installed(tmp_path / "a", "hosta")
    old = ssl.create_default_context(cafile=str(pki.ca))
    old.load_cert_chain(pki.client_certificate, pki.client_key)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with lab.serving(tmp_path) as server:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await asyncio.open_connection("127.0.0.1", server.port, ssl=old, server_hostname="hostb")


@lab.asynchronous
async def test_nobody_there(tmp_path: Path) -> None:
    error = await complaint(lab.installed(tmp_path / "a", "hosta"), lab.free_port())
    assert isinstance(error, PeerUnreachable)
    assert "cannot be reached: Connection refused." in error.message
    assert "systemctl status kvmigd" in error.hint


@lab.asynchronous
async def test_other_protocol(tmp_path: Path) -> None:
    async with lab.serving(tmp_path, protocols=(7, 8)) as server:
        pki = lab.installed(tmp_path / "a", "hosta")
        error = await complaint(pki, server.port)
        assert isinstance(error, ProtocolMismatch)
        assert "protocol 7 and 8; this host runs kvmigd" in error.message
        async with lab.running(lab.link_to(server.port, pki)) as link:
            assert "protocol 7 and 8" in await lab.state(link, PeerState.INCOMPATIBLE)
        async with lab.link_to(server.port, pki, protocols=(1, 7, 8, 9)) as link:
            await link.version()
            assert link.view.protocol == 8
            with pytest.raises(PeerFailed):  # this double has paths for protocol 3 only
                await link.whereabouts(lab.GUEST.uuid)


@lab.asynchronous
async def test_link_says_not_trusted_and_recovers(tmp_path: Path) -> None:
    of_a = lab.installed(tmp_path / "a", "hosta", ca=2)
    async with lab.serving(tmp_path) as server, lab.running(lab.link_to(server.port, of_a)) as link:
        assert "was not issued by this host's CA" in await lab.state(link, PeerState.NOT_TRUSTED)
        lab.installed(tmp_path / "a", "hosta")
        await lab.state(link, PeerState.CONNECTED)


@lab.asynchronous
async def test_server_waits_for_its_certificate(tmp_path: Path) -> None:
    pki = lab.pki_below(tmp_path / "b")
    async with lab.serving(tmp_path, pki=pki) as server:
        assert server.port == 0
        assert server.problem == f"CA certificate {pki.ca} does not exist."
        heard: list[str] = []
        server.on_problem(lambda: heard.append(server.problem))
        lab.installed(tmp_path / "b", "hostb")
        server.certificates_changed()
        await lab.until(lambda: server.port > 0)
        assert heard[-1] == ""
        async with lab.link_to(server.port, lab.installed(tmp_path / "a", "hosta")) as link:
            await link.version()
            # A new certificate is taken up without a pause, and connections that stand go on.
            first = server.port
            replaced(pki, lab.dated("hostb", begins=-1, days=5), role="server")
            await server.reload(lab.config(tmp_path, pki=pki, port=first, peers=(Peer(name="hosta"),)))
            assert (server.port, server.problem) == (first, "")
            await link.whereabouts(lab.GUEST.uuid)
            # One that is broken is told, and the good one stays in use.
            pki.server_key.write_bytes(lab.bundle("hosta").key)
            server.certificates_changed()
            await lab.until(lambda: "does not match" in server.problem)
        async with lab.link_to(server.port, lab.installed(tmp_path / "a", "hosta")) as link:
            await link.version()


@lab.asynchronous
async def test_peer_removed_by_reload(tmp_path: Path) -> None:
    of_b = lab.installed(tmp_path / "b", "hostb")
    async with (
        lab.serving(tmp_path, pki=of_b) as server,
        lab.running(lab.link_to(server.port, lab.installed(tmp_path / "a", "hosta"))) as link,
    ):
        await lab.state(link, PeerState.CONNECTED)
        await server.reload(lab.config(tmp_path, pki=of_b, port=server.port))
        assert "no such peer is configured" in await lab.state(link, PeerState.NOT_TRUSTED)


# Names and files, without a network


def test_names_of_certificates() -> None:
    subject = ((("commonName", "old.example"),),)
    assert names_in({"subject": subject}) == ("old.example",)
    both = {"subject": subject, "subjectAltName": (("DNS", "a"), ("IP Address", "10.0.0.1"), ("email", "x@y"))}
    assert names_in(both) == ("a", "10.0.0.1")
    assert names_in({"subject": subject, "subjectAltName": (("email", "x@y"),)}) == ()
    assert names_in({}) == ()


def test_exactly_one_peer() -> None:
    peers = {name: Peer(name=name) for name in ("hosta", "hostb")}
    assert peer_of(["HostA", "elsewhere"], peers).name == "hosta"
    for names, told in ((["*"], "no such peer"), ([], "for nobody"), (["hosta", "hostb"], "more than one")):
        with pytest.raises(PeerNotTrusted, match=told):
            peer_of(names, peers)


def test_files(tmp_path: Path) -> None:
    """What is wrong with a file is told with its path."""
    pki = lab.installed(tmp_path, "hosta")

    def problem() -> str:
        with pytest.raises(CertificateInvalid) as caught:
            Credentials(pki).get("client")
        return caught.value.message.replace(str(tmp_path), "")

    key = pki.client_key.read_bytes()
    pki.client_key.write_bytes(lab.bundle("hostb").key)
    assert problem() == (
        "Private key /etc/pki/libvirt/private/clientkey.pem does not match certificate /etc/pki/libvirt/clientcert.pem."
    )
    pki.client_key.write_bytes(key[:300])
    assert "cannot be decoded" in problem()
    pki.client_key.write_text("nothing")
    assert problem() == "Private key /etc/pki/libvirt/private/clientkey.pem is not a PEM file."
    pki.client_key.unlink()
    assert problem() == "Private key /etc/pki/libvirt/private/clientkey.pem does not exist."
    pki.client_key.mkdir()
    assert "cannot be read: Is a directory" in problem()
    pki.client_key.rmdir()
    os.mkfifo(pki.client_key)  # must not wait for a writer
    assert problem() == "Private key /etc/pki/libvirt/private/clientkey.pem is not a regular file."
    pki.ca.write_bytes(b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n")
    pki.client_key.unlink()
    pki.client_key.write_bytes(key)
    assert problem() == "CA certificate /etc/pki/CA/cacert.pem cannot be decoded."


def test_unreadable_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pki = lab.installed(tmp_path, "hosta")
    real = os.open

    def forbid(path: Path, flags: int) -> int:
        if path == pki.client_key:  # as root one reads everything, so a mode would not do
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags)

    monkeypatch.setattr("kvmigd.peer.certificates.os.open", forbid)
    with pytest.raises(CertificateInvalid, match=r"clientkey\.pem cannot be read: Permission denied"):
        Credentials(pki).get("client")


def test_encrypted_key(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    pki = lab.installed(tmp_path, "hosta")
    key = load_pem_private_key(pki.client_key.read_bytes(), password=None)
    secret = BestAvailableEncryption(b"secret")
    pki.client_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    with pytest.raises(CertificateInvalid, match="is encrypted"):
        Credentials(pki).get("client")


def test_context_is_made_once(tmp_path: Path) -> None:
    pki = lab.installed(tmp_path, "hosta")
    credentials = Credentials(pki)
    first = credentials.get("client")
    assert credentials.get("client") is first
    lab.installed(tmp_path, "hosta")
    assert credentials.get("client") is not first


# What is told about this host's files


def problems(pki: Pki, *, name: str = "hosta") -> dict[str, str]:
    facts = certificate_facts(pki, name=name, qemu_conf=Path("/nonexistent"))
    return {Path(fact.path).name: fact.problem for fact in facts if fact.problem}


def test_facts_of_a_good_pki(tmp_path: Path) -> None:
    pki = lab.installed(tmp_path, "hosta")
    facts = certificate_facts(pki, name="hosta", qemu_conf=Path("/nonexistent"))
    assert [fact.problem for fact in facts] == [""] * 10
    server = next(fact for fact in facts if fact.path == str(pki.server_certificate))
    assert server.names == ("hosta",)
    assert server.not_after.endswith("Z")
    assert len({fact.path for fact in facts}) == 10
    assert len({fact.purpose for fact in facts}) == 10


def test_facts_of_no_pki(tmp_path: Path) -> None:
    assert len(problems(lab.pki_below(tmp_path))) == 10


def test_facts_of_a_bad_pki(tmp_path: Path) -> None:
    pki = lab.installed(tmp_path, "hosta")
    assert "is for hosta, not for hostx" in problems(pki, name="hostx")["servercert.pem"]
    expired = lab.dated("hosta", begins=-30, days=10)
    replaced(pki, expired)
    pki.server_key.chmod(0o644)
    (pki.qemu / "server-key.pem").write_bytes(lab.bundle("hostb").key)
    (pki.qemu / "ca-cert.pem").write_bytes(lab.authority(2).pem)
    found = problems(pki)
    assert "has expired" in found["clientcert.pem"]
    assert "can be read by everybody" in found["serverkey.pem"]
    assert "does not match" in found["server-key.pem"]
    assert "was not issued by" in found["client-cert.pem"]


def test_facts_of_kinds_that_libvirt_refuses(tmp_path: Path) -> None:
    pki = lab.installed(tmp_path, "hosta")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = lab.authority().sign(
        "hosta",
        key=key,  # type: ignore[arg-type]
        alternative=[x509.DNSName("hosta")],
        days=5,
    )
    pem = Bundle(ca=b"", certificate=pem_of_certificate(certificate), key=pem_of_key(key))  # type: ignore[arg-type]
    assert "has no RSA key" in problems(replaced(pki, pem))["clientcert.pem"]
    replaced(pki, lab.named("hosta", alternative=("hosta",), key_encipherment=False))
    assert "does not permit digital signature and key encipherment" in problems(pki)["clientcert.pem"]
    only_client = lab.named("hosta", alternative=("hosta",), purposes=("client",))
    assert problems(replaced(pki, only_client)) == {}
    assert "not meant for this use" in problems(replaced(pki, only_client, role="server"))["servercert.pem"]


def test_keys_that_qemu_cannot_read(tmp_path: Path) -> None:
    import grp
    import pwd

    nobody = pwd.getpwnam("nobody")
    conf = tmp_path / "qemu.conf"
    conf.write_text('# user = "root"\nuser = "nobody"\n')
    pki = lab.installed(tmp_path, "hosta")
    (pki.qemu / "server-key.pem").chmod(0o600)
    found = {fact.path: fact.problem for fact in certificate_facts(pki, qemu_conf=conf)}
    # pytest's directories are private, so even the way there is closed; for root's keys that is the same message.
    assert "for user nobody, as whom QEMU runs" in found[str(pki.qemu / "server-key.pem")]
    assert grp.getgrgid(nobody.pw_gid)
    assert "QEMU" not in found[str(pki.server_key)]


def test_revocation_list_is_honoured(tmp_path: Path) -> None:
    pki = lab.installed(tmp_path, "hosta")
    own = x509.load_pem_x509_certificate(pki.client_certificate.read_bytes())
    pki.ca.with_name("cacrl.pem").write_bytes(lab.revocation([own.serial_number]))
    with pytest.raises(CertificateInvalid, match="has been revoked"):
        Credentials(pki).get("client")


def test_facts_travel(tmp_path: Path) -> None:
    facts = msgspec.structs.replace(lab.FACTS, certificates=certificate_facts(lab.pki_below(tmp_path)))
    assert msgspec.json.decode(msgspec.json.encode(facts), type=type(facts)) == facts
