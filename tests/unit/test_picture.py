"""The picture of a host: changes, generations, the unknown."""

from __future__ import annotations

import asyncio

import msgspec

from kvmigd.host.picture import Picture
from kvmigd.model.links import BridgeFact, Links
from kvmigd.model.mounts import MountFact, Mounts
from kvmigd.model.state import SUBJECTS, HostState, StateChange
from kvmigd.model.subject import item_changes

ROOT = MountFact(point="/", fs_type="ext4", source="/dev/vda1", id=1)
NFS = MountFact(point="/srv", fs_type="nfs4", source="nas:/a", id=2)


class Clock:
    """A wall clock that goes on by a second at each look."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        self.now += 1_000_000_000
        return self.now


def picture() -> tuple[Picture, list[StateChange]]:
    changes: list[StateChange] = []
    made = Picture(clock=Clock())
    made.subscribe(changes.append)
    return made, changes


def test_at_first_nothing_is_known() -> None:
    state = HostState()
    assert state.unknown == SUBJECTS
    assert state.generation == 0


def test_a_change_is_one_generation_and_is_told() -> None:
    made, changes = picture()
    assert made.publish(Mounts(problem="", mounts=(ROOT,)))
    assert made.publish(Mounts(problem="", mounts=(ROOT, NFS)))
    assert [change.now.generation for change in changes] == [1, 2]
    assert changes[1].subjects == ("mounts",)
    assert changes[1].before.mounts.mounts == (ROOT,)
    assert made.state.mounts.mounts == (ROOT, NFS)


def test_a_change_that_changes_nothing_is_none() -> None:
    made, changes = picture()
    made.publish(Mounts(problem="", mounts=(ROOT,)))
    assert not made.publish(Mounts(problem="", mounts=(msgspec.structs.replace(ROOT),)))
    assert len(changes) == 1
    assert made.state.generation == 1


def test_the_unknown_has_a_beginning_and_no_old_truth() -> None:
    made, _ = picture()
    made.publish(Links(problem="", bridges=(BridgeFact(name="br0", exists=True),)))
    known = made.state.links.since_usec
    assert made.unknown(Links, "the kernel does not answer")
    first = made.state.links.since_usec
    assert first > known > 0
    assert made.state.links.bridges == ()
    assert made.unknown(Links, "the kernel still does not answer"), "the reason may change"
    assert made.state.links.since_usec == first, "but it began when it began"
    assert not made.unknown(Links, "the kernel still does not answer")
    made.publish(Links(problem=""))
    assert made.state.links.since_usec > first


def test_changes_are_told_thing_by_thing() -> None:
    moved = msgspec.structs.replace(NFS, source="nas:/b")
    before = Mounts(problem="", mounts=(ROOT, NFS))
    told = [(change.kind, change.field, change.key) for change in item_changes(before, Mounts(problem=""))]
    assert told == [("removed", "mounts", "1:/"), ("removed", "mounts", "2:/srv")]
    (change,) = item_changes(before, Mounts(problem="", mounts=(moved, ROOT)))
    assert (change.kind, change.key, change.value, change.before) == ("changed", "2:/srv", moved, NFS)
    (change,) = item_changes(Mounts(problem="a"), Mounts(problem="b"))
    assert (change.field, change.value, change.before) == ("problem", "b", "a")


def test_everything_that_is_listed_in_a_subject_has_a_key() -> None:
    """What has none would be told as a whole whenever one thing of it changes."""
    for name in SUBJECTS:
        for field in msgspec.structs.fields(type(HostState().subject(name))):
            inner = getattr(field.type, "__args__", (str,))[0]
            if getattr(field.type, "__origin__", None) is tuple and inner is not str:
                assert hasattr(inner, "key"), f"{name}.{field.name}"


def test_when_the_clock_was_set_what_began_moves_along() -> None:
    made, changes = picture()
    made.publish(Links(problem=""))
    since = made.state.links.since_usec
    made.shift(3600.0)
    assert made.state.links.since_usec == since + 3_600_000_000
    assert made.state.mounts.since_usec == 0, "of what was never looked at no beginning is known"
    assert changes[-1].subjects == ("links",)


def test_what_was_announced_is_waited_for() -> None:
    async def run() -> None:
        made, _ = picture()
        made.publish(Mounts(problem="", mounts=(ROOT,)))
        made.announce(Mounts)
        asking = asyncio.ensure_future(made.settled(Mounts, Links))
        await asyncio.sleep(0.01)
        assert not asking.done()
        made.publish(Mounts(problem="", mounts=(ROOT, NFS)))
        assert (await asking).mounts.mounts == (ROOT, NFS)
        made.announce(Mounts)
        assert (await made.settled(Links)).mounts.mounts == (ROOT, NFS), "another subject is not waited for"
        assert (await made.settled(Mounts, seconds=0.01)).generation == 2, "nor for ever"

    asyncio.run(run())
