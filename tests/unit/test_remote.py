"""Whether libvirt on another host can be reached: real TLS on loopback, and servers that do as libvirtd does."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509

from kvmigd.bundle import Bundle, install
from kvmigd.config import Pki
from kvmigd.host import remote
from kvmigd.host.remote import RemoteHypervisors
from kvmigd.model.host import RemoteCause, RemoteFact
from tests.unit.peer_lab import asynchronous, bundle, dated, installed, named, pki_below, revocation

HERE = "hosta"
THERE = "localhost"
TLS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
Answers = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def takes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """libvirtd that takes the client's certificate says so."""
    writer.write(b"\x01")
    await silent(reader, writer)


async def hangs_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """libvirtd that does not take it says nothing."""


async def speaks_ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    await silent(reader, writer)


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    while await reader.read(4096):
        pass


def server_side(root: Path, *, of: Bundle, version: str = "1.3", judges: bool = False) -> ssl.SSLContext:
    """TLS of a server; libvirtd judges the client's certificate after the handshake, unlike one that `judges` in it."""
    root.mkdir()
    install(of, root, force=True)
    pki = pki_below(root)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = made.maximum_version = TLS[version]
    made.load_cert_chain(pki.server_certificate, pki.server_key)
    if judges:
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(pki.ca)
    return made


@asynccontextmanager
async def listening(answers: Answers, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server, and the URI of libvirt behind it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answers(reader, writer)
        except (OSError, ssl.SSLError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", ssl=tls)
    async with server:
        yield f"qemu+tls://{THERE}:{server.sockets[0].getsockname()[1]}/system"


async def reached(uri: str, pki: Pki) -> RemoteFact:
    return await RemoteHypervisors(lambda: pki).reach(uri)


async def problem(uri: str, pki: Pki) -> str:
    return (await reached(uri, pki)).problem


@pytest.mark.parametrize("version", TLS)
@pytest.mark.parametrize("asked", ["asked", "not asked"])
@asynchronous
async def test_both_take_each_other(tmp_path: Path, version: str, asked: str) -> None:
    judges = asked == "asked"
    shown: list[object] = []

    async def looks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown.append(writer.get_extra_info("peercert"))
        await takes(reader, writer)

    server = server_side(tmp_path / "b", of=bundle(THERE), version=version, judges=judges)
    async with listening(looks, server) as uri:
        assert await problem(uri, installed(tmp_path / "a", HERE)) == ""
    assert bool(shown[0]) == judges, "the certificate is shown to who asks for it"


def expired() -> Bundle:
    return dated(THERE, begins=-20, days=10)


def not_yet() -> Bundle:
    return dated(THERE, begins=5, days=10)


def of_another_ca() -> Bundle:
    return bundle(THERE, ca=2)


def of_another_host() -> Bundle:
    return bundle("hostx")


def of_a_client() -> Bundle:
    return named(THERE, alternative=(THERE,), purposes=("client",))


@pytest.mark.parametrize("version", TLS)
@pytest.mark.parametrize(
    ("of", "told"),
    [
        (expired, "has expired"),
        (not_yet, "is not valid yet"),
        (of_another_ca, "was not issued by this host's CA"),
        (of_another_host, "is for another host"),
        (of_a_client, "is not meant for this use (extended key usage)"),
    ],
)
@asynchronous
async def test_the_certificate_there_is_not_taken(
    tmp_path: Path, version: str, of: Callable[[], Bundle], told: str
) -> None:
    async with listening(takes, server_side(tmp_path / "b", of=of(), version=version)) as uri:
        port = uri.removesuffix("/system").rpartition(":")[2]
        found = await reached(uri, installed(tmp_path / "a", HERE))
    assert found.problem == f"the certificate of localhost port {port} {told}"
    assert found.cause is RemoteCause.THEIRS


@asynchronous
async def test_a_name_that_is_only_the_common_name(tmp_path: Path) -> None:
    """libvirt takes such a certificate, and so did all hosts before there were alternative names."""
    async with listening(takes, server_side(tmp_path / "b", of=named(THERE, alternative=()))) as uri:
        assert await problem(uri, installed(tmp_path / "a", HERE)) == ""


@asynchronous
async def test_the_certificate_there_is_revoked(tmp_path: Path) -> None:
    pki = installed(tmp_path / "a", HERE)
    serial = x509.load_pem_x509_certificate(bundle(THERE).certificate).serial_number
    async with listening(takes, server_side(tmp_path / "b", of=bundle(THERE))) as uri:
        pki.ca.with_name("cacrl.pem").write_bytes(revocation([serial + 1]))
        assert await problem(uri, pki) == ""
        pki.ca.with_name("cacrl.pem").write_bytes(revocation([serial]))
        assert (await problem(uri, pki)).endswith("has been revoked")


@pytest.mark.parametrize("version", TLS)
@asynchronous
async def test_the_certificate_here_is_refused_after_the_handshake(tmp_path: Path, version: str) -> None:
    pki = installed(tmp_path / "a", HERE)
    async with listening(hangs_up, server_side(tmp_path / "b", of=bundle(THERE), version=version)) as uri:
        found = await reached(uri, pki)
    assert found.problem.endswith(f"refuses the client certificate {pki.client_certificate}")
    assert found.cause is RemoteCause.OURS


@pytest.mark.parametrize("version", TLS)
@asynchronous
async def test_the_certificate_here_is_refused_in_the_handshake(tmp_path: Path, version: str) -> None:
    pki = installed(tmp_path / "a", HERE)
    pki.client_certificate.write_bytes(bundle(HERE, ca=2).certificate)
    pki.client_key.write_bytes(bundle(HERE, ca=2).key)
    tls = server_side(tmp_path / "b", of=bundle(THERE), version=version, judges=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"qemu+tls://{THERE}:{server.getsockname()[1]}/system"
        found, _ = await asyncio.gather(problem(uri, pki), asyncio.to_thread(refuse, server, tls))
    assert f"refuses the client certificate {pki.client_certificate} (" in found
    assert "unknown ca" in found


def refuse(server: socket.socket, tls: ssl.SSLContext) -> None:
    """Fail in the handshake with a client, in a thread: asyncio's own servers hang up without the alert."""
    plain, _address = server.accept()
    plain.settimeout(5)
    with tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as secured:
        with pytest.raises(ssl.SSLCertVerificationError):
            secured.do_handshake()
        secured.shutdown(socket.SHUT_WR)
        # To close with something unread would reset the connection, and the alert could be lost.
        with suppress(OSError), socket.socket(fileno=secured.detach()) as rest:
            while rest.recv(4096):
                pass


@pytest.mark.parametrize("when", ["in the handshake", "after the handshake"])
@asynchronous
async def test_a_server_that_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    monkeypatch.setattr(remote, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(remote, "CLOSING_SECONDS", 0.1)
    tls = server_side(tmp_path / "b", of=bundle(THERE)) if when.startswith("after") else None
    async with listening(silent, tls) as uri:
        found = await reached(uri, installed(tmp_path / "a", HERE))
    assert "takes the connection, but is silent for" in found.problem
    assert found.cause is RemoteCause.MUTE


@asynchronous
async def test_a_server_that_does_not_end_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hangs with the connection open, as a libvirtd that is stopped, does not make the caller hang."""
    monkeypatch.setattr(remote, "CLOSING_SECONDS", 0.1)
    over = asyncio.Event()

    async def stays(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x01")
        await over.wait()

    async with listening(stays, server_side(tmp_path / "b", of=bundle(THERE))) as uri:
        assert await problem(uri, installed(tmp_path / "a", HERE)) == ""
        over.set()


@asynchronous
async def test_something_else_listens_there(tmp_path: Path) -> None:
    pki = installed(tmp_path / "a", HERE)
    async with listening(speaks_ssh) as uri:
        assert "no TLS with localhost port" in await problem(uri, pki)
    async with listening(hangs_up) as uri:
        assert "ends the connection in the TLS handshake" in await problem(uri, pki)
    async with listening(speaks_ssh, server_side(tmp_path / "b", of=bundle(THERE))) as uri:
        assert "is not libvirt: it says b'S' after the TLS handshake" in await problem(uri, pki)


@asynchronous
async def test_nobody_listens(tmp_path: Path) -> None:
    async with listening(takes) as uri:
        pass
    found = await reached(uri, installed(tmp_path / "a", HERE))
    assert found.problem.endswith("refuses the connection")
    assert found.cause is RemoteCause.UNREACHED


@asynchronous
async def test_what_is_tried_without_tls(tmp_path: Path) -> None:
    """Another transport, what the URI says of certificates itself, and files that another check finds missing."""
    pki = installed(tmp_path / "a", HERE)
    async with listening(hangs_up) as uri:
        assert await problem(uri.replace("tls", "tcp"), pki) == ""
        assert await problem(f"{uri}?no_verify=1", pki) == ""
        assert await problem(uri, pki_below(tmp_path / "none")) == ""
        pki.client_key.write_text("no key")
        assert await problem(uri, pki) == ""
    assert await problem("qemu+own://localhost/system", pki) == ""
    assert (await problem(uri.replace("tls", "tcp"), pki)).endswith("refuses the connection")


@asynchronous
async def test_a_success_is_believed_for_a_while(tmp_path: Path) -> None:
    remotes = RemoteHypervisors(lambda: installed(tmp_path / "a", HERE))
    async with listening(takes, server_side(tmp_path / "b", of=bundle(THERE))) as uri:
        assert not (await remotes.reach(uri)).problem
    assert not (await remotes.reach(uri)).problem, "believed"
    assert (await remotes.reach(uri, anew=True)).problem
    assert (await remotes.reach(uri)).problem, "a failure ends the belief"
    assert (await remotes.reach(uri)).uri == uri
