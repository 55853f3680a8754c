"""The picture of this host on the bus: org.kvmigd1.Host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec
from dbus_next.signature import Variant

from kvmigd import __version__
from kvmigd.bus import path
from kvmigd.bus.authority import Authority
from kvmigd.bus.body import Body, Typed
from kvmigd.bus.changes import Teller
from kvmigd.bus.options import parse
from kvmigd.bus.pace import Pace
from kvmigd.bus.publisher import Call, Implementation, Large, Lazy
from kvmigd.bus.rows import Row, row, rows, unsigned, version
from kvmigd.errors import InvalidArguments
from kvmigd.host.picture import Picture
from kvmigd.model.encoding import to_json
from kvmigd.model.firewall import Firewall
from kvmigd.model.hypervisor import HypervisorState
from kvmigd.model.job import NoOptions
from kvmigd.model.state import SUBJECTS, HostState
from kvmigd.model.subject import Subject
from kvmigd.model.system import System

_BLOCK = 50
"""So many facts are made JSON at once; the largest is a guest's definition."""


class HostObject(Implementation):
    """What is true on this host. The properties are for people and programs that want one thing; Describe tells all."""

    interface: ClassVar[str] = path.HOST

    def __init__(self, picture: Picture, teller: Teller, authority: Authority) -> None:
        self._picture = picture
        self._teller = teller
        self._authority = authority

    def properties(self) -> dict[str, Any]:
        state = self._picture.state
        mounts, links, system, hypervisor = state.mounts.mounts, state.links, state.system, state.hypervisor
        return {
            "Generation": state.generation,
            "Unknown": {name: _why(state.subject(name)) for name in state.unknown},
            "Mounts": Lazy(mounts, lambda: rows(mount for mount in mounts if mount.is_storage)),
            "Filesystems": _facts(state.storage.filesystems),
            "Links": _facts(links.links),
            "Bridges": _facts(links.bridges),
            "Routes": _facts(links.routes),
            "Ports": Lazy((state.firewall.ports, state.firewall.hints), lambda: _ports(state.firewall)),
            "Firewalls": _facts(state.firewall.backends),
            "Networks": _facts(hypervisor.networks),
            "Pools": _facts(hypervisor.pools),
            "Hypervisor": _values(_hypervisor(hypervisor)),
            "Software": _values(_software(system, hypervisor)),
            "Packages": _facts(system.packages),
            "Cpu": _values(row(system.cpu)),
            "Machine": _values(_machine(system)),
            "Clock": _values(row(system.clock)),
        }

    async def describe(self, call: Call, subject: str, options: dict[str, Variant]) -> Large:
        """Everything that is known, as JSON."""
        parse(options, NoOptions, method=call.member)
        if subject and subject not in SUBJECTS:
            raise InvalidArguments(
                f"There is no subject {subject[:64]!r}; there are {', '.join(SUBJECTS)}, and an empty one for all."
            )
        await self._authority.require("org.kvmigd1.describe", call)

        async def body(pace: Pace) -> Body:
            state = await self._teller.caught_up()
            pieces = _state_json(state) if subject == "" else _subject_json(state.subject(subject))
            body = Body("ts")
            body.add("t", state.generation)
            with body.text():
                for piece in pieces:
                    body.buffer += piece
                    await pace.turn()
            return body

        return Large(body)

    async def can_describe(self, call: Call) -> str:
        """May the caller call Describe?"""
        return await self._authority.may("org.kvmigd1.describe", call)


def _why(subject: Subject) -> list[Any]:
    return [subject.since_usec, subject.problem]


def _facts(facts: tuple[msgspec.Struct, ...]) -> Lazy:
    return Lazy(facts, lambda: rows(facts))


def _values(values: Row) -> Lazy:
    return Lazy(values, lambda: values.items())


def _ports(firewall: Firewall) -> Iterator[Row]:
    """Each port with the hints for its purpose."""
    for port in firewall.ports:
        hints = [row(hint) for hint in firewall.hints if hint.purpose == port.purpose]
        yield {**row(port), "hints": Typed("aa{sv}", hints)}


def _software(system: System, hypervisor: HypervisorState) -> Row:
    return {
        "kvmigd": Typed("s", __version__),
        "libvirt": Typed("s", version(hypervisor.libvirt)),
        "qemu": Typed("s", version(hypervisor.qemu)),
        "kernel": Typed("s", system.kernel),
        **row(system.release),
        "packageManager": Typed("s", system.package_manager),
        "packagesProblem": Typed("s", system.packages_problem),
    }


def _machine(system: System) -> Row:
    post_copy = {} if system.userfaultfd is None else {"userfaultfd": Typed("b", system.userfaultfd)}
    return {
        **row(system.machine),
        "security": Typed("s", system.security),
        "memoryTotal": Typed("t", unsigned(system.memory_total)),
        "hugepages": Typed("aa{sv}", [row(pool) for pool in system.hugepages]),
        "numa": Typed("aa{sv}", [row(node) for node in system.numa]),
        "kvm": Typed("b", system.kvm.device),
        "kvmParameters": Typed("as", system.kvm.parameters),
        **post_copy,
    }


def _hypervisor(state: HypervisorState) -> Row:
    return {
        "uri": Typed("s", state.uri),
        "daemon": Typed("s", state.daemon),
        "cpuModel": Typed("s", state.cpu_model),
        "securityModels": Typed("as", state.security_models),
        "guests": Typed("t", len(state.guests)),
        "activeGuests": Typed("t", sum(guest.state.is_active for guest in state.guests)),
    }


def _state_json(state: HostState) -> Iterator[bytes]:
    """As msgspec would write it at once, in pieces."""
    yield b'{"generation":%d' % state.generation
    for name in SUBJECTS:
        yield b',"%s":' % name.encode()
        yield from _subject_json(state.subject(name))
    yield b"}"


def _subject_json(subject: Subject) -> Iterator[bytes]:
    before = b"{"
    for name in subject.__struct_fields__:
        yield b'%s"%s":' % (before, name.encode())
        before = b","
        value = getattr(subject, name)
        if isinstance(value, tuple):
            yield from _array_json(value)
        else:
            yield to_json(value)
    yield b"}"


def _array_json(items: tuple[Any, ...]) -> Iterator[bytes]:
    before = b"["
    for first in range(0, len(items), _BLOCK):
        yield before + to_json(items[first : first + _BLOCK])[1:-1]
        before = b","
    yield b"]" if items else b"[]"
