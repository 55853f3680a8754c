"""Calls to one peer: what its server can be asked, each with a deadline and each repeatable."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Literal, Self, TypeVar

import aiohttp
import msgspec

from kvmigd import __version__
from kvmigd.config import Peer
from kvmigd.errors import (
    AdmissionBusy,
    AdmissionRefused,
    CertificateInvalid,
    InvalidArguments,
    KvmigdError,
    NoLease,
    PeerFailed,
    ProtocolMismatch,
)
from kvmigd.model.guest import Guest, Whereabouts
from kvmigd.model.host import Examination
from kvmigd.peer import proofwire, wire
from kvmigd.peer.identity import Credentials, diagnose, own_problem, translate, unreachable

CALL_SECONDS = 10.0
EXAMINE_SECONDS = 12.0
"""Storage that hangs is given up after 5 s, and libvirt after 10."""
CLOSE_SECONDS = 0.5
CLAIM_LIMIT = 256

Reply = TypeVar("Reply")


class PeerClient:
    """Raises PeerUnreachable, PeerNotTrusted, ProtocolMismatch, PeerFailed, CertificateInvalid for this host's own
    files, or the error that the peer's daemon answered with.
    """

    def __init__(
        self,
        peer: Peer,
        credentials: Credentials,
        *,
        protocols: tuple[int, ...] = wire.PROTOCOLS,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self.peer = peer
        self._credentials = credentials
        self._protocols = protocols
        self._call_seconds = call_seconds
        self._protocol = 0
        self._round_trip = 0.0
        self._session: aiohttp.ClientSession | None = None
        self._claims: dict[str, wire.Claim] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def name(self) -> str:
        """The peer's configured name."""
        return self.peer.name

    # One request

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # The server keeps idle connections longer than this, so the client is the one that ends them.
                connector=aiohttp.TCPConnector(limit=16, keepalive_timeout=60.0),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # nobody compresses, and a small answer shall stay small
                read_bufsize=256 << 10,
            )
        return self._session

    def _tls(self) -> ssl.SSLContext:
        try:
            return self._credentials.get("client")
        except CertificateInvalid as error:
            raise own_problem(error) from error

    def _url(self, path: str) -> str:
        host = f"[{self.peer.host}]" if ":" in self.peer.host else self.peer.host
        return f"https://{host}:{self.peer.port}{path}"

    async def _request(self, method: str, path: str, *, body: bytes = b"", seconds: float = 0.0) -> bytes:
        seconds = seconds or self._call_seconds
        tls = self._tls()
        try:
            async with asyncio.timeout(seconds):
                try:
                    return await self._exchange(method, path, body, tls)
                except aiohttp.ClientConnectorError:
                    raise
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                    # A kept connection may have been ended meanwhile, and every call can be repeated.
                    return await self._exchange(method, path, body, tls)
        except TimeoutError:
            raise unreachable(self.peer, f"no answer within {seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            known = translate(error, self.peer)
            if _hung_up(error):
                known = await diagnose(self.peer, tls) or known
            raise known from error

    async def _exchange(self, method: str, path: str, body: bytes, tls: ssl.SSLContext) -> bytes:
        async with self._open_session().request(
            method,
            self._url(path),
            data=body or None,
            headers={"Content-Type": "application/json"} if body else None,
            ssl=tls,
            server_hostname=self.name,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0),
        ) as response:
            return await self._answer(response)

    async def _answer(self, response: aiohttp.ClientResponse) -> bytes:
        """The body of an answer; raises the error in it."""
        parts, size = [], 0
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > wire.BODY_LIMIT:
                raise PeerFailed(f"Peer {self.name} sends an answer that is larger than {wire.BODY_LIMIT} bytes.")
        body = b"".join(parts)
        if response.status != 200:
            error = wire.decode_error(body, peer=self.name, status=response.status)
            if isinstance(error, ProtocolMismatch):  # it was agreed; the peer has been replaced meanwhile
                self._protocol = 0
            raise error
        return body

    def _decode(self, body: bytes, shape: type[Reply]) -> Reply:
        try:
            return wire.decode(body, shape)
        except InvalidArguments as error:
            raise PeerFailed(f"Peer {self.name} answered with something else than expected: {error.message}") from error

    async def _call(
        self,
        path: str,
        message: msgspec.Struct | None,
        *,
        shape: type[Reply],
        method: str = "POST",
        seconds: float = 0.0,
    ) -> Reply:
        if not self._protocol:
            await self.version()
        body = wire.encode(message) if message is not None else b""
        return self._decode(await self._request(method, f"/v{self._protocol}{path}", body=body, seconds=seconds), shape)

    # What can be asked

    async def version(self) -> wire.Version:
        """Agree on a protocol; also measures the round trip, if the connection stands already."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        version = self._decode(await self._request("GET", "/version"), wire.Version)
        self._round_trip = loop.time() - started
        common = set(version.protocols) & set(self._protocols)
        if not common:
            self._protocol = 0
            raise ProtocolMismatch(
                f"Peer {self.name} runs kvmigd {version.version} with protocol {_spoken(version.protocols)}; "
                f"this host runs kvmigd {__version__} with protocol {_spoken(self._protocols)}.",
                hint="Install the same release of kvmigd on both hosts.",
            )
        self._protocol = max(common)
        return version

    async def examine(self, guests: Sequence[Guest]) -> Examination:
        """What the peer sees when it looks at guests that shall come to it; at most wire.GUESTS_LIMIT."""
        return await self._call(
            "/examine", wire.ExamineRequest(guests=tuple(guests)), shape=Examination, seconds=EXAMINE_SECONDS
        )

    async def admit(self, job: str, guest: Guest, *, memory: int) -> wire.Granted:
        """Reserve memory (bytes) and a port; raises AdmissionBusy and AdmissionRefused."""
        request = wire.AdmissionRequest(job=job, guest=guest, memory=memory)
        answer: wire.AdmissionAnswer = await self._call(
            "/admission",
            request,
            shape=wire.AdmissionAnswer,  # type: ignore[arg-type]  # a union is no type to mypy
        )
        match answer:
            case wire.Busy():
                raise AdmissionBusy(f"{self.name} is busy: {answer.reason}", retry_after=answer.retry_after)
            case wire.Refused():
                raise AdmissionRefused(
                    f"{self.name} does not admit {guest.name}: {answer.reason}",
                    hint=answer.hint,
                    findings=answer.findings,
                )
        if len(self._claims) >= CLAIM_LIMIT:
            self._claims.pop(next(iter(self._claims)))
        self._claims[job] = wire.Claim(uuid=guest.uuid, guest=guest.name, memory=memory, port=answer.port)
        return answer

    async def renew(self, job: str) -> wire.Granted:
        """Prolong the lease; raises NoLease if it has run out and what it held has been given away."""
        return await self._call(
            f"/admission/{job}/renew", wire.RenewRequest(claim=self._claims.get(job)), shape=wire.Granted
        )

    async def release(self, job: str) -> None:
        """End the lease of a job that came to nothing."""
        await self._call(f"/admission/{job}", None, shape=wire.Done, method="DELETE")
        self._claims.pop(job, None)

    async def proof(self, job: str | None = None, *, purpose: Literal["stream", "disks"] = "stream") -> wire.ProofOffer:
        """Have the peer listen on the job's port or, without a job, on the one it would give next."""
        return await self._call("/proof", wire.ProofRequest(job=job, purpose=purpose), shape=wire.ProofOffer)

    async def close_proof(self, token: str) -> wire.ProofEnd:
        """End a proof; when this returns, the port can be bound by QEMU."""
        return await self._call(f"/proof/{token}/close", None, shape=wire.ProofEnd)

    @asynccontextmanager
    async def proving(
        self, job: str | None = None, *, purpose: Literal["stream", "disks"] = "stream"
    ) -> AsyncIterator[wire.ProofOffer]:
        """Inside, the peer listens for a proof; afterwards it does not."""
        offer = await self.proof(job, purpose=purpose)
        async with self.closing(offer.token):
            yield offer
        await self.close_proof(offer.token)

    @asynccontextmanager
    async def closing(self, token: str) -> AsyncIterator[None]:
        """If what is done inside fails, the peer's proof is closed: it ends by itself too, so not for long."""
        try:
            yield
        except BaseException:
            with suppress(KvmigdError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.close_proof(token)
            raise

    async def connect_back(self, request: proofwire.ConnectRequest) -> proofwire.Connected:
        """Have the peer connect to a port of this host."""
        return await self._call("/proof/connect", request, shape=proofwire.Connected)

    async def burst(self) -> proofwire.BurstAnswer:
        """Have the peer listen for a burst, which `close_proof` ends; or hear what the last one has told."""
        return await self._call("/proof/burst", proofwire.BurstRequest(), shape=proofwire.BurstAnswer)

    async def tls_step(self, step: proofwire.TlsStep) -> proofwire.TlsAnswer:
        """Bring TLS records to the peer's side of a handshake."""
        return await self._call("/proof/tls", step, shape=proofwire.TlsAnswer)

    async def open_storage(self) -> str:
        """Have the peer get ready to read nonces; returns the token for it. It ends by itself."""
        opened = await self._call("/proof/storage/open", proofwire.StorageOpen(), shape=proofwire.StorageOpened)
        return opened.token

    async def read_nonces(
        self, nonces: Sequence[proofwire.NonceAt], token: str | None = None
    ) -> proofwire.StorageAnswer:
        """Have the peer read nonces of ours in its storage; at most proofwire.FOLDERS_LIMIT."""
        request = proofwire.StorageRequest(nonces=tuple(nonces), token=token)
        return await self._call("/proof/storage", request, shape=proofwire.StorageAnswer)

    async def catch_frames(self, segments: Sequence[proofwire.CatchRequest]) -> proofwire.FramesAnswer:
        """Have the peer listen for frames on bridges; at most proofwire.SEGMENTS_LIMIT."""
        request = proofwire.FramesRequest(segments=tuple(segments))
        return await self._call("/proof/frames", request, shape=proofwire.FramesAnswer)

    async def caught_frames(self, token: str) -> proofwire.FramesAnswer:
        """What has come; answered as soon as everything has, else after a part of a second. Ends the listening."""
        return await self._call(f"/proof/frames/{token}/close", None, shape=proofwire.FramesAnswer)

    async def whereabouts(self, uuid: str) -> Whereabouts:
        """Where the guest stands on the peer; its libvirt is asked now."""
        return await self._call("/whereabouts", wire.WhereaboutsRequest(uuid=uuid), shape=Whereabouts)

    async def settle(
        self, job: str, uuid: str, *, outcome: Literal["arrived", "stayed"], autostart: bool
    ) -> wire.Settled:
        """End the job on the peer, and hear where the guest stands there."""
        request = wire.SettleRequest(job=job, uuid=uuid, outcome=outcome, autostart=autostart)
        try:
            told = await self._call("/settle", request, shape=wire.Settled)
        except NoLease:
            if job not in self._claims:
                raise
            # The peer's daemon was restarted since the last renewal: it can take the lease up again and settle it.
            await self.renew(job)
            told = await self._call("/settle", request, shape=wire.Settled)
        self._claims.pop(job, None)
        return told


def _hung_up(error: BaseException) -> bool:
    """The peer ended a connection that stood. One that was never made has told its cause already."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return isinstance(error.os_error, ConnectionResetError)  # in the handshake
    return isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)


def _spoken(protocols: tuple[int, ...]) -> str:
    return " and ".join(map(str, protocols)) or "none"
