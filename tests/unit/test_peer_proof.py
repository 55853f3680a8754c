"""Proofs of migration ports, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from kvmigd.config import Migration
from kvmigd.errors import AdmissionBusy, NotAuthorised, PeerFailed
from kvmigd.peer.admission import AdmissionDesk
from kvmigd.peer.proof import PEER_LIMIT, PROOF_LIMIT, Proof, ProofDesk, ProofFailed, connect_and_read
from tests.unit.peer_lab import PORTS, asynchronous

HERE = "127.0.0.1"


def bind_like_qemu(port: int) -> None:
    """Bind and listen without SO_REUSEADDR."""
    with socket.socket() as taken:
        taken.bind((HERE, port))
        taken.listen(1)


async def failure(port: int, nonce: str = "0" * 32, *, address: str = HERE, timeout: float = 2.0) -> ProofFailed:
    with pytest.raises(ProofFailed) as caught:
        await connect_and_read(address, port, nonce, timeout=timeout)
    return caught.value


@asynchronous
async def test_proved_and_the_port_free_at_once() -> None:
    port = 0
    for _ in range(5):  # the same port again and again
        async with asyncio.TaskGroup() as group, Proof(HERE, port) as proof:
            port = proof.port
            served = group.create_task(proof.serve())
            await connect_and_read(HERE, port, proof.nonce)
            await served
            assert proof.connected_from == HERE
        bind_like_qemu(port)


@asynchronous
async def test_the_port_is_free_whatever_the_client_does() -> None:
    """It connects and says nothing, keeps the connection, or never closes it: the port is not its to hold."""
    async with asyncio.TaskGroup() as group:
        desk = ProofDesk(group)
        for _ in range(3):
            offer = await desk.offer(HERE, 0, peer="hosta")
            with socket.create_connection((HERE, offer.port)) as held:
                assert await asyncio.to_thread(held.recv, 64) == offer.nonce.encode()
                await desk.end(offer.token, peer="hosta")
                bind_like_qemu(offer.port)


@asynchronous
async def test_the_port_is_free_before_anybody_came() -> None:
    async with asyncio.TaskGroup() as group:
        desk = ProofDesk(group)
        offer = await desk.offer(HERE, 0, peer="hosta")
        with socket.create_connection((HERE, offer.port)):  # in the backlog, not yet accepted
            assert (await desk.end(offer.token, peer="hosta")).connected_from in ("", HERE)
            bind_like_qemu(offer.port)


@asynchronous
async def test_it_ends_by_itself() -> None:
    async with asyncio.TaskGroup() as group:
        desk = ProofDesk(group)
        offer = await desk.offer(HERE, 0, peer="hosta", seconds=0.02)
        while len(desk):
            await asyncio.sleep(0.01)
        bind_like_qemu(offer.port)
        assert (await failure(offer.port)).reason == "refused"
        assert (await desk.end(offer.token, peer="hosta")).connected_from == ""


@asynchronous
async def test_ends_are_told_again_and_only_to_their_peer() -> None:
    async with asyncio.TaskGroup() as group:
        desk = ProofDesk(group)
        offer = await desk.offer(HERE, 0, peer="hosta")
        with pytest.raises(NotAuthorised):
            await desk.end(offer.token, peer="hostc")
        await connect_and_read(HERE, offer.port, offer.nonce)
        for _ in range(2):
            assert (await desk.end(offer.token, peer="hosta")).connected_from == HERE
        with pytest.raises(NotAuthorised):
            await desk.end(offer.token, peer="hostc")
        assert (await desk.end("f" * 32, peer="hostc")).connected_from == ""


@asynchronous
async def test_bounded_in_number() -> None:
    async with asyncio.TaskGroup() as group:
        desk = ProofDesk(group)
        for number in range(PROOF_LIMIT):
            await desk.offer(HERE, 0, peer=f"host{number // PEER_LIMIT}")
        with pytest.raises(AdmissionBusy):
            await desk.offer(HERE, 0, peer="hostz")
        await desk.close()
        assert len(desk) == 0
        await desk.close()


@asynchronous
async def test_one_peer_does_not_get_them_all() -> None:
    async with asyncio.TaskGroup() as group:
        desk = ProofDesk(group)
        at_once = [desk.offer(HERE, 0, peer="hosta") for _ in range(PEER_LIMIT + 2)]
        offers = await asyncio.gather(*at_once, return_exceptions=True)
        assert sum(isinstance(offer, AdmissionBusy) for offer in offers) == 2
        await desk.offer(HERE, 0, peer="hostb")
        await desk.close()


@asynchronous
async def test_the_port_is_chosen_when_it_is_taken() -> None:
    """Two that ask at once do not get the same."""
    low, high = PORTS
    admission = AdmissionDesk(Migration(port_min=low, port_max=high))
    async with asyncio.TaskGroup() as group:
        desk = ProofDesk(group)
        first, second = await asyncio.gather(
            *(desk.offer(HERE, lambda: admission.proof_port(None, peer="hosta"), peer="hosta") for _ in range(2))
        )
        assert {first.port, second.port} == {high, high - 1}
        await desk.close()


@asynchronous
async def test_a_port_that_somebody_has() -> None:
    with socket.create_server((HERE, 0)) as taken, pytest.raises(PeerFailed, match="Address already in use"):
        await Proof(HERE, taken.getsockname()[1]).listen()
    with pytest.raises(PeerFailed, match=r"Cannot listen on 192\.0\.2\.1"):
        await Proof("192.0.2.1", 0).listen()


@asynchronous
async def test_refused() -> None:
    with socket.create_server((HERE, 0)) as gone:
        port = gone.getsockname()[1]
    error = await failure(port)
    assert (error.reason, error.text) == ("refused", f"{HERE} port {port} refuses the connection.")


@contextlib.contextmanager
def deaf() -> Iterator[int]:
    """A port that swallows connections like a firewall that drops: its backlog is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind((HERE, 0))
        server.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)  # noqa: FBT003  # positional only
            filler.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@asynchronous
async def test_dropped() -> None:
    with deaf() as port:
        error = await failure(port, timeout=0.1)
    assert (error.reason, error.text) == ("timeout", f"{HERE} port {port} does not answer within 0.1 s.")


@asynchronous
async def test_silent() -> None:
    with socket.create_server((HERE, 0)) as mute:
        error = await failure(mute.getsockname()[1], timeout=0.1)
    assert error.reason == "timeout"
    assert "takes the connection but says nothing" in error.text


@asynchronous
async def test_somebody_else_answers() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP, glad to meet you, indeed very glad\r\n")
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    for handler in (greet, hang_up):
        async with await asyncio.start_server(handler, HERE, 0) as other:
            assert (await failure(other.sockets[0].getsockname()[1])).reason == "wrong-nonce"


@asynchronous
async def test_names_that_are_none() -> None:
    assert (await failure(1, address="no-such-host.invalid", timeout=5.0)).reason in ("no-route", "timeout")
