"""What a plain `virsh migrate` does to a guest, and how the guest is afterwards, seen without kvmigd."""

from __future__ import annotations

import re
import secrets
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

from tests.bench.situations import Truth
from tests.bench.situations.ground import PEER_URI, Ground
from tests.lab import guests
from tests.lab.command import LabError
from tests.lab.guests import Guest, Kind
from tests.lab.host import Host, wait_until

LIMIT = 20
"""Seconds that virsh gets."""

_FLAGS = ("--live", "--p2p", "--persistent", "--undefinesource")

# what QEMU has open is looked at through the process itself: a path may by now lead somewhere else
_SEEN = """\
for link in /proc/"$1"/fd/*; do
    if [ "$(readlink "$link")" = "$2" ]; then tail -c "$3" "$link" | head -c "$3"; exit 0; fi
done
exit 1
"""
_SUM = """\
for link in /proc/"$1"/fd/*; do
    if [ "$(readlink "$link")" = "$2" ]; then sha256sum < "$link"; exit 0; fi
done
exit 1
"""


@dataclass(frozen=True)
class Outcome:
    """How it went."""

    truth: Truth
    words: str
    """What libvirt said, or what is wrong with the guest."""
    ms: float
    """Until virsh ended."""
    stuck: str = ""
    """Why the guest cannot come back, where that was tried."""


@dataclass(frozen=True)
class Before:
    """What a guest had before it moved."""

    state: str
    disks: tuple[str, ...]
    media: dict[str, str]
    """Checksums of read-only images, by path."""
    tick: guests.Tick


def _virsh(source: Host, destination: Host, guest: Guest, *, tls: bool) -> tuple[str, float]:
    """Migrate; what was said where it failed, and milliseconds."""
    words = (*_FLAGS, *(("--tls",) if tls else ()), guest.name, PEER_URI.format(name=destination.name))
    begin = time.monotonic()
    limit = ("timeout", "--kill-after=1", str(LIMIT))
    done = source.run(*limit, "virsh", "--quiet", "migrate", *words, check=False, timeout=LIMIT + 20)
    took = (time.monotonic() - begin) * 1000
    if done.returncode == 0:
        return "", took
    if done.returncode in (124, 137):
        return f"no answer within {LIMIT} s", took
    said = " ".join(done.stderr.split())
    return re.sub(r"^error: ", "", said) or f"virsh ended with status {done.returncode}", took


def before(ground: Ground) -> Before:
    """Look at a guest that is to move."""
    a, guest = ground.a, ground.guest
    state = guests.state(a, guest)
    disks, media = [], {}
    domain = ElementTree.fromstring(a.run("virsh", "--quiet", "dumpxml", guest.name).stdout)
    for disk in domain.iter("disk"):
        source = disk.find("source")
        path = None if source is None else source.get("file")
        if path is None:
            continue
        if disk.find("readonly") is not None:
            media[path] = a.sh('sha256sum < "$1"', path)
        elif disk.find("source/encryption") is None:
            disks.append(path)
    tick = guests.tick(a, guest) if guest.kind is Kind.LINUX and guest.format == "raw" else guests.Tick(0, "")
    return Before(state, tuple(disks), media, tick)


def migrate(ground: Ground, *, tls: bool, back: bool) -> Outcome:
    """Try it, and look at the guest."""
    guest = ground.guest
    had = before(ground)
    problem, ms = _virsh(ground.a, ground.b, guest, tls=tls)
    if problem:
        return Outcome(Truth.FAILS, problem, ms)
    wrong = _wrong_state(ground, had) or _wrong_storage(ground, had) or _no_network(ground)
    if wrong:
        return Outcome(Truth.BROKEN, wrong, ms)
    stuck = _virsh(ground.b, ground.a, guest, tls=tls)[0] if back else ""
    return Outcome(Truth.WORKS, "", ms, stuck)


def _wrong_state(ground: Ground, had: Before) -> str:
    state = guests.state(ground.b, ground.guest)
    if state != had.state:
        return f"the guest was {had.state} and is {state or 'unknown'} there"
    info = ground.b.run("virsh", "--quiet", "dominfo", ground.guest.name).stdout
    if re.search(r"Managed save:\s+yes", info):
        return "an old saved state waits there for the guest's next start"
    return ""


def _wrong_storage(ground: Ground, had: Before) -> str:
    """Whether what is written here at a disk's path is seen by the guest's QEMU there."""
    a, b, guest = ground.a, ground.b, ground.guest
    pid = b.read(f"/run/libvirt/qemu/{guest.name}.pid").strip()
    for path in had.disks:
        nonce = secrets.token_hex(16)
        # behind the disk's end, where the guest does not look
        a.sh('printf %s "$2" >> "$1"', path, nonce)

        def seen(path: str = path, nonce: str = nonce) -> bool:
            return b.sh(_SEEN, pid, path, str(len(nonce)), check=False) == nonce

        if not _comes(seen):
            return f"what is written to {path} here does not reach the guest's disk there"
    for path, checksum in had.media.items():
        if b.sh(_SUM, pid, path, check=False) != checksum:
            return f"{path} has another content there"
    if had.tick.count and not _comes(lambda: _goes_on(ground, had)):
        return "the guest's counter does not go on on its disk"
    return ""


def _goes_on(ground: Ground, had: Before) -> bool:
    now = guests.tick(ground.a, ground.guest)
    return now.boot == had.tick.boot and now.count > had.tick.count + 1


def _no_network(ground: Ground) -> str:
    """Whether a Linux guest answers the other host, in frames of any size."""
    guest = ground.guest
    if guest.kind is not Kind.LINUX or guest.format != "raw" or not guests.counter(ground.a, guest):
        return ""
    if not _comes(lambda: answers(ground.a, guest)):
        return f"{guest.address} does not answer {ground.a.name} any more"
    if not _comes(lambda: answers(ground.a, guest, size=1472)):
        return f"{guest.address} does not answer {ground.a.name} in frames of 1,500 bytes any more"
    return ""


def answers(host: Host, guest: Guest, *, size: int = 56) -> bool:
    """Whether a Linux guest answers a host."""
    ping = ("ping", "-q", "-c", "1", "-W", "1", "-M", "do", "-s", str(size), guest.address)
    return host.run(*ping, check=False).returncode == 0


def _comes(condition: object, timeout: float = 4.0) -> bool:
    try:
        wait_until("it comes", condition, timeout=timeout, every=0.1)  # type: ignore[arg-type]
    except LabError:
        return False
    return True
