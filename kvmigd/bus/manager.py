"""The root object: org.kvmigd1.Manager."""

from __future__ import annotations

from typing import Any, ClassVar

from dbus_next.signature import Variant

from kvmigd import __version__
from kvmigd.bus import path
from kvmigd.bus.authority import Authority
from kvmigd.bus.job import findings_body
from kvmigd.bus.options import parse
from kvmigd.bus.publisher import Call, Implementation
from kvmigd.errors import InvalidArguments
from kvmigd.model.job import CheckOptions, EvacuateOptions, MigrateOptions, NoOptions
from kvmigd.operations import Operations

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

    def properties(self) -> dict[str, Any]:
        operations = self._operations
        return {
            "Version": __version__,
            "HostId": operations.host_id,
            "HostName": operations.host_name,
            "State": operations.state,
            "Maintenance": operations.maintenance,
        }

    async def check(
        self, call: Call, guest: str, destination: str, options: dict[str, Variant]
    ) -> tuple[str, list[list[Any]]]:
        """Could this guest move to that peer now?"""
        wanted = parse(options, CheckOptions, method=call.member)
        self._check_names(guest, destination)
        await self._authority.require("org.kvmigd1.check", call, guest=guest, destination=destination)
        result = await self._operations.check(guest, destination, wanted)
        return str(result.verdict), findings_body(result.findings, peer=result.peer)

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
