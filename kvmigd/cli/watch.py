"""kvmigctl watch: what changes on this host, as it changes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from kvmigd.cli.client import Client
from kvmigd.cli.failure import finish
from kvmigd.cli.output import print_json, say
from kvmigd.cli.picture import clock, decode, words
from kvmigd.errors import Exit
from kvmigd.model.state import SUBJECTS, HostState

Change = dict[str, Any]

_ONE_OF = {
    "mounts": "mount",
    "filesystems": "file system",
    "devices": "device",
    "multipaths": "multipath",
    "iscsi": "iSCSI session",
    "fibre_channel": "Fibre Channel port",
    "volume_groups": "volume group",
    "lockspaces": "lockspace",
    "links": "link",
    "bridges": "bridge",
    "bonds": "bond",
    "routes": "route to",
    "ports": "ports for",
    "backends": "filter",
    "hints": "hint",
    "packages": "package",
    "guests": "guest",
    "networks": "network",
    "pools": "pool",
    "secrets": "secret",
    "hugepages": "huge pages",
    "numa": "NUMA node",
}
"""What one thing of a field is called."""

_MOST = 8
"""So many values of something new are told."""


def _plain(value: Any) -> Any:
    """As it would come in a signal: with lists for tuples."""
    return msgspec.json.decode(msgspec.json.encode(value))


class Memory:
    """What was true last, so that a change can be told as one: the signal has only what is true now."""

    def __init__(self, state: HostState) -> None:
        self._values: dict[tuple[str, str, str], Any] = {}
        for subject in SUBJECTS:
            about = state.subject(subject)
            for field in about.__struct_fields__:
                value = getattr(about, field)
                if isinstance(value, tuple) and hasattr((*value, None)[0], "key"):
                    self._values.update({(subject, field, item.key): _plain(item) for item in value})
                else:
                    self._values[subject, field, ""] = _plain(value)

    def completed(self, generation: int, subject: str, changes: list[list[str]]) -> Iterator[Change]:
        """The changes of one signal with what was before, which is None for what is new."""
        for kind, field, key, text in changes:
            value = json.loads(text) if text else None
            before = self._values.pop((subject, field, key), None)
            if kind != "removed":
                self._values[subject, field, key] = value
            yield {
                "time_usec": time.time_ns() // 1000,
                "generation": generation,
                "subject": subject,
                "kind": kind,
                "field": field,
                "key": key,
                "value": value,
                "before": before,
            }


@click.command()
@click.argument("subject", metavar="[SUBJECT]...", nargs=-1, type=click.Choice(SUBJECTS))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a change, each on a line.")
def watch(subject: tuple[str, ...], *, as_json: bool) -> None:
    """Print what changes on this host, as it changes, until Ctrl-C.

    SUBJECT is one of mounts, storage, links, firewall, system, hypervisor; all are watched if none is named.
    """
    finish(_watch(subject, as_json=as_json), as_json=as_json)


async def _watch(subjects: tuple[str, ...], *, as_json: bool) -> int:
    try:
        async with Client() as client:
            await client.listen_to_host()
            known, text = await client.describe()
            memory = Memory(decode(text))
            say(f"Watching {', '.join(subjects) or 'this host'}; Ctrl-C ends it.", err=True)
            async for generation, subject, changes in client.changes():
                # What came before the answer is in it.
                if generation > known and (not subjects or subject in subjects):
                    for change in memory.completed(generation, subject, changes):
                        print_json(change) if as_json else say(line(change))
    except asyncio.CancelledError:
        return Exit.OK
    return Exit.OK


def line(change: Change) -> str:
    """A change in a line."""
    kind, field, value, before = change["kind"], change["field"], change["value"], change["before"]
    when = f"{clock(change['time_usec'])} {change['subject']}"
    if field == "problem":
        return f"{when} {f'not known: {value}' if value else 'known'}"
    what = f"{when} {kind} {thing(change)}"
    if kind == "removed":
        return what
    if kind == "added":
        return f"{what}: {summary(value)}" if isinstance(value, dict) and summary(value) else what
    if isinstance(value, dict) and isinstance(before, dict):
        return f"{what}: {', '.join(differences(before, value))}"
    return f"{what}: {step(before, value)}"


def thing(change: Change) -> str:
    """What it is that changes: `bridge br0`."""
    field, key = change["field"], change["key"]
    about = change["value"] or change["before"] or {}
    if field == "mounts":
        key = key.partition(":")[2]
    elif field == "guests" and isinstance(about, dict):
        key = about.get("name", key)
    return f"{_ONE_OF.get(field, field)} {key}" if key else field


def summary(value: dict[str, Any]) -> str:
    """The first things that can be said of something new."""
    said = [
        f"{key} {words(item)}"
        for key, item in value.items()
        if item not in ("", [], None, False, 0, "/", "unknown")
        and key not in ("name", "point", "id", "parent")
        and not _is_long(item)
    ]
    return ", ".join(said[:_MOST])


def _is_long(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What of a thing has changed."""
    for key, value in now.items():
        if value != before.get(key):
            yield f"{key} {step(before.get(key), value)}"


def step(before: Any, now: Any) -> str:
    """From what to what; of lists, what came and went."""
    if isinstance(before, list) and isinstance(now, list):
        gone = [f"-{words(item)}" for item in before if item not in now]
        come = [f"+{words(item)}" for item in now if item not in before]
        return " ".join(gone + come) or "in another order"
    if isinstance(before, dict) and isinstance(now, dict):
        return " ".join(differences(before, now))
    return f"{words(before)} -> {words(now)}"
