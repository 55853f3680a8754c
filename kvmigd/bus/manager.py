"""The root object: org.kvmigd1.Manager."""

from __future__ import annotations

from typing import Any, ClassVar

from dbus_next.signature import Variant

from kvmigd import __version__
from kvmigd.bus import path
from kvmigd.bus.authority import Authority
from kvmigd.bus.body import Body, Typed
from kvmigd.bus.findings import findings_rows
from kvmigd.bus.options import parse
from kvmigd.bus.pace import Pace
from kvmigd.bus.publisher import Call, Implementation, Large
from kvmigd.checks import catalogue
from kvmigd.errors import InvalidArguments
from kvmigd.model.job import CheckOptions, EvacuateOptions, MigrateOptions, NoOptions
from kvmigd.model.readiness import CheckResult
from kvmigd.operations import Operations

ANSWERS_KEPT = 256
"""Answers of Check that are kept; a few KiB each."""
NAME_LIMIT = 255
"""Longest name taken: libvirt keeps a guest in a file of its name, and a peer's name is a host name."""


def _checked(what: str, name: str) -> None:
    """Names go into log entries, dialogs and messages to peers; no host or guest has one that is longer."""
    if len(name.encode()) > NAME_LIMIT:
        raise InvalidArguments(f"The {what}'s name is longer than {NAME_LIMIT} bytes.")


class Manager(Implementation):
    """The verbs. Each checks its arguments, then asks polkit, then does it."""

    interface: ClassVar[str] = path.MANAGER

    def __init__(self, operations: Operations, authority: Authority) -> None:
        self._operations = operations
        self._authority = authority
        self._answers: dict[tuple[int, ...], tuple[tuple[CheckResult, ...], Body]] = {}

    def properties(self) -> dict[str, Any]:
        operations = self._operations
        return {
            "Version": __version__,
            "HostId": operations.host_id,
            "HostName": operations.host_name,
            "State": operations.state,
            "Maintenance": operations.maintenance,
            "Readiness": str(operations.readiness),
            "Stuck": list(operations.stuck),
            "Checks": list(catalogue.CHECKS),
        }

    async def check(self, call: Call, guest: str, destination: str, options: dict[str, Variant]) -> Body:
        """Could this guest move to that peer now?"""
        wanted = parse(options, CheckOptions, method=call.member)
        self._check_names(guest, destination)
        await self._authority.require("org.kvmigd1.check", call, guest=guest, destination=destination)
        return self._answered(await self._operations.check(guest, destination, wanted))

    def _answered(self, results: tuple[CheckResult, ...]) -> Body:
        """The answer of Check. As long as nothing changes the results are the same objects, and so is the answer."""
        key = tuple(map(id, results))
        known = self._answers.pop(key, None)
        if known is None:
            body = Body("sa(sssa{sv})")
            body.add("s", results[0].verdict)
            rows = [row for result in results for row in findings_rows(result.findings, peer=result.peer)]
            body.add("a(sssa{sv})", rows)
            known = results, body
            if len(self._answers) >= ANSWERS_KEPT:
                del self._answers[next(iter(self._answers))]
        self._answers[key] = known
        return known[1]

    async def check_all(self, call: Call, guest: str, destination: str, options: dict[str, Variant]) -> Large:
        """Could they all move?"""
        wanted = parse(options, CheckOptions, method=call.member)
        _checked("guest", guest)
        _checked("destination", destination)
        await self._authority.require("org.kvmigd1.check", call, guest=guest, destination=destination)
        results = await self._operations.check_all(guest, destination, wanted)

        async def body(pace: Pace) -> Body:
            body = Body("a(sssa(sssa{sv}))")
            rows = ([it.guest, it.peer, it.verdict, findings_rows(it.findings, peer=it.peer)] for it in results)
            await body.add_paced(body.signature, rows, pace)
            return body

        return Large(body)

    async def explain(self, call: Call, check: str, options: dict[str, Variant]) -> Body:
        """What a check is about."""
        parse(options, NoOptions, method=call.member)
        if check not in catalogue.CHECKS:
            raise InvalidArguments(
                f"There is no check {check[:64]!r}.", hint="The property Checks has the ids of all checks."
            )
        await self._authority.require("org.kvmigd1.describe", call)
        signatures = {bool: "b", list: "as", str: "s"}
        entry = catalogue.as_row(catalogue.explain(check))
        body = Body("a{sv}")
        body.add("a{sv}", {name: Typed(signatures[type(value)], value) for name, value in entry.items()})
        return body

    async def migrate(self, call: Call, guest: str, destination: str, options: dict[str, Variant]) -> str:
        """Start a migration."""
        wanted = parse(options, MigrateOptions, method=call.member)
        self._check_names(guest, destination)
        await self._authority.require("org.kvmigd1.migrate", call, guest=guest, destination=destination)
        return path.job_path((await self._operations.migrate(guest, destination, wanted)).number)

    async def evacuate(self, call: Call, options: dict[str, Variant]) -> str:
        """Start to empty the host."""
        wanted = parse(options, EvacuateOptions, method=call.member)
        await self._authority.require("org.kvmigd1.evacuate", call)
        return path.job_path((await self._operations.evacuate(wanted)).number)

    async def set_maintenance(self, call: Call, on: bool, options: dict[str, Variant]) -> None:
        """Switch maintenance on or off."""
        parse(options, NoOptions, method=call.member)
        await self._authority.require("org.kvmigd1.set-maintenance", call, on="yes" if on else "no")
        await self._operations.set_maintenance(on=on)

    async def reload(self, call: Call) -> None:
        """Read the configuration again."""
        await self._authority.require("org.kvmigd1.reload", call)
        await self._operations.reload()

    async def can_check(self, call: Call) -> str:
        """May the caller call Check?"""
        return await self._authority.may("org.kvmigd1.check", call)

    async def can_check_all(self, call: Call) -> str:
        """May the caller call CheckAll?"""
        return await self._authority.may("org.kvmigd1.check", call)

    async def can_explain(self, call: Call) -> str:
        """May the caller call Explain?"""
        return await self._authority.may("org.kvmigd1.describe", call)

    async def can_migrate(self, call: Call) -> str:
        """May the caller call Migrate?"""
        return await self._authority.may("org.kvmigd1.migrate", call)

    async def can_evacuate(self, call: Call) -> str:
        """May the caller call Evacuate?"""
        return await self._authority.may("org.kvmigd1.evacuate", call)

    async def can_set_maintenance(self, call: Call) -> str:
        """May the caller call SetMaintenance?"""
        return await self._authority.may("org.kvmigd1.set-maintenance", call)

    async def can_reload(self, call: Call) -> str:
        """May the caller call Reload?"""
        return await self._authority.may("org.kvmigd1.reload", call)

    @staticmethod
    def _check_names(guest: str, destination: str) -> None:
        if not guest:
            raise InvalidArguments("No guest is named.", hint="Guests are named by name or UUID.")
        _checked("guest", guest)
        _checked("destination", destination)
