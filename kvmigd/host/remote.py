"""Whether this host reaches libvirt on another: a connection to the port that its URI means."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

from kvmigd.model.host import RemoteFact

CONNECT_SECONDS = 3.0
_PORTS = {"tls": 16514, "tcp": 16509, "ssh": 22, "libssh": 22, "libssh2": 22}
"""libvirt's transports over the network, with their ports (libvirt.org/uri.html); one without a name is tls."""


async def reach(uri: str) -> RemoteFact:
    """Connect to libvirt's port there and hang up."""
    parts = urlsplit(uri)
    _driver, _, transport = parts.scheme.partition("+")
    host, port = parts.hostname or "", parts.port or _PORTS.get(transport or "tls", 0)
    if not host or not port:  # a transport of somebody's own; libvirt will see
        return RemoteFact(uri=uri)
    problem = ""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _reader, writer = await asyncio.open_connection(host, port)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    except TimeoutError:
        problem = f"no answer from {host} port {port} within {CONNECT_SECONDS:.0f} s"
    except ConnectionRefusedError:
        problem = f"{host} port {port} refuses the connection"
    except OSError as error:
        problem = f"{host} port {port}: {error.strerror or error}"
    return RemoteFact(uri=uri, problem=problem)
