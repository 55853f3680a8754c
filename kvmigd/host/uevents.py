"""The kernel's own events about devices, CPUs and memory, and about SELinux. netlink(7), without privileges."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

KOBJECT_UEVENT = 15
"""NETLINK_KOBJECT_UEVENT; group 1 is the kernel's, group 2 udev's."""
SELINUX = 7
"""NETLINK_SELINUX; group 1 tells of setenforce and of a new policy. Only a kernel with SELinux has it."""
_MESSAGE_BYTES = 16 << 10

_SUBSYSTEMS = frozenset({"cpu", "memory", "node"})
_PATHS = ("/module/kvm", "/devices/virtual/misc/kvm", "/devices/virtual/misc/userfaultfd")


def parse(message: bytes) -> dict[str, str]:
    """The assignments of a uevent: `add@/devices/…`, then `KEY=value`, each ended by a NUL."""
    words = message.decode(errors="replace").split("\0")[1:]
    return {key: value for key, separator, value in (word.partition("=") for word in words) if separator}


def matters(event: dict[str, str]) -> bool:
    """Whether the event is about processors, memory or KVM."""
    return event.get("SUBSYSTEM", "") in _SUBSYSTEMS or event.get("DEVPATH", "").startswith(_PATHS)


class KernelEvents:
    """Calls `listener` for each of the kernel's messages that `wanted` takes, while it is entered.

    Messages that were lost (ENOBUFS) are a call too: whoever listens looks at everything anyway. `problem` says why
    there are none.
    """

    def __init__(
        self, protocol: int, listener: Callable[[], None], *, wanted: Callable[[bytes], bool] = lambda _: True
    ) -> None:
        self._protocol = protocol
        self._listener = listener
        self._wanted = wanted
        self._socket: socket.socket | None = None
        self.problem = ""

    async def __aenter__(self) -> KernelEvents:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, self._protocol)
            self._socket.bind((0, 1))
        except OSError as error:
            self.problem = error.strerror or str(error)
            log.warning("kernel's events not heard", protocol=self._protocol, error=self.problem)
            self._close()
        else:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._close()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        heard = False
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):  # the rest in the loop's next turn
                heard |= self._next()
        if heard:
            self._listener()

    def _next(self) -> bool:
        assert self._socket is not None
        try:
            message, (sender, _groups) = self._socket.recvfrom(_MESSAGE_BYTES)
        except BlockingIOError:
            raise
        except OSError:  # ENOBUFS
            return True
        return sender == 0 and self._wanted(message)
