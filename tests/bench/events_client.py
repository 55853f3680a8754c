"""Runs on a lab host: makes the kernel's events, hears the daemon's signals, prints what it timed as one line of JSON.

Both clocks are this process's, so a figure is the whole way: kernel, daemon, bus, client. Run by tests.bench.events
with the host's Python and the libraries that kvmigd is installed with.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/kvmigd/site")

from dbus_next.constants import MessageType
from dbus_next.message import Message

from kvmigd.bus.connection import Connection

NAME, ROOT = "org.kvmigd1", "/org/kvmigd1"
PLACE = Path("/run/bench")
PAUSE = 0.12
"""Between two events, so that each is one at rest."""
LIBC = ctypes.CDLL(None, use_errno=True)
_TICKS = os.sysconf("SC_CLK_TCK")


def mount(point: Path) -> None:
    """A tmpfs, mount(2)."""
    if LIBC.mount(b"bench", os.fsencode(point), b"tmpfs", 0, b"size=4k"):
        raise OSError(ctypes.get_errno(), str(point))


def unmount(point: Path) -> None:
    """umount2(2)."""
    if LIBC.umount2(os.fsencode(point), 2):
        raise OSError(ctypes.get_errno(), str(point))


class Client:
    """Hears org.kvmigd1.Host.Changed."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.heard: list[tuple[float, str, list[list[str]]]] = []
        self._news = asyncio.Event()
        connection.add_handler(self._on_message)

    def _on_message(self, message: Message) -> bool:
        if message.message_type is not MessageType.SIGNAL or message.member != "Changed":
            return False
        _generation, subject, changes = message.body
        self.heard.append((time.monotonic(), subject, changes))
        self._news.set()
        return True

    async def until(self, wanted: Callable[[str, list[str]], bool], seconds: float = 10.0) -> float:
        """When a change was heard first that is the wanted one."""
        async with asyncio.timeout(seconds):
            seen = 0
            while True:
                for when, subject, changes in self.heard[seen:]:
                    if any(wanted(subject, change) for change in changes):
                        return when
                seen = len(self.heard)
                self._news.clear()
                if seen == len(self.heard):
                    await self._news.wait()

    async def ping(self) -> float:
        """Milliseconds that the daemon's loop takes to answer."""
        began = time.monotonic()
        await self.connection.call(NAME, ROOT, "org.freedesktop.DBus.Peer", "Ping", timeout=30.0)
        return (time.monotonic() - began) * 1000


def told_of(subject: str, field: str) -> Callable[[str, list[str]], bool]:
    """A change of that field."""
    return lambda about, change: (about, change[1]) == (subject, field)


async def timed(client: Client, do: Callable[[], float | None], wanted: Callable[[str, list[str]], bool]) -> float:
    """Milliseconds from an event until it was heard of. `do` may say when the event was."""
    await asyncio.sleep(PAUSE)
    client.heard.clear()
    began = time.monotonic()
    began = do() or began
    return (await client.until(wanted) - began) * 1000


async def mounts(client: Client, rounds: int) -> list[float]:
    """A mount and its end."""
    took = []
    for number in range(rounds):
        point = PLACE / f"m{number}"
        point.mkdir(parents=True)

        def mine(kind: str, point: Path = point) -> Callable[[str, list[str]], bool]:
            return lambda subject, change: subject == "mounts" and change[0] == kind and change[2].endswith(f":{point}")

        took.append(await timed(client, lambda point=point: mount(point), mine("added")))
        took.append(await timed(client, lambda point=point: unmount(point), mine("removed")))
    return took


def _flags(name: str, *, up: bool) -> None:
    """SIOCSIFFLAGS, netdevice(7)."""
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        got = fcntl.ioctl(sock, 0x8913, struct.pack("16sh22x", name.encode(), 0))
        flags = struct.unpack("16sh22x", got)[1]
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh22x", name.encode(), flags | 1 if up else flags & ~1))


async def bridges(client: Client, rounds: int) -> list[float]:
    """A bridge goes down and up."""
    subprocess.run(["ip", "link", "add", "bench0", "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "set", "bench0", "up"], check=True)
    await asyncio.sleep(1)
    took = []

    def mine(subject: str, change: list[str]) -> bool:
        return subject == "links" and change[1] == "bridges" and change[2] == "bench0"

    for _ in range(rounds):
        for up in (False, True):
            took.append(await timed(client, lambda up=up: _flags("bench0", up=up), mine))
    subprocess.run(["ip", "link", "del", "bench0"], check=True)
    return took


class Generation:
    """Hears of a new nftables generation from the kernel itself: the moment of the event."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)  # NETLINK_NETFILTER
        self._socket.bind((0, 0))
        self._socket.setsockopt(270, 1, 7)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES
        self._socket.settimeout(10)

    def change(self, *rule: str) -> float:
        """Run nft; when the kernel told of the change."""
        self._socket.settimeout(0)
        try:
            while self._socket.recv(1 << 16):
                pass
        except BlockingIOError:
            self._socket.settimeout(10)
        nft = subprocess.Popen(["nft", *rule])
        self._socket.recv(1 << 16)
        when = time.monotonic()
        nft.wait()
        return when


async def rules(client: Client, rounds: int) -> list[float]:
    """A rule that shuts a port, and its end."""
    kernel = Generation()
    kernel.change("add table inet bench; add chain inet bench input { type filter hook input priority 0; }")
    await asyncio.sleep(1)
    took = []
    for _ in range(rounds):
        for rule in ("add rule inet bench input tcp dport 49152-49215 drop", "flush chain inet bench input"):
            took.append(await timed(client, lambda rule=rule: kernel.change(rule), told_of("firewall", "hints")))
    kernel.change("delete table inet bench")
    return took


async def files(client: Client, rounds: int) -> list[float]:
    """qemu.conf is replaced by another one with other ports."""
    path = Path("/etc/libvirt/qemu.conf")
    old = path.read_text(encoding="utf-8")
    took = []

    def replace(text: str) -> float:
        fresh = path.with_suffix(".bench")
        fresh.write_text(text, encoding="utf-8")
        when = time.monotonic()
        fresh.rename(path)
        return when

    for number in range(rounds):
        text = f"{old}\nmigration_port_max = {49300 + number}\n"
        took.append(await timed(client, lambda text=text: replace(text), told_of("firewall", "ports")))
    replace(old)
    return took


async def hangs(client: Client, rounds: int) -> tuple[list[float], list[float]]:
    """Shared storage whose client stands still, until it is said to hang; and until its recovery is."""
    (glusterfs,) = subprocess.run(["pgrep", "-x", "glusterfs"], check=True, capture_output=True).stdout.split()
    noticed, recovered = [], []

    def told(*, problem: bool) -> Callable[[str, list[str]], bool]:
        return lambda subject, change: (
            subject == "mounts" and change[2].endswith(":/srv/vm") and bool(json.loads(change[3])["problem"]) is problem
        )

    for _ in range(rounds):
        noticed.append(await timed(client, lambda: os.kill(int(glusterfs), signal.SIGSTOP), told(problem=True)))
        recovered.append(await timed(client, lambda: os.kill(int(glusterfs), signal.SIGCONT), told(problem=False)))
    return noticed, recovered


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of those that it has waited for, proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


async def storm(client: Client, count: int, pid: int) -> dict[str, float]:
    """Many mounts as fast as possible, while the daemon's loop is asked how it is."""
    for number in range(count):
        (PLACE / f"s{number}").mkdir()
    # From a process of its own: this one has ten thousand changes to hear.
    pinger = subprocess.Popen(
        [sys.executable, "-I", __file__, "pinger"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert pinger.stdout is not None
    calm = float(await asyncio.to_thread(pinger.stdout.readline))
    client.heard.clear()
    before, began = cpu_seconds(pid), time.monotonic()
    child = subprocess.Popen([sys.executable, "-I", __file__, "mounter", str(count)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    last = float(await asyncio.to_thread(child.stdout.readline))
    point = PLACE / f"s{count - 1}"
    heard = await client.until(
        lambda subject, change: subject == "mounts" and change[0] == "added" and change[2].endswith(f":{point}"), 60.0
    )
    used, passed = cpu_seconds(pid) - before, time.monotonic() - began
    await asyncio.sleep(0.5)
    child.wait()
    worst, bus = map(float, (await asyncio.to_thread(pinger.communicate))[0].split())
    told = sum(
        change[0] == "added" for _, subject, changes in client.heard if subject == "mounts" for change in changes
    )
    table = Path("/proc/self/mountinfo")
    reading = time.monotonic()
    lines = len(table.read_bytes().splitlines())
    read_ms = (time.monotonic() - reading) * 1000
    return {
        "storm_loop_lag_ms_max": round(worst - calm, 1),
        "storm_ping_ms_calm": round(calm, 2),
        "storm_cpu_percent": round(100 * used / passed, 1),
        "storm_settle_ms": round((heard - last) * 1000, 1),
        "storm_seconds": round(last - began, 2),
        "storm_told": told,
        "storm_bus_ms_max": round(bus, 1),
        "mountinfo_read_ms": round(read_ms, 1),
        "mountinfo_lines": lines,
    }


def mounter(count: int) -> None:
    """Mount as fast as possible; prints when the last one was made."""
    for number in range(count):
        mount(PLACE / f"s{number}")
    print(time.monotonic(), flush=True)


async def pinger() -> None:
    """Ask the daemon's loop how it is until the input ends; prints the median at rest, then the longest answers.

    The bus itself is asked too: what it takes is not the daemon's.
    """
    client = Client(await Connection.open())
    print(sorted([await client.ping() for _ in range(200)])[100], flush=True)
    pings, bus = [], []
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    while not ended.done():
        pings.append(await client.ping())
        began = time.monotonic()
        await client.connection.call_bus("GetId", "")
        bus.append((time.monotonic() - began) * 1000)
        await asyncio.sleep(0.002)
    print(max(pings), max(bus), flush=True)
    await client.connection.close()


async def main(rounds: int, count: int, pid: int) -> None:
    """Measure everything."""
    connection = await Connection.open()
    client = Client(connection)
    await connection.subscribe(f"type='signal',interface='{NAME}.Host',member='Changed',path='{ROOT}'")
    PLACE.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name, work in (("mount", mounts), ("bridge", bridges), ("nft", rules), ("file", files)):
        found[name] = await work(client, rounds)
    found["hang"], found["recovery"] = await hangs(client, 5)
    found["storm"] = await storm(client, count, pid)
    await connection.close()
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "mounter":
        mounter(int(sys.argv[2]))
    elif sys.argv[1] == "pinger":
        asyncio.run(pinger())
    else:
        asyncio.run(main(*map(int, sys.argv[1:4])))
