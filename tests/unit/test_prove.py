"""Proofs with a peer on loopback: real TLS, real sockets, and a host that is only made up."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import msgspec
import pytest

from kvmigd.config import Config, Peer, Pki
from kvmigd.errors import AdmissionBusy, NoLease, NotAuthorised, PeerFailed, PeerUnreachable
from kvmigd.host import nonce
from kvmigd.host.frames import FrameFailed
from kvmigd.host.picture import Picture
from kvmigd.host.qemuuser import QemuUser
from kvmigd.model.proof import Proofs
from kvmigd.peer import burst as bursting
from kvmigd.peer import counterpart, proofwire
from kvmigd.peer.admission import AdmissionDesk
from kvmigd.peer.burst import Burst, Bursts
from kvmigd.peer.framewatch import FrameWatch
from kvmigd.peer.link import PeerLink
from kvmigd.peer.proof import PEER_LIMIT, Proof
from kvmigd.peer.proofwire import Caught
from kvmigd.peer.server import PeerServer
from kvmigd.peer.sessions import Sessions
from kvmigd.prove import prover as driver
from kvmigd.prove.frames import judged
from kvmigd.prove.ports import NO_ANSWER
from kvmigd.prove.prover import Prover
from kvmigd.prove.wanted import Segment, Wanted
from tests.unit import peer_lab as lab
from tests.unit.peer_lab import asynchronous
from tests.unit.test_nonce import Keepers

HERE = "127.0.0.1"
NONCE = "0123456789abcdef0123456789abcdef"
EVERYTHING = Wanted(ports=("stream", "disks"), back=("stream", "disks"), tls=True, throughput=True)


class Met(NamedTuple):
    """hosta's prover, and hostb."""

    prover: Prover
    link: PeerLink
    server: PeerServer
    here: Config
    bursts: Bursts


def stream_pki(root: Path, name: str, *, ca: int = 1) -> Pki:
    """A host whose certificates for streams may come from another CA than those of the control connection."""
    pki = lab.installed(root / name, name)
    if ca != 1:
        other = lab.installed(root / f"{name}-{ca}", name, ca=ca)
        shutil.rmtree(pki.qemu)
        shutil.copytree(other.qemu, pki.qemu)
    return pki


@asynccontextmanager
async def met(root: Path, *, here: Pki | None = None, there: Pki | None = None) -> AsyncIterator[Met]:
    """hosta and hostb, of which only hostb has a server."""
    here, there = here or stream_pki(root, "hosta"), there or stream_pki(root, "hostb")
    config = lab.config(root, name="hosta", pki=here, peers=(Peer(name="hostb"),))
    async with lab.serving(root, pki=there) as server, lab.link_to(server.port, here) as link:
        bursts = Bursts()
        host: Any = SimpleNamespace(config=config, picture=Picture())
        desk = AdmissionDesk(config.migration)
        yield Met(Prover(host, link, desk=desk, bursts=bursts), link, server, config, bursts)


def bind_like_qemu(ports: list[int]) -> None:
    """Bind and listen without SO_REUSEADDR."""
    for port in ports:
        with socket.socket() as taken:
            taken.bind((HERE, port))
            taken.listen(1)


def listening() -> list[int]:
    """Ports of the migration range on which somebody listens."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        port = int(local.split(":")[1], 16)
        if state == "0A" and lab.PORTS[0] <= port <= lab.PORTS[1]:
            found.append(port)
    return found


@asynchronous
async def test_everything_at_once_and_nothing_left(tmp_path: Path) -> None:
    async with met(tmp_path) as at:
        proofs = await at.prover.prove(EVERYTHING)
        ways = {proof.key: proof.port for proof in proofs.ports}
        assert ways.keys() == {"hostb/stream", "hostb/disks", "hosta/stream", "hosta/disks"}
        assert all(proof.is_proved and proof.taken_usec for proof in (*proofs.ports, *proofs.tls)), proofs
        assert [proof.key for proof in proofs.tls] == ["hostb", "hosta"]
        assert proofs.throughput is not None
        assert proofs.throughput.is_proved
        assert proofs.throughput.rate > 1 << 20
        assert proofs.throughput.sent <= bursting.BURST_BYTES + bursting.CHUNK
        assert listening() == []
        bind_like_qemu(list(range(lab.PORTS[0], lab.PORTS[1] + 1)))


@asynchronous
async def test_only_what_is_wanted(tmp_path: Path) -> None:
    async with met(tmp_path) as at:
        assert await at.prover.prove(Wanted()) == Proofs()
        stream, disks = await at.prover.ports(("stream", "disks"))
        assert disks.port == stream.port - 1


@asynchronous
async def test_the_ports_of_a_job(tmp_path: Path) -> None:
    async with met(tmp_path) as at:
        granted = await at.link.admit(lab.JOB, lab.GUEST, memory=lab.GIB)
        stream, disks = await at.prover.ports(("stream", "disks"), lab.JOB)
        assert stream.port == granted.port != disks.port
        assert stream.is_proved
        assert disks.is_proved
        with pytest.raises(NoLease):
            await at.prover.ports(("stream",), lab.OTHER_JOB)


@asynchronous
async def test_no_port_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_free(_desk: AdmissionDesk, *_: object, **__: object) -> int:
        raise AdmissionBusy("No port is free.")

    async with met(tmp_path) as at:
        monkeypatch.setattr(AdmissionDesk, "proof_port", none_free)
        proofs = await at.prover.prove(Wanted(ports=("stream",), back=("stream",)))
        assert [(proof.problem, proof.text) for proof in proofs.ports] == [("busy", "No port is free")] * 2


@asynchronous
async def test_too_much_at_once_says_nothing_of_ports(tmp_path: Path) -> None:
    async with met(tmp_path) as at:
        for _ in range(PEER_LIMIT):
            await at.link.proof()
        (proof,) = (await at.prover.prove(Wanted(ports=("stream",)))).ports
        assert (proof.problem, proof.text) == (NO_ANSWER, f"{PEER_LIMIT} ports are being proved here at this moment")


@asynchronous
async def test_a_wall_on_one_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the peer is told when its connection does not arrive; the real firewall is the lab's."""
    async with met(tmp_path) as at:
        with socket.create_server((HERE, 0)) as gone:
            port = gone.getsockname()[1]
        answer = await at.link.connect_back(proofwire.ConnectRequest(address=HERE, port=port, nonce=NONCE, seconds=1.0))
        assert answer.problem == "refused"
        monkeypatch.setattr(Proof, "nonce", property(lambda _: NONCE, lambda *_: None), raising=False)
        (proof,) = await at.prover.ports_back(("stream",))
        assert proof.is_proved


@pytest.mark.parametrize("address", ["192.0.2.7", "10.77.1.12", "::1", "127.0.0.2"])
@asynchronous
async def test_a_peer_cannot_point_at_others(tmp_path: Path, address: str) -> None:
    async with met(tmp_path) as at:
        with pytest.raises(PeerFailed, match="not known as an address of hosta"):
            await at.link.connect_back(proofwire.ConnectRequest(address=address, port=2000, nonce=NONCE, seconds=1.0))


@pytest.mark.parametrize(
    "changes",
    [{"port": 1023}, {"port": 22}, {"seconds": 60.0}, {"nonce": "x"}, {"address": "localhost"}, {"address": "a" * 65}],
)
@asynchronous
async def test_requests_to_connect_are_bounded(tmp_path: Path, changes: dict[str, Any]) -> None:
    request = proofwire.ConnectRequest(address=HERE, port=2000, nonce=NONCE, seconds=1.0)
    async with met(tmp_path) as at:
        with pytest.raises(PeerFailed, match=r"not a ConnectRequest|not an address"):
            await at.link.connect_back(msgspec.structs.replace(request, **changes))


@asynchronous
async def test_streams_arrive_where_the_configuration_says(tmp_path: Path) -> None:
    async with met(tmp_path) as at:
        migration = msgspec.structs.replace(at.here.migration, address="192.0.2.9")
        cast(Any, at.prover)._host.config = msgspec.structs.replace(at.here, migration=migration)
        (proof,) = await at.prover.ports_back(("stream",))
        assert proof.problem == "failed"
        assert "Cannot listen on 192.0.2.9" in proof.text


# TLS


@asynchronous
async def test_no_certificates_here(tmp_path: Path) -> None:
    async with met(tmp_path) as at:
        shutil.rmtree(at.here.pki.qemu)
        out, back = await at.prover.tls()
        assert (out.key, out.problem) == ("hostb", "none-here")
        assert (back.key, back.problem) == ("hosta", "none-here")
        assert str(at.here.pki.qemu / "ca-cert.pem") in out.text


@asynchronous
async def test_no_certificates_there(tmp_path: Path) -> None:
    there = stream_pki(tmp_path, "hostb")
    async with met(tmp_path, there=there) as at:
        (there.qemu / "server-cert.pem").unlink()
        out, back = await at.prover.tls()
        assert (out.key, out.problem) == ("hostb", "none-there")
        assert "server-cert.pem does not exist" in out.text
        assert back.is_proved, "only the other direction needs that file"


@asynchronous
async def test_certificates_of_another_authority(tmp_path: Path) -> None:
    async with met(tmp_path, there=stream_pki(tmp_path, "hostb", ca=2)) as at:
        out, back = await at.prover.tls()
        assert out.problem == back.problem == "refused"
        assert out.text == "on hosta, the server certificate of hostb was not issued by this host's CA"
        assert back.text == "on hostb, the server certificate of hosta was not issued by this host's CA"


@asynchronous
async def test_the_client_is_refused(tmp_path: Path) -> None:
    """The server's certificate is good; the client's is not, which only the server finds."""
    here = stream_pki(tmp_path, "hosta")
    other = lab.installed(tmp_path / "other", "hosta", ca=2)
    for file in ("client-cert.pem", "client-key.pem"):
        shutil.copy(other.qemu / file, here.qemu / file)
    async with met(tmp_path, here=here) as at:
        out, back = await at.prover.tls()
        assert (out.problem, back.problem) == ("refused", "")
        assert out.text == "on hostb, the client certificate of hosta was not issued by this host's CA"


@asynchronous
async def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    there = stream_pki(tmp_path, "hostb")
    other = lab.installed(tmp_path / "other", "hostc")
    for file in ("server-cert.pem", "server-key.pem"):
        shutil.copy(other.qemu / file, there.qemu / file)
    async with met(tmp_path, there=there) as at:
        out, back = await at.prover.tls()
        assert (out.problem, back.problem) == ("refused", "")
        assert out.text == "on hosta, the server certificate of hostb is for another host"


@asynchronous
async def test_a_revoked_certificate(tmp_path: Path) -> None:
    from cryptography import x509

    here, there = stream_pki(tmp_path, "hosta"), stream_pki(tmp_path, "hostb")
    serial = x509.load_pem_x509_certificate((there.qemu / "server-cert.pem").read_bytes()).serial_number
    (here.qemu / "ca-crl.pem").write_bytes(lab.revocation([serial]))
    async with met(tmp_path, here=here, there=there) as at:
        out, _back = await at.prover.tls()
        assert (out.problem, out.text) == (
            "refused",
            "on hosta, the server certificate of hostb has been revoked",
        )


@asynchronous
async def test_handshakes_are_bounded(tmp_path: Path) -> None:
    async with met(tmp_path) as at:
        garbage = await at.link.tls_step(proofwire.TlsStep(role="server", data=b"GET / HTTP/1.0\r\n\r\n"))
        assert garbage.problem == "failed"
        with pytest.raises(NoLease):
            await at.link.tls_step(proofwire.TlsStep(role="server", token=garbage.token, data=b"more"))
        with pytest.raises(PeerFailed, match="not a TlsStep"):
            await at.link.tls_step(proofwire.TlsStep(role="server", data=b"x" * (proofwire.STEP_LIMIT + 1)))
        steps = [at.link.tls_step(proofwire.TlsStep(role="server")) for _ in range(6)]
        answers = await asyncio.gather(*steps, return_exceptions=True)
        assert sum(isinstance(answer, AdmissionBusy) for answer in answers) == 2
        opened = next(answer for answer in answers if isinstance(answer, proofwire.TlsAnswer))
        for _ in range(8):
            try:
                answer = await at.link.tls_step(proofwire.TlsStep(role="server", token=opened.token))
            except NoLease:
                break
        assert answer.text == "the handshake does not come to an end"


# Throughput


@asynchronous
async def test_a_burst_is_not_repeated(tmp_path: Path) -> None:
    async with met(tmp_path) as at:
        (first,) = await at.prover.throughput()
        (second,) = await at.prover.throughput()
        assert (second.rate, second.sent) == (first.rate, first.sent)
        # a daemon that was restarted meanwhile hears it from the peer
        forgetful = Prover(cast(Any, at.prover)._host, at.link, desk=cast(Any, at.prover)._desk, bursts=Bursts())
        (third,) = await forgetful.throughput()
        assert (third.rate, third.sent) == (first.rate, first.sent)
        assert third.taken_usec <= second.taken_usec + 1_000_000


@asynchronous
async def test_a_receiver_that_waits_in_vain(tmp_path: Path) -> None:
    async with met(tmp_path) as at:
        answer = await at.link.burst()
        assert answer.offer is not None
        with pytest.raises(AdmissionBusy, match="Another burst"):
            await at.link.burst()
        assert (await at.link.close_proof(answer.offer.token)).rate == 0
        with pytest.raises(AdmissionBusy, match="failed a moment ago"):
            await at.link.burst()
        (proof,) = await at.prover.throughput()
        assert proof.problem == "busy"


def test_bursts_one_at_a_time_and_rarely() -> None:
    now = 0.0
    bursts = Bursts(clock=lambda: now)
    bursts.begin("to", "hostb")
    for way, peer in (("to", "hostb"), ("from", "hostc")):
        with pytest.raises(AdmissionBusy):
            bursts.begin(way, peer)
    bursts.end("to", "hostb", rate=1000, size=10)
    assert bursts.known("from", "hostb") is None
    now = 599.0
    known = bursts.known("to", "hostb")
    assert known is not None
    assert (known.rate, bursts.age(known)) == (1000, 599.0)
    now = 601.0
    assert bursts.known("to", "hostb") is None
    bursts.begin("to", "hostb")
    bursts.abandon()
    bursts.begin("to", "hostb")


@asynchronous
async def test_a_burst_is_counted() -> None:
    heard: list[tuple[int, int]] = []
    async with asyncio.TaskGroup() as group:
        async with Burst(HERE, 0, done=lambda rate, size: heard.append((rate, size))) as burst:
            served = group.create_task(burst.serve())
            _reader, writer = await asyncio.open_connection(HERE, burst.port)
            for _ in range(4):
                writer.write(b"x" * 1000)
                await writer.drain()
                await asyncio.sleep(0.02)
            writer.close()
            await served
        bind_like_qemu([burst.port])
    assert heard == [(burst.rate, 4000)]
    assert 0 < burst.rate < 150_000, "three times 1000 bytes in 60 ms"


@asynchronous
async def test_a_burst_has_an_end() -> None:
    """A sender that does not stop is cut off."""
    async with asyncio.TaskGroup() as group, Burst(HERE, 0) as burst:
        served = group.create_task(burst.serve())
        _reader, writer = await asyncio.open_connection(HERE, burst.port)
        with suppress(ConnectionError):
            while not served.done():
                writer.write(b"x" * 10)
                await writer.drain()
                await asyncio.sleep(0.005)
        await served
        assert burst.received < 1000
        writer.transport.abort()


@asynchronous
async def test_a_receiver_that_has_enough_before_the_sender_knows() -> None:
    """Its reset may come between any two steps of the sender's."""

    async def curt(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(NONCE.encode())
        await writer.drain()
        await reader.read(1)
        writer.transport.abort()

    async with await asyncio.start_server(curt, HERE, 0) as server:
        for _ in range(20):
            await bursting.send(HERE, server.sockets[0].getsockname()[1], NONCE)


# Storage

AS_ROOT = QemuUser("root", 0, frozenset({0}), 0)
AS_ME = AS_ROOT if os.geteuid() == 0 else QemuUser("me", os.geteuid(), frozenset(os.getgroups()), os.getegid())


@asynccontextmanager
async def keepers(monkeypatch: pytest.MonkeyPatch, *, there: dict[str, str] | None = None) -> AsyncIterator[None]:
    """Real keepers without systemd; for the peer, folders of this name are those of that (`there`)."""
    started = Keepers()
    written, read = nonce.written, nonce.read

    async def elsewhere(names: dict[str, str], **how: Any) -> tuple[nonce.ReadBack, ...]:
        moved = {(there or {}).get(folder, folder): name for folder, name in names.items()}
        return await read(moved, user=AS_ME, **how)

    monkeypatch.setattr(nonce, "connect", started)
    monkeypatch.setattr(nonce, "written", partial(written, user=AS_ME, keeper=started))
    monkeypatch.setattr(nonce, "read", elsewhere)
    monkeypatch.setattr(counterpart, "ARRIVAL_SECONDS", 0.05)
    try:
        yield
    finally:
        await started.ended()


@asynchronous
async def test_storage_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same, other, elsewhere, absent = (tmp_path / name for name in ("same", "other", "elsewhere", "absent"))
    for folder in (same, other, elsewhere):
        folder.mkdir()
    there = {str(other): str(elsewhere), str(same): str(same), str(tmp_path): str(tmp_path / "none")}
    async with met(tmp_path) as at, keepers(monkeypatch, there=there):
        folders = tuple(map(str, (same, other, tmp_path, absent, same)))
        proofs = (await at.prover.prove(Wanted(storage=folders))).storage
        assert [(proof.key, proof.problem) for proof in proofs] == [
            (str(same), ""),
            (str(other), "different"),
            (str(tmp_path), "missing"),
            (str(absent), "failed"),
        ]
        assert proofs[0].peer_can_write
        assert proofs[0].user == str(AS_ME)
    assert [path.name for path in tmp_path.rglob(".kvmigd-*")] == []


@asynchronous
async def test_a_keeper_that_nobody_needs_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of `keepers` all of them are waited for."""
    name = f".kvmigd-{'0' * 32}"
    async with keepers(monkeypatch), met(tmp_path) as at:
        token = await at.link.open_storage()
        await at.link.open_storage()
        answers = await at.link.read_nonces([proofwire.NonceAt(folder=str(tmp_path), name=name)], token)
        assert answers.nonces[0].problem == "different"
        with pytest.raises(NoLease):
            await at.link.read_nonces([proofwire.NonceAt(folder=str(tmp_path), name=name)], token)


@asynchronous
async def test_no_keeper_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def absent() -> None:
        raise FileNotFoundError(2, "No such file or directory")

    async with met(tmp_path) as at, keepers(monkeypatch):
        monkeypatch.setattr(nonce, "connect", absent)
        (proof,) = await at.prover.storage([str(tmp_path)])
        assert proof.problem == "failed"
        assert "kvmigd-storage.socket" in proof.text


@pytest.mark.parametrize(
    "nonces",
    [
        [{"folder": "/etc", "name": "passwd"}],
        [{"folder": "/etc", "name": ".kvmigd-../../shadow"}],
        [{"folder": "/etc", "name": f".kvmigd-{'0' * 32}x"}],
        [{"folder": "etc", "name": f".kvmigd-{'0' * 32}"}],
        [{"folder": "/etc", "name": f".kvmigd-{'0' * 32}"}] * 2,
        [{"folder": f"/{number}", "name": f".kvmigd-{'0' * 32}"} for number in range(65)],
    ],
)
@asynchronous
async def test_only_nonces_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nonces: list[Any]) -> None:
    async def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing is read")

    monkeypatch.setattr(nonce, "read", never)
    async with met(tmp_path) as at:
        with pytest.raises(PeerFailed, match=r"not a StorageRequest|named twice"):
            await at.link.read_nonces([proofwire.NonceAt(**each) for each in nonces])


@asynchronous
async def test_names_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    Path(folder).mkdir()
    async with keepers(monkeypatch), met(tmp_path) as at:  # ends what the peer still holds
        (proof,) = await at.prover.storage([folder])
        assert (proof.problem, proof.text) == ("failed", "hostb cannot be told")


# Frames


@pytest.mark.parametrize(
    ("caught", "sent", "problem"),
    [
        (Caught(sizes=(64, 1500)), frozenset(), ""),
        (Caught(sizes=(64,)), frozenset(), "too-large"),
        (Caught(sizes=(64,)), frozenset({1500}), "too-large"),
        (Caught(), frozenset(), "lost"),
        (Caught(problem="no-bridge", text="there is none"), None, "no-bridge"),
        (Caught(), FrameFailed("no-bridge", "br0 is down"), "no-bridge"),
    ],
)
def test_what_was_caught(caught: Caught, sent: Any, problem: str) -> None:
    request = proofwire.CatchRequest(bridge="br0", nonce=NONCE)
    proof = judged(request, caught, sent)
    assert (proof.problem, bool(proof.text)) == (problem, bool(problem))


@asynchronous
async def test_no_such_bridge(tmp_path: Path) -> None:
    async with met(tmp_path) as at:
        (proof,) = (await at.prover.prove(Wanted(frames=(Segment(bridge="br0"),)))).frames
        assert (proof.problem, proof.text) == ("no-bridge", "there is no bridge br0 on hosta")
        # whatever a peer says, nothing but bridges is listened on
        answer = await at.link.catch_frames([proofwire.CatchRequest(bridge="lo", nonce=NONCE)])
        assert answer.segments[0].text == "there is no bridge lo on hostb"
        assert (await at.link.caught_frames(answer.token)).segments[0].problem == "no-bridge"
        with pytest.raises(NoLease):
            await at.link.caught_frames(answer.token)


@asynchronous
async def test_catching_is_bounded(tmp_path: Path) -> None:
    async with met(tmp_path) as at:
        one = proofwire.CatchRequest(bridge="lo", nonce=NONCE)
        with pytest.raises(PeerFailed, match="not a FramesRequest"):
            await at.link.catch_frames([one] * 17)
        for _ in range(2):
            await at.link.catch_frames([one])
        with pytest.raises(AdmissionBusy, match="hosta has 2 catches of frames open here"):
            await at.link.catch_frames([one])


@asynchronous
async def test_catching_ends_by_itself() -> None:
    watch = FrameWatch([proofwire.CatchRequest(bridge="lo", nonce=NONCE)], (), host="hostb", seconds=0.02)
    await watch.run()
    assert (await watch.caught())[0].problem == "no-bridge"


@asynchronous
async def test_sessions_end_by_themselves() -> None:
    dropped: list[str] = []
    sessions = Sessions[str]("things", seconds=0.02, limit=2, drop=dropped.append)
    token = sessions.open("x", peer="hosta")
    with pytest.raises(NotAuthorised):
        sessions.get(token, peer="hostc")
    sessions.open("y", peer="hostb")
    with pytest.raises(AdmissionBusy):
        sessions.open("z", peer="hostc")
    await lab.until(lambda: not len(sessions))
    with pytest.raises(NoLease):
        sessions.get(token, peer="hosta")
    sessions.open("z", peer="hostc")
    sessions.close()
    assert dropped == ["x", "y", "z"]


# A peer that goes away


@asynchronous
async def test_the_peer_is_gone(tmp_path: Path) -> None:
    async with met(tmp_path) as at:
        nobody = lab.link_to(lab.free_port(), at.here.pki)
        async with nobody:
            gone = Prover(cast(Any, at.prover)._host, nobody, desk=cast(Any, at.prover)._desk, bursts=Bursts())
            with pytest.raises(PeerUnreachable):
                await gone.prove(EVERYTHING)
    assert listening() == []


@asynchronous
async def test_a_peer_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object, **__: object) -> None:
        await asyncio.sleep(3600)

    async with met(tmp_path) as at:
        with monkeypatch.context() as patched:
            # the others have enough of it to be proved meanwhile
            patched.setattr(driver, "PROVE_SECONDS", 3.0)
            patched.setattr(PeerLink, "tls_step", hang)
            proofs = await at.prover.prove(Wanted(ports=("stream",), tls=True))
            assert proofs.ports[0].is_proved
            assert {proof.problem for proof in proofs.tls} == {NO_ANSWER}
        monkeypatch.setattr(driver, "PROVE_SECONDS", 0.2)
        monkeypatch.setattr(PeerLink, "_request", hang)
        with pytest.raises(PeerUnreachable, match=r"no answer within 0\.2 s"):
            await at.prover.prove(EVERYTHING)
    await lab.until(lambda: listening() == [])


@asynchronous
async def test_one_who_gives_up_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connecting = asyncio.Event()

    async def hang(*_: object, **__: object) -> None:
        connecting.set()
        await asyncio.sleep(3600)

    async with met(tmp_path) as at:
        monkeypatch.setattr("kvmigd.prove.ports.connect_and_read", hang)
        task = asyncio.create_task(at.prover.prove(Wanted(ports=("stream", "disks"), back=("stream",))))
        await connecting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await lab.until(lambda: listening() == [])
