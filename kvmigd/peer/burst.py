"""How fast the path to a host is: one short burst over one TCP connection to a migration port, timed by the receiver.

Where the path is faster than 32 MiB in 150 ms (1.8 Gbit/s) the burst is even shorter; where it is slower, most of what
has been handed to the kernel never leaves it, because the receiver resets the connection when the time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Callable

import msgspec

from kvmigd.errors import AdmissionBusy
from kvmigd.peer.proof import CONNECT_SECONDS, PROOF_SECONDS, RESET_ON_CLOSE, Proof, ProofFailed, failure
from kvmigd.peer.wire import ProofEnd

BURST_SECONDS = 0.15
BURST_BYTES = 32 << 20
CHUNK = 256 << 10
REPEAT_SECONDS = 600.0
"""A burst to or from the same peer is not repeated sooner: it takes bandwidth from guests."""
FAILED_SECONDS = 10.0
"""The same after one that told nothing."""


class Burst(Proof):
    """The receiving half: a proof that counts what comes after the nonce. `done` is called once, when it is over."""

    def __init__(
        self,
        address: str,
        port: int | Callable[[], int],
        *,
        peer: str = "",
        seconds: float = PROOF_SECONDS,
        done: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(address, port, peer=peer, seconds=seconds)
        self.received = 0
        self.rate = 0
        self._done = done

    async def _hear(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        buffer = memoryview(bytearray(CHUNK))
        first = last = 0.0
        opening = 0
        try:
            async with asyncio.timeout(None) as scope:
                while self.received < BURST_BYTES and (size := await loop.sock_recv_into(connection, buffer)):
                    last = time.perf_counter()
                    if not self.received:
                        first, opening = last, size
                        scope.reschedule(loop.time() + BURST_SECONDS)
                    self.received += size
                    await asyncio.sleep(0)  # what is there already is received without a pause
        finally:
            if last > first:
                # The time begins when the first bytes are there, so they do not count.
                self.rate = round((self.received - opening) / (last - first))

    @property
    def end(self) -> ProofEnd:
        """What is told of it when it is over."""
        return ProofEnd(connected_from=self.connected_from, received=self.received, rate=self.rate)

    def close(self) -> None:
        """Give the port back; harmless if that has happened."""
        super().close()
        done, self._done = self._done, None
        if done is not None:
            done(self.rate, self.received)


async def send(address: str, port: int, nonce: str, *, timeout: float = CONNECT_SECONDS) -> None:
    """The sending half; returns when the receiver has enough. Raises ProofFailed."""
    where = f"{address} port {port}"
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(address, port)
            # When it is closed, what has not left by then shall not leave any more.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            try:
                heard = await reader.readexactly(len(nonce))
                if not secrets.compare_digest(heard, nonce.encode()):
                    raise ProofFailed("wrong-nonce", f"{where} is answered by something else than the peer's kvmigd.")
                # A reset is how the receiver says that it has enough, and it knows best what has come.
                with contextlib.suppress(OSError):
                    await _pour(reader, writer)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise ProofFailed("timeout", f"{where} does not take a burst within {timeout:g} s.") from None
    except asyncio.IncompleteReadError:
        raise ProofFailed("wrong-nonce", f"{where} is answered by something that is not kvmigd.") from None
    except OSError as error:
        raise failure(error, where) from error


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    chunk = secrets.token_bytes(CHUNK)  # nothing on the way shall compress it
    end = time.perf_counter() + BURST_SECONDS
    sent = 0
    while sent < BURST_BYTES and time.perf_counter() < end and not reader.at_eof():
        writer.write(chunk)
        sent += CHUNK
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, end - time.perf_counter())):
                await writer.drain()
        await asyncio.sleep(0)
    writer.write_eof()
    await reader.read(1)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What one burst told; `when` is on the clock of the bursts."""

    rate: int
    size: int
    when: float


class Bursts:
    """All bursts of this host: never two at once, and to and from one peer none soon after another."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running = False
        self._measured: dict[tuple[str, str], Measured] = {}

    def known(self, way: str, peer: str) -> Measured | None:
        """What the last burst told, if it is too early for another; `way` is to or from the peer."""
        found = self._measured.get((way, peer))
        if found is None or not found.rate or self._clock() - found.when >= REPEAT_SECONDS:
            return None
        return found

    def age(self, measured: Measured) -> float:
        """How long ago that was, seconds."""
        return self._clock() - measured.when

    def begin(self, way: str, peer: str) -> None:
        """Take this host for a burst; `end` must follow. Raises AdmissionBusy."""
        if self._running:
            raise AdmissionBusy("Another burst is being measured at this moment.", retry_after=0.3)
        found = self._measured.get((way, peer))
        if found is not None and not found.rate and self._clock() - found.when < FAILED_SECONDS:
            wait = FAILED_SECONDS - (self._clock() - found.when)
            raise AdmissionBusy("A burst has failed a moment ago.", retry_after=round(wait, 1))
        self._running = True

    def end(self, way: str, peer: str, *, rate: int, size: int, age: float = 0.0) -> None:
        """The burst is over, with this result; a rate of 0 for none. `age` is that of a result that was known there."""
        self._running = False
        self._measured[way, peer] = Measured(rate=rate, size=size, when=self._clock() - age)

    def abandon(self) -> None:
        """There was no burst after all."""
        self._running = False
