"""Whether this host reaches libvirt on another: a connection to what its URI means, with TLS as far as libvirt's word
that it takes this host's certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from kvmigd.config import Pki
from kvmigd.host.verification import why_refused
from kvmigd.model.host import RemoteCause, RemoteFact

CONNECT_SECONDS = 3.0
"""For everything: the name, the connection, the handshake and libvirt's word."""
CLOSING_SECONDS = 1.0
REMEMBERED_SECONDS = 60.0
"""A success is not repeated for so long: libvirtd there writes an error to its log for each connection that ends
before it has said anything."""
_PORTS = {"tls": 16514, "tcp": 16509, "ssh": 22, "libssh": 22, "libssh2": 22}
"""libvirt's transports over the network, with their ports (libvirt.org/uri.html); one without a name is tls."""
_TAKEN = b"\x01"
"""What libvirtd sends, encrypted, when it has judged the client's certificate and takes it (virnetclient.c). It judges
after the handshake, so a handshake that went well says nothing; where it refuses, it just hangs up.
"""


class RemoteHypervisors:
    """The libvirts of other hosts, as far as they can be reached from here with the client's files of `pki`."""

    def __init__(self, pki: Callable[[], Pki]) -> None:
        self._pki = pki
        self._reached: dict[str, float] = {}

    async def reach(self, uri: str, *, anew: bool = False) -> RemoteFact:
        """Connect to libvirt there as libvirt here would, and hang up; takes up to some 4 s.

        A success of the last minute is believed, unless it is to be tried `anew`.
        """
        if not anew and time.monotonic() - self._reached.get(uri, float("-inf")) < REMEMBERED_SECONDS:
            return RemoteFact(uri=uri)
        found = await _connect(uri, self._pki())
        if found.problem:
            self.forget(uri)
        else:
            self._reached[uri] = time.monotonic()
        return found

    def forget(self, uri: str) -> None:
        """The next question is asked for real: a migration by this URI has just failed."""
        self._reached.pop(uri, None)


async def _connect(uri: str, pki: Pki) -> RemoteFact:
    """Whether libvirt there can be reached, tried now."""

    def not_reached(cause: RemoteCause, problem: str) -> RemoteFact:
        return RemoteFact(uri=uri, problem=problem, cause=cause)

    parts = urlsplit(uri)
    transport = _transport(parts)
    host, port = parts.hostname or "", parts.port or _PORTS.get(transport, 0)
    if not host or not port:  # a transport of somebody's own; libvirt will see
        return RemoteFact(uri=uri)
    # A query can name other files (pkipath) or switch the judging off (no_verify).
    context = await asyncio.to_thread(_context, pki) if transport == "tls" and not parts.query else None
    where = f"{host} port {port}"
    writer = None
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            if context is not None:
                await _secured(reader, writer, context, host)
            return RemoteFact(uri=uri)
    except TimeoutError:
        if writer is None:
            return not_reached(RemoteCause.UNREACHED, f"no answer from {where} within {CONNECT_SECONDS:.0f} s")
        silence = f"{where} takes the connection, but is silent for {CONNECT_SECONDS:.0f} s"
        return not_reached(RemoteCause.MUTE, silence)
    except ConnectionRefusedError:
        return not_reached(RemoteCause.UNREACHED, f"{where} refuses the connection")
    except _Refused as refused:
        said = f" ({refused})" if str(refused) else ""
        return not_reached(RemoteCause.OURS, f"{where} refuses the client certificate {pki.client_certificate}{said}")
    except _Stranger as stranger:
        return not_reached(RemoteCause.UNREACHED, f"{where} is not libvirt: {stranger}")
    except ssl.SSLCertVerificationError as error:
        return not_reached(RemoteCause.THEIRS, f"the certificate of {where} {why_refused(error)}")
    except ssl.SSLError as error:
        return not_reached(RemoteCause.UNREACHED, f"no TLS with {where}: {_spoken(error)}")
    except OSError as error:
        if writer is not None:
            return not_reached(RemoteCause.MUTE, f"{where} ends the connection in the TLS handshake")
        return not_reached(RemoteCause.UNREACHED, f"{where}: {error.strerror or error}")
    finally:
        if writer is not None:
            await _close(writer)


class _Refused(Exception):
    """libvirt there does not take the certificate of this host; what it said, if it did."""


class _Stranger(Exception):
    """What listens there is something else."""


async def _secured(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext, host: str
) -> None:
    """Make the handshake and wait for libvirt's word. Raises _Refused, _Stranger, and what asyncio and OpenSSL do."""
    try:
        await writer.start_tls(context, server_hostname=host)
    except ssl.SSLCertVerificationError:
        raise
    except ssl.SSLError as error:
        # With TLS 1.2 a server that judges in the handshake says so there; with 1.3 the client hears it afterwards.
        if "ALERT" in (error.reason or "") and ("CERT" in error.reason or "UNKNOWN_CA" in error.reason):
            raise _Refused(_spoken(error)) from error
        raise
    try:
        word = await reader.read(1)
    except ssl.SSLError as error:
        raise _Refused(_spoken(error)) from error
    except ConnectionError as error:
        raise _Refused from error
    if not word:
        raise _Refused
    if word != _TAKEN:
        raise _Stranger(f"it says {word!r} after the TLS handshake")


async def _close(writer: asyncio.StreamWriter) -> None:
    """An end that the other side can tell from a broken line, as long as it takes part in it."""
    writer.close()
    try:
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(CLOSING_SECONDS):
                await writer.wait_closed()
    finally:
        writer.transport.abort()


def _transport(parts: SplitResult) -> str:
    _driver, _, transport = parts.scheme.partition("+")
    return transport or "tls"


def _context(pki: Pki) -> ssl.SSLContext | None:
    """What libvirt's client does with its files; None where they cannot be used, which the check of them tells."""
    try:
        # A FIFO there would hold the thread for ever.
        if not all(path.is_file() for path in (pki.ca, pki.client_certificate, pki.client_key)):
            return None
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.hostname_checks_common_name = True  # libvirt takes it too, where there are no alternative names
        made.load_verify_locations(pki.ca)
        revoked = pki.ca.with_name("cacrl.pem")
        if revoked.is_file():
            made.load_verify_locations(revoked)
            made.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        # Without a password OpenSSL would ask for one on the terminal.
        made.load_cert_chain(pki.client_certificate, pki.client_key, password="")
    except (OSError, ValueError):  # SSLError is an OSError
        return None
    return made


def _spoken(error: ssl.SSLError) -> str:
    """OpenSSL's reason without its capitals."""
    return (error.reason or str(error)).replace("_", " ").lower()
