"""The link to one configured peer: a client with a watch stream, kept up for ever, and what it tells of the peer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import aiohttp
import msgspec
import structlog

from kvmigd.config import Peer
from kvmigd.errors import CertificateInvalid, KvmigdError, PeerFailed, PeerNotTrusted, ProtocolMismatch
from kvmigd.model.host import HostFacts
from kvmigd.model.peer import PeerState, PeerView
from kvmigd.model.state import HostState
from kvmigd.peer import wire
from kvmigd.peer.client import CALL_SECONDS, PeerClient
from kvmigd.peer.identity import Credentials, translate, unreachable
from kvmigd.peer.news import News

log = structlog.get_logger(__name__)


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """The link's times, seconds."""

    silence: float = wire.SILENCE_SECONDS
    first_pause: float = 0.5
    longest_pause: float = 5.0
    steady: float = 1.0
    """A stream that lived this long is reopened without a pause."""
    ping: float = 10.0
    call: float = CALL_SECONDS


class Silence:
    """Ends a `asyncio.timeout` when nothing has been heard for too long.

    One timer that looks at a number now and then: a beat costs an assignment.
    """

    def __init__(self, limit: float, scope: asyncio.Timeout) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._scope = scope
        self.heard = self._loop.time()
        self._timer = self._arm(self.heard + limit)

    def _arm(self, when: float) -> asyncio.TimerHandle:
        return self._loop.call_at(when, self._look, when)

    def _look(self, due: float) -> None:
        now = self._loop.time()
        if self.heard + self._limit > now:
            self._timer = self._arm(self.heard + self._limit)
        elif now - due > self._limit / 4:
            # This daemon itself was late: what the peer sent meanwhile waits to be read in the next turn of the loop.
            self._timer = self._arm(now + self._limit / 4)
        else:
            self._scope.reschedule(now)

    def stop(self) -> None:
        """Count no longer."""
        self._timer.cancel()


class PeerLink(PeerClient):
    """One peer. `run` keeps `view` true; calls may be made at any time, also while the peer counts as lost."""

    def __init__(
        self,
        peer: Peer,
        credentials: Credentials,
        *,
        on_change: Callable[[str], None] | None = None,
        protocols: tuple[int, ...] = wire.PROTOCOLS,
        pace: Pace = Pace(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__(peer, credentials, protocols=protocols, call_seconds=pace.call)
        self._on_change = on_change
        self._pace = pace
        self._state = PeerState.CONNECTING
        self._problem = ""
        self._facts: HostFacts | None = None
        self._picture = HostState()
        self._silence: Silence | None = None
        self._last_seen_usec = 0
        self._told_round_trip = 0.0
        self._retry = asyncio.Event()
        self._told = asyncio.Event()

    @property
    def view(self) -> PeerView:
        """What is known of the peer now."""
        return PeerView(
            name=self.name,
            address=self.peer.host,
            state=self._state,
            problem=self._problem,
            protocol=self._protocol,
            facts=self._facts,
            picture=self._picture,
            round_trip_usec=int(self._round_trip * 1e6),
            last_seen_usec=self._seen_usec(),
        )

    def _seen_usec(self) -> int:
        if self._silence is not None:
            silent = asyncio.get_running_loop().time() - self._silence.heard
            self._last_seen_usec = time.time_ns() // 1000 - int(silent * 1e6)
        return self._last_seen_usec

    def _changed(self) -> None:
        self._told_round_trip = self._round_trip
        if self._on_change is not None:
            self._on_change(self.name)

    def _enter(self, state: PeerState, problem: str = "") -> None:
        if (state, problem) == (self._state, self._problem):
            return
        if state is not self._state:
            log.info("peer changed", peer=self.name, state=str(state), problem=problem)
        self._state, self._problem = state, problem
        self._changed()

    def retry_now(self) -> None:
        """Do not wait for the next attempt: certificates or configuration may have changed."""
        self._retry.set()

    async def run(self) -> None:
        """Keep the watch stream up, for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_watching(), name=f"peer-{self.name}-watch")
                group.create_task(self._keep_measuring(), name=f"peer-{self.name}-ping")
        finally:
            await self.close()

    async def _keep_watching(self) -> None:
        pause = 0.0
        while True:
            try:
                await self._watch()
            except ProtocolMismatch as error:
                self._enter(PeerState.INCOMPATIBLE, str(error))
            except (PeerNotTrusted, CertificateInvalid) as error:
                self._enter(PeerState.NOT_TRUSTED, str(error))
            except _SteadyEnd as error:
                self._enter(PeerState.UNREACHABLE, str(error.problem))
                pause = 0.0
                continue
            except KvmigdError as error:
                self._enter(PeerState.UNREACHABLE, str(error))
            pause = min(pause * 2, self._pace.longest_pause) or self._pace.first_pause
            self._retry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._retry.wait()

    async def _keep_measuring(self) -> None:
        while True:
            await asyncio.sleep(self._pace.ping)
            if self._state is PeerState.CONNECTED:
                with contextlib.suppress(KvmigdError):  # the watch stream decides what that means
                    await self.version()
                if not self._told_round_trip / 2 < self._round_trip < self._told_round_trip * 2:
                    self._changed()

    async def _watch(self) -> None:
        """One watch stream from beginning to end, which is always an error."""
        await self.version()
        await self.version()  # on a warm connection, for the round trip
        began = asyncio.get_running_loop().time()
        try:
            await self._follow()
        except KvmigdError as error:
            problem = error
        except TimeoutError:
            problem = unreachable(self.peer, "it has fallen silent")
        except (aiohttp.ClientError, OSError) as error:
            problem = translate(error, self.peer)
        finally:
            self._seen_usec()
            self._picture = HostState()  # of what was true there nothing is told any longer
            if self._silence is not None:
                self._silence.stop()
                self._silence = None
        if asyncio.get_running_loop().time() - began >= self._pace.steady:
            raise _SteadyEnd(problem)
        raise problem

    async def _follow(self) -> None:
        async with (
            asyncio.timeout(self._call_seconds) as scope,
            self._open_session().get(
                self._url(f"/v{self._protocol}/watch"),
                ssl=self._tls(),
                server_hostname=self.name,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as response,
        ):
            if response.status != 200:
                await self._answer(response)
            scope.reschedule(None)
            self._silence = silence = Silence(self._pace.silence, scope)
            now = asyncio.get_running_loop().time
            rest = b""
            async for part in response.content.iter_any():
                silence.heard = now()
                if part == wire.HEARTBEAT and not rest:
                    continue
                *lines, rest = (rest + part).split(b"\n")
                if max(map(len, (*lines, rest))) > wire.LINE_LIMIT:
                    raise PeerFailed(f"Peer {self.name} sends a line that is longer than {wire.LINE_LIMIT} bytes.")
                for line in filter(None, lines):
                    self._hear(self._decode(line, News))
        raise unreachable(self.peer, "it closed the connection")

    async def heard(self, generation: int, *, seconds: float = 1.0) -> PeerView:
        """The view with everything in it that the peer had told with that generation of its picture.

        A stream that is away or late is not waited for longer than `seconds`; then the view says what is known.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._state is not PeerState.CONNECTED or self._picture.generation < generation:
                    self._told.clear()
                    await self._told.wait()
        return self.view

    def _hear(self, news: News) -> None:
        known = self._facts, self._picture
        if news.facts is not None:
            self._facts = news.facts
        self._picture = news.applied(self._picture)
        self._told.set()
        if self._state is not PeerState.CONNECTED:
            self._enter(PeerState.CONNECTED)
        elif known != (self._facts, self._picture):
            self._changed()


class _SteadyEnd(Exception):
    """A stream that stood for a while has ended; worth an attempt at once."""

    def __init__(self, problem: KvmigdError) -> None:
        super().__init__(str(problem))
        self.problem = problem
