"""Whether this host reaches libvirt on another: a connection to the port that its URI means."""

from __future__ import annotations

import asyncio
import contextlib
import time
from urllib.parse import urlsplit

from kvmigd.model.host import RemoteFact

CONNECT_SECONDS = 3.0
REMEMBERED_SECONDS = 60.0
"""A success is not repeated for so long: libvirtd there writes an error to its log for each connection that ends
before it has said anything."""
_PORTS = {"tls": 16514, "tcp": 16509, "ssh": 22, "libssh": 22, "libssh2": 22}
"""libvirt's transports over the network, with their ports (libvirt.org/uri.html); one without a name is tls."""


class RemoteHypervisors:
    """The libvirts of other hosts, as far as they can be reached from here."""

    def __init__(self) -> None:
        self._reached: dict[str, float] = {}

    async def reach(self, uri: str) -> RemoteFact:
        """Connect to libvirt's port there and hang up; a success of the last minute is believed."""
        if time.monotonic() - self._reached.get(uri, float("-inf")) < REMEMBERED_SECONDS:
            return RemoteFact(uri=uri)
        problem = await _connect(uri)
        if not problem:
            self._reached[uri] = time.monotonic()
        return RemoteFact(uri=uri, problem=problem)

    def forget(self, uri: str) -> None:
        """The next question is asked for real: a migration by this URI has just failed."""
        self._reached.pop(uri, None)


async def _connect(uri: str) -> str:
    parts = urlsplit(uri)
    _driver, _, transport = parts.scheme.partition("+")
    host, port = parts.hostname or "", parts.port or _PORTS.get(transport or "tls", 0)
    if not host or not port:  # a transport of somebody's own; libvirt will see
        return ""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _reader, writer = await asyncio.open_connection(host, port)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    except TimeoutError:
        return f"no answer from {host} port {port} within {CONNECT_SECONDS:.0f} s"
    except ConnectionRefusedError:
        return f"{host} port {port} refuses the connection"
    except OSError as error:
        return f"{host} port {port}: {error.strerror or error}"
    return ""
