"""firewalld, asked by D-Bus and heard by its signals: its zones as they are in force and as they are stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec
import structlog

from kvmigd.errors import KvmigdError
from kvmigd.host.firewall import zones
from kvmigd.host.firewall.zones import Ports, Zone, Zones

log = structlog.get_logger(__name__)

NAME = "org.fedoraproject.FirewallD1"
PATH = "/org/fedoraproject/FirewallD1"
CONFIG_PATH = f"{PATH}/config"
BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
CALL_SECONDS = 5.0
SETTLE_SECONDS = 0.01
"""One change of firewall-cmd's is several signals."""
RETRY_SECONDS = 5.0
"""Without a system bus nothing tells when there is one."""
_NO_OWNER = "org.freedesktop.DBus.Error.NameHasNoOwner"
_UNREACHABLE = (_NO_OWNER, "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NoReply")


class Bus(Protocol):
    """What is needed of a connection to the system bus."""

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
        *,
        timeout: float | None = None,
    ) -> Any:
        """The reply, whose results are its `body`.

        Raises TimeoutError, KvmigdError without a bus, or an exception whose `name` is the error's.
        """

    async def subscribe(self, rule: str) -> None:
        """Add a match rule."""

    def add_handler(self, handler: Callable[[Any], bool]) -> None:
        """Hand incoming messages to `handler`, which answers whether it alone shall get it."""

    async def closed(self) -> None:
        """Wait until the connection ends."""

    async def close(self) -> None:
        """Close it."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of firewalld."""

    active: bool = False
    problem: str = "it has not been asked yet"
    problem_since_usec: int = 0
    runtime: Zones = Zones()
    permanent: Zones = Zones()


class _Refused(Exception):
    """It has answered with an error."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class Firewalld:
    """Keeps `known` true; `changed` is called after each change of it."""

    def __init__(
        self, connect: Callable[[], Awaitable[Bus]], changed: Callable[[], None], *, seconds: float = CALL_SECONDS
    ) -> None:
        self._connect = connect
        self._changed = changed
        self._seconds = seconds
        self._wake = asyncio.Event()
        self.known = Known()

    async def run(self) -> None:
        """Keep it true, for ever."""
        while True:
            try:
                bus = await self._connect()
            except (KvmigdError, OSError) as error:
                self._tell(Known(problem=f"firewalld cannot be asked: {error}"))
            else:
                await self._serve(bus)
                self._tell(
                    Known(problem="firewalld cannot be asked: the connection to the system message bus was lost")
                )
            await asyncio.sleep(RETRY_SECONDS)

    async def _serve(self, bus: Bus) -> None:
        """Follow firewalld until the bus goes away."""
        following = asyncio.create_task(self._follow(bus), name="firewalld-follow")
        ended = asyncio.create_task(_ended(bus), name="firewalld-bus")
        try:
            await asyncio.wait((following, ended), return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
        finally:
            for task in (following, ended):
                task.cancel()
            await asyncio.gather(following, ended, return_exceptions=True)
            await bus.close()

    async def _follow(self, bus: Bus) -> None:
        bus.add_handler(self._heard)
        try:
            await bus.subscribe(f"type='signal',sender='{NAME}'")
            await bus.subscribe(f"type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{NAME}'")
            while True:
                self._wake.clear()
                known, silent = await self._read(bus)
                self._tell(known)
                await self._wait(bus, silent)
                await asyncio.sleep(SETTLE_SECONDS)
        except (KvmigdError, TimeoutError):
            log.debug("firewalld not followed", reason="the bus does not answer")

    async def _wait(self, bus: Bus, silent: str) -> None:
        """Wait for news. One who did not answer is asked once more, and his late answer is news too."""
        woken = asyncio.create_task(self._wake.wait())
        tasks: list[asyncio.Task[Any]] = [woken]
        if silent:
            tasks.append(asyncio.create_task(self._late(bus, silent)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _late(self, bus: Bus, owner: str) -> None:
        try:
            await _call(bus, owner, PATH, NAME, "getDefaultZone", seconds=None)
        except _Refused as error:
            if error.name not in _UNREACHABLE:
                # it answers, but only ever this; its next signal is the next occasion
                await self._wake.wait()

    def _heard(self, message: Any) -> bool:
        interface, member = str(message.interface or ""), str(message.member or "")
        if interface.startswith(NAME) or (member == "NameOwnerChanged" and list(message.body or ())[:1] == [NAME]):
            self._wake.set()
        return False

    def _tell(self, known: Known) -> None:
        before = self.known
        since = before.problem_since_usec if bool(known.problem) == bool(before.problem) else 0
        known = msgspec.structs.replace(
            known, problem_since_usec=(since or time.time_ns() // 1000) if known.problem else 0
        )
        if known != before:
            self.known = known
            self._changed()

    async def _read(self, bus: Bus) -> tuple[Known, str]:
        """Everything of it, and the name of one who has not answered in time."""
        owner = ""
        try:
            # Its unique name, because a call to the other one would have the bus start it.
            (owner,) = await _call(bus, BUS, BUS_PATH, BUS, "GetNameOwner", "s", NAME, seconds=self._seconds)
            runtime = await self._runtime(bus, owner)
            permanent = await self._permanent(bus, owner, runtime)
        except TimeoutError:
            return Known(active=True, problem=f"firewalld has not answered within {self._seconds:g} s"), owner
        except _Refused as error:
            if error.name in _UNREACHABLE:
                return Known(problem=""), ""
            return Known(active=bool(owner), problem=f"firewalld does not tell its zones: {error}"), ""
        except (ValueError, TypeError, AttributeError) as error:
            log.warning("firewalld not understood", error=repr(error))
            return Known(active=bool(owner), problem="what firewalld tells is not understood"), ""
        return Known(active=True, problem="", runtime=runtime, permanent=permanent), ""

    async def _runtime(self, bus: Bus, owner: str) -> Zones:
        (default,), (active,) = await _all(
            (
                _call(bus, owner, PATH, NAME, "getDefaultZone", seconds=self._seconds),
                _call(bus, owner, PATH, f"{NAME}.zone", "getActiveZones", seconds=self._seconds),
            )
        )
        names = tuple(dict.fromkeys((str(default), *map(str, active))))

        async def settings(name: str) -> dict[str, Any]:
            (found,) = await _call(
                bus, owner, PATH, f"{NAME}.zone", "getZoneSettings2", "s", name, seconds=self._seconds
            )
            return _plain(found)

        async def service(name: str) -> dict[str, Any]:
            (found,) = await _call(bus, owner, PATH, NAME, "getServiceSettings2", "s", name, seconds=self._seconds)
            return _plain(found)

        return Zones(default=str(default), zones=await _zones(names, settings, service))

    async def _permanent(self, bus: Bus, owner: str, runtime: Zones) -> Zones:
        names = tuple(zone.name for zone in runtime.zones)

        async def stored(kind: str, name: str) -> dict[str, Any]:
            (path,) = await _call(
                bus, owner, CONFIG_PATH, f"{NAME}.config", f"get{kind}ByName", "s", name, seconds=self._seconds
            )
            interface = f"{NAME}.config.{kind.lower()}"
            (found,) = await _call(bus, owner, str(path), interface, "getSettings2", seconds=self._seconds)
            return _plain(found)

        return Zones(
            default=runtime.default,
            zones=await _zones(names, lambda name: stored("Zone", name), lambda name: stored("Service", name)),
        )


Settings = Callable[[str], Awaitable[dict[str, Any]]]


async def _zones(names: Iterable[str], settings: Settings, service: Settings) -> tuple[Zone, ...]:
    """The zones with what their services stand for. A zone that is not there (not stored) is left out."""
    names = tuple(names)
    found = await _all([_or_nothing(settings(name)) for name in names])
    services: dict[str, dict[str, Any] | None] = {}
    wanted = {str(one) for values in found if values for one in values.get("services", ())}
    while missing := sorted(wanted - services.keys()):
        for name, values in zip(missing, await _all([_or_nothing(service(one)) for one in missing]), strict=True):
            services[name] = values
            wanted |= set(map(str, (values or {}).get("includes", ())))
    ports = {name: _service_ports(name, services) for name in services}
    return tuple(
        zones.zone(name, values, ports) for name, values in zip(names, found, strict=True) if values is not None
    )


def _service_ports(name: str, services: dict[str, dict[str, Any] | None]) -> Ports | None:
    """Its TCP ports and those of the services that it includes; None if one of them is not known."""
    todo, seen, found = [name], set[str](), list[tuple[int, int]]()
    while todo:
        one = todo.pop()
        values = services.get(one)
        if values is None:
            return None
        if one not in seen:
            seen.add(one)
            found += zones.tcp_ports(values.get("ports"))
            todo += map(str, values.get("includes", ()))
    return tuple(found)


async def _or_nothing(asked: Awaitable[dict[str, Any]]) -> dict[str, Any] | None:
    try:
        return await asked
    except _Refused as error:
        if error.name in _UNREACHABLE:
            raise
        return None


async def _all(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """All results; the first failure is raised when all have ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)


async def _call(
    bus: Bus, to: str, path: str, interface: str, member: str, signature: str = "", *body: Any, seconds: float | None
) -> list[Any]:
    try:
        reply = await bus.call(to, path, interface, member, signature, body, timeout=seconds)
    except (KvmigdError, TimeoutError):
        raise
    except Exception as error:
        # The connection's own exception for an error reply belongs to a higher layer; it is known by its name.
        name = getattr(error, "name", None)
        if not isinstance(name, str):
            raise
        raise _Refused(name, str(getattr(error, "text", error))) from error
    return list(reply.body)


def _plain(settings: Any) -> dict[str, Any]:
    """A dictionary of variants as one of values."""
    return {str(key): getattr(value, "value", value) for key, value in settings.items()}


async def _ended(bus: Bus) -> None:
    try:
        await bus.closed()
    except KvmigdError:
        return
