"""Bodies of messages that are too large, or too frequent, for dbus-next's marshaller.

dbus-next checks and writes a value in two walks, and its Variant checks a third time: half a second for the mounts of a
host that has 10,000. Here each type is one function, made once, and an array can be written between turns of the loop.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, NamedTuple

from dbus_next.message import Message
from dbus_next.signature import SignatureTree, SignatureType
from dbus_next.validators import is_object_path_valid

from kvmigd.bus.pace import Pace

_Writer = Callable[[bytearray, Any], None]

_PROTOCOL = 1
_LENGTH = struct.Struct("<I")
_PADDING = tuple(bytes(size) for size in range(8))
_TRUE, _FALSE = _LENGTH.pack(1), _LENGTH.pack(0)
_REPLACED = "\ufffd".encode()
_NUMBERS = {"y": "<B", "n": "<h", "q": "<H", "i": "<i", "u": "<I", "x": "<q", "t": "<Q", "d": "<d"}
_ALIGNMENT = {"y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "(": 8, "{": 8}
_OTHERS = 4


class Typed(NamedTuple):
    """A variant, without the checks of dbus-next's own."""

    signature: str
    value: Any


class Body:
    """What a message carries, marshalled as it is added (D-Bus specification, "Wire Format"), little-endian."""

    def __init__(self, signature: str, *values: Any) -> None:
        self.signature = signature
        self.buffer = bytearray()
        for write, value in zip(_writers(signature) if values else (), values, strict=True):
            write(self.buffer, value)

    def add(self, signature: str, value: Any) -> None:
        """Add a value of one complete type. A string may be bytes that are UTF-8."""
        writer(signature)(self.buffer, value)

    def align(self, size: int) -> None:
        """Begin a dictionary's entry or a struct, which are aligned to 8."""
        _align(self.buffer, size)

    @contextmanager
    def array(self, element: str) -> Iterator[None]:
        """What is added inside are the elements of an array of type `element`."""
        at = _begin_array(self.buffer, _ALIGNMENT.get(element[0], _OTHERS))
        yield
        _end_array(self.buffer, at, _ALIGNMENT.get(element[0], _OTHERS))

    @contextmanager
    def text(self) -> Iterator[None]:
        """What is put into the buffer inside, in UTF-8 and without NUL, is a string."""
        at = _begin_array(self.buffer, 1)
        yield
        _end_array(self.buffer, at, 1)
        self.buffer.append(0)

    async def add_paced(self, signature: str, values: Iterable[Any], pace: Pace) -> None:
        """Add an array, of pairs if it is a dictionary, letting the loop turn between its elements."""
        element = signature[1:]
        write = writer(element) if element[0] != "{" else _entry_writer(signature)
        with self.array(element):
            for value in values:
                write(self.buffer, value)
                await pace.turn()


class Prepared(Message):
    """A message whose body has been marshalled already."""

    def __init__(self, body: Body, **fields: Any) -> None:
        super().__init__(signature=body.signature, **fields)
        self._prepared = body

    def _marshall(self, negotiate_unix_fd: bool = False) -> bytearray:  # noqa: FBT002 - as dbus-next calls it
        named = [
            (1, "o", self.path),
            (2, "s", self.interface),
            (3, "s", self.member),
            (5, "u", self.reply_serial),
            (6, "s", self.destination),
            (8, "g", self.signature),
        ]
        head = Body(
            "yyyyuua(yv)",
            ord("l"),
            self.message_type.value,
            self.flags.value,
            _PROTOCOL,
            len(self._prepared.buffer),
            self.serial,
            [(code, Typed(signature, value)) for code, signature, value in named if value],
        ).buffer
        _align(head, 8)
        head += self._prepared.buffer
        return head


@cache
def _writers(signature: str) -> tuple[_Writer, ...]:
    """What writes the values of a body."""
    return tuple(_writer_of(child) for child in SignatureTree._get(signature).types)


@cache
def writer(signature: str) -> _Writer:
    """What writes a value of one complete type."""
    (only,) = SignatureTree._get(signature).types
    return _writer_of(only)


@cache
def _entry_writer(signature: str) -> _Writer:
    """What writes an entry of a dictionary, a pair; D-Bus has no such type by itself."""
    (only,) = SignatureTree._get(signature).types
    return _writer_of(only.children[0])


def _writer_of(kind: SignatureType) -> _Writer:
    token = kind.token
    if token in _NUMBERS:
        return _number(struct.Struct(_NUMBERS[token]), _ALIGNMENT.get(token, _OTHERS))
    if token == "a":
        return _array(kind.children[0])
    if kind.signature == "{sv}":
        return _named_variant
    if token in ("(", "{"):
        return _struct([_writer_of(child) for child in kind.children])
    return {"b": _boolean, "s": _string, "o": _path, "g": _signature, "v": _variant}[token]


def _align(buffer: bytearray, size: int) -> None:
    buffer += _PADDING[-len(buffer) % size]


def _number(form: struct.Struct, size: int) -> _Writer:
    def write(buffer: bytearray, value: Any) -> None:
        buffer += _PADDING[-len(buffer) % size] + form.pack(value)

    return write


def _boolean(buffer: bytearray, value: Any) -> None:
    buffer += _PADDING[-len(buffer) % 4] + (_TRUE if value else _FALSE)


def _string(buffer: bytearray, value: Any) -> None:
    """Without what D-Bus cannot carry, surrogates and NUL: for these the bus would disconnect us."""
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "replace")
    if b"\0" in raw:
        raw = raw.replace(b"\0", _REPLACED)
    buffer += b"%b%b%b\0" % (_PADDING[-len(buffer) % 4], _LENGTH.pack(len(raw)), raw)


def _path(buffer: bytearray, value: Any) -> None:
    if not is_object_path_valid(value):
        raise ValueError(f"{value!r} is no object path")
    _string(buffer, value)


def _signature(buffer: bytearray, value: str) -> None:
    buffer.append(len(value))
    buffer += value.encode("ascii") + b"\0"


def _variant(buffer: bytearray, value: Any) -> None:
    _signature(buffer, value.signature)
    writer(value.signature)(buffer, value.value)


def _named_variant(buffer: bytearray, pair: tuple[str, Any]) -> None:
    """An entry of a{sv}: what most of all bodies is made of."""
    key, variant = pair
    head, write = _head(key, variant.signature)
    buffer += _PADDING[-len(buffer) % 8]
    buffer += head
    write(buffer, variant.value)


@lru_cache(maxsize=512)
def _head(key: str, signature: str) -> tuple[bytes, _Writer]:
    """What an entry of a{sv} begins with, which is the same each time since it is aligned to 8."""
    buffer = bytearray()
    _string(buffer, key)
    _signature(buffer, signature)
    return bytes(buffer), writer(signature)


def _struct(children: Sequence[_Writer]) -> _Writer:
    def write(buffer: bytearray, value: Any) -> None:
        buffer += _PADDING[-len(buffer) % 8]
        for child, item in zip(children, value, strict=True):
            child(buffer, item)

    return write


def _array(element: SignatureType) -> _Writer:
    size = _ALIGNMENT.get(element.token, _OTHERS)
    child = _writer_of(element)
    pairs = element.token == "{"

    def write(buffer: bytearray, value: Any) -> None:
        at = _begin_array(buffer, size)
        for item in value.items() if pairs else value:
            child(buffer, item)
        _end_array(buffer, at, size)

    return write


def _begin_array(buffer: bytearray, size: int) -> int:
    """Leave room for the length; the padding before the first element is there even if there is no element."""
    _align(buffer, 4)
    at = len(buffer)
    buffer += bytes(4)
    _align(buffer, size)
    return at


def _end_array(buffer: bytearray, at: int, size: int) -> None:
    """The length counts neither itself nor the padding before the first element."""
    first = at + 4 + -(at + 4) % size
    _LENGTH.pack_into(buffer, at, len(buffer) - first)
