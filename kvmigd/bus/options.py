"""Options of methods: `a{sv}` into the frozen structs of the model, strictly."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec
from dbus_next.signature import Variant

from kvmigd.errors import InvalidArguments

T = TypeVar("T", bound=msgspec.Struct)

_SIGNATURES: dict[Any, str] = {bool: "b", int: "t", int | None: "t", str: "s", float: "d"}
"""What carries a field of each type. Sizes, rates and times are `t` and nothing else: one way to write each call."""

_NAMES = {"b": "boolean", "t": "uint64", "s": "string", "d": "double"}


def key_of(field: str) -> str:
    """The option that a field is set by: deadline_usec is deadlineUSec."""
    first, *rest = field.split("_")
    return first + "".join("USec" if part == "usec" else part.capitalize() for part in rest)


@cache
def known(shape: type[msgspec.Struct]) -> dict[str, tuple[str, str]]:
    """The options of a struct: field and D-Bus signature by key. Evaluating its annotations takes a while."""
    return {key_of(field.name): (field.name, _SIGNATURES[field.type]) for field in msgspec.structs.fields(shape)}


def _named(signature: str) -> str:
    return f"{signature} ({_NAMES[signature]})" if signature in _NAMES else signature


def parse(given: dict[str, Variant], shape: type[T], *, method: str) -> T:
    """The options of one call; raises InvalidArguments that names the option, what was expected and what was found."""
    options = known(shape)
    values: dict[str, Any] = {}
    for key, variant in given.items():
        if key not in options:
            others = f"it knows {', '.join(sorted(options))}" if options else "it takes none"
            raise InvalidArguments(f"{method} has no option {key[:64]!r}; {others}.")
        field, signature = options[key]
        if variant.signature != signature:
            raise InvalidArguments(
                f"Option {key} of {method} must have type {_named(signature)}; found {_named(variant.signature[:64])}."
            )
        values[field] = variant.value
    try:
        return msgspec.convert(values, shape)
    except msgspec.ValidationError as error:
        raise InvalidArguments(f"Options of {method}: {error}.") from error
