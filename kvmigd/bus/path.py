"""Names on the bus: ours, and the paths of our objects."""

from __future__ import annotations

import re

NAME = "org.kvmigd1"
ROOT = "/org/kvmigd1"

MANAGER = NAME + ".Manager"
HOST = NAME + ".Host"
JOB = NAME + ".Job"
MIGRATION = NAME + ".Migration"
EVACUATION = NAME + ".Evacuation"
PEER = NAME + ".Peer"
GUEST = NAME + ".Guest"

NO_OBJECT = "/"
"""What a property of type `o` holds where there is no object: the type has no empty value."""


def escape(text: str) -> str:
    """A path element for any text, as sd_bus_path_encode(3) writes it."""
    if not text:
        return "_"
    first, rest = text[0], text[1:]

    def coded(part: str) -> str:
        return "".join(f"_{byte:02x}" for byte in part.encode("utf-8", "replace"))

    head = first if re.match(r"[A-Za-z]", first) else coded(first)
    return head + re.sub(r"[^A-Za-z0-9]", lambda found: coded(found[0]), rest)


def job_path(number: int) -> str:
    """The path of a job; 0 is no job."""
    return f"{ROOT}/job/{number}" if number else NO_OBJECT


def peer_path(name: str) -> str:
    """The path of a peer."""
    return f"{ROOT}/peer/{escape(name)}"


def guest_path(uuid: str) -> str:
    """The path of a guest."""
    return f"{ROOT}/guest/{escape(uuid)}"
