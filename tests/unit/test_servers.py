"""Servers of network disks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kvmigd.host import servers
from kvmigd.model.devices import DiskLayer


@pytest.mark.parametrize(
    ("layer", "found"),
    [
        (
            DiskLayer(kind="network", protocol="iscsi", hosts=("nas", "[fe80::1]", "nas:3261")),
            "nas:3260 [fe80::1]:3260 nas:3261",
        ),
        (DiskLayer(kind="network", protocol="nbd", hosts=("/run/nbd.sock",)), "/run/nbd.sock"),
        (DiskLayer(kind="network", protocol="rbd"), ""),
        (DiskLayer(kind="network", protocol="strange", hosts=("nas",)), ""),
        (DiskLayer(kind="file", path="/srv/a"), ""),
    ],
)
def test_servers_of_a_disk(layer: DiskLayer, found: str) -> None:
    assert " ".join(servers.of_layer(layer)) == found


def test_addresses() -> None:
    assert servers.address("nas:3260") == ("nas", 3260)
    assert servers.address("[fe80::1]:3260") == ("fe80::1", 3260)
    with pytest.raises(ValueError, match="invalid literal"):
        servers.address("nas:port")


def test_what_is_reached(tmp_path: Path) -> None:
    async def run() -> frozenset[str]:
        async def heard(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        socket = str(tmp_path / "nbd.sock")
        server, other = await asyncio.start_server(heard, "127.0.0.1"), await asyncio.start_unix_server(heard, socket)
        port = server.sockets[0].getsockname()[1]
        wanted = (f"127.0.0.1:{port}", socket, "127.0.0.1:1", f"{socket}.none", "nas", "127.0.0.1:99999999")
        async with server, other:
            return await servers.unreached(wanted)

    assert asyncio.run(run()) == {"127.0.0.1:1", str(tmp_path / "nbd.sock.none"), "nas", "127.0.0.1:99999999"}
    assert asyncio.run(servers.unreached(())) == frozenset()
