"""Facts of the model as `a{sv}`: the key is the field's name as options have it, the type follows from the field's."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from functools import cache
from typing import Any

import msgspec

from kvmigd.bus.body import Typed
from kvmigd.bus.options import key_of
from kvmigd.checks import software

_LARGEST = 2**64 - 1

Row = dict[str, Typed]


class _Column(typing.NamedTuple):
    field: str
    key: str
    signature: str
    convert: Callable[[Any], Any] | None


def row(fact: msgspec.Struct) -> Row:
    """A fact; a field that is None has no key."""
    found = {}
    for field, key, signature, convert in _columns(type(fact)):
        value = getattr(fact, field)
        if value is not None:
            found[key] = Typed(signature, convert(value) if convert else value)
    return found


def rows(facts: Iterable[msgspec.Struct]) -> Iterator[Row]:
    """Facts, one after the other as they are asked for."""
    return map(row, facts)


@cache
def _columns(shape: type[msgspec.Struct]) -> tuple[_Column, ...]:
    return tuple(
        _Column(field.name, key_of(field.name), *_carried_as(field.type)) for field in msgspec.structs.fields(shape)
    )


def _carried_as(kind: Any) -> tuple[str, Callable[[Any], Any] | None]:
    """The signature for a type of the model, and what makes a value of it out of the fact's."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        (kind,) = [item for item in typing.get_args(kind) if item is not type(None)]
    if typing.get_origin(kind) is tuple:
        signature, convert = _carried_as(typing.get_args(kind)[0])
        return "a" + signature, (lambda items: [convert(item) for item in items]) if convert else None
    if kind is bool:
        return "b", None
    if kind is int:
        return "t", unsigned
    if issubclass(kind, msgspec.Struct):
        return "a{sv}", row
    if issubclass(kind, StrEnum | str):
        return "s", None
    raise TypeError(f"{kind} has no place on the bus")


def unsigned(number: int) -> int:
    """What fits into `t`: a number that a file of the kernel's gives may be any."""
    return min(max(number, 0), _LARGEST)


def version(number: int) -> str:
    """A version as libvirt counts it in the usual writing; empty for 0, which is none."""
    return software.version(number) if number else ""
