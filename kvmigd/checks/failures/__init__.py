"""The failure dictionary: when libvirt or QEMU fails all the same, its words become the check that should have known.

A text that nobody has entered here means nothing: it is shown as it is, and nothing is guessed.

The order of the dictionary is the rule where several entries fit, and the first one wins: what names the cause stands
before what names its consequence. QEMU's log says "Features 0x… unsupported", then "Failed to load virtio-net:virtio",
then "load of migration failed"; libvirt wraps that in "process exited while connecting to monitor". So:

1. what the two libvirts say of each other, of ports and of TLS, with libvirt's own ports before all others;
2. the guest and the devices that keep it where it is;
3. firmware and TPM, before the disks, whose messages are the same but for the command line before them;
4. storage, network, memory, labels;
5. the CPU, then the machine: feature bits, PCI registers, memory blocks, and last the device whose state did not load;
6. how it ended, where nothing more exact was said;
7. libvirt's numbers alone, for words in another language.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.failures.ends import ENDS, NUMBERS
from kvmigd.checks.failures.entry import Entry
from kvmigd.checks.failures.firmware import FIRMWARE
from kvmigd.checks.failures.guest import GUEST
from kvmigd.checks.failures.hosts import HOSTS
from kvmigd.checks.failures.machine import CPU, MACHINE
from kvmigd.checks.failures.meaning import HostRole, Meaning, finding_of
from kvmigd.checks.failures.memory import MEMORY, SECURITY
from kvmigd.checks.failures.network import NETWORK
from kvmigd.checks.failures.storage import STORAGE
from kvmigd.checks.failures.tls import TLS

__all__ = ["DICTIONARY", "HostRole", "Meaning", "finding_of", "meanings", "understood"]

DICTIONARY: tuple[Entry, ...] = (
    *TLS,
    *HOSTS,
    *GUEST,
    *FIRMWARE,
    *STORAGE,
    *NETWORK,
    *MEMORY,
    *SECURITY,
    *CPU,
    *MACHINE,
    *ENDS,
    *NUMBERS,
)

LENGTH = 8192
"""So many characters of a text are searched, the first and the last of it: the cause stands at the end of a log."""


def understood(text: str, number: int = 0) -> Meaning | None:
    """What libvirt's words mean, with its number for the error (VIR_ERR_*), 0 where unknown; None if nobody knows."""
    return next((meaning for _, meaning in meanings(text, number)), None)


def meanings(text: str, number: int = 0) -> Iterator[tuple[Entry, Meaning]]:
    """Every entry that fits, the one that counts first."""
    if len(text) > LENGTH:
        text = text[: LENGTH // 2] + "\n" + text[-LENGTH // 2 :]
    # QEMU warns of much that does no harm. Where nothing else is said, a warning may be all there is of the cause.
    errors = "\n".join(line for line in text.split("\n") if "warning: " not in line)
    for said in dict.fromkeys((errors, text)):
        found = [(entry, meaning) for entry in DICTIONARY if (meaning := entry.read(said, number)) is not None]
        if found:
            yield from found
            return
