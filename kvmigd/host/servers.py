"""Whether the servers of network disks are reached: QEMU opens them itself, with no mount that would tell."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator

from kvmigd.model.devices import DiskLayer
from kvmigd.model.guest import Guest

DEADLINE_SECONDS = 2.0
PORTS = {
    "iscsi": 3260,
    "rbd": 6789,
    "gluster": 24007,
    "nbd": 10809,
    "nfs": 2049,
    "ssh": 22,
    "http": 80,
    "https": 443,
    "ftp": 21,
    "ftps": 990,
    "sheepdog": 7000,
    "vxhs": 9999,
}
"""What libvirt takes where a definition names no port (virStorageSourceNetworkDefaultPort in its source)."""


def of_guest(guest: Guest) -> tuple[str, ...]:
    """`host:port`, or the path of a socket, of all servers of its disks, each once."""
    return tuple(dict.fromkeys(server for disk in guest.disks for layer in disk.layers for server in of_layer(layer)))


def of_layer(layer: DiskLayer) -> Iterator[str]:
    """The servers of one image; none of a disk that is not QEMU's own business, or whose servers are told elsewhere."""
    port = PORTS.get(layer.protocol)
    if layer.kind != "network" or port is None:
        return
    for server in layer.hosts:
        if server.startswith("/") or server.rpartition(":")[2].isdecimal():
            yield server
        elif server:
            yield f"{server}:{port}"


def address(server: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[address]:port`; raises ValueError."""
    host, _, port = server.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


async def unreached(servers: Iterable[str], *, seconds: float = DEADLINE_SECONDS) -> frozenset[str]:
    """Those to which no connection is made within `seconds`, all tried at once."""
    wanted = tuple(dict.fromkeys(servers))
    answers = await asyncio.gather(*(_is_reached(server, seconds) for server in wanted))
    return frozenset(server for server, reached in zip(wanted, answers, strict=True) if not reached)


async def _is_reached(server: str, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            if server.startswith("/"):
                _reader, writer = await asyncio.open_unix_connection(server)
            else:
                _reader, writer = await asyncio.open_connection(*address(server))
    except (OSError, ValueError, OverflowError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
