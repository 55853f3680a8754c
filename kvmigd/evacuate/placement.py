"""Which peer takes a guest."""

from __future__ import annotations

from collections.abc import Iterable

from kvmigd.model.peer import PeerView


def candidates(views: Iterable[PeerView], *, memory: int) -> tuple[str, ...]:
    """Names of the peers that could take a guest of `memory` bytes, the one with the most free memory first.

    A peer that is not connected, takes no guests or has too little memory is left out; its own admission has the
    last word about the others. Equal peers are taken by name, so that the order is always the same.
    """
    fitting = [
        (view.facts.memory_free, view.name)
        for view in views
        if view.is_connected and view.facts is not None and view.facts.accepting and view.facts.memory_free >= memory
    ]
    return tuple(name for _free, name in sorted(fitting, key=lambda pair: (-pair[0], pair[1])))


def why_none(views: Iterable[PeerView]) -> str:
    """One phrase for each peer that says why it takes nobody."""
    return "; ".join(f"{view.name}: {_why(view)}" for view in views) or "no peer is configured"


def _why(view: PeerView) -> str:
    if not view.is_connected or view.facts is None:
        return view.problem or str(view.state)
    if not view.facts.accepting:
        return view.facts.not_accepting_reason
    return f"{view.facts.memory_free >> 20} MiB of memory free"
