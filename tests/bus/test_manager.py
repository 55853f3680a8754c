"""The verbs on the bus: what they answer, and how each bad input is refused before anything happens."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from dbus_next.signature import Variant

from kvmigd import __version__
from kvmigd.bus import path
from kvmigd.bus.connection import CallFailed
from kvmigd.checks.catalogue import CHECKS
from kvmigd.errors import TABLE, Blocked, ConfigurationInvalid, GuestBusy, KvmigdError, PeerUnreachable
from kvmigd.model.job import CheckOptions, EvacuateOptions, MigrateOptions
from kvmigd.model.peer import PeerState
from tests.bus.conftest import world
from tests.bus.operations import BRIDGE_DOWN, OLDER_QEMU, view

pytestmark = pytest.mark.usefixtures("bus")

INVALID = "org.freedesktop.DBus.Error.InvalidArgs"
YES = Variant(signature="b", value=True)


async def test_check_tells_verdict_and_findings() -> None:
    async with world() as here:
        here.operations.findings = (BRIDGE_DOWN, OLDER_QEMU)
        verdict, findings = await here.caller.call(
            path.ROOT, path.MANAGER, "Check", "ssa{sv}", "web1", "", {"prove": Variant(signature="b", value=False)}
        )
        assert here.operations.calls == [("check", "web1", "", CheckOptions(prove=False))]
        assert verdict == "blocked"
        assert [finding[:2] for finding in findings] == [["network.bridge-up", "block"], ["software.qemu", "warn"]]
        assert {key: value.value for key, value in findings[0][3].items()} == {
            "expected": "up",
            "found": "down",
            "remedy": "ip link set br0 up",
            "subject": "br0",
            "host": "hostb",
            "basis": "proved",
            "peer": "hostb",
        }


async def test_details_that_say_nothing_are_left_out() -> None:
    async with world() as here:
        here.operations.findings = (
            msgspec.structs.replace(BRIDGE_DOWN, proved_usec=5, way="back", ways=("offline",), raw="no \0 bridge"),
        )
        _, findings = await here.caller.call(path.ROOT, path.MANAGER, "Check", "ssa{sv}", "web1", "hostb", {})
        details = findings[0][3]
        assert {name: (details[name].signature, details[name].value) for name in list(details)[7:]} == {
            "provedUSec": ("t", 5),
            "way": ("s", "back"),
            "ways": ("as", ["offline"]),
            "raw": ("s", "no \ufffd bridge"),
        }


async def test_check_all_tells_a_row_for_each_guest_and_peer() -> None:
    async with world() as here:
        here.operations.findings = (OLDER_QEMU,)
        rows = await here.caller.manager("CheckAll", "ssa{sv}", "", "", {"strict": YES})
        assert here.operations.calls == [("check_all", "", "", CheckOptions(strict=True))]
        assert [row[:3] for row in rows] == [["web1", "hostb", "degraded"], ["web1", "2nd.host", "degraded"]]
        assert [(row[3][0][0], row[3][0][3]["peer"].value) for row in rows] == [
            ("software.qemu", "hostb"),
            ("software.qemu", "2nd.host"),
        ]


async def test_every_check_is_explained() -> None:
    async with world() as here:
        checks = (await here.caller.properties(path.ROOT, path.MANAGER))["Checks"]
        assert checks == list(CHECKS)
        for check in checks:
            entry = await here.caller.manager("Explain", "sa{sv}", check, {})
            assert entry["id"].value == check
            assert {name: value.signature for name, value in entry.items()} == {
                **dict.fromkeys(("id", "severity", "title", "why", "known", "remedy"), "s"),
                "ways": "as",
                "fixed": "b",
            }
        for unknown in ("", "no.such"):
            with pytest.raises(CallFailed, match="There is no check") as caught:
                await here.caller.manager("Explain", "sa{sv}", unknown, {})
            assert caught.value.name == INVALID


async def test_check_without_findings_is_ready() -> None:
    async with world() as here:
        assert await here.caller.call(path.ROOT, path.MANAGER, "Check", "ssa{sv}", "web1", "hostb", {}) == ["ready", []]


async def test_options_reach_the_verb() -> None:
    async with world() as here:
        await here.caller.migrate(bandwidth=Variant("t", 2**53))
        await here.caller.manager("Evacuate", "a{sv}", {"shutdown": YES, "deadlineUSec": Variant("t", 5)})
        assert here.operations.calls == [
            ("migrate", "web1", "hostb", MigrateOptions(bandwidth=2**53)),
            ("evacuate", EvacuateOptions(shutdown=True, deadline_usec=5)),
        ]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (("Migrate", "ssa{sv}", "web1", "hostb", {"bandwith": Variant("t", 1)}), ["'bandwith'", "bandwidth"]),
        (("Migrate", "ssa{sv}", "web1", "hostb", {"bandwidth": Variant("s", "1")}), ["t (uint64)", "s (string)"]),
        (("Migrate", "ssa{sv}", "web1", "hostb", {"bandwidth": Variant("u", 1)}), ["t (uint64)", "found u"]),
        (("Migrate", "ssa{sv}", "web1", "hostb", {"bandwidth": YES}), ["t (uint64)", "b (boolean)"]),
        (("Migrate", "ssa{sv}", "web1", "hostb", {"bandwidth": Variant("v", YES)}), ["t (uint64)", "found v"]),
        (("Migrate", "ssa{sv}", "web1", "hostb", {"bandwidth": Variant("t", 2**20 - 1)}), ["1048575", "1 MiB/s"]),
        (("Migrate", "ssa{sv}", "web1", "hostb", {"bandwidth": Variant("t", 2**53 + 1)}), ["9007199254740993"]),
        (("Check", "ssa{sv}", "web1", "hostb", {"prove": Variant("t", 1)}), ["b (boolean)", "t (uint64)"]),
        (("Evacuate", "a{sv}", {"deadline_usec": Variant("t", 1)}), ["'deadline_usec'", "deadlineUSec, shutdown"]),
        (("SetMaintenance", "ba{sv}", YES.value, {"force": YES}), ["'force'", "takes none"]),
        (("Migrate", "ssa{sv}", "", "hostb", {}), ["No guest is named"]),
        (("Migrate", "ssa{sv}", "x" * 256, "hostb", {}), ["guest's name is longer"]),
        (("Check", "ssa{sv}", "web1", "ü" * 128, {}), ["destination's name is longer"]),
    ],
)
async def test_bad_arguments_are_named_and_neither_polkit_nor_the_verb_hears_of_them(
    call: tuple[Any, ...], words: list[str]
) -> None:
    async with world(root_is_trusted=False) as here:
        with pytest.raises(CallFailed) as caught:
            await here.caller.manager(*call)
        assert caught.value.name == INVALID
        for word in words:
            assert word in caught.value.text
        assert here.operations.calls == []
        assert here.polkit.questions == []


@pytest.mark.parametrize(
    ("guest", "destination", "name", "words"),
    [
        ("nobody", "hostb", "org.kvmigd1.Error.NoSuchGuest", ["'nobody'", "virsh list --all"]),
        ("web1", "hostz", "org.kvmigd1.Error.NoSuchPeer", ["'hostz'"]),
        ("web1", "hosta", "org.kvmigd1.Error.SameHost", ["hosta is this host itself"]),
        ("off1", "hostb", "org.kvmigd1.Error.GuestNotRunning", ["off1 is shutoff", "virsh start off1"]),
    ],
)
async def test_errors_of_the_verb_keep_their_name_and_hint(
    guest: str, destination: str, name: str, words: list[str]
) -> None:
    async with world() as here:
        with pytest.raises(CallFailed) as caught:
            await here.caller.migrate(guest, destination)
        assert caught.value.name == name
        for word in words:
            assert word in caught.value.text
        assert len(here.operations.jobs) == 0


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.wire)
async def test_every_error_has_its_name_on_the_bus(row: Any) -> None:
    async with world() as here:
        here.operations.error = row.error("What happened.", hint="Do that.")
        with pytest.raises(CallFailed) as caught:
            await here.caller.manager("Reload")
        assert (caught.value.name, caught.value.text) == (row.dbus, "What happened. Do that.")


@pytest.mark.parametrize("error", [Blocked("b"), GuestBusy("g"), PeerUnreachable("p"), ConfigurationInvalid("c")])
async def test_reload_and_evacuate_pass_errors_on(error: KvmigdError) -> None:
    async with world() as here:
        here.operations.error = error
        for call in (("Reload",), ("Evacuate", "a{sv}", {}), ("SetMaintenance", "ba{sv}", YES.value, {})):
            with pytest.raises(CallFailed, match=type(error).__name__):
                await here.caller.manager(*call)


async def test_properties_and_their_changes() -> None:
    async with world() as here:
        assert await here.caller.properties(path.ROOT, path.MANAGER) == {
            "Version": __version__,
            "HostId": "0b2c8f6e-0000-4000-8000-000000000001",
            "HostName": "hosta",
            "State": "ready",
            "Maintenance": False,
            "Readiness": "ready",
            "Stuck": [],
            "Checks": list(CHECKS),
        }
        await here.caller.manager("SetMaintenance", "ba{sv}", YES.value, {})
        changed = await here.caller.until("PropertiesChanged")
        assert changed.path == path.ROOT
        assert changed.body == [path.MANAGER, {"State": Variant("s", "maintenance"), "Maintenance": YES}, []]


async def test_peers_come_change_and_go() -> None:
    async with world() as here:
        place = path.peer_path("2nd.host")
        assert place == "/org/kvmigd1/peer/_32nd_2ehost"
        assert await here.caller.properties(place, path.PEER) == {
            "Name": "2nd.host",
            "Address": "2nd.host",
            "State": "connected",
            "Problem": "",
            "Accepting": True,
            "MemoryFree": 8 << 30,
            "HostId": "0b2c8f6e-0000-4000-8000-000000000002",
            "Version": "0.1.0",
            "RoundTripUSec": 200,
            "LastSeenUSec": 1,
        }
        here.operations.peers = (view("hostb", state=PeerState.UNREACHABLE), view("hostc"))
        for name in ("hostb", "2nd.host", "hostc"):
            here.operations.tell_peer(name)
        changed = await here.caller.until("PropertiesChanged")
        assert changed.path == path.peer_path("hostb")
        assert {key: value.value for key, value in changed.body[1].items()} == {
            "State": "unreachable",
            "Problem": "hostb does not answer.",
            "Accepting": False,
        }
        removed = await here.caller.until("InterfacesRemoved")
        assert (removed.path, removed.body) == (path.ROOT, [place, [path.PEER]])
        added = await here.caller.until("InterfacesAdded")
        assert (added.path, added.body[0]) == (path.ROOT, path.peer_path("hostc"))
        assert added.body[1][path.PEER]["State"] == Variant("s", "connected")


async def test_being_heard_alone_is_no_change_of_a_peer() -> None:
    async with world() as here:
        for seen in range(2, 50):
            here.operations.peers = (msgspec.structs.replace(view("hostb", seen=seen), round_trip_usec=seen),)
            here.operations.tell_peer("hostb")
            await here.caller.manager("CanReload")
        assert here.caller.heard == []
        assert (await here.caller.properties(path.peer_path("hostb"), path.PEER))["LastSeenUSec"] == 49
