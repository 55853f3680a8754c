"""What a peer has open here for a few seconds, known by a token."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from kvmigd.errors import AdmissionBusy, NoLease, NotAuthorised

SESSION_SECONDS = 5.0
SESSIONS_A_PEER = 4
SESSIONS_LIMIT = 16

Held = TypeVar("Held")


class _Session(NamedTuple, Generic[Held]):
    peer: str
    held: Held
    timer: asyncio.TimerHandle


class Sessions(Generic[Held]):
    """Things that peers come back to. Each ends when its time has passed, whether or not anybody came.

    `drop` is called with each when it ends.
    """

    def __init__(
        self,
        what: str,
        *,
        seconds: float = SESSION_SECONDS,
        a_peer: int = SESSIONS_A_PEER,
        limit: int = SESSIONS_LIMIT,
        drop: Callable[[Held], None] | None = None,
    ) -> None:
        self._what = what
        self._a_peer = a_peer
        self._limit = limit
        self._drop = drop
        self._seconds = seconds
        self._open: dict[str, _Session[Held]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, held: Held, *, peer: str) -> str:
        """Keep something; returns its token. Raises AdmissionBusy."""
        if sum(session.peer == peer for session in self._open.values()) >= self._a_peer:
            raise AdmissionBusy(f"{peer} has {self._a_peer} {self._what} open here.", retry_after=1.0)
        if len(self._open) >= self._limit:
            raise AdmissionBusy(f"{self._limit} {self._what} are open here.", retry_after=1.0)
        token = secrets.token_hex(16)
        timer = asyncio.get_running_loop().call_later(self._seconds, self.end, token)
        self._open[token] = _Session(peer, held, timer)
        return token

    def get(self, token: str, *, peer: str) -> Held:
        """What the token stands for. Raises NoLease when its time has passed, NotAuthorised if it is another peer's."""
        session = self._open.get(token)
        if session is None:
            raise NoLease(f"There is no such proof open here; it ends by itself after {self._seconds:g} s.")
        if session.peer != peer:
            raise NotAuthorised(f"This proof was not asked for by {peer}.")
        return session.held

    def take(self, token: str, *, peer: str) -> Held:
        """The same, and from now on it is the caller's."""
        held = self.get(token, peer=peer)
        self._open.pop(token).timer.cancel()
        return held

    def end(self, token: str) -> None:
        """End it; harmless if that has happened."""
        session = self._open.pop(token, None)
        if session is not None:
            session.timer.cancel()
            if self._drop is not None:
                self._drop(session.held)

    def close(self) -> None:
        """End everything."""
        for token in tuple(self._open):
            self.end(token)
