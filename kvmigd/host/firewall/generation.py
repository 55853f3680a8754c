"""nftables' own news: the kernel tells each new generation of the ruleset (NFT_MSG_NEWGEN) by netlink multicast.

Joining the group needs CAP_NET_ADMIN. pyroute2 could do it, but its nftables socket costs megabytes of memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator

NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7
NFT_MSG_NEWGEN, NFT_MSG_GETGEN = 10 << 8 | 15, 10 << 8 | 16
"""NFNL_SUBSYS_NFTABLES and the messages (linux/netfilter/nfnetlink.h, nf_tables.h)."""
FIRST = 1
"""The generation of a network namespace whose ruleset was never changed: there are no rules (nf_tables_init_net)."""
_NFTA_GEN_ID = 1
_NLM_F_REQUEST = 1
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_FAMILY_BYTES = 4
_RECEIVE_BYTES = 1 << 17
_BATCH = 32
"""Datagrams that are read at one time, so that a storm leaves the loop time for others."""


def generations(data: bytes) -> Iterator[int]:
    """The ruleset's generations that are told in a datagram; whatever else is in it is passed over."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _flags, _sequence, _pid = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        if kind == NFT_MSG_NEWGEN:
            found = _generation(data[offset + _HEADER.size + _FAMILY_BYTES : offset + length])
            if found is not None:
                yield found
        offset += (length + 3) & ~3


def _generation(attributes: bytes) -> int | None:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, offset)
        if length < _ATTRIBUTE.size:
            return None
        if kind & 0x3FFF == _NFTA_GEN_ID and length >= 8 and offset + 8 <= len(attributes):
            return int.from_bytes(attributes[offset + 4 : offset + 8], "big")
        offset += (length + 3) & ~3
    return None


class Generations:
    """Listens for new generations. `async with` opens the socket; raises OSError where that is not allowed."""

    def __init__(self, heard: Callable[[], None]) -> None:
        """`heard` is called after each change, also after those that were missed (ENOBUFS)."""
        self._heard = heard
        self.current = 0
        """The ruleset's generation; 0 while it is not known."""
        self._socket: socket.socket | None = None

    async def __aenter__(self) -> Generations:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER)
        try:
            opened.bind((0, 0))
            opened.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        except OSError:
            opened.close()
            raise
        self._socket = opened
        self._ask()
        self._read()
        asyncio.get_running_loop().add_reader(opened, self._read)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _ask(self) -> None:
        """Ask for the present generation; the answer comes as if it were news.

        Never by a socket of its own: closing one takes nf_tables' commit mutex (nft_rcv_nl_event), which whoever
        changes the rules holds for 15 ms.
        """
        assert self._socket is not None
        header = _HEADER.pack(_HEADER.size + _FAMILY_BYTES, NFT_MSG_GETGEN, _NLM_F_REQUEST, 0, 0)
        with contextlib.suppress(OSError):  # without an answer it stays unknown, which costs a run of nft
            self._socket.sendto(header + bytes(_FAMILY_BYTES), (0, 0))

    def _read(self) -> None:
        assert self._socket is not None
        news = False
        for _ in range(_BATCH):
            try:
                data, (sender, _groups) = self._socket.recvfrom(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.current, news = 0, True
                self._ask()
                continue
            if sender == 0:  # the kernel; any process may send to us
                for number in generations(data):
                    self.current, news = number, True
        if news:
            self._heard()
