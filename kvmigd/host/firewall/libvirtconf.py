"""libvirt's own configuration files, like qemu.conf: `key = value`, with strings, numbers and lists."""

from __future__ import annotations

import re
from pathlib import Path

Value = int | str | list[str]

_ENTRY = re.compile(r"^[ \t]*([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*", re.MULTILINE)
_NUMBER = re.compile(r"-?[0-9]+")
_STRING = re.compile(r'"""(.*?)"""|"([^"\n]*)"|\'([^\'\n]*)\'', re.DOTALL)
_BETWEEN = re.compile(r"(?:[\s,]|#[^\n]*)*")
MAX_BYTES = 1 << 20


def parse(text: str) -> dict[str, Value]:
    """All keys with their values; the last one counts, as with libvirt. What is not understood is left out.

    libvirt's strings know no escapes (virconf.c).
    """
    found: dict[str, Value] = {}
    position = 0
    while entry := _ENTRY.search(text, position):
        value, position = _value(text, entry.end())
        if value is not None:
            found[entry[1]] = value
    return found


def _value(text: str, start: int) -> tuple[Value | None, int]:
    """The value that begins there, None if there is none, and where the text goes on."""
    if text.startswith("[", start):
        return _list(text, start + 1)
    if number := _NUMBER.match(text, start):
        # more digits than any number of libvirt's, and more than int() takes
        return (int(number[0]) if len(number[0]) <= 20 else None), number.end()
    if string := _STRING.match(text, start):
        return _content(string), string.end()
    return None, start


def _list(text: str, start: int) -> tuple[Value | None, int]:
    items: list[str] = []
    position = start
    while True:
        if between := _BETWEEN.match(text, position):
            position = between.end()
        if text.startswith("]", position):
            return items, position + 1
        item = _STRING.match(text, position) or _NUMBER.match(text, position)
        if item is None:
            return None, start
        items.append(_content(item) if item.re is _STRING else item[0])
        position = item.end()


def _content(string: re.Match[str]) -> str:
    return next((part for part in string.groups() if part is not None), "")


def read(path: Path) -> dict[str, Value]:
    """Parse a file; empty where it is not there. Raises OSError where it is, but cannot be read."""
    try:
        with path.open("rb") as file:
            return parse(file.read(MAX_BYTES).decode("utf-8", "replace"))
    except (FileNotFoundError, NotADirectoryError):
        return {}


def number(values: dict[str, Value], key: str, default: int) -> int:
    """A number, which libvirt also takes in quotes where it is a port of libvirtd's."""
    value = values.get(key, default)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        return int(value)
    return value if isinstance(value, int) else default


def port(values: dict[str, Value], key: str, default: int) -> int:
    """A port; the default where it is none."""
    value = number(values, key, default)
    return value if 0 < value < 1 << 16 else default
