"""The kernel's events about storage."""

from __future__ import annotations

import asyncio
import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host.storage import events
from kvmigd.host.storage.events import Events, Uevent

FAILED = (
    b"change@/devices/virtual/block/dm-3\0ACTION=change\0DEVPATH=/devices/virtual/block/dm-3\0SUBSYSTEM=block\0"
    b"DM_TARGET=multipath\0DM_ACTION=PATH_FAILED\0DM_SEQNUM=1\0DM_PATH=8:32\0DM_NR_VALID_PATHS=3\0DM_NAME=mpath2\0"
    b"DM_UUID=mpath-35333333000002328\0MINOR=3\0MAJOR=253\0DEVTYPE=disk\0SEQNUM=1130\0"
)


def from_udev(properties: bytes) -> bytes:
    head = struct.pack("=8sIIII", b"libudev\0", 0xCEFAEDFE, 40, 40, len(properties))
    return head.ljust(40, b"\0") + properties


def test_an_event_of_the_kernel() -> None:
    event = events.parse(FAILED)
    assert event is not None
    assert (event.action, event.name, event.subsystem) == ("change", "dm-3", "block")
    assert (event.properties["DM_ACTION"], event.properties["DM_PATH"]) == ("PATH_FAILED", "8:32")


def test_an_event_of_udev() -> None:
    event = events.parse(from_udev(b"ACTION=add\0DEVPATH=/devices/x/block/sda\0SUBSYSTEM=block\0ID_FS_TYPE=xfs\0"))
    assert event is not None
    assert (event.action, event.name, event.properties["ID_FS_TYPE"]) == ("add", "sda", "xfs")


@pytest.mark.parametrize("message", [b"", b"\0", b"add", b"add@", b"libudev\0", b"libudev\0" + bytes(40), b"@/x\0A"])
def test_what_is_no_event(message: bytes) -> None:
    assert events.parse(message) is None


@given(st.binary(max_size=200), st.sampled_from((b"", b"libudev\0", b"add@/x\0")))
def test_odd_messages_never_raise(message: bytes, head: bytes) -> None:
    events.parse(head + message)


class Pretended:
    """A netlink socket that gives what it was told to."""

    def __init__(self, messages: list[bytes | OSError]) -> None:
        self._messages = messages

    def recv(self, _length: int) -> bytes:
        if not self._messages:
            raise BlockingIOError
        message = self._messages.pop(0)
        if isinstance(message, OSError):
            raise message
        return message


def heard(family: int, messages: list[bytes | OSError]) -> list[Uevent | None]:
    found: list[Uevent | None] = []
    Events(found.append)._readable(family, Pretended(messages))  # type: ignore[arg-type]
    return found


def test_events_of_other_subsystems_are_not_told() -> None:
    found = heard(15, [FAILED.replace(b"SUBSYSTEM=block", b"SUBSYSTEM=net"), FAILED, b"odd"])
    assert [event and event.name for event in found] == ["dm-3"]


def test_lost_events_mean_that_anything_can_be_new() -> None:
    assert heard(15, [OSError(errno.ENOBUFS, "No buffer space available"), FAILED])[0] is None
    with pytest.raises(OSError, match="broken"):
        heard(15, [OSError(errno.EIO, "broken")])


def test_events_of_transports_mean_that_anything_can_be_new() -> None:
    assert heard(18, [b"whatever", b"more"]) == [None, None]


def test_a_storm_is_heard_a_part_at_a_time() -> None:
    messages: list[bytes | OSError] = [FAILED] * 100
    assert len(heard(15, messages)) == 64
    assert len(messages) == 36


def test_uevents_can_be_heard_without_privileges() -> None:
    async def body() -> None:
        async with Events(lambda _event: None) as opened:
            opened.open_transports()

    asyncio.run(body())


def test_a_transport_that_is_refused_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = Events._open

    def refuse(self: Events, family: int, groups: int) -> None:
        asked.append(family)
        if family == 18:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        if family == 8:
            raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")
        real(self, family, groups)

    monkeypatch.setattr(Events, "_open", refuse)

    async def body() -> None:
        async with Events(lambda _event: None) as opened:
            opened.open_transports()

    asyncio.run(body())
    assert asked == [15, 18, 8, 8], "the module of one that is missing can come"
