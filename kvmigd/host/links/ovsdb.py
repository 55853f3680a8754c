"""Open vSwitch's bridges, from its database: JSON-RPC over a unix socket (RFC 7047), ovs-vswitchd.conf.db(5).

The database sends what is there and then every change; nothing is asked twice. There is no Open vSwitch on most hosts:
then there is no socket, and its folder is watched.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from kvmigd.host.files import Files
from kvmigd.host.links.composition import Composition, Openvswitch, is_uplink
from kvmigd.model.links import BondFact, BridgeFact, BridgePort

log = structlog.get_logger(__name__)

SOCKET = "run/openvswitch/db.sock"
ANSWER_SECONDS = 5.0
RETRY_SECONDS = 5.0
_LIMIT = 16 << 20
"""Bytes of one message: a bridge has a few hundred for each of its ports."""
_COLUMNS = {
    "Bridge": ["name", "ports", "stp_enable"],
    "Port": ["name", "interfaces", "tag", "trunks", "vlan_mode", "bond_mode", "bond_active_slave"],
    "Interface": ["name", "type", "link_state", "mtu"],
}
_TUNNELS = frozenset({"vxlan", "geneve", "gre", "stt", "lisp", "erspan", "ip6gre", "dpdk", "afxdp"})
"""Types of interfaces that lead out of the host without a link of the kernel's."""

_MARKS = re.compile(rb'\\.|["{}\[\]]', re.DOTALL)
"""What tells strings and nesting apart; a backslash takes the next byte along."""

Row = dict[str, Any]
Tables = dict[str, dict[str, Row]]
"""Rows by table and UUID."""


def request() -> bytes:
    """Ask for everything, and for all changes from then on (RFC 7047, 4.1.5)."""
    wanted = {table: {"columns": columns} for table, columns in _COLUMNS.items()}
    return json.dumps({"id": "kvmigd", "method": "monitor", "params": ["Open_vSwitch", None, wanted]}).encode()


class Stream:
    """Puts together the messages of a stream, which has nothing between them. Raises ValueError."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._looked = self._depth = 0
        self._in_text = False

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The messages that are whole now. Each byte is looked at once, and each message is parsed once."""
        self._data += data
        if len(self._data) > _LIMIT:
            raise ValueError(f"a message is longer than {_LIMIT} bytes")
        while (end := self._end()) is not None:
            try:
                message = msgspec.json.decode(memoryview(self._data)[:end])
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise ValueError(str(error)) from error
            self._data = self._data[end:]
            self._looked = 0
            if isinstance(message, dict):
                yield message

    def _end(self) -> int | None:
        """Where the first message ends: at the bracket that closes its first one, outside of all strings."""
        for found in _MARKS.finditer(self._data, self._looked):
            self._looked = found.end()
            mark = found[0]
            if self._in_text:
                self._in_text = mark != b'"'
            elif mark == b'"':
                self._in_text = True
            elif mark in b"{[":
                self._depth += 1
            elif mark in b"}]":
                self._depth -= 1
                if self._depth <= 0:
                    self._depth = 0
                    return found.end()
        return None


def updated(tables: Tables, updates: object) -> None:
    """Take in a <table-updates> (RFC 7047, 4.1.6); what is no such thing changes nothing."""
    for table, rows in _items(updates):
        for uuid, row in _items(rows):
            new = row.get("new") if isinstance(row, dict) else None
            if isinstance(new, dict):
                tables.setdefault(table, {}).setdefault(uuid, {}).update(new)
            else:
                tables.get(table, {}).pop(uuid, None)


def _items(value: object) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, dict) else ()


def elements(value: object) -> list[Any]:
    """What an OVSDB <set> holds; a single atom stands for a set of one, `["uuid", X]` for X."""
    if isinstance(value, list) and len(value) == 2 and value[0] == "set" and isinstance(value[1], list):
        return [element for item in value[1] for element in elements(item)]
    if isinstance(value, list):
        return [value[1]] if len(value) == 2 and value[0] in ("uuid", "named-uuid") else []
    return [] if value is None else [value]


def text(row: Mapping[str, Any], column: str) -> str:
    """The only string of a column; empty where there is none."""
    found = elements(row.get(column))
    return found[0] if len(found) == 1 and isinstance(found[0], str) else ""


def facts(tables: Tables, known: Composition) -> Openvswitch:
    """The bridges, with what the kernel's links say of their ports."""
    ports, interfaces = tables.get("Port", {}), tables.get("Interface", {})
    bridges, bonds = [], []
    for row in tables.get("Bridge", {}).values():
        name = text(row, "name")
        members = [ports[uuid] for uuid in elements(row.get("ports")) if isinstance(uuid, str) and uuid in ports]
        made = []
        for port in sorted(members, key=lambda port: text(port, "name")):
            parts = [
                interfaces[it] for it in elements(port.get("interfaces")) if isinstance(it, str) and it in interfaces
            ]
            if text(port, "name") != name:  # that one is the bridge itself
                made.append(_port(port, parts, known))
            if len(parts) > 1:
                bonds.append(_bond(port, parts))
        link = known.link(name)
        bridges.append(
            BridgeFact(
                name=name,
                exists=True,
                is_bridge=True,
                kind="openvswitch",
                up=link.up if link else False,
                carrier=any(port.carrier for port in made),
                mtu=link.mtu if link else 0,
                uplinks=tuple(port.name for port in made if port.uplink),
                ports=tuple(made),
                vlan_filtering=True,
                stp=row.get("stp_enable") is True,
                addresses=known.addresses(name),
            )
        )
    return Openvswitch(
        bridges=tuple(sorted(bridges, key=lambda bridge: bridge.name)),
        bonds=tuple(sorted(bonds, key=lambda bond: bond.name)),
    )


def _port(port: Row, parts: list[Row], known: Composition) -> BridgePort:
    return BridgePort(
        name=text(port, "name"),
        uplink=any(_leads_out(part, known) for part in parts),
        carrier=any(text(part, "link_state") == "up" for part in parts),
        vlans=_vlans(port),
    )


def _leads_out(part: Row, known: Composition) -> bool:
    kind = text(part, "type")
    if kind in ("", "system"):
        link = known.link(text(part, "name"))
        return link is not None and is_uplink(link)
    return kind in _TUNNELS


def _vlans(port: Row) -> tuple[str, ...]:
    """`5*` for an access port's tag, trunks as they are; an empty list of trunks means all of them."""
    tag = [f"{tag}*" for tag in elements(port.get("tag")) if type(tag) is int]
    trunks = [str(vlan) for vlan in sorted(vlan for vlan in elements(port.get("trunks")) if type(vlan) is int)]
    return tuple(tag + trunks)


def _bond(port: Row, parts: list[Row]) -> BondFact:
    up = sorted(text(part, "name") for part in parts if text(part, "link_state") == "up")
    mode = text(port, "bond_mode") or "active-backup"
    return BondFact(
        name=text(port, "name"),
        mode=mode,
        members=tuple(sorted(text(part, "name") for part in parts)),
        active=tuple(up[:1] if mode == "active-backup" else up),
    )


class Database:
    """Follows the database; `changed` is called after each change of `tables` or `problem`."""

    def __init__(self, files: Files, changed: Callable[[], None], *, root: Path = Path("/")) -> None:
        self._files = files
        self._changed = changed
        self._path = root / SOCKET
        self._appeared = asyncio.Event()
        self.tables: Tables = {}
        self.problem = ""

    async def run(self) -> None:
        """Follow it, for ever."""
        watch = self._files.watch([self._path], self._appeared.set)
        try:
            while True:
                self._appeared.clear()
                problem = await self._follow() if self._path.exists() else ""
                self._tell({}, problem)
                if not problem:
                    await self._appeared.wait()
                else:
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            watch.close()

    def _tell(self, tables: Tables, problem: str) -> None:
        news = (tables, problem) != (self.tables, self.problem) or tables is self.tables
        if problem and problem != self.problem:
            log.warning("Open vSwitch not known", problem=problem)
        self.tables, self.problem = tables, problem
        if news:
            self._changed()

    async def _follow(self) -> str:
        """Read until the end of the connection; returns why it ended."""
        tables: Tables = {}
        try:
            reader, writer = await asyncio.open_unix_connection(self._path)
        except (ConnectionRefusedError, FileNotFoundError):
            return ""  # a socket that was left behind: its server makes it anew when it starts
        except OSError as error:
            return f"Open vSwitch's database cannot be reached: {error.strerror or error}"
        try:
            writer.write(request())
            stream = Stream()
            async with asyncio.timeout(ANSWER_SECONDS) as patience:
                while data := await reader.read(1 << 16):
                    for message in stream.feed(data):
                        if message.get("method") == "echo":
                            writer.write(json.dumps(_echo(message)).encode())
                        elif message.get("id") == "kvmigd":
                            if not isinstance(message.get("result"), dict):
                                return f"Open vSwitch's database refuses to tell: {message.get('error')}"
                            updated(tables, message["result"])
                            patience.reschedule(None)
                            self._tell(tables, "")
                        elif message.get("method") == "update":
                            updated(tables, (_listed(message.get("params")) or [None])[-1])
                            self._tell(tables, "")
        except TimeoutError:
            return f"Open vSwitch's database has not answered for {ANSWER_SECONDS:g} s"
        except (OSError, ValueError) as error:
            return f"Open vSwitch's database says what cannot be understood: {error}"
        finally:
            writer.close()
        return "Open vSwitch's database has ended the connection"


def _echo(message: dict[str, Any]) -> dict[str, Any]:
    return {"id": message.get("id"), "result": message.get("params"), "error": None}


def _listed(value: object) -> list[Any]:
    """A JSON array as a list; empty for what is none."""
    return value if isinstance(value, list) else []
