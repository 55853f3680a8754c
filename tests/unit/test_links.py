"""Links from rtnetlink's messages: made by pyroute2, by hand, and odd ones."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import socket
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from kvmigd.config import Config, Peer
from kvmigd.host.files import Files
from kvmigd.host.links import messages, netlink, ovsdb
from kvmigd.host.links.composition import Composition, has_own_speed, is_uplink
from kvmigd.host.links.messages import Link, Port
from kvmigd.host.links.monitor import LinkMonitor
from kvmigd.host.links.rtnetlink import LinkSocket, Lost, RouteSocket, RtnetlinkFailed
from kvmigd.host.links.table import LinkTable, Touched
from kvmigd.host.picture import Picture

UP = messages.IFF_UP | messages.IFF_LOWER_UP


def link_message(index: int, name: str, *, flags: int = UP, mtu: int = 1500, attrs: Any = ()) -> bytes:
    """What the kernel would say of a link, by pyroute2's encoder."""
    made = ifinfmsg()
    made["family"], made["index"], made["flags"] = 0, index, flags
    made["header"]["type"] = netlink.NEW_LINK
    made["attrs"] = [["IFLA_IFNAME", name], ["IFLA_MTU", mtu], *attrs]
    made.encode()
    return bytes(made.data)


def applied(table: LinkTable, data: bytes) -> Touched:
    touched = Touched.NOTHING
    for message in netlink.messages(data):
        touched |= table.apply(message)
    return touched


def of_kind(kind: str, data: Any = ()) -> list[Any]:
    info: list[Any] = [["IFLA_INFO_KIND", kind]]
    if data:
        info.append(["IFLA_INFO_DATA", {"attrs": list(data)}])
    return [["IFLA_LINKINFO", {"attrs": info}]]


def table_of(*links: Link, ports: tuple[Port, ...] = ()) -> LinkTable:
    table = LinkTable()
    table.links = {link.index: link for link in links}
    table.ports = {port.index: port for port in ports}
    return table


def test_links_as_pyroute2_writes_them() -> None:
    table = LinkTable()
    bridge = of_kind("bridge", [["IFLA_BR_STP_STATE", 1], ["IFLA_BR_VLAN_FILTERING", 1]])
    assert applied(table, link_message(2, "br0", attrs=bridge)) is not Touched.NOTHING
    assert applied(table, link_message(2, "br0", attrs=bridge)) is Touched.NOTHING, "nothing is new"
    applied(table, link_message(3, "eth0", mtu=9000, attrs=[["IFLA_MASTER", 2], ["IFLA_ADDRESS", "52:54:00:00:00:01"]]))
    applied(table, link_message(4, "eth0.5", attrs=[["IFLA_LINK", 3], *of_kind("vlan", [["IFLA_VLAN_ID", 5]])]))
    address = ifaddrmsg()
    address["family"], address["prefixlen"], address["index"] = socket.AF_INET, 24, 2
    address["header"]["type"] = netlink.NEW_ADDRESS
    address["attrs"] = [["IFA_LOCAL", "192.0.2.1"], ["IFA_ADDRESS", "192.0.2.1"]]
    address.encode()
    applied(table, bytes(address.data))
    known = Composition(table, {3: 10_000})
    links = {link.name: link for link in known.links().values()}
    assert (links["eth0"].master, links["eth0"].mtu, links["eth0"].mac) == ("br0", 9000, "52:54:00:00:00:01")
    assert (links["eth0.5"].parent, links["eth0.5"].vlan, links["eth0.5"].speed) == ("eth0", 5, 10_000)
    (found,) = known.bridges()
    assert (found.name, found.up, found.carrier, found.stp, found.vlan_filtering) == ("br0", True, True, True, True)
    assert (found.uplinks, found.addresses) == (("eth0",), ("192.0.2.1/24",))
    applied(table, link_message(3, "eth0", flags=messages.IFF_UP, attrs=[["IFLA_MASTER", 2]]))
    assert not Composition(table, {}).bridges()[0].carrier
    gone = struct.pack("=IHHII", 32, netlink.DEL_LINK, 0, 0, 0) + struct.pack("=BxHiII", 0, 0, 3, 0, 0)
    applied(table, gone)
    assert Composition(table, {}).bridges()[0].uplinks == ()


def port_message(index: int, vlans: bytes, *, master: int = 2) -> bytes:
    """A port of a bridge, AF_BRIDGE."""
    body = struct.pack("=BxHiII", netlink.AF_BRIDGE, 0, index, UP, 0)
    body += netlink.attribute(10, struct.pack("=I", master))
    body += netlink.attribute(12 | 0x8000, netlink.attribute(1, b"\3"))
    body += netlink.attribute(26, vlans)
    return struct.pack("=IHHII", 16 + len(body), netlink.NEW_LINK, 0, 0, 0) + body


def vlan(flags: int, number: int) -> bytes:
    return netlink.attribute(2, struct.pack("=HH", flags, number))


def test_vlans_of_ports() -> None:
    table = table_of(Link(index=2, name="br0", kind="bridge", flags=UP), Link(index=3, name="e", flags=UP, master=2))
    applied(table, port_message(3, vlan(0x6, 1) + vlan(0x8, 100) + vlan(0x10, 200)))
    (port,) = Composition(table, {}).bridges()[0].ports
    assert (port.state, port.vlans) == ("forwarding", ("1*", "100-200"))
    entry = netlink.attribute(1, struct.pack("=HH", 0, 150)) + netlink.attribute(2, struct.pack("=H", 160))
    body = struct.pack("=BxxxI", netlink.AF_BRIDGE, 3) + netlink.attribute(1, entry)
    table.apply(netlink.Message(netlink.DEL_VLAN, 0, 0, body))
    assert Composition(table, {}).bridges()[0].ports[0].vlans == ("1*", "100-149", "161-200")
    table.apply(netlink.Message(netlink.NEW_VLAN, 0, 0, body))
    assert Composition(table, {}).bridges()[0].ports[0].vlans == ("1*", "100-200")


ranges = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)), max_size=8).map(
    lambda pairs: tuple((first, first + more, False) for first, more in pairs)
)


def expanded(vlans: messages.Vlans) -> set[int]:
    return {number for first, last, _ in vlans for number in range(first, last + 1)}


@given(ranges, ranges)
def test_ranges_of_vlans_are_sets(some: messages.Vlans, others: messages.Vlans) -> None:
    base = messages.with_vlans((), some)
    assert expanded(base) == expanded(some)
    assert expanded(messages.with_vlans(base, others)) == expanded(some) | expanded(others)
    assert expanded(messages.without_vlans(base, others)) == expanded(some) - expanded(others)
    for (_, last, plain), (first, _, other) in itertools.pairwise(base):
        assert last + 1 < first or (last < first and plain != other), "sorted, apart, and as few as possible"


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    table = LinkTable()
    for message in netlink.messages(data):
        table.apply(message)
    for kind in (*range(16, 34), netlink.NEW_VLAN, netlink.DEL_VLAN):
        table.apply(netlink.Message(kind, 0, 0, data))
    messages.parse_route(data)
    known = Composition(table, {})
    known.links()
    known.bridges()
    known.bonds()


def test_uplinks() -> None:
    def port(name: str, kind: str = "", **more: Any) -> Link:
        return Link(index=1, name=name, kind=kind, **more)

    for uplink in (port("eth0"), port("bond0", "bond"), port("gst0", "veth", elsewhere=True), port("vx", "vxlan")):
        assert is_uplink(uplink), uplink.name
    for inner in (port("vnet0", "tun"), port("mv", "macvtap"), port("veth12ab", "veth", elsewhere=True)):
        assert not is_uplink(inner), inner.name


def test_speed_of_what_links_stand_on() -> None:
    table = table_of(
        Link(index=1, name="br0", kind="bridge", flags=UP),
        Link(index=2, name="bond0", kind="bond", flags=UP, master=1, bond_mode="802.3ad"),
        Link(index=3, name="eth0", flags=UP, master=2, member_active=True),
        Link(index=4, name="eth1", flags=UP, master=2, member_active=True),
        Link(index=5, name="vnet0", kind="tun", flags=UP, master=1),
        Link(index=6, name="br0.7", kind="vlan", flags=UP, below=1, vlan=7),
        Link(index=7, name="loop", kind="vlan", flags=UP, below=8),
        Link(index=8, name="pool", kind="vlan", flags=UP, below=7),
    )
    known = Composition(table, {3: 10_000, 4: 10_000, 5: 10})
    assert [known.speed(index) for index in (1, 2, 6, 7)] == [20_000, 20_000, 20_000, 0]
    assert Composition(table, {3: 10_000}).speed(1) == 0, "a member of unknown speed makes the sum unknown"
    table.links[2] = msgspec.structs.replace(table.links[2], bond_mode="active-backup", bond_active=4)
    assert Composition(table, {3: 10_000, 4: 1_000}).speed(6) == 1_000
    (bond,) = known.bonds()
    assert (bond.mode, bond.members, bond.active) == ("active-backup", ("eth0", "eth1"), ("eth1",))
    assert [link.name for link in table.links.values() if has_own_speed(link)] == ["eth0", "eth1"]


def test_facts_that_stay_are_the_same_objects() -> None:
    table = table_of(Link(index=1, name="a", flags=UP), Link(index=2, name="b", flags=UP))
    before = Composition(table, {}).links()
    table.links[2] = msgspec.structs.replace(table.links[2], mtu=9000)
    after = Composition(table, {}, before=before).links()
    assert after[1] is before[1]
    assert after[2] != before[2]


# The monitor, on a kernel that is made up


class FakeLinks:
    """A LinkSocket whose kernel is a list; `tell` makes it readable."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)  # noqa: FBT003
        self.links: list[Link] = [Link(index=1, name="lo", flags=UP)]
        self.loads = 0
        self.failure: Exception | None = None
        self.news: list[Link | Exception] = []

    def fileno(self) -> int:
        return self.ours.fileno()

    def close(self) -> None:
        """Keep it open: the monitor opens the same one again."""

    def load(self) -> LinkTable:
        self.loads += 1
        if self.failure:
            raise self.failure
        return table_of(*self.links)

    def tell(self, news: Link | Exception) -> None:
        self.news.append(news)
        self.theirs.send(b"x")

    def read(self, table: LinkTable) -> Touched:
        self.ours.recv(1)
        news = self.news.pop(0)
        if isinstance(news, Exception):
            raise news
        table.links[news.index] = news
        return Touched.LINKS


class NoRoutes:
    """A RouteSocket that knows no way."""

    def ask(self, _address: str) -> messages.Route:
        raise RtnetlinkFailed("Network is unreachable")

    def close(self) -> None:
        """Nothing to close."""


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_changes_losses_and_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmigd.host.links.monitor.RETRY_SECONDS", (0.01, 0.02))
    kernel = FakeLinks()
    picture = Picture()

    def names() -> list[str]:
        return [link.name for link in picture.state.links.links]

    async def run() -> None:
        async with Files() as files, asyncio.TaskGroup() as group:
            config = Config(name="a", directory=tmp_path, peers={"b": Peer(name="b", address="192.0.2.7")})
            monitor = LinkMonitor(
                picture,
                files,
                config,
                root=tmp_path,
                make_links=lambda: kernel,  # type: ignore[arg-type, return-value]
                make_routes=NoRoutes,  # type: ignore[arg-type]
            )
            task = group.create_task(monitor.run())
            await until(lambda: names() == ["lo"])
            await until(lambda: [route.peer for route in picture.state.links.routes] == ["b"])
            assert "no way to 192.0.2.7: Network is unreachable" in picture.state.links.routes[0].problem
            kernel.tell(Link(index=2, name="br0", kind="bridge", flags=UP))
            await until(lambda: names() == ["lo", "br0"])
            # Changes were lost: everything is read again.
            kernel.links = [Link(index=3, name="eth0", flags=UP)]
            kernel.tell(Lost())
            await until(lambda: names() == ["eth0"])
            assert kernel.loads == 2
            # The kernel fails: nothing old is told, and it is tried again.
            kernel.failure = RtnetlinkFailed("the kernel does not list its links: no answer for 2 s")
            kernel.tell(RtnetlinkFailed("the kernel tells of links no longer"))
            await until(lambda: picture.state.links.problem == str(kernel.failure))
            assert picture.state.links.links == ()
            kernel.failure = None
            await until(lambda: names() == ["eth0"])
            monitor.apply(Config(name="a", directory=tmp_path))
            await until(lambda: picture.state.links.routes == ())
            task.cancel()

    asyncio.run(run())
    kernel.ours.close()
    kernel.theirs.close()


class Overrun:
    """A socket whose buffer has overrun."""

    def __init__(self) -> None:
        self.real = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.overruns = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def recvfrom_into(self, *arguments: Any) -> Any:
        if self.overruns:
            self.overruns -= 1
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return self.real.recvfrom_into(*arguments)


def test_the_real_kernel_and_an_overrun() -> None:
    overrun = Overrun()
    links = LinkSocket(lambda: overrun)  # type: ignore[arg-type, return-value]
    overrun.overruns = 1
    table = links.load()  # the first dump is lost and repeated
    assert "lo" in [link.name for link in table.links.values()]
    assert links.read(table) is Touched.NOTHING
    overrun.overruns = 1
    with pytest.raises(Lost):
        links.read(table)
    links.close()
    routes = RouteSocket()
    known = Composition(table, {})
    assert known.name(routes.ask("127.0.0.1").link) == "lo"
    with pytest.raises(RtnetlinkFailed):
        routes.ask("no address")
    routes.close()


# Open vSwitch

TABLES = {
    "Bridge": {"b1": {"new": {"name": "ovs0", "ports": ["set", [["uuid", "p0"], ["uuid", "p1"], ["uuid", "p2"]]]}}},
    "Port": {
        "p0": {"new": {"name": "ovs0", "interfaces": ["uuid", "i0"]}},
        "p1": {"new": {"name": "eth0", "interfaces": ["uuid", "i1"], "trunks": ["set", [10, 20]]}},
        "p2": {"new": {"name": "vnet0", "interfaces": ["uuid", "i2"], "tag": 5}},
    },
    "Interface": {
        "i0": {"new": {"name": "ovs0", "type": "internal", "link_state": "up"}},
        "i1": {"new": {"name": "eth0", "type": "", "link_state": "up"}},
        "i2": {"new": {"name": "vnet0", "type": "", "link_state": "up"}},
    },
}
KERNEL = Composition(
    table_of(
        Link(index=1, name="ovs0", kind="openvswitch", flags=UP, mtu=1500),
        Link(index=2, name="eth0", flags=UP),
        Link(index=3, name="vnet0", kind="tun", flags=UP),
    ),
    {},
)


def test_bridges_of_open_vswitch() -> None:
    tables: ovsdb.Tables = {}
    ovsdb.updated(tables, TABLES)
    (bridge,) = ovsdb.facts(tables, KERNEL).bridges
    assert (bridge.name, bridge.kind, bridge.up, bridge.carrier, bridge.mtu) == (
        "ovs0",
        "openvswitch",
        True,
        True,
        1500,
    )
    assert bridge.uplinks == ("eth0",)
    assert {port.name: port.vlans for port in bridge.ports} == {"eth0": ("10", "20"), "vnet0": ("5*",)}
    ovsdb.updated(tables, {"Port": {"p2": {"old": {}}}, "Bridge": {"b1": {"new": {"ports": ["uuid", "p1"]}}}})
    assert [port.name for port in ovsdb.facts(tables, KERNEL).bridges[0].ports] == ["eth0"]


def test_bonds_of_open_vswitch() -> None:
    tables: ovsdb.Tables = {}
    ovsdb.updated(tables, TABLES)
    ovsdb.updated(tables, {"Port": {"p1": {"new": {"interfaces": ["set", [["uuid", "i1"], ["uuid", "i2"]]]}}}})
    (bond,) = ovsdb.facts(tables, KERNEL).bonds
    assert (bond.name, bond.members, bond.active) == ("eth0", ("eth0", "vnet0"), ("eth0",))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["set", "uuid", "new", "old"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["new", "name", "ports", "i0"]), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["Bridge", "Port", "Interface", "Other"]), values), values)
def test_odd_updates_of_open_vswitch_never_raise(updates: Any, more: Any) -> None:
    tables: ovsdb.Tables = {}
    ovsdb.updated(tables, TABLES)
    ovsdb.updated(tables, updates)
    ovsdb.updated(tables, more)
    ovsdb.facts(tables, KERNEL)


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=9)), max_size=4), st.integers(1, 7))
def test_messages_in_pieces(sent: list[dict[str, str]], size: int) -> None:
    data = b" ".join(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") for message in sent)
    sent = [json.loads(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")) for message in sent]
    stream = ovsdb.Stream()
    heard = [message for at in range(0, len(data), size) for message in stream.feed(data[at : at + size])]
    assert heard == sent


@given(st.binary(max_size=80))
def test_odd_streams_are_errors_of_one_kind(data: bytes) -> None:
    try:
        list(ovsdb.Stream().feed(data))
    except ValueError:
        pass
    except Exception:
        pytest.fail("another exception")


def test_a_database_that_comes_answers_goes_and_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ovsdb, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(ovsdb, "RETRY_SECONDS", 0.01)
    path = tmp_path / ovsdb.SOCKET
    silent = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.read(1 << 16))
        if not silent:
            writer.write(json.dumps({"id": asked["id"], "result": TABLES, "error": None}).encode())
            writer.write(b'{"id": "e", "method": "echo", "params": []}')
            answer = json.loads(await reader.read(1 << 16))
            assert answer == {"id": "e", "result": [], "error": None}
            change = {"Bridge": {"b1": {"new": {"name": "ovs1"}}}}
            writer.write(json.dumps({"id": None, "method": "update", "params": [None, change]}).encode())
        await reader.read()
        writer.close()

    async def run() -> None:
        nonlocal silent
        async with Files() as files, asyncio.TaskGroup() as group:
            database = ovsdb.Database(files, lambda: None, root=tmp_path)
            task = group.create_task(database.run())
            await asyncio.sleep(0.05)
            assert (database.tables, database.problem) == ({}, "")
            path.parent.mkdir(parents=True)
            server = await asyncio.start_unix_server(serve, path)
            await until(lambda: database.tables.get("Bridge", {}).get("b1", {}).get("name") == "ovs1")
            task.cancel()
            silent = True
            hanging = ovsdb.Database(files, lambda: None, root=tmp_path)
            task = group.create_task(hanging.run())
            await until(lambda: "has not answered" in hanging.problem)
            assert hanging.tables == {}
            task.cancel()
            server.close()

    asyncio.run(run())
