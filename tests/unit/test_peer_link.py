"""A real server and a real link on loopback: calls, the watch stream, and how a loss is noticed."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
import msgspec
import pytest

from kvmigd.config import Peer, Pki
from kvmigd.errors import (
    AdmissionBusy,
    AdmissionRefused,
    KvmigdError,
    NoLease,
    NoSuchPeer,
    PeerFailed,
    PeerUnreachable,
    SameHost,
)
from kvmigd.model.host import Examination
from kvmigd.model.peer import PeerState
from kvmigd.peer import wire
from kvmigd.peer.admission import AdmissionDesk
from kvmigd.peer.link import PeerLink, Silence
from kvmigd.peer.peers import Peers
from kvmigd.peer.proof import ProofFailed
from kvmigd.peer.server import PeerServer
from tests.unit import peer_lab as lab
from tests.unit.peer_lab import GIB, GUEST, JOB, OTHER_JOB


class Meeting:
    """hosta's link to hostb's server."""

    def __init__(self, server: PeerServer, link: PeerLink, host: lab.MadeUpHost, pki: Pki) -> None:
        self.server = server
        self.link = link
        self.host = host
        self.pki = pki


@asynccontextmanager
async def meeting(root: Path, **how: Any) -> AsyncIterator[Meeting]:
    host = lab.MadeUpHost()
    pki = lab.installed(root / "a", "hosta")
    async with lab.serving(root, local=host, **how) as server, lab.link_to(server.port, pki) as link:
        yield Meeting(server, link, host, pki)


# Calls


@lab.asynchronous
async def test_from_admission_to_settlement(tmp_path: Path) -> None:
    async with meeting(tmp_path) as met:
        link = met.link
        granted = await link.admit(JOB, GUEST, memory=GIB)
        assert await link.admit(JOB, GUEST, memory=GIB) == granted
        assert (granted.address, granted.lease_seconds) == ("127.0.0.1", 30.0)
        assert met.server.desk.reserved_memory == GIB
        offer = await lab.proved(link, JOB)
        assert offer.port == granted.port
        assert (await lab.proved(link)).port == granted.port - 1
        assert await link.renew(JOB) == granted
        for _ in range(2):
            told = await link.settle(JOB, GUEST.uuid, outcome="arrived", autostart=True)
            assert told.is_executing
            assert told.statistics is not None
            assert told.statistics.pause_usec == 25_000
        assert met.host.settled == [(GUEST.uuid, True)] * 2
        assert met.server.desk.reserved_memory == 0
        for _ in range(2):
            await link.release(JOB)
        with pytest.raises(NoLease):
            await link.settle(OTHER_JOB, GUEST.uuid, outcome="stayed", autostart=False)


@lab.asynchronous
async def test_a_guest_that_stayed(tmp_path: Path) -> None:
    async with meeting(tmp_path) as met:
        await met.link.admit(JOB, GUEST, memory=GIB)
        told = await met.link.settle(JOB, GUEST.uuid, outcome="stayed", autostart=True)
        assert told.statistics is None
        assert met.host.settled == []
        assert met.server.desk.reservations == ()


@lab.asynchronous
async def test_a_connection_that_was_never_made_needs_no_second_look(tmp_path: Path) -> None:
    looks = []

    async def diagnose(peer: Peer, _tls: ssl.SSLContext) -> None:
        looks.append(peer.name)

    with patch("kvmigd.peer.client.diagnose", diagnose):
        async with lab.link_to(lab.free_port(), lab.installed(tmp_path, "hosta")) as link:
            with pytest.raises(PeerUnreachable, match="Connection refused"):
                await link.version()
    assert looks == []


@lab.asynchronous
async def test_refused_and_busy(tmp_path: Path) -> None:
    async with meeting(tmp_path) as met:
        met.host.not_accepting = "hostb is in maintenance."
        with pytest.raises(AdmissionRefused, match=r"hostb does not admit web1: hostb is in maintenance\."):
            await met.link.admit(JOB, GUEST, memory=GIB)
        met.host.not_accepting = ""
        await met.link.admit(JOB, GUEST, memory=GIB)
        with pytest.raises(AdmissionBusy, match="hostb is busy: Guest 'web1' is already admitted") as caught:
            await met.link.admit(OTHER_JOB, GUEST, memory=GIB)
        assert caught.value.retry_after >= 1


@lab.asynchronous
async def test_lease_of_a_restarted_daemon(tmp_path: Path) -> None:
    async with meeting(tmp_path) as met:
        await met.link.admit(JOB, GUEST, memory=GIB)
        port = met.server.port
    host = lab.MadeUpHost()
    async with lab.serving(tmp_path, local=host, port=port), met.link as link:
        await link.settle(JOB, GUEST.uuid, outcome="arrived", autostart=True)
        assert host.settled == [(GUEST.uuid, True)]


@lab.asynchronous
async def test_a_lease_ends_without_being_asked(tmp_path: Path) -> None:
    now = 0.0
    desk = AdmissionDesk(lab.config(tmp_path, pki=Pki()).migration, clock=lambda: now)
    changes: list[int] = []
    async with meeting(tmp_path, desk=desk) as met:
        await met.link.admit(JOB, GUEST, memory=GIB)
        desk.on_change(lambda: changes.append(desk.reserved_memory))
        now = 29.99  # what is left runs on the real clock
        await met.link.renew(JOB)
        now = 59.98
        desk._changed()
        await asyncio.sleep(0)
        now = 60.0
        await lab.until(lambda: 0 in changes)


@lab.asynchronous
async def test_foreign_leases_and_proofs(tmp_path: Path) -> None:
    async with (
        meeting(tmp_path, peers=("hosta", "hostc")) as met,
        lab.link_to(met.server.port, lab.installed(tmp_path / "c", "hostc")) as other,
    ):
        await met.link.admit(JOB, GUEST, memory=GIB)
        offer = await met.link.proof(JOB)
        for attempt in (
            other.renew(JOB),
            other.release(JOB),
            other.proof(JOB),
            other.settle(JOB, GUEST.uuid, outcome="stayed", autostart=False),
        ):
            with pytest.raises(PeerFailed, match="was not given to hostc"):
                await attempt
        with pytest.raises(PeerFailed, match="not asked for by hostc"):
            await other.close_proof(offer.token)
        await met.link.close_proof(offer.token)


@lab.asynchronous
async def test_a_port_that_cannot_be_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with meeting(tmp_path) as met:

        async def fail(*_arguments: object, **_named: object) -> None:
            raise ProofFailed("timeout", "127.0.0.1 port 1 does not answer.")

        with monkeypatch.context() as firewall:
            firewall.setattr("tests.unit.peer_lab.connect_and_read", fail)
            with pytest.raises(ProofFailed):
                await lab.proved(met.link)
        first = await lab.proved(met.link)  # nothing is left that would take the port away
        assert first.port == lab.PORTS[1]


@lab.asynchronous
async def test_examination_is_asked_in_the_name_of_the_certificate(tmp_path: Path) -> None:
    async with meeting(tmp_path) as met:
        assert await met.link.examine((GUEST,)) == Examination(facts=lab.FACTS)
        assert met.host.seen_from == ["hosta"]
        broken = msgspec.structs.replace(GUEST, name="broken")
        with pytest.raises(PeerFailed, match="Peer hostb answered: Internal error: RuntimeError"):
            await met.link.examine((broken,))


# Garbage


async def post(met: Meeting, path: str, body: bytes, *, method: str = "POST") -> tuple[int, wire.WireError]:
    tls = ssl.create_default_context(cafile=str(met.pki.ca))
    tls.load_cert_chain(met.pki.client_certificate, met.pki.client_key)
    url = f"https://127.0.0.1:{met.server.port}{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=io.BytesIO(body), ssl=tls, server_hostname="hostb") as response,
    ):
        return response.status, msgspec.json.decode(await response.read(), type=wire.WireError)


GARBAGE = {
    "nothing": b"",
    "no JSON": b"\xff\xfe{",
    "no object": b"[1]",
    "nested": b"[" * 500_000,
    "field missing": b'{"job": "%s"}' % JOB.encode(),
    "wrong type": json.dumps({"job": 5, "guest": msgspec.to_builtins(GUEST), "memory": 1}).encode(),
    "no UUID": json.dumps({"job": "../x", "guest": msgspec.to_builtins(GUEST), "memory": 1}).encode(),
    "negative": json.dumps({"job": JOB, "guest": msgspec.to_builtins(GUEST), "memory": -1}).encode(),
}


@lab.asynchronous
async def test_garbage(tmp_path: Path) -> None:
    async with meeting(tmp_path) as met:
        for name, body in GARBAGE.items():
            status, error = await post(met, "/v3/admission", body)
            assert (name, status, error.code) == (name, 400, "invalid-arguments")
        status, error = await post(met, "/v3/admission", b" " * (wire.BODY_LIMIT + 1))
        assert (status, error.code) == (413, "invalid-arguments")
        status, error = await post(met, f"/v3/admission/{'x' * 40}/renew", b"{}")
        assert (status, error.code) == (400, "invalid-arguments")
        assert (await post(met, "/v3/nothing", b"{}"))[0] == 404
        assert (await post(met, "/", b"", method="GET"))[0] == 404
        assert (await post(met, "/version", b""))[0] == 405
        status, error = await post(met, "/v9/examine", b"{}")
        assert (status, error.code, error.message) == (404, "protocol-mismatch", "hostb speaks protocol 3, not 9.")
        assert met.server.desk.reservations == ()
        await met.link.version()


@lab.asynchronous
async def test_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    async with meeting(tmp_path) as met:
        body = {"guests": [{**msgspec.to_builtins(GUEST), "novelty": 1}], "novelty": [2]}
        await post_ok(met, "/v3/examine", json.dumps(body).encode())


async def post_ok(met: Meeting, path: str, body: bytes) -> None:
    assert await met.link._request("POST", path, body=body)


@lab.asynchronous
async def test_noise_on_the_port(tmp_path: Path) -> None:
    """Neither strangers who do not speak TLS, nor peers who do not speak HTTP, disturb anybody."""
    async with meeting(tmp_path) as met:
        for noise in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 600, b"\0" * 70_000):
            reader, writer = await asyncio.open_connection("127.0.0.1", met.server.port)
            writer.write(noise)
            writer.write_eof()
            with suppress(ConnectionError):
                await reader.read()
            writer.transport.abort()
        tls = ssl.create_default_context(cafile=str(met.pki.ca))
        tls.load_cert_chain(met.pki.client_certificate, met.pki.client_key)
        reader, writer = await asyncio.open_connection("127.0.0.1", met.server.port, ssl=tls, server_hostname="hostb")
        writer.write(b"\0" * 9000 + b"\r\n\r\n")
        assert b"400" in await reader.read(200)
        writer.transport.abort()
        await met.link.version()


def test_what_errors_become() -> None:
    def heard(**error: Any) -> KvmigdError:
        return wire.decode_error(json.dumps(error).encode(), peer="hostb", status=409)

    busy = heard(code="admission-busy", message="Later.", retry_after=3)
    assert isinstance(busy, AdmissionBusy)
    assert busy.retry_after == 3
    assert isinstance(heard(code="from-the-future", message="What?"), PeerFailed)
    assert isinstance(heard(code="invalid-arguments", message="No."), PeerFailed)
    assert isinstance(wire.decode_error(b"<html>", peer="hostb", status=502), PeerFailed)
    error = AdmissionRefused("No.", hint="Wait.")
    again = wire.decode_error(wire.encode_error(error), peer="hostb", status=409)
    assert (type(again), again.message, again.hint) == (AdmissionRefused, "No.", "Wait.")


# The watch stream


@lab.asynchronous
async def test_watching(tmp_path: Path) -> None:
    async with meeting(tmp_path) as met, lab.running(met.link) as link:
        assert link.view.state is PeerState.CONNECTING
        await lab.state(link, PeerState.CONNECTED)
        assert link.view.facts == lab.FACTS
        assert link.view.round_trip_usec > 0
        heard: list[int] = []
        link._on_change = lambda _name: heard.append(link.view.facts.memory_free if link.view.facts else -1)
        met.host.change(memory_free=7)
        met.host.change(memory_free=8)  # in the same turn: one line
        await lab.until(lambda: 8 in heard)
        assert 7 not in heard
        before = link.view.last_seen_usec
        assert link._silence is not None
        met.host.change()
        await lab.until(lambda: link.view.last_seen_usec > before)


@lab.asynchronous
async def test_a_long_line_in_pieces(tmp_path: Path) -> None:
    async with meeting(tmp_path) as met, lab.running(met.link) as link:
        await lab.state(link, PeerState.CONNECTED)
        reason = "x" * 200_000
        met.host.change(not_accepting_reason=reason)
        await lab.until(lambda: link.view.facts is not None and link.view.facts.not_accepting_reason == reason)
        met.host.change(not_accepting_reason="x" * (wire.LINE_LIMIT + 1))
        assert f"longer than {wire.LINE_LIMIT} bytes" in await lab.state(link, PeerState.UNREACHABLE)
        met.host.change(not_accepting_reason="")
        await lab.state(link, PeerState.CONNECTED)


@lab.asynchronous
async def test_lost_and_found(tmp_path: Path) -> None:
    host = lab.MadeUpHost()
    pki = lab.installed(tmp_path / "a", "hosta")
    port = lab.free_port()
    async with lab.running(lab.link_to(port, pki)) as link:
        assert "cannot be reached" in await lab.state(link, PeerState.UNREACHABLE)
        for round_ in range(2):
            host.facts = msgspec.structs.replace(lab.FACTS, memory_free=round_)
            async with lab.serving(tmp_path, local=host, port=port):
                await lab.state(link, PeerState.CONNECTED)
                assert link.view.facts == host.facts
            await lab.state(link, PeerState.UNREACHABLE)
            assert link.view.facts == host.facts  # stale, and said to be
            assert link.view.last_seen_usec > 0
            with pytest.raises(PeerUnreachable):
                await link.whereabouts(GUEST.uuid)


class States:
    """Every state that a link has gone through."""

    def __init__(self, port: int, pki: Pki) -> None:
        self.seen: list[tuple[PeerState, str]] = []
        self.link = lab.link_to(port, pki, pace=lab.IMPATIENT, on_change=self._note)

    def _note(self, _name: str) -> None:
        self.seen.append((self.link.view.state, self.link.view.problem))


@lab.asynchronous
async def test_silence_is_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection stands, but nothing comes: the host hangs, or a firewall drops."""
    monkeypatch.setattr("kvmigd.peer.watch.BEAT_SECONDS", 0.05)
    async with meeting(tmp_path) as met:
        states = States(met.server.port, met.pki)
        async with lab.running(states.link):
            await lab.until(lambda: bool(states.seen))
            assert [state for state, _ in states.seen] == [PeerState.CONNECTED]
            monkeypatch.setattr(met.server._broadcast, "_write", lambda _chunk: None)
            await lab.until(lambda: any("it has fallen silent" in problem for _, problem in states.seen))


@lab.asynchronous
async def test_beats_keep_it_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmigd.peer.watch.BEAT_SECONDS", 0.05)
    async with meeting(tmp_path) as met:
        states = States(met.server.port, met.pki)
        async with lab.running(states.link):
            await asyncio.sleep(3 * lab.IMPATIENT.silence)
            assert {state for state, _ in states.seen} == {PeerState.CONNECTED}


@lab.asynchronous
async def test_a_server_that_says_nothing_at_all(tmp_path: Path) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    pki = lab.installed(tmp_path / "a", "hosta")
    pace = msgspec.structs.replace(lab.FAST, call=0.2)
    async with await asyncio.start_server(swallow, "127.0.0.1", 0) as mute:
        port = mute.sockets[0].getsockname()[1]
        async with lab.running(lab.link_to(port, pki, pace=pace)) as link:
            assert "no answer within 0.2 s" in await lab.state(link, PeerState.UNREACHABLE)


@lab.asynchronous
async def test_our_own_sleep_is_not_the_peers_silence() -> None:
    """A timer that fires late tells of this daemon, not of the peer: it gets another chance to be heard."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as scope:
        silence = Silence(1.0, scope)
        silence.heard = loop.time() - 5.0
        silence._look(loop.time() - 4.0)
        assert scope.when() is None
        silence._look(loop.time())
        assert scope.when() is not None
        scope.reschedule(None)
        silence.stop()


@lab.asynchronous
async def test_streams_of_one_peer_are_bounded(tmp_path: Path) -> None:
    async with meeting(tmp_path) as met:
        tls = ssl.create_default_context(cafile=str(met.pki.ca))
        tls.load_cert_chain(met.pki.client_certificate, met.pki.client_key)
        url = f"https://127.0.0.1:{met.server.port}/v3/watch"
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession())
            first = await stack.enter_async_context(session.get(url, ssl=tls, server_hostname="hostb"))
            for _ in range(6):
                more = await stack.enter_async_context(session.get(url, ssl=tls, server_hostname="hostb"))
                assert await more.content.readline()
            await first.read()  # it has been ended
            assert len(met.server._broadcast._streams) <= 5


@lab.asynchronous
async def test_the_server_moves(tmp_path: Path) -> None:
    """Another port with a reload; one that cannot be had leaves the old one open."""
    async with meeting(tmp_path) as met:
        old, new = met.server.port, lab.free_port()
        of_b = lab.pki_below(tmp_path / "b")

        async def move(port: int, address: str = "127.0.0.1") -> None:
            config = lab.config(tmp_path, pki=of_b, port=port, peers=(Peer(name="hosta"),))
            listen = msgspec.structs.replace(config.listen, address=address)
            await met.server.reload(msgspec.structs.replace(config, listen=listen))

        await move(new)
        assert met.server.port == new
        async with lab.link_to(old, met.pki) as link:
            with pytest.raises(PeerUnreachable):
                await link.version()
        await move(new, "192.0.2.1")
        assert met.server.port == new
        assert met.server.problem.startswith(f"Cannot listen on 192.0.2.1 port {new}: ")
        await move(new, "")
        assert met.server.problem == ""
        async with lab.link_to(new, met.pki) as link:  # IPv4 at a listener for both families
            assert (await link.admit(JOB, GUEST, memory=GIB)).address == "127.0.0.1"
            await lab.proved(link, JOB)


# All peers


@lab.asynchronous
async def test_peers(tmp_path: Path) -> None:
    pki = lab.installed(tmp_path / "a", "hosta")
    async with lab.serving(tmp_path) as server, asyncio.TaskGroup() as group:
        b = Peer(name="hostb", address="127.0.0.1", port=server.port)
        c = Peer(name="hostc", address="127.0.0.1", port=lab.free_port())
        config = lab.config(tmp_path, name="hosta", pki=pki, peers=(b, c))
        changed: list[str] = []
        async with Peers(config, group, pace=lab.FAST) as peers:
            peers.on_change(changed.append)
            link = peers.get("hostb")
            await lab.state(link, PeerState.CONNECTED)
            await lab.until(lambda: "hostb" in changed)
            assert {view.name for view in peers.views} == {"hostb", "hostc"}
            with pytest.raises(SameHost):
                peers.get("hosta")
            with pytest.raises(NoSuchPeer, match="known peers: hostb, hostc"):
                peers.get("hostx")
            d = Peer(name="hostd", address="127.0.0.1", port=c.port)
            await peers.apply(lab.config(tmp_path, name="hosta", pki=pki, peers=(b, d)))
            assert peers.get("hostb") is link
            assert link.view.state is PeerState.CONNECTED
            assert peers.get("hostd").view.name == "hostd"
            assert {"hostc", "hostd"} <= set(changed)
            with pytest.raises(NoSuchPeer):
                peers.get("hostc")
            moved = msgspec.structs.replace(b, port=c.port)
            await peers.apply(lab.config(tmp_path, name="hosta", pki=pki, peers=(moved,)))
            assert peers.get("hostb") is not link
            await lab.state(peers.get("hostb"), PeerState.UNREACHABLE)
        assert peers.views == ()


@lab.asynchronous
async def test_a_peer_that_goes_is_told_of_before_anybody_asks_for_it(tmp_path: Path) -> None:
    pki = lab.installed(tmp_path / "a", "hosta")
    config = lab.config(tmp_path, name="hosta", pki=pki, peers=(Peer(name="hostb", address="127.0.0.1", port=1),))
    async with asyncio.TaskGroup() as group:
        peers = await Peers(config, group, pace=lab.FAST).__aenter__()
        known = {"hostb"}

        def hear(name: str) -> None:
            try:
                peers.get(name)
            except NoSuchPeer:
                known.discard(name)

        peers.on_change(hear)
        await asyncio.sleep(0)  # its task runs, so that its end takes a while
        going = asyncio.ensure_future(peers.apply(lab.config(tmp_path, name="hosta", pki=pki)))
        turns = 0
        while not going.done():
            await asyncio.sleep(0)
            turns += 1
            for name in known:
                peers.get(name)
        assert turns > 1
        assert not known
        await going
