"""Ethernet frames from a bridge here to the bridge of the same name on another host: one segment, one VLAN, one MTU.

They carry an EtherType that IEEE Std 802 leaves to local experiments, so that nothing answers them, and go from MAC
address to MAC address of the bridges themselves, so that no switch learns where anything is that is not there. A frame
sent on a bridge goes the way of the host's own traffic, through all filters of the bridge; one that comes in for its
address is delivered on the bridge. Open vSwitch has an internal port of the bridge's name, which does the same.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from typing import Literal, NamedTuple, Self

from kvmigd.model.links import BridgeFact

ETHERTYPE = 0x88B5
"""Local experimental EtherType 1."""
SMALL = 64
"""Bytes of payload of a frame that passes wherever one passes at all."""
CATCH_SECONDS = 0.6
SEND_SECONDS = 0.3
_MOMENTS = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Seconds after the first frame at which it is sent again: a switch, or a bridge, may have to learn first."""

_MAGIC = b"kvmi"
_VERSION = 1
_PAYLOAD = struct.Struct("!4sBxH16s")
_HEADER_BYTES = 14
_ETH_P_ALL = 0x0003
_ETH_P_8021Q = 0x8100
_SOL_PACKET = 263
_PACKET_AUXDATA = 8
_PACKET_IGNORE_OUTGOING = 23
_AUXDATA = struct.Struct("=IIIHHHH")
_TP_STATUS_VLAN_VALID = 1 << 4
_SO_ATTACH_FILTER = 26
_VLAN_MASK = 0x0FFF
_READS = 32
_SIOCGIFHWADDR = 0x8927
_ARPHRD_ETHER = 1

Problem = Literal["no-bridge", "failed"]


class FrameFailed(Exception):
    """Nothing can be sent or caught. `problem` is one of FrameProof's, `text` a phrase for people."""

    def __init__(self, problem: Problem, text: str) -> None:
        super().__init__(text)
        self.problem: Problem = problem
        self.text = text


def places(bridge: BridgeFact, vlan: int = 0) -> tuple[str, ...]:
    """Where frames of a VLAN are to be sent and caught: the bridge, or its uplinks.

    A bridge of the kernel's that filters VLANs passes only those to itself that the host takes part in, which are
    seldom those of guests.
    """
    if vlan and bridge.kind == "linux" and bridge.vlan_filtering and bridge.uplinks:
        return bridge.uplinks
    return (bridge.name,)


class Catcher:
    """Catches the frames of one nonce, from `async with` to its end.

    `interface` is the bridge; `through` are the links to listen on, as `places` says, else the bridge itself. `nonce`
    is 16 bytes, `sizes` are bytes of payload. Entering it raises FrameFailed; then `mac` is where to send to.
    """

    def __init__(
        self, interface: str, *, nonce: bytes, sizes: Iterable[int], vlan: int = 0, through: Collection[str] = ()
    ) -> None:
        self.interface = interface
        self.mac = ""
        self._nonce = nonce
        self._wanted = frozenset(sizes)
        self._vlan = vlan
        self._through = tuple(through) or (interface,)
        self._caught: set[int] = set()
        self._complete = asyncio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            self.mac = _told(_mac(self.interface))
            for link in self._through:
                listener = await stack.enter_async_context(_open(link, filtered=self._nonce))
                loop.add_reader(listener.fileno(), self._read, listener)
                stack.callback(loop.remove_reader, listener.fileno())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def caught(self, seconds: float = CATCH_SECONDS) -> frozenset[int]:
        """Sizes of the frames that have arrived: as soon as all are there, or when the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._complete.wait()
        return frozenset(self._caught)

    def _read(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(_READS):  # the rest in the loop's next turn
                try:
                    data, ancillary, _flags, _sender = listener.recvmsg(_HEADER_BYTES + _PAYLOAD.size, 64)
                except BlockingIOError:
                    raise
                except OSError:  # ENETDOWN, told once: it may come up again
                    return
                self._take(data, ancillary)

    def _take(self, data: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, auxdata in ancillary:
            if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA) and len(auxdata) >= _AUXDATA.size:
                status, length, _snap, _mac_at, _net_at, tci, _tpid = _AUXDATA.unpack_from(auxdata)
                # The kernel takes the tag out of the frame; a tag with VLAN 0 has but a priority.
                vlan = tci & _VLAN_MASK if status & _TP_STATUS_VLAN_VALID else 0
                size = understood(data, nonce=self._nonce)
                if vlan == self._vlan and size in self._wanted and length >= _HEADER_BYTES + size:
                    self._caught.add(size)
        if self._wanted <= self._caught:
            self._complete.set()


async def send(
    interface: str,
    *,
    destination_mac: str,
    nonce: bytes,
    sizes: Iterable[int],
    vlan: int = 0,
    through: Collection[str] = (),
    seconds: float = SEND_SECONDS,
    until: asyncio.Event | None = None,
) -> frozenset[int]:
    """Send a frame of each size to the bridge of another host, again and again, until told or for `seconds`.

    Returns the sizes that this host refuses to send: they are larger than the MTU here. Raises FrameFailed.
    """
    own = _mac(interface)
    destination = _bytes(destination_mac)
    if own == destination:
        raise FrameFailed("failed", f"{interface} has the MAC address {destination_mac} on both hosts")
    frames = {
        size: frame(source=own, destination=destination, nonce=nonce, size=size, vlan=vlan) for size in set(sizes)
    }
    refused: set[int] = set()
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        links = [(link, await stack.enter_async_context(_open(link))) for link in tuple(through) or (interface,)]
        began = loop.time()
        for moment in (*(it for it in _MOMENTS if it < seconds), seconds):
            await _pause(began + moment - loop.time(), until)
            if moment == seconds or (until is not None and until.is_set()):
                break
            for link, sender in links:
                for size, content in frames.items():
                    if size not in refused and not _sent(link, sender, content):
                        refused.add(size)
    return frozenset(refused)


async def _pause(seconds: float, until: asyncio.Event | None) -> None:
    if until is None:
        await asyncio.sleep(seconds)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await until.wait()


def _sent(link: str, sender: socket.socket, content: bytes) -> bool:
    """False where the frame is too large for the link."""
    try:
        sender.send(content)
    except BlockingIOError:
        return True  # the queue is full, and there are more tries
    except OSError as error:
        if error.errno == errno.EMSGSIZE:
            return False
        if error.errno == errno.ENOBUFS:
            return True
        raise _failed(link, error) from error
    return True


def frame(*, source: bytes, destination: bytes, nonce: bytes, size: int, vlan: int = 0) -> bytes:
    """A frame with `size` bytes of payload, tagged where there is a VLAN."""
    tag = struct.pack("!HH", _ETH_P_8021Q, vlan) if vlan else b""
    payload = _PAYLOAD.pack(_MAGIC, _VERSION, size, nonce).ljust(size, b"\0")
    return b"".join((destination, source, tag, struct.pack("!H", ETHERTYPE), payload))


def understood(data: bytes, *, nonce: bytes) -> int:
    """Bytes of payload that a frame says it was sent with; 0 for one that is not ours."""
    if len(data) < _HEADER_BYTES + _PAYLOAD.size:
        return 0
    magic, version, size, told = _PAYLOAD.unpack_from(data, _HEADER_BYTES)
    is_ours = (magic, version, told) == (_MAGIC, _VERSION, nonce) and data[12:14] == ETHERTYPE.to_bytes(2, "big")
    return int(size) if is_ours else 0


class _Instruction(NamedTuple):
    """Of the kernel's classic packet filter: code, jumps if true and if false, operand."""

    code: int
    true: int
    false: int
    operand: int


def _program(nonce: bytes) -> list[_Instruction]:
    """Takes frames with this nonce and no others; without it none at all."""
    load_half, load_word, equal, give = 0x28, 0x20, 0x15, 0x06
    if not nonce:
        return [_Instruction(give, 0, 0, 0)]
    at = _HEADER_BYTES
    words = [(load_half, 12, ETHERTYPE), (load_word, at, int.from_bytes(_MAGIC, "big"))]
    nonce_at = at + _PAYLOAD.size - 16
    words += [(load_word, nonce_at + i, int.from_bytes(nonce[i : i + 4], "big")) for i in range(0, 16, 4)]
    made: list[_Instruction] = []
    for index, (load, offset, value) in enumerate(words):
        to_refusal = 2 * (len(words) - index - 1) + 1
        made += [_Instruction(load, 0, 0, offset), _Instruction(equal, 0, to_refusal, value)]
    return [*made, _Instruction(give, 0, 0, 0xFFFF), _Instruction(give, 0, 0, 0)]


def _attach(listener: socket.socket, program: list[_Instruction]) -> None:
    code = array.array("B", b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    address, _length = code.buffer_info()
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), address))


@asynccontextmanager
async def _open(link: str, *, filtered: bytes = b"") -> AsyncIterator[socket.socket]:
    """A packet socket, opened and closed by a thread: the kernel waits for all its CPUs each time, 10 ms and more."""
    loop = asyncio.get_running_loop()
    opening = loop.run_in_executor(None, partial(_bound, link, filtered=filtered))
    try:
        opened = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise
    try:
        yield opened
    finally:
        # A cancel does not keep the thread from closing it.
        await loop.run_in_executor(None, opened.close)


def _close(opening: asyncio.Future[socket.socket]) -> None:
    if opening.exception() is None:
        opening.result().close()


def _bound(link: str, *, filtered: bytes = b"") -> socket.socket:
    """A packet socket on a link. Only with a nonce it hears anything, and nothing but that.

    All protocols are heard, because a bridge takes frames from its ports before any other listener, and because the
    kernel forgets the VLAN of a frame before them.
    """
    protocol = _ETH_P_ALL if filtered else 0
    with ExitStack() as stack:
        try:
            kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            # Until it is bound it hears nothing, so nothing comes in before the filter is there.
            made = stack.enter_context(socket.socket(socket.AF_PACKET, kind, 0))
            if filtered:
                _attach(made, _program(filtered))
                made.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
                # Otherwise the kernel clones whatever is sent on the link to show it to the filter.
                made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            made.bind((link, protocol))
            if number := made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, os.strerror(number))
        except OSError as error:
            raise _failed(link, error) from error
        stack.pop_all()
        return made


def _failed(link: str, error: OSError) -> FrameFailed:
    match error.errno:
        case errno.ENODEV | errno.ENXIO:
            return FrameFailed("no-bridge", f"{link} does not exist")
        case errno.ENETDOWN:
            return FrameFailed("no-bridge", f"{link} is down; `ip link set {link} up`")
        case errno.EPERM:
            return FrameFailed("failed", f"kvmigd may not use packet sockets on {link}: its unit lacks CAP_NET_RAW")
    return FrameFailed("failed", f"{link}: {error.strerror or error}")


def _mac(interface: str) -> bytes:
    name = interface.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
        try:
            # struct ifreq of netdevice(7): the name, then a sockaddr of family and address
            answer = fcntl.ioctl(asked, _SIOCGIFHWADDR, name[:15].ljust(40, b"\0"))
        except OSError as error:
            raise _failed(interface, error) from error
    if int.from_bytes(answer[16:18], sys.byteorder) != _ARPHRD_ETHER:
        raise FrameFailed("failed", f"{interface} is no Ethernet link")
    return answer[18:24]


def _told(mac: bytes) -> str:
    return mac.hex(":")


def _bytes(mac: str) -> bytes:
    try:
        address = bytes.fromhex(mac.replace(":", ""))
    except ValueError:
        address = b""
    if len(address) != 6:
        raise FrameFailed("failed", f"{mac!r} is no MAC address")
    return address
