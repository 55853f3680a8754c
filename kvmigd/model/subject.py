"""Subjects: the parts of the picture of a host. Each is known as a whole, or unknown since a moment, for a reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one subject.

    `problem` says why it is not known, and then everything else in it is empty: an old truth is never told as one.
    A part that is unknown inside a subject that is known (a mount whose server is silent) has a `problem` of its own.
    """

    problem: str = "it has not been read yet"
    since_usec: int = 0
    """When `problem` appeared or went, wall clock, microseconds since 1970. Set by whoever keeps the picture."""

    @property
    def is_known(self) -> bool:
        """Whether the rest of it says anything."""
        return not self.problem


class ItemChange(msgspec.Struct, frozen=True, kw_only=True):
    """One thing of a subject that was added, removed or changed."""

    kind: str
    """added, removed or changed."""
    field: str
    """Field of the subject: `mounts`, `bridges` …, or a field that is one value, like `problem`."""
    key: str = ""
    """Which one of the field's; empty where the field is one value."""
    value: Any = None
    """What it is now; None where it was removed."""
    before: Any = None
    """What it was; None where it was added."""


def item_changes(before: Subject, now: Subject) -> Iterator[ItemChange]:
    """What has changed from one state of a subject to the next, thing by thing."""
    for field in now.__struct_fields__:
        if field == "since_usec":
            continue
        old, new = getattr(before, field), getattr(now, field)
        if old is new or old == new:
            continue
        if _is_keyed(old) and _is_keyed(new):
            yield from _keyed_changes(field, old, new)
        else:
            yield ItemChange(kind="changed", field=field, value=new, before=old)


def _is_keyed(value: object) -> bool:
    """A tuple of things with a `key`, by which they keep their identity while their values change."""
    return isinstance(value, tuple) and all(hasattr(item, "key") for item in value[:1])


def _keyed_changes(field: str, old: tuple[Any, ...], new: tuple[Any, ...]) -> Iterator[ItemChange]:
    olds = {item.key: item for item in old}
    news = {item.key: item for item in new}
    for key, item in olds.items():
        if key not in news:
            yield ItemChange(kind="removed", field=field, key=key, before=item)
    for key, item in news.items():
        known = olds.get(key)
        if known is None:
            yield ItemChange(kind="added", field=field, key=key, value=item)
        elif known is not item and known != item:
            yield ItemChange(kind="changed", field=field, key=key, value=item, before=known)
