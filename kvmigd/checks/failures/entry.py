"""Entries of the dictionary: a message as its source has it, and what it means.

A message is written as the format string in the source of libvirt or QEMU, with a name in braces for each thing that
is filled in. Texts are searched for it, for libvirt wraps what it is told: "internal error: process exited while
connecting to monitor: …", "operation failed: job 'migration out' failed: …", time stamps, a whole command line.
"""

from __future__ import annotations

import re

import msgspec

from kvmigd.checks.failures.meaning import HostRole, Meaning

_BLANK = re.compile(r"\{(\.\.\.|[a-z_]+)(?::((?:[^{}]|\{[0-9,]+\})+))?\}")
_GAP = "[^\n]{0,240}?"


def pattern(message: str) -> re.Pattern[str]:
    """The expression for a message. `{name}` stands for anything on the line up to the sign that follows it,
    `{name:expression}` for that expression, `{...}` for some more text of the same line.

    Each message begins with constant text and each blank is bounded, so that no text takes long to search.
    """
    parts, end = [], 0
    for blank in _BLANK.finditer(message):
        parts.append(re.escape(message[end : blank.start()]))
        end = blank.end()
        name, expression = blank.groups()
        if name == "...":
            parts.append(_GAP)
            continue
        after = re.escape(message[end]) if end < len(message) else ""
        anything = "[^" + after + "\n]{1,500}"
        parts.append(f"(?P<{name}>{expression or anything})")
    parts.append(re.escape(message[end:]))
    return re.compile("".join(parts))


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry: it is meant when one of `says` is found; without any, by libvirt's number for the error alone."""

    check: str
    says: tuple[re.Pattern[str], ...]
    number: int
    """VIR_ERR_*; 0 for any."""
    origin: str
    """The source that says it: libvirt or qemu, and the file."""
    at: HostRole
    summary: str
    remedy: str
    subject: str

    def read(self, text: str, number: int) -> Meaning | None:
        """What `text` means by this entry; None if it says something else."""
        if self.number and number not in (self.number, 0):
            return None
        if not self.says:
            return self._meaning({}) if number == self.number else None
        for says in self.says:
            if (found := says.search(text)) is not None:
                return self._meaning({name: value or "" for name, value in found.groupdict().items()})
        return None

    def _meaning(self, groups: dict[str, str]) -> Meaning:
        return Meaning(
            check=self.check,
            summary=self.summary,
            remedy=self.remedy,
            host_role=self.at,
            subject=self.subject,
            groups=groups,
        )


HERE, THERE = HostRole.SOURCE, HostRole.DESTINATION


def entry(
    check: str,
    *messages: str,
    origin: str,
    summary: str,
    remedy: str,
    at: HostRole = THERE,
    subject: str = "",
    number: int = 0,
) -> Entry:
    """An entry, with the messages in the wordings of all versions that are about."""
    return Entry(
        check=check,
        says=tuple(map(pattern, messages)),
        number=number,
        origin=origin,
        at=at,
        summary=summary,
        remedy=remedy,
        subject=subject,
    )
