"""Frames from bridge to bridge: what is sent, what is caught, and both over a real pair of links."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine

import pytest

from kvmigd.host import frames
from kvmigd.host.frames import Catcher, FrameFailed, frame, places, send, understood
from kvmigd.model.links import BridgeFact

NONCE = bytes(range(16))
OTHER = bytes(16)
HERE, THERE = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
CLONE_NEWNET = 0x40000000
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes links in a network namespace of its own")


def made(*, size: int = 64, vlan: int = 0, nonce: bytes = NONCE) -> bytes:
    return frame(source=HERE, destination=THERE, nonce=nonce, size=size, vlan=vlan)


def accepts(data: bytes, *, nonce: bytes = NONCE) -> bool:
    """What the kernel's filter would say, by its own rules."""
    program = frames._program(nonce)
    at, accumulator = 0, 0
    while True:
        code, true, false, operand = program[at]
        at += 1
        if code in (0x28, 0x20):
            width = 2 if code == 0x28 else 4
            if len(data) < operand + width:
                return False
            accumulator = int.from_bytes(data[operand : operand + width], "big")
        elif code == 0x15:
            at += true if accumulator == operand else false
        else:
            assert code == 0x06
            return bool(operand)


def test_a_frame_has_its_addresses_type_and_size() -> None:
    plain = made(size=1500)
    assert plain[:14] == THERE + HERE + b"\x88\xb5"
    assert len(plain) == 14 + 1500
    tagged = made(size=1500, vlan=77)
    assert tagged[12:18] == b"\x81\x00\x00\x4d\x88\xb5"
    assert len(tagged) == len(plain) + 4
    assert tagged[18:] == plain[14:]


def test_only_frames_of_the_nonce_are_understood() -> None:
    assert understood(made(size=1500), nonce=NONCE) == 1500
    assert understood(made()[:40], nonce=NONCE) == 64, "the payload is not looked at"
    assert understood(made(), nonce=OTHER) == 0
    assert understood(made()[:30], nonce=NONCE) == 0
    assert understood(made()[:12] + b"\x08\x00" + made()[14:], nonce=NONCE) == 0
    assert understood(made().replace(b"kvmi\x01", b"kvmi\x02"), nonce=NONCE) == 0


def test_the_filter_takes_frames_of_the_nonce_and_no_others() -> None:
    assert accepts(made())
    assert accepts(made(size=9000))
    assert not accepts(made(nonce=OTHER))
    for at in (12, 13, 14, 17, 22, 25, 26, 33, 37):
        wrong = bytearray(made())
        wrong[at] ^= 1
        assert not accepts(bytes(wrong)), at
    assert not accepts(made()[:37])
    assert not accepts(made(), nonce=b"")


def test_vlans_of_a_bridge_that_filters_go_through_its_uplinks() -> None:
    plain = BridgeFact(name="br0", exists=True, kind="linux", uplinks=("eth0",))
    filtering = BridgeFact(name="br0", exists=True, kind="linux", uplinks=("eth0",), vlan_filtering=True)
    switch = BridgeFact(name="br0", exists=True, kind="openvswitch", uplinks=("eth0",), vlan_filtering=True)
    assert places(plain, 7) == ("br0",)
    assert places(filtering) == ("br0",)
    assert places(filtering, 7) == ("eth0",)
    assert places(switch, 7) == ("br0",)


def linked(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    """Runs a test between the links `left` and `right`, in a network namespace that ends with it."""

    def body() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        for command in (
            "ip link add left mtu 1500 type veth peer name right mtu 1500",
            "ip link set left up",
            "ip link set right up",
        ):
            subprocess.run(command.split(), check=True, timeout=10)
        # What is sent before the kernel has noticed the carrier is dropped without a word.
        while subprocess.check_output(["ip", "-o", "link", "show", "up"], timeout=10).count(b"state UP") < 2:
            time.sleep(0.01)

        async def limited() -> None:
            async with asyncio.timeout(10):
                await test()

        asyncio.run(limited())

    def run() -> None:
        failures: list[BaseException] = []

        def guarded() -> None:
            try:
                body()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=guarded)  # a namespace belongs to a thread
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    run.__name__ = test.__name__
    return run


@needs_root
@linked
async def test_frames_that_arrive_are_caught() -> None:
    async with Catcher("right", nonce=NONCE, sizes=(64, 1500)) as catcher:
        assert len(catcher.mac) == 17
        refused = await send("left", destination_mac=catcher.mac, nonce=NONCE, sizes=(64, 1500), seconds=0.01)
        assert refused == frozenset()
        assert await catcher.caught(5) == {64, 1500}


@needs_root
@linked
async def test_frames_of_another_nonce_or_size_are_not() -> None:
    async with (
        Catcher("right", nonce=OTHER, sizes=(64,)) as strange,
        Catcher("right", nonce=NONCE, sizes=(65,)) as larger,
        Catcher("right", nonce=NONCE, sizes=(64,)) as catcher,
    ):
        await send("left", destination_mac=catcher.mac, nonce=NONCE, sizes=(64,), seconds=0.01)
        assert await catcher.caught(5) == {64}
        assert await strange.caught(0.01) == frozenset()
        assert await larger.caught(0.01) == frozenset()


@needs_root
@linked
async def test_a_frame_belongs_to_its_vlan() -> None:
    async with (
        Catcher("right", nonce=NONCE, sizes=(64, 1500), vlan=77) as tagged,
        Catcher("right", nonce=NONCE, sizes=(64, 1500), vlan=78) as other,
        Catcher("right", nonce=NONCE, sizes=(64, 1500)) as plain,
    ):
        await send("left", destination_mac=tagged.mac, nonce=NONCE, sizes=(64, 1500), vlan=77, seconds=0.01)
        assert await tagged.caught(5) == {64, 1500}
        assert await other.caught(0.01) == frozenset()
        assert await plain.caught(0.01) == frozenset()
        await send("left", destination_mac=plain.mac, nonce=NONCE, sizes=(64, 1500), seconds=0.01)
        assert await plain.caught(5) == {64, 1500}


@needs_root
@linked
async def test_it_ends_with_the_first_that_arrives() -> None:
    until = asyncio.Event()
    async with Catcher("right", nonce=NONCE, sizes=(64,)) as catcher, asyncio.TaskGroup() as group:
        sending = group.create_task(
            send("left", destination_mac=catcher.mac, nonce=NONCE, sizes=(64,), seconds=3600, until=until)
        )
        assert await catcher.caught(5) == {64}
        until.set()
        assert await sending == frozenset()


@needs_root
@linked
async def test_it_is_sent_again_for_who_listens_late() -> None:
    until = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        async with Catcher("right", nonce=NONCE, sizes=(64,)) as first:
            mac = first.mac
            group.create_task(send("left", destination_mac=mac, nonce=NONCE, sizes=(64,), seconds=5, until=until))
            assert await first.caught(5) == {64}
        async with Catcher("right", nonce=NONCE, sizes=(64,)) as second:
            assert await second.caught(5) == {64}
        until.set()


@needs_root
@linked
async def test_what_the_link_refuses_is_told() -> None:
    async with Catcher("right", nonce=NONCE, sizes=(64, 9000)) as catcher:
        refused = await send("left", destination_mac=catcher.mac, nonce=NONCE, sizes=(64, 9000), seconds=0.01)
        assert refused == {9000}
        assert await catcher.caught(0.05) == {64}


@needs_root
@linked
async def test_a_smaller_mtu_on_the_way_loses_the_large_one() -> None:
    subprocess.run(["ip", "link", "set", "right", "mtu", "1400"], check=True, timeout=10)
    async with Catcher("right", nonce=NONCE, sizes=(64, 1500)) as catcher:
        refused = await send("left", destination_mac=catcher.mac, nonce=NONCE, sizes=(64, 1500), seconds=0.01)
        assert refused == frozenset()
        assert await catcher.caught(0.05) == {64}


@needs_root
@linked
async def test_links_that_are_down_or_not_there() -> None:
    subprocess.run(["ip", "link", "set", "right", "down"], check=True, timeout=10)
    for link, text in (("right", "right is down; `ip link set right up`"), ("br9", "br9 does not exist")):
        with pytest.raises(FrameFailed, match=text) as caught:
            async with Catcher(link, nonce=NONCE, sizes=(64,)):
                pass
        assert caught.value.problem == "no-bridge"
        with pytest.raises(FrameFailed, match=text) as caught:
            await send(link, destination_mac="52:54:00:00:00:02", nonce=NONCE, sizes=(64,))
        assert caught.value.problem == "no-bridge"


@needs_root
@linked
async def test_the_same_address_on_both_sides_proves_nothing() -> None:
    with pytest.raises(FrameFailed, match="on both hosts") as caught:
        async with Catcher("left", nonce=NONCE, sizes=(64,)) as catcher:
            await send("left", destination_mac=catcher.mac, nonce=NONCE, sizes=(64,))
    assert caught.value.problem == "failed"
    with pytest.raises(FrameFailed, match="no MAC address"):
        await send("left", destination_mac="52:54", nonce=NONCE, sizes=(64,))
