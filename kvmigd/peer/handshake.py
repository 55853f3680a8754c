"""A TLS handshake with the certificates that QEMU shows on encrypted streams, as records which somebody carries.

Both sides run OpenSSL on buffers in memory; the control connection brings the records from one to the other. What is
asked of the certificates is what QEMU asks (crypto/tlssession.c with verify-peer=yes): both sides check the other's
against ca-cert.pem and ca-crl.pem, and the client that the server's is for the name that libvirt passes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from kvmigd.config import Pki
from kvmigd.errors import CertificateInvalid, KvmigdError
from kvmigd.host.verification import why_refused
from kvmigd.model.proof import TlsProof
from kvmigd.peer.certificates import Pair, Role, context
from kvmigd.peer.proofwire import TlsAnswer

STEPS = 6
"""No handshake takes so many messages from one side; TLS 1.3 takes two, with a retry three."""
RECORD_LIMIT = 64 << 10


def stream_pair(folder: Path, role: Role) -> Pair:
    """QEMU's files for one role (docs/system/tls.rst)."""
    return Pair(role, folder / f"{role}-cert.pem", folder / f"{role}-key.pem", folder / "ca-cert.pem")


class Handshake:
    """One side. After each step `done` tells that this side is through, `problem` that it has given up, and why."""

    def __init__(self, pki: Pki, role: Role, *, here: str, there: str) -> None:
        self.role: Role = role
        self.here = here
        self.there = there
        self.done = False
        self.problem = ""
        self.text = ""
        self.steps = 0
        self._pki = pki
        self._stepping = asyncio.Lock()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    async def step(self, data: bytes) -> bytes:
        """Take the other side's records, and return what it shall have."""
        async with self._stepping:
            return await asyncio.to_thread(self._step, data)  # reading keys and signing takes some milliseconds

    def _step(self, data: bytes) -> bytes:
        self.steps += 1
        if self.problem or (self.done and not data):
            return b""
        if self.steps > STEPS:
            self._fail("failed", "the handshake does not come to an end")
            return b""
        self._incoming.write(data)
        try:
            self._begin().do_handshake()
            self.done = True
        except ssl.SSLWantReadError:
            pass
        except CertificateInvalid as error:
            self._fail("none-here", error.message.rstrip("."))
        except ssl.SSLCertVerificationError as error:
            other = "client" if self.role == "server" else "server"
            self._fail("refused", f"on {self.here}, the {other} certificate of {self.there} {why_refused(error)}")
        except ssl.SSLError as error:
            self._fail("failed", f"on {self.here}: {_said(error)}")
        return self._outgoing.read(RECORD_LIMIT)

    def _begin(self) -> ssl.SSLObject:
        if self._tls is None:
            made = context(stream_pair(self._pki.qemu, self.role))
            serves = self.role == "server"
            self._tls = made.wrap_bio(
                self._incoming, self._outgoing, server_side=serves, server_hostname=None if serves else self.there
            )
        return self._tls

    def _fail(self, problem: str, text: str) -> None:
        self.problem, self.text = problem, text


def _said(error: ssl.SSLError) -> str:
    reason = error.reason or str(error)
    return reason.replace("_", " ").lower()


async def shake(mine: Handshake, ask: Callable[[bytes], Awaitable[TlsAnswer]]) -> TlsProof:
    """Carry a handshake through; `ask` brings records to the other side, which plays the other role."""
    to = mine.here if mine.role == "server" else mine.there
    records = await mine.step(b"")
    for _ in range(STEPS):
        if mine.problem:
            return TlsProof(to=to, problem=mine.problem, text=mine.text)
        answer = await ask(records)
        if answer.problem:
            # Each side speaks of `here`, and that is the other one.
            problem = "none-there" if answer.problem == "none-here" else answer.problem
            return TlsProof(to=to, problem=problem, text=answer.text)
        records = await mine.step(answer.data)
        if mine.problem and records:
            with contextlib.suppress(KvmigdError):  # an alert, so that the other side gives up too
                await ask(records)
        elif mine.done and answer.done and not records:
            return TlsProof(to=to)
    return TlsProof(to=to, problem="failed", text="the handshake does not come to an end")
