"""Proof that a migration port can be reached: a real connection through it, before QEMU is started behind it.

The destination listens, the source connects and reads a nonce. Afterwards nothing may stand in the way of QEMU, which
binds the same port next and may do so without SO_REUSEADDR: no listener, and no connection in TIME_WAIT or LAST_ACK.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import socket
import struct
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from kvmigd.errors import AdmissionBusy, NotAuthorised, PeerFailed
from kvmigd.peer.wire import ProofEnd, ProofOffer

PROOF_SECONDS = 5.0
PROOF_LIMIT = 32
"""So many proofs may listen at once; beyond that the answer is busy."""
PEER_LIMIT = 8
"""So many of them may be one peer's."""
CONNECT_SECONDS = 3.0

Reason = Literal["timeout", "refused", "no-route", "wrong-nonce"]

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""For SO_LINGER: closing sends a reset, and nothing stays behind."""


class ProofFailed(Exception):
    """The port is not proved. `reason` is for rules to decide on, `text` a sentence for people."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason
        self.text = text


class Proof:
    """The listening half: one listener, one connection, a few seconds.

    `async with` listens; leaving it, the port can be bound again at once. Where `port` is a function, it is called in
    the very moment before the port is taken, so that two proofs never choose the same.
    """

    def __init__(
        self, address: str, port: int | Callable[[], int], *, peer: str = "", seconds: float = PROOF_SECONDS
    ) -> None:
        self.address = address
        self.port = 0 if callable(port) else port
        self._choose = port if callable(port) else None
        self.peer = peer
        self.seconds = seconds
        self.token = secrets.token_hex(16)
        self.nonce = secrets.token_hex(16)
        self.connected_from = ""
        self._listener: socket.socket | None = None

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def listen(self) -> None:
        """Take the port; raises PeerFailed if somebody else has it, and what the choice of a port raises."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                self.address, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, kind, protocol, _, target = found[0]
        except OSError as error:
            raise PeerFailed(f"Cannot listen on {self.address}: {error.strerror}.") from error
        if self._choose is not None:
            self.port = self._choose()
        self._listen(family, kind, protocol, (target[0], self.port, *target[2:]))

    def _listen(self, family: int, kind: int, protocol: int, target: tuple[str | int, ...]) -> None:
        where = f"{self.address} port {self.port}"
        try:
            listener = socket.socket(family, kind, protocol)
        except OSError as error:
            raise PeerFailed(f"Cannot listen on {where}: {error.strerror}.") from error
        try:
            listener.setblocking(False)  # noqa: FBT003  # positional only
            # An earlier proof, or an earlier stream, may have left connections in TIME_WAIT.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
            # Inherited by the accepted connection: whoever closes first keeps the port busy in TIME_WAIT, a reset
            # leaves nothing. `serve` still waits for the other side to close, because a reset can overtake the nonce.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            listener.listen(1)
        except OSError as error:
            listener.close()
            raise PeerFailed(f"Cannot listen on {where}: {error.strerror}.", hint="ss -ltnp shows who does.") from error
        self.port = listener.getsockname()[1]
        self._listener = listener

    async def serve(self) -> None:
        """Answer one connection with the nonce; returns when it is over or the time has passed."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(self.seconds):
                with await self._accept() as connection:
                    self._close_listener()
                    await loop.sock_sendall(connection, self.nonce.encode())
                    await self._hear(connection)

    async def _accept(self) -> socket.socket:
        """One connection. Other than with the loop's own way, none is lost when the task is cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        listener = self._listener
        assert listener is not None
        came = asyncio.Event()
        loop.add_reader(listener, came.set)
        try:
            while True:
                await came.wait()
                came.clear()
                with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
                    connection, origin = listener.accept()
                    connection.setblocking(False)  # noqa: FBT003  # positional only
                    self.connected_from = str(origin[0])
                    return connection
        finally:
            if self._listener is listener:
                loop.remove_reader(listener)

    async def _hear(self, connection: socket.socket) -> None:
        """What follows the nonce: nothing, until the other side closes."""
        while await asyncio.get_running_loop().sock_recv(connection, 64):
            await asyncio.sleep(0)  # what is there already is received without a pause

    @property
    def end(self) -> ProofEnd:
        """What is told of it when it is over."""
        return ProofEnd(connected_from=self.connected_from)

    def close(self) -> None:
        """Give the port back; harmless if that has happened."""
        self._close_listener()

    def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener)  # the number may soon be another's
            listener.close()


class ProofDesk:
    """The proofs that listen now, each known by its token."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._open: dict[str, tuple[Proof, asyncio.Task[None]]] = {}
        self._ended: deque[Proof] = deque(maxlen=PROOF_LIMIT)

    def __len__(self) -> int:
        return len(self._open)

    async def offer(
        self, address: str, port: int | Callable[[], int], *, peer: str, seconds: float = PROOF_SECONDS
    ) -> ProofOffer:
        """Start to listen; ends by itself."""
        return await self.take(Proof(address, port, peer=peer, seconds=seconds))

    async def take(self, proof: Proof) -> ProofOffer:
        """Have a proof listen; it ends by itself. Raises AdmissionBusy."""
        self._check_room(proof.peer)
        await proof.listen()
        try:
            self._check_room(proof.peer)  # others may have come while the address was looked up
        except AdmissionBusy:
            proof.close()
            raise
        self._open[proof.token] = proof, self._group.create_task(self._serve(proof), name=f"proof-{proof.port}")
        return ProofOffer(
            token=proof.token, address=proof.address, port=proof.port, nonce=proof.nonce, seconds=proof.seconds
        )

    def _check_room(self, peer: str) -> None:
        owners = Counter(proof.peer for proof, _ in self._open.values())
        if owners.total() >= PROOF_LIMIT or owners[peer] >= PEER_LIMIT:
            count = min(owners.total(), PROOF_LIMIT)
            raise AdmissionBusy(f"{count} ports are being proved here at this moment.", retry_after=1.0)

    async def _serve(self, proof: Proof) -> None:
        try:
            await proof.serve()
        finally:
            self._retire(proof)

    def _retire(self, proof: Proof) -> None:
        proof.close()
        if self._open.pop(proof.token, None):
            self._ended.append(proof)

    async def close(self) -> None:
        """End all proofs."""
        for proof, task in tuple(self._open.values()):
            await self._stop(proof, task)

    async def _stop(self, proof: Proof, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait({task})
        self._retire(proof)  # a task that was cancelled before its first step has not done it

    async def end(self, token: str, *, peer: str) -> ProofEnd:
        """End a proof and tell who connected; one that is not known has ended before."""
        proof, task = self._open.get(token, (None, None))
        if proof is None:
            proof = next((ended for ended in self._ended if ended.token == token), None)
        if proof is None:
            return ProofEnd()
        if proof.peer != peer:
            raise NotAuthorised(f"This proof was not asked for by {peer}.")
        if task is not None:
            await self._stop(proof, task)
        return proof.end


def failure(error: OSError, where: str) -> ProofFailed:
    """What an operating system error of a connection says of the port."""
    if isinstance(error, ConnectionRefusedError):
        return ProofFailed("refused", f"{where} refuses the connection.")
    if isinstance(error, ConnectionResetError):
        return ProofFailed("refused", f"{where} resets the connection.")
    if isinstance(error, socket.gaierror):
        return ProofFailed("no-route", f"{where} cannot be resolved: {error.strerror}.")
    if error.errno in (errno.EPERM, errno.EACCES):
        return ProofFailed("no-route", f"This host's own firewall forbids a connection to {where}.")
    if error.errno == errno.ETIMEDOUT:
        return ProofFailed("timeout", f"{where} does not answer.")
    return ProofFailed("no-route", f"{where} cannot be reached: {error.strerror}.")


async def connect_and_read(address: str, port: int, nonce: str, *, timeout: float = CONNECT_SECONDS) -> None:
    """The connecting half: connect by plain TCP and read the nonce. Raises ProofFailed.

    Silence after the connection is a timeout too: something between the hosts took the connection, not the peer.
    """
    where = f"{address} port {port}"
    connected = False
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(address, port)
            connected = True
            try:
                heard = await reader.readexactly(len(nonce))
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except TimeoutError:
        what = "takes the connection but says nothing" if connected else "does not answer"
        raise ProofFailed("timeout", f"{where} {what} within {timeout:g} s.") from None
    except asyncio.IncompleteReadError:
        raise ProofFailed("wrong-nonce", f"{where} is answered by something that is not kvmigd.") from None
    except OSError as error:
        raise failure(error, where) from error
    if not secrets.compare_digest(heard, nonce.encode()):
        raise ProofFailed("wrong-nonce", f"{where} is answered by something else than the peer's kvmigd.")
