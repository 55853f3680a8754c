"""Bodies of messages: what is written is what dbus-next would write, and what it reads."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

import pytest
from dbus_next._private.marshaller import Marshaller
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.constants import MessageType
from dbus_next.signature import Variant
from hypothesis import given
from hypothesis import strategies as some

from kvmigd.bus.body import Body, Prepared, Typed
from kvmigd.bus.pace import Pace

TEXT = some.text(some.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
NUMBERS = {
    "y": (0, 255),
    "n": (-(2**15), 2**15 - 1),
    "u": (0, 2**32 - 1),
    "x": (-(2**63), 2**63 - 1),
    "t": (0, 2**64 - 1),
}


def _of(signature: str) -> Callable[[some.SearchStrategy[Any]], some.SearchStrategy[tuple[str, Any]]]:
    return lambda value: value.map(lambda found: (signature, found))


SIMPLE = some.one_of(
    *(_of(kind)(some.integers(low, high)) for kind, (low, high) in NUMBERS.items()),
    _of("b")(some.booleans()),
    _of("s")(TEXT),
    _of("d")(some.floats(allow_nan=False)),
    _of("as")(some.lists(TEXT, max_size=4)),
    _of("ay")(some.binary(max_size=4)),
    _of("o")(some.sampled_from(["/", "/org/kvmigd1/job/1"])),
    _of("a(ssu)")(some.lists(some.tuples(TEXT, TEXT, some.integers(0, 9)).map(list), max_size=3)),
    _of("a{s(ts)}")(some.dictionaries(TEXT, some.tuples(some.integers(0, 9), TEXT).map(list), max_size=3)),
)
ROWS = some.lists(some.dictionaries(TEXT, SIMPLE, max_size=4), max_size=4)


@given(some.lists(SIMPLE, max_size=5), ROWS)
def test_it_is_what_dbus_next_writes(values: list[tuple[str, Any]], rows: list[dict[str, tuple[str, Any]]]) -> None:
    signature = "".join(kind for kind, _ in values) + "aa{sv}"
    plain = [value for _, value in values]
    theirs = [{key: Variant(*item) for key, item in row.items()} for row in rows]
    ours = [{key: Typed(*item) for key, item in row.items()} for row in rows]
    expected = Marshaller(signature, [*plain, theirs]).marshall()
    assert Body(signature, *plain, ours).buffer == expected
    assert Body(signature, *plain, theirs).buffer == expected


@given(ROWS, some.booleans())
def test_an_array_written_between_turns_is_the_same(rows: list[dict[str, tuple[str, Any]]], odd: bool) -> None:  # noqa: FBT001
    ours = [{key: Typed(*item) for key, item in row.items()} for row in rows]

    async def paced() -> bytearray:
        body = Body("ya{sv}aa{sv}")
        body.add("y", 1)
        await body.add_paced("a{sv}", {"odd": Typed("b", odd)}.items(), Pace(0))
        await body.add_paced("aa{sv}", iter(ours), Pace(0))
        return body.buffer

    assert asyncio.run(paced()) == Body("ya{sv}aa{sv}", 1, {"odd": Typed("b", odd)}, ours).buffer


def test_message_is_read_by_dbus_next() -> None:
    body = Body("ts")
    body.add("t", 7)
    with body.text():
        body.buffer += '{"ä":1}'.encode()
    message = Prepared(body, message_type=MessageType.METHOD_RETURN, reply_serial=3, destination=":1.7", serial=9)
    reader = Unmarshaller(io.BytesIO(message._marshall()))
    read = reader.unmarshall()
    assert (read.body, read.signature, read.serial) == ([7, '{"ä":1}'], "ts", 9)
    assert (read.reply_serial, read.destination) == (3, ":1.7")


@pytest.mark.parametrize(
    ("signature", "value"), [("s", 17), ("t", -1), ("u", "1"), ("o", "no path"), ("(ss)", ["a"]), ("as", 5), ("v", 5)]
)
def test_value_of_another_type_is_an_error(signature: str, value: Any) -> None:
    with pytest.raises(Exception, match=r"."):
        Body(signature, value)


def test_text_that_dbus_cannot_carry_is_replaced() -> None:
    assert Body("s", "a\0b\udcff").buffer == Body("s", "a\ufffdb?").buffer
