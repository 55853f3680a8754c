"""Disk images and the layers below them, as their headers tell."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from kvmigd.host import paths, process
from kvmigd.model.mounts import MountFact
from kvmigd.model.storage import PathFact


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer as header.py tells of it."""

    top: str
    path: str
    format: str = ""
    backing: str = ""
    data_file: str = ""
    problem: str = ""


async def chain(
    wanted: Sequence[str],
    *,
    mounts: Iterable[MountFact],
    formats: Mapping[str, str] | None = None,
    seconds: float = paths.DEADLINE_SECONDS,
) -> tuple[PathFact, ...]:
    """Each image and all layers below it, from the top down, each path once.

    `formats` says what an image is known to be, by path. One that is known to be raw is not looked into: its content is
    the guest's, and a guest can write a header there that names any file of the host.
    """
    mounts = tuple(mounts)
    known = formats or {}
    groups = paths.by_mount([path for path in wanted if known.get(path) != "raw"], mounts)
    facts, read = await asyncio.gather(
        paths.look(wanted, mounts=mounts, seconds=seconds),
        asyncio.gather(*(_read(group, known, seconds) for group in groups)),
    )
    found: dict[str, Layer] = {}
    late = False
    for layers, in_time in read:
        late = late or not in_time
        for layer in layers:
            # a circle ends with a second word on a layer, and that is the one that says so
            before = found.get(layer.path)
            found[layer.path] = msgspec.structs.replace(before, problem=layer.problem) if before else layer
    found |= {path: Layer(top=path, path=path, format="raw") for path in wanted if known.get(path) == "raw"}
    order = list(dict.fromkeys((*_in_order(wanted, found), *found)))
    tops = {fact.path: fact for fact in facts}
    lower = await paths.look([path for path in order if path not in tops], mounts=mounts, seconds=seconds)
    seen = tops | {fact.path: fact for fact in lower}
    return tuple(_with_layer(seen[path], found.get(path), seconds if late else 0.0) for path in order)


def _in_order(wanted: Sequence[str], found: Mapping[str, Layer]) -> Iterable[str]:
    for top in wanted:
        yield top
        yield from (layer.path for layer in found.values() if layer.top == top)


def below(wanted: Iterable[str], facts: Mapping[str, PathFact]) -> Iterable[PathFact]:
    """These paths and all layers below them, out of what `chain` has found; each once."""
    waiting, seen = list(wanted), set()
    while waiting:
        fact = facts.get(waiting.pop(0))
        if fact is not None and fact.path not in seen:
            seen.add(fact.path)
            yield fact
            waiting += [path for path in (fact.backing, fact.data_file) if path]


def _with_layer(fact: PathFact, layer: Layer | None, late: float) -> PathFact:
    if layer is None:
        problem = fact.problem or (f"its header could not be read within {late:.0f} s" if late else "")
        return msgspec.structs.replace(fact, problem=problem)
    return msgspec.structs.replace(
        fact,
        format=layer.format,
        backing=layer.backing,
        data_file=layer.data_file,
        problem=fact.problem or (f"its header could not be read: {layer.problem}" if layer.problem else ""),
    )


async def _read(group: Sequence[str], known: Mapping[str, str], seconds: float) -> tuple[tuple[Layer, ...], bool]:
    script = str(Path(__file__).with_name("header.py"))
    arguments = [word for path in group for word in (path, known.get(path, ""))]
    outcome = await process.run((sys.executable, "-I", "-S", script, *arguments), seconds=seconds)
    return parse(outcome.output), outcome.in_time


def parse(output: bytes) -> tuple[Layer, ...]:
    """The layers that header.py has printed; a line that was cut off is left out."""
    layers = []
    for line in output.split(b"\n"):
        try:
            # json, not msgspec: names that are not UTF-8 come with surrogates, which msgspec does not take
            layers.append(msgspec.convert(json.loads(line), Layer))
        except (ValueError, RecursionError, msgspec.ValidationError):
            continue
    return tuple(layers)
