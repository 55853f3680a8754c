"""Changes are told in full, in order, in pieces, and never faster than they are taken."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as some

from kvmigd.bus.changes import CHANGES, Row, Teller, trimmed
from kvmigd.host.picture import Picture
from kvmigd.model.encoding import to_json
from kvmigd.model.links import BridgeFact, Links
from kvmigd.model.mounts import MountFact, Mounts
from kvmigd.model.subject import item_changes


def mount(number: int, source: str = "nas:/a") -> MountFact:
    return MountFact(point=f"/srv/{number}", fs_type="nfs4", source=source, id=number)


def mounts(numbers: Any, source: str = "nas:/a") -> Mounts:
    return Mounts(problem="", mounts=tuple(mount(number, source) for number in numbers))


class Bus:
    """Takes signals, or is in no hurry to."""

    def __init__(self, *, slow: bool = False) -> None:
        self.signals: list[tuple[int, str, list[Row]]] = []
        self.slow = slow
        self.under_way: list[asyncio.Future[None]] = []

    def tell(self, generation: int, subject: str, rows: list[Row]) -> asyncio.Future[None]:
        self.signals.append((generation, subject, list(rows)))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.slow:
            self.under_way.append(future)
        else:
            future.set_result(None)
        return future

    def take(self) -> None:
        """Take what is under way."""
        while self.under_way:
            self.under_way.pop().set_result(None)

    @property
    def rows(self) -> list[Row]:
        return [row for _, _, rows in self.signals for row in rows]

    def applied(self, field: str) -> dict[str, Any]:
        """What who applies all of it has got."""
        found: dict[str, Any] = {}
        for kind, name, key, value in self.rows:
            if name == field and kind == "removed":
                del found[key]
            elif name == field:
                found[key] = json.loads(value)
        return found


def test_a_change_is_told_with_its_value() -> None:
    async def body() -> None:
        picture, bus = Picture(), Bus()
        teller = Teller(picture, bus.tell)
        picture.publish(Links(problem="", bridges=(BridgeFact(name="br0", exists=True, up=True),)))
        await teller.caught_up()
        picture.publish(Links(problem="", bridges=(BridgeFact(name="br0", exists=True, up=False),)))
        await teller.caught_up()
        assert [(generation, subject) for generation, subject, _ in bus.signals] == [(1, "links"), (2, "links")]
        assert [row[:3] for row in bus.rows] == [
            ("changed", "problem", ""),
            ("added", "bridges", "br0"),
            ("changed", "bridges", "br0"),
        ]
        assert json.loads(bus.rows[-1][3])["up"] is False

    asyncio.run(body())


def test_what_is_not_known_any_more_is_removed() -> None:
    async def body() -> None:
        picture, bus = Picture(), Bus()
        teller = Teller(picture, bus.tell)
        picture.publish(mounts([1]))
        await teller.caught_up()
        picture.unknown(Mounts, "the mount table cannot be read")
        await teller.caught_up()
        assert bus.rows[-2:] == [
            ("changed", "problem", "", b'"the mount table cannot be read"'),
            ("removed", "mounts", "1:/srv/1", b""),
        ]

    asyncio.run(body())


def test_many_changes_are_several_signals_of_one_generation_in_order() -> None:
    async def body() -> None:
        picture, bus = Picture(), Bus()
        teller = Teller(picture, bus.tell)
        picture.publish(mounts(range(1000)))
        await teller.caught_up()
        assert {generation for generation, _, _ in bus.signals} == {1}
        assert [len(rows) for _, _, rows in bus.signals] == [CHANGES] * 10 + [1]
        assert [row[2] for row in bus.rows[1:]] == [mount(number).key for number in range(1000)]

    asyncio.run(body())


def test_large_values_are_fewer_a_signal() -> None:
    async def body() -> None:
        picture, bus = Picture(), Bus()
        teller = Teller(picture, bus.tell)
        picture.publish(mounts(range(10), "x" * 100_000))
        await teller.caught_up()
        assert max(len(rows) for _, _, rows in bus.signals) <= 4
        assert len(bus.applied("mounts")) == 10

    asyncio.run(body())


def test_the_loop_turns_between_signals() -> None:
    async def body() -> None:
        picture, bus = Picture(), Bus()
        teller = Teller(picture, bus.tell)
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        turning = asyncio.create_task(turn())
        picture.publish(mounts(range(20_000)))
        await teller.caught_up()
        turning.cancel()
        assert turns > 5

    asyncio.run(body())


def test_what_comes_faster_than_it_is_taken_is_merged() -> None:
    async def body() -> None:
        picture, bus = Picture(), Bus(slow=True)
        teller = Teller(picture, bus.tell)
        picture.publish(mounts([1]))
        for _ in range(5):
            await asyncio.sleep(0)
        for number in range(2, 50):
            picture.publish(mounts(range(1, number)))
            await asyncio.sleep(0)
        assert len(bus.signals) == 1
        waiting = asyncio.create_task(teller.caught_up())
        while not waiting.done():
            bus.take()
            await asyncio.sleep(0)
        assert [generation for generation, _, _ in bus.signals] == [1, 48]
        assert len(bus.applied("mounts")) == 48

    asyncio.run(body())


def test_what_changed_and_changed_back_meanwhile_is_not_told_and_describe_is_what_was_told() -> None:
    async def body() -> None:
        picture, bus = Picture(), Bus(slow=True)
        teller = Teller(picture, bus.tell)
        picture.publish(mounts([1]))
        await asyncio.sleep(0)
        picture.publish(mounts([1, 2]))
        described = asyncio.create_task(teller.caught_up())
        await asyncio.sleep(0)
        picture.publish(mounts([1]))
        while not described.done():
            bus.take()
            await asyncio.sleep(0)
        state = described.result()
        # The answer has no mount 2, of which no signal will ever say that it is gone.
        assert (state.generation, len(state.mounts.mounts)) == (3, 1)
        assert list(bus.applied("mounts")) == ["1:/srv/1"]

    asyncio.run(body())


def test_closed_it_tells_nothing() -> None:
    async def body() -> None:
        picture, bus = Picture(), Bus()
        teller = Teller(picture, bus.tell)
        picture.publish(mounts([1]))
        teller.close()
        picture.publish(mounts([2]))
        await asyncio.sleep(0.01)
        assert bus.signals == []

    asyncio.run(body())


def test_a_bus_that_breaks_does_not_end_it() -> None:
    async def body() -> None:
        picture, bus = Picture(), Bus()

        def tell(generation: int, subject: str, rows: list[Row]) -> asyncio.Future[None]:
            if generation == 1:
                raise ZeroDivisionError
            return bus.tell(generation, subject, rows)

        teller = Teller(picture, tell)
        picture.publish(mounts([1]))
        await teller.caught_up()
        picture.publish(mounts([1, 2]))
        await teller.caught_up()
        assert [row[:3] for row in bus.rows] == [("added", "mounts", "2:/srv/2")]

    asyncio.run(body())


@given(some.lists(some.lists(some.integers(0, 200), max_size=150, unique=True), min_size=1, max_size=4))
def test_who_applies_all_changes_has_the_truth(steps: list[list[int]]) -> None:
    async def body() -> None:
        picture, bus = Picture(), Bus()
        teller = Teller(picture, bus.tell)
        for number, step in enumerate(steps):
            picture.publish(mounts(sorted(step), f"nas:/{number % 2}"))
            if number % 2:
                await teller.caught_up()
        state = await teller.caught_up()
        assert bus.applied("mounts") == {item.key: json.loads(to_json(item)) for item in state.mounts.mounts}

    asyncio.run(body())


@given(some.sets(some.integers(0, 130)), some.sets(some.integers(0, 130)))
def test_trimming_changes_nothing(some_: set[int], others: set[int]) -> None:
    before, now = mounts(sorted(some_)), mounts(sorted(others))
    assert list(item_changes(*trimmed(before, now))) == list(item_changes(before, now))


def test_odd_bytes_in_a_path_are_replaced() -> None:
    odd = Mounts(problem="", mounts=(MountFact(point="/a\udcff\0", fs_type="ext4", source="x"),))
    assert json.loads(to_json(odd))["mounts"][0]["point"] == "/a?\0"
