"""Attributes: small files of /sys and /proc, read so that nothing in them raises."""

from __future__ import annotations

import os

LIMIT = 4 << 20
"""Attributes of sysfs have at most a page; tables of /proc have a line for each mount or socket."""
_PART = 16 << 10


def data(path: str) -> bytes:
    """An attribute as it is; empty where it is not there, is gone, or its driver refuses to tell."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return b""
    try:
        whole = b""
        # seq_file hands out a page at a time
        while len(whole) < LIMIT and (part := os.read(descriptor, _PART)):
            whole += part
        return whole
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def text(path: str) -> str:
    """An attribute as text without blanks around it; empty where it cannot be read."""
    return data(path).decode(errors="replace").strip("\0 \t\r\n")


def number(path: str) -> int:
    """An attribute as a decimal number; 0 where it is none."""
    found = text(path)
    return int(found) if found.isascii() and found.isdigit() and len(found) < 20 else 0


def names(path: str) -> list[str]:
    """What is in a folder, sorted; empty where there is none."""
    try:
        return sorted(os.listdir(path))
    except (OSError, ValueError):
        return []


def target(path: str) -> str:
    """Where a link points to; empty where it is none."""
    try:
        return os.readlink(path)
    except (OSError, ValueError):
        return ""
