"""Guests: a small Linux that shows from outside that it lives, and a boot sector whose memory behaves as it is told."""

from __future__ import annotations

import re
import struct
import uuid
from dataclasses import dataclass, field
from enum import StrEnum

from tests.lab import storage
from tests.lab.command import LabError
from tests.lab.guestfiles import guest_files
from tests.lab.host import Host, wait_until
from tests.lab.network import BRIDGE, Network
from tests.lab.roots import MOUNTPOINT

FOLDER = f"{MOUNTPOINT}/guests"
_TICKS_PER_SECOND = 18.2065
_PAGES_PER_MIB = 256


class Kind(StrEnum):
    """What boots."""

    LINUX = "linux"
    BOOT_SECTOR = "boot-sector"


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A guest as it is to be; sizes in MiB. What is `filled` and what is dirtied concerns boot sectors only."""

    name: str
    kind: Kind = Kind.LINUX
    memory: int = 128
    filled: int = 0
    working_set: int = 1
    dirty_rate: float = 0.0
    number: int = 1
    """Of its address 10.77.3.(100 + number) and its MAC address."""
    disk_format: str = ""
    """`raw` where empty and the guest is a Linux, so that its counter can be read from the brick; else `qcow2`."""
    bridge: str = BRIDGE
    cpu: str = "<cpu mode='custom' match='exact'><model>qemu64</model></cpu>"
    devices: str = ""
    """More devices, as XML."""
    metadata: str = ""
    """What is inside <metadata>, as XML."""
    folder: str = FOLDER
    """Where its disk lies, on every host."""
    edits: tuple[tuple[str, str], ...] = ()
    """What is replaced in its definition, and what comes in its place, for all that has no name of its own here."""
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def format(self) -> str:
        """The format of its disk."""
        return self.disk_format or ("raw" if self.kind is Kind.LINUX else "qcow2")

    @property
    def address(self) -> str:
        """The address of a Linux guest in the guests' network."""
        return f"{Network.GUESTS.prefix}.{100 + self.number}"

    @property
    def disk(self) -> str:
        """Its disk, on every host."""
        return f"{self.folder}/{self.name}.{self.format}"

    @property
    def console_file(self) -> str:
        """What its serial line printed, on every host."""
        return f"{FOLDER}/{self.name}.console"

    def xml(self) -> str:
        """Return its definition for libvirt."""
        boot = ""
        if self.kind is Kind.LINUX:
            arguments = f"console=ttyS0 quiet panic=-1 address={self.address}/24"
            files = f"<kernel>{MOUNTPOINT}/boot/vmlinuz</kernel><initrd>{MOUNTPOINT}/boot/initrd.gz</initrd>"
            boot = f"{files}<cmdline>{arguments}</cmdline>"
        xml = f"""\
<domain type='qemu'>
  <name>{self.name}</name>
  <uuid>{self.uuid}</uuid>
  <metadata>{self.metadata}</metadata>
  <memory unit='MiB'>{self.memory}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>{boot}</os>
  <features><acpi/><apic/><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features>
  {self.cpu}
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='{self.format}' cache='none'/>
      <source file='{self.disk}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'>
      <source bridge='{self.bridge}'/>
      <model type='virtio'/>
      <mac address='52:54:00:77:00:{self.number:02x}'/>
    </interface>
    <serial type='file'><source path='{self.console_file}' append='on'/><target port='0'/></serial>
    <memballoon model='virtio'/>
    {self.devices}
  </devices>
</domain>
"""
        for old, new in self.edits:
            if old not in xml:
                raise LabError(f"There is no {old!r} in the definition of guest {self.name}.")
            xml = xml.replace(old, new)
        return xml


def linux(name: str, *, number: int = 1, memory: int = 128) -> Guest:
    """Return a Linux guest that counts the seconds on its disk and its console."""
    return Guest(name=name, number=number, memory=memory)


def boot_sector(
    name: str, *, memory: int = 128, filled: int = 0, working_set: int = 1, dirty_rate: float = 0.0, number: int = 1
) -> Guest:
    """Return a guest that fills memory and then dirties `dirty_rate` MiB/s of a working set; soon ready."""
    if max(filled, working_set) + 1 > memory:
        raise LabError(f"Guest {name} has {memory} MiB, too few to fill {filled} or dirty {working_set} of them.")
    return Guest(
        name=name,
        kind=Kind.BOOT_SECTOR,
        memory=memory,
        filled=filled,
        working_set=working_set,
        dirty_rate=dirty_rate,
        number=number,
    )


def _disk(guest: Guest) -> bytes:
    if guest.kind is Kind.LINUX:
        return b""
    sector = bytearray((guest_files() / "boot-sector").read_bytes())
    rate = int(guest.dirty_rate * _PAGES_PER_MIB / _TICKS_PER_SECOND)
    pages = (rate, guest.working_set * _PAGES_PER_MIB, guest.filled * _PAGES_PER_MIB)
    struct.pack_into("<III", sector, 4, *pages)
    return bytes(sector)


_MAKE_DISK = """\
mkdir -p "${1%/*}"
cat > "$1.new"
truncate -s 1M "$1.new"
if [ "$2" = raw ]; then mv "$1.new" "$1"; else qemu-img convert -q -f raw -O "$2" "$1.new" "$1"; rm "$1.new"; fi
chown libvirt-qemu:kvm "$1"
: > "$3"
"""


def define(host: Host, guest: Guest) -> None:
    """Make a guest's disk and define it on a host."""
    host.run("sh", "-ec", _MAKE_DISK, "sh", guest.disk, guest.format, guest.console_file, input=_disk(guest))
    host.run("virsh", "--quiet", "define", "/dev/stdin", input=guest.xml())


def create(host: Host, guest: Guest, *, wait: bool = True) -> Guest:
    """Define a guest on a host and start it there; `wait` until it has booted, too."""
    define(host, guest)
    host.run("virsh", "--quiet", "start", guest.name)
    if wait:
        wait_ready(host, guest)
    return guest


def console(host: Host, guest: Guest) -> str:
    """Return what a guest printed, wherever it runs; any host of its lab will do."""
    path = storage.brick_file(host, guest.console_file)
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def wait_ready(host: Host, guest: Guest, timeout: float = 60) -> None:
    """Wait until a guest has booted: a Linux counts, a boot sector has filled its memory."""

    def ready() -> bool:
        if guest.kind is Kind.LINUX and guest.format == "raw":
            return counter(host, guest) > 0
        return ("tick 2 " if guest.kind is Kind.LINUX else "F") in console(host, guest)

    wait_until(f"guest {guest.name} is ready", ready, timeout)


@dataclass(frozen=True)
class Tick:
    """What a Linux guest last wrote to its disk: its counter, and which run of it that was."""

    count: int
    boot: str


def tick(host: Host, guest: Guest) -> Tick:
    """Read the sector that a Linux guest counts in from the brick, so that no host has a part in it."""
    if guest.format != "raw":
        raise LabError(
            f"The disk of guest {guest.name} is {guest.format}: its counter can only be read from a raw one."
        )
    with storage.brick_file(host, guest.disk).open("rb") as disk:
        disk.seek(512)
        words = re.match(rb"tick (\d+) up=\S+ boot=(\w+)", disk.read(512))
    return Tick(int(words[1]), words[2].decode()) if words else Tick(0, "")


def counter(host: Host, guest: Guest) -> int:
    """Return a Linux guest's counter, 0 before it has written one."""
    return tick(host, guest).count


def wait_counting(host: Host, guest: Guest, *, ticks: int = 1, timeout: float = 30) -> None:
    """Wait until a Linux guest has counted on from where it is now."""
    target = counter(host, guest) + ticks
    wait_until(f"guest {guest.name} counts on to {target}", lambda: counter(host, guest) >= target, timeout)


def state(host: Host, guest: Guest | str) -> str:
    """Return what libvirt on a host says of a guest (`running`, `paused`, …), "" when it knows none of that name."""
    name = guest if isinstance(guest, str) else guest.name
    completed = host.run("virsh", "--quiet", "domstate", name, check=False)
    return completed.stdout.strip() if completed.returncode == 0 else ""


def qemu_pid(host: Host, guest: Guest | str) -> int:
    """Return the process of a guest's QEMU on a host, as the host numbers it; 0 when there is none."""
    name = guest if isinstance(guest, str) else guest.name
    pattern = rf"^/usr/bin/qemu-system-x86_64 .*-name guest={re.escape(name)},"
    words = host.run("pgrep", "-f", "--", pattern, check=False).stdout.split()
    return int(words[0]) if words else 0
