"""The kernel's events about storage: uevents, and where the daemon may hear them, those of the SCSI transports.

Uevents (NETLINK_KOBJECT_UEVENT) tell of devices that come, go and change, of failed paths of multipath maps and of DLM
lockspaces; anybody may listen. Group 1 has the kernel's, group 2 udev's, sent when its database is written.

The state of a Fibre Channel port changes without a uevent; fc_host_post_event in the kernel's scsi_transport_fc.c tells
it by NETLINK_SCSITRANSPORT. That iSCSI has lost a connection is told by NETLINK_ISCSI. Both are only for processes with
CAP_NET_ADMIN (netlink_bind: the families have no NL_CFG_F_NONROOT_RECV), and exist once their kernel module is loaded.
Without them such a loss is seen with the next uevent: when dev_loss_tmo or the recovery's time is over and devices go,
or when multipath has noticed the path's failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

log = structlog.get_logger(__name__)

SUBSYSTEMS = frozenset(
    {
        *("block", "scsi", "scsi_device", "scsi_host", "fc_host", "fc_remote_ports", "fc_vports", "dlm", "gfs2"),
        *("iscsi_host", "iscsi_session", "iscsi_connection", "nvme", "nvme-subsystem", "rbd", "bdi"),
    }
)
TRANSPORTS = frozenset({"fc_host", "fc_remote_ports", "iscsi_host", "iscsi_session", "scsi_host"})
"""Where a netlink family can have come with the module that these are of."""
_BUFFER = 4 << 20
_LARGEST = 64 << 10
_UEVENTS, _BY_KERNEL_AND_UDEV = 15, 1 | 2


class Family(NamedTuple):
    """A netlink family to listen to beside uevents."""

    name: str
    number: int
    groups: int


FAMILIES = (
    # SCSI_NL_GRP_FC_EVENTS is 1 << 2, and nlmsg_multicast takes it for the group's number: bit 3. Both are asked for.
    Family("SCSI transport", 18, 1 << 2 | 1 << 3),
    Family("iSCSI", 8, 1),
)


class Uevent(NamedTuple):
    """One event: what was done to which device."""

    action: str
    path: str
    properties: Mapping[str, str]

    @property
    def subsystem(self) -> str:
        """block, scsi, fc_host …"""
        return self.properties.get("SUBSYSTEM", "")

    @property
    def name(self) -> str:
        """The kernel's name of the device."""
        return self.path.rpartition("/")[2]


def parse(message: bytes) -> Uevent | None:
    """A message of the kernel's (ACTION@PATH and properties, with NULs between) or udev's; None for others."""
    if message.startswith(b"libudev\0"):
        # struct monitor_netlink_header of systemd: magic, then in the host's order its size and the properties' offset
        start = int.from_bytes(message[16:20], "little")
        other = int.from_bytes(message[16:20], "big")
        # whichever order the host has, the offset is small
        lines = message[min(start, other) :].split(b"\0")
        head = b""
    else:
        head, *lines = message.split(b"\0")
    properties = {}
    for line in lines:
        key, equals, value = line.decode(errors="replace").partition("=")
        if equals:
            properties[key] = value
    action, _, path = head.decode(errors="replace").partition("@")
    action, path = properties.get("ACTION", action), properties.get("DEVPATH", path)
    return Uevent(action, path, properties) if action and path.startswith("/") else None


class Events:
    """Listens while it is entered. `heard` gets each event of storage; None stands for *anything can be new*."""

    def __init__(self, heard: Callable[[Uevent | None], None]) -> None:
        self._heard = heard
        self._sockets: dict[int, socket.socket] = {}
        self._refused: set[int] = set()
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Events:
        """Raises OSError if the kernel refuses uevents."""
        self._loop = asyncio.get_running_loop()
        self._open(_UEVENTS, _BY_KERNEL_AND_UDEV)
        self.open_transports()
        return self

    async def __aexit__(self, *_: object) -> None:
        for opened in self._sockets.values():
            self._loop.remove_reader(opened)
            opened.close()
        self._sockets.clear()

    def open_transports(self) -> None:
        """Listen to the transports whose modules are loaded by now."""
        for family in FAMILIES:
            if family.number in self._sockets or family.number in self._refused:
                continue
            try:
                self._open(family.number, family.groups)
            except PermissionError:
                self._refused.add(family.number)
                log.info("events not heard", family=family.name, reason="CAP_NET_ADMIN is missing")
            except OSError as error:
                # EPROTONOSUPPORT: its module is not loaded
                if error.errno not in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
                    self._refused.add(family.number)
                    log.info("events not heard", family=family.name, reason=error.strerror)

    def _open(self, family: int, groups: int) -> None:
        opened = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, family
        )
        try:
            with contextlib.suppress(OSError):  # more than rmem_max is for CAP_NET_ADMIN
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            opened.bind((0, groups))
        except BaseException:
            opened.close()
            raise
        self._sockets[family] = opened
        self._loop.add_reader(opened, self._readable, family, opened)

    def _readable(self, family: int, opened: socket.socket) -> None:
        # Some at a time, so that a storm of them does not hold the loop.
        for _ in range(64):
            try:
                message = opened.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                log.debug("kernel events lost", family=family)
                self._heard(None)
                continue
            if family != _UEVENTS:
                self._heard(None)
                continue
            event = parse(message)
            if event is not None and event.subsystem in SUBSYSTEMS:
                if event.subsystem in TRANSPORTS:
                    self.open_transports()
                self._heard(event)
