"""Who is who between daemons: a peer is its certificate, and only a configured peer is anybody."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import aiohttp
import msgspec

from kvmigd.config import Peer, Pki
from kvmigd.errors import CertificateInvalid, KvmigdError, PeerNotTrusted, PeerUnreachable
from kvmigd.host.verification import why_refused
from kvmigd.peer.certificates import Pair, Role, context, rehearse, spoken, subject_of

DIAGNOSIS_SECONDS = 2.0
FAILURE_SECONDS = 60.0
"""So long a failure is believed while the files stay as they are: a certificate may become valid with time."""


class Loaded(msgspec.Struct, frozen=True):
    """A context, and of which files it was made."""

    context: ssl.SSLContext
    signature: tuple[tuple[int, int, int], ...]
    not_after: float


class Failed(msgspec.Struct, frozen=True):
    """Why no context could be made of which files, and when that was found."""

    signature: tuple[tuple[int, int, int], ...]
    when: float
    message: str
    hint: str


class Credentials:
    """This host's certificates as TLS contexts, made anew whenever the files change."""

    def __init__(self, pki: Pki) -> None:
        self._pki = pki
        self._loaded: dict[Role, Loaded] = {}
        self._failed: dict[Role, Failed] = {}

    def apply(self, pki: Pki) -> None:
        """Other places for the files."""
        if pki != self._pki:
            self._pki = pki
            self._loaded.clear()
            self._failed.clear()

    def _pair(self, role: Role) -> Pair:
        pki = self._pki
        if role == "server":
            return Pair(role, pki.server_certificate, pki.server_key, pki.ca)
        return Pair(role, pki.client_certificate, pki.client_key, pki.ca)

    def get(self, role: Role) -> ssl.SSLContext:
        """The context for one role; raises CertificateInvalid. Cheap while the files stay as they are."""
        pair = self._pair(role)
        signature = tuple(_signature(path) for path in (pair.ca, pair.certificate, pair.key))
        loaded = self._loaded.get(role)
        if loaded is not None and loaded.signature == signature and time.time() <= loaded.not_after:
            return loaded.context
        failed = self._failed.get(role)
        # Judging costs some 10 ms, and those who wait for better files ask every few seconds.
        if failed is not None and failed.signature == signature and time.monotonic() - failed.when < FAILURE_SECONDS:
            raise CertificateInvalid(failed.message, hint=failed.hint)
        self._loaded.pop(role, None)
        try:
            made = context(pair)
            rehearse(pair)
        except CertificateInvalid as error:
            self._failed[role] = Failed(signature, time.monotonic(), error.message, error.hint)
            raise
        self._failed.pop(role, None)
        self._loaded[role] = Loaded(made, signature, subject_of(pair.certificate).not_after)
        return made


def _signature(path: Path) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0, 0
    return status.st_ino, status.st_mtime_ns, status.st_size


def peer_of(names: Iterable[str], peers: Mapping[str, Peer]) -> Peer:
    """The one configured peer that a client certificate stands for; raises PeerNotTrusted."""
    names = tuple(names)
    folded = {name.casefold() for name in names}
    found = [peer for peer in peers.values() if peer.name.casefold() in folded]
    if not found:
        raise PeerNotTrusted(
            f"The certificate is for {spoken(names)}, and no such peer is configured here.",
            hint="Add the host to /etc/kvmigd/peers.d and reload kvmigd, if it shall be a peer.",
        )
    if len(found) > 1:
        raise PeerNotTrusted(
            f"The certificate is for more than one configured peer: {spoken(peer.name for peer in found)}.",
            hint="Give each host a certificate of its own.",
        )
    return found[0]


_ALERTS = {
    "UNKNOWN_CA": "it was not issued by the CA there",
    "CERTIFICATE_EXPIRED": "it has expired, or the clocks differ",
    "BAD_CERTIFICATE": "it is not valid there; perhaps not yet, or the clocks differ",
    "CERTIFICATE_REVOKED": "it has been revoked",
    "UNSUPPORTED_CERTIFICATE": "it is not meant for clients (extended key usage)",
    "CERTIFICATE_REQUIRED": "none was sent",
    "DECRYPT_ERROR": "its signature is wrong: another CA of the same name issued it",
    "CERTIFICATE_UNKNOWN": "it was refused",
}


def tls_error(error: ssl.SSLError, peer: Peer) -> KvmigdError:
    """What a failed handshake with a peer means."""
    where = f"{peer.name} ({peer.host} port {peer.port})"
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (62, 64):
            return PeerNotTrusted(
                f"The host at {peer.host} port {peer.port} has a certificate for another name than {peer.name}.",
                hint=f"Correct address or name of the peer, or issue a certificate: kvmigctl pki issue {peer.name}",
            )
        return PeerNotTrusted(
            f"The certificate of {where} {why_refused(error)}.",
            hint=f"kvmigctl pki show, here and on {peer.name}, tells which CA and dates the certificates have.",
        )
    reason = error.reason or str(error)
    for alert, meaning in _ALERTS.items():
        if reason.endswith(f"ALERT_{alert}"):
            return PeerNotTrusted(
                f"Peer {where} refuses this host's certificate: {meaning}.",
                hint=f"kvmigctl pki show, here and on {peer.name}, tells which CA and dates the certificates have.",
            )
    if reason in ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
        return PeerNotTrusted(f"What answers at {where} is not a kvmigd: it does not speak TLS.")
    return PeerNotTrusted(f"TLS with {where} failed: {reason}.")


async def diagnose(peer: Peer, tls: ssl.SSLContext) -> KvmigdError | None:
    """Why a peer hangs up on us: connect and only listen; None if it takes us.

    In TLS 1.3 the server judges our certificate after our side of the handshake is over. A request that we have
    sent by then makes its kernel answer with a reset, which can swallow the alert that says why.
    """
    try:
        async with asyncio.timeout(DIAGNOSIS_SECONDS):
            reader, writer = await asyncio.open_connection(peer.host, peer.port, ssl=tls, server_hostname=peer.name)
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()
    except ssl.SSLError as error:
        return tls_error(error, peer)
    except TimeoutError:  # it waits for our request: it has taken us
        return None
    except OSError as error:
        return unreachable(peer, error)
    return None


def unreachable(peer: Peer, error: BaseException | str) -> PeerUnreachable:
    """The error for a peer that cannot be talked to; `error` says why."""
    if isinstance(error, TimeoutError):
        why = "no answer in time"
    elif isinstance(error, OSError):
        # asyncio's own text for a failed connect names the call, not the cause.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    else:
        why = str(error)
    return PeerUnreachable(
        f"Peer {peer.name} ({peer.host} port {peer.port}) cannot be reached: {why.rstrip('.')}.",
        hint=f"On {peer.name}: systemctl status kvmigd; and open TCP port {peer.port} for this host.",
    )


def own_problem(error: CertificateInvalid) -> CertificateInvalid:
    """A problem of this host's own files, told where a peer's was expected."""
    return CertificateInvalid(f"This host cannot show itself to peers. {error.message}", hint=error.hint)


def translate(error: BaseException, peer: Peer) -> KvmigdError:
    """An exception of aiohttp or the system as one of ours."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        return tls_error(cause, peer) if isinstance(cause, ssl.SSLError) else PeerNotTrusted(str(cause))
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        return tls_error(cause, peer) if isinstance(cause, ssl.SSLError) else unreachable(peer, cause)
    for link in (error, error.__cause__):
        if isinstance(link, ssl.SSLError):
            return tls_error(link, peer)
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return unreachable(peer, "it closed the connection")
    return unreachable(peer, error)
