"""The kernel's links over a netlink socket: all of them at once, then each change, and questions about routes."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Callable

from kvmigd.host.links import netlink
from kvmigd.host.links.messages import Route, parse_route
from kvmigd.host.links.netlink import Message
from kvmigd.host.links.table import LinkTable, Touched

_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 4 << 20
"""Room for some thousand changes. Without CAP_NET_ADMIN it is net.core.rmem_max at most."""
_DATAGRAM = 64 << 10
"""Dumps come in parts of 32 KiB; a single message is far smaller."""
_BATCH = 64
"""Datagrams that are read in one turn of the event loop, some milliseconds' worth at most."""
_ATTEMPTS = 8
"""Dumps that a storm of changes may spoil one after the other."""
_DUMP_SECONDS = 2
"""How long the kernel may keep one part of a dump back."""


class Lost(Exception):
    """Changes were lost, since more came than the socket's buffer holds: what is known may be wrong."""


class RtnetlinkFailed(Exception):
    """The kernel answered with an error, or not at all. The text is a whole phrase."""


def _open() -> socket.socket:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    except OSError as error:
        raise RtnetlinkFailed(f"a netlink socket cannot be had: {error.strerror}") from error


class LinkSocket:
    """A socket that is told of every change. What is asked comes in line with the changes, so that none is older."""

    def __init__(self, make: Callable[[], socket.socket] = _open) -> None:
        self._socket = make()
        self._buffer = bytearray(_DATAGRAM)
        self._sequence = 0
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except OSError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        try:
            self._socket.bind((0, 0))
            for group in netlink.GROUPS:
                with contextlib.suppress(OSError):  # an older kernel does not have them all
                    self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError as error:
            self._socket.close()
            raise RtnetlinkFailed(f"the kernel does not tell of links: {error.strerror}") from error

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Listen no longer."""
        self._socket.close()

    def load(self) -> LinkTable:
        """Read everything. For a thread: the kernel's lock on links can be held for seconds by a driver.

        Raises RtnetlinkFailed.
        """
        for _ in range(_ATTEMPTS):
            self._socket.settimeout(_DUMP_SECONDS)
            table = LinkTable()
            try:
                if all(
                    self._dump(ask, table)
                    for ask in (netlink.dump_links, netlink.dump_bridge_ports, netlink.dump_addresses)
                ):
                    return table
            except TimeoutError as error:
                raise RtnetlinkFailed(f"the kernel does not list its links: no answer for {_DUMP_SECONDS} s") from error
            except OSError as error:
                raise RtnetlinkFailed(f"the kernel does not list its links: {error.strerror}") from error
            finally:
                self._socket.settimeout(0)
        raise RtnetlinkFailed("the kernel's links change faster than they can be read")

    def _dump(self, ask: Callable[[int], bytes], table: LinkTable) -> bool:
        """One dump, with the changes that come in between; False where it has to be repeated."""
        self._sequence += 1
        self._socket.send(ask(self._sequence))
        whole = True
        while True:
            try:
                received = self._receive()
            except Lost:
                # To its end all the same: the kernel answers EBUSY to a dump that is asked for during another.
                whole = False
                continue
            for message in received:
                if message.sequence == self._sequence and message.kind in (netlink.ERROR, netlink.DONE):
                    if message.error == errno.EINTR:
                        return False
                    if message.error:
                        raise OSError(message.error, os.strerror(message.error))
                    return whole and not message.flags & netlink.DUMP_INTERRUPTED
                if message.sequence == self._sequence and message.flags & netlink.DUMP_INTERRUPTED:
                    whole = False
                table.apply(message)

    def _receive(self) -> list[Message]:
        """The messages of one datagram. Raises Lost, BlockingIOError, TimeoutError and OSError."""
        try:
            length, sender = self._socket.recvfrom_into(self._buffer, 0, socket.MSG_TRUNC)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise Lost from error
            raise
        if length > len(self._buffer):
            raise Lost
        if sender[0] != 0:  # another process, not the kernel
            return []
        return list(netlink.messages(bytes(memoryview(self._buffer)[:length])))

    def read(self, table: LinkTable) -> Touched:
        """Take in the changes that are there. Raises Lost, and RtnetlinkFailed where the socket is broken."""
        touched = Touched.NOTHING
        for _ in range(_BATCH):
            try:
                for message in self._receive():
                    touched |= table.apply(message)
            except BlockingIOError:
                break
            except OSError as error:
                raise RtnetlinkFailed(f"the kernel tells of links no longer: {error.strerror}") from error
        return touched


class RouteSocket:
    """Asks the kernel for the way to an address. It answers before `send` returns: nothing is waited for."""

    def __init__(self, make: Callable[[], socket.socket] = _open) -> None:
        self._socket = make()
        self._socket.settimeout(0)
        self._sequence = 0

    def close(self) -> None:
        """Ask no longer."""
        self._socket.close()

    def ask(self, address: str) -> Route:
        """The way that a packet to `address` (numeric, with a zone where it is link-local) would take now.

        Raises RtnetlinkFailed, which says why there is none.
        """
        plain, _, zone = address.partition("%")
        try:
            packed = ipaddress.ip_address(plain).packed
            link = (int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)) if zone else 0
            self._sequence += 1
            self._socket.send(netlink.get_route(self._sequence, packed, link=link))
            while True:
                for message in netlink.messages(self._socket.recv(_DATAGRAM)):
                    if message.sequence != self._sequence:  # the answer to a question that was given up
                        continue
                    if message.error:
                        raise OSError(message.error, os.strerror(message.error))
                    if message.kind == netlink.NEW_ROUTE and (route := parse_route(message.body)):
                        return route
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise RtnetlinkFailed(reason) from error
