"""What a message of libvirt's or QEMU's means: the check that should have known it, and what mends it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from kvmigd.checks.failures.expected import EXPECTED
from kvmigd.model.finding import Basis, Finding, Severity

FOUND_LENGTH = 500
"""So many characters of libvirt's words a finding shows; the error itself has them all."""
GROUP_LENGTH = 200


class HostRole(StrEnum):
    """The host on which it is to be mended."""

    SOURCE = "source"
    DESTINATION = "destination"


class Meaning(msgspec.Struct, frozen=True, kw_only=True):
    """What a message means. The texts have {here}, {there}, {guest} and the names of `groups` still to be filled in."""

    check: str
    summary: str
    remedy: str
    host_role: HostRole
    subject: str
    groups: Mapping[str, str]
    """What the message names: path, bridge, port …"""


def finding_of(meaning: Meaning, *, here: str, there: str, raw: str, guest: str = "GUEST") -> Finding:
    """The finding for the job of a guest that was to move from `here` to `there`; `raw` are libvirt's words.

    It is proved: the migration has just failed by it.
    """
    plain = {name: printable(value, GROUP_LENGTH) for name, value in meaning.groups.items()}
    names = {"here": here, "there": there, "guest": guest}
    # A remedy is pasted into a shell as root, and what libvirt names may hold anything.
    quoted = {name: shlex.quote(value) for name, value in (plain | {"guest": guest}).items()}
    return Finding(
        check=meaning.check,
        severity=Severity.BLOCK,
        summary=meaning.summary.format_map(plain | names),
        host=here if meaning.host_role is HostRole.SOURCE else there,
        subject=meaning.subject.format_map(plain | names),
        expected=EXPECTED[meaning.check],
        found=printable(raw, FOUND_LENGTH),
        remedy=meaning.remedy.format_map(names | quoted),
        basis=Basis.PROVED,
    )


def printable(text: str, length: int) -> str:
    """One line without control characters; of a long one the beginning and, longer, the end, where the cause stands."""
    if len(text) > 16 * length:
        text = text[: 8 * length] + text[-8 * length :]
    line = "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))
    if len(line) <= length:
        return line
    head = length // 4
    return f"{line[:head]} … {line[-(length - head - 3) :]}"
