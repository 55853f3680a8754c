"""The daemon itself as a process of its own on a private bus: start, verbs, reload, restart, and every way to end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dbus_next.signature import Variant

from kvmigd import __version__
from kvmigd.bus import path
from kvmigd.bus.connection import CallFailed, Connection
from kvmigd.checks.catalogue import CHECKS
from tests.bus.conftest import Bus, Caller, Polkit, kvmigctl
from tests.unit import peer_lab

ROOT = Path(__file__).parents[2]
ERROR = "org.kvmigd1.Error."
STANDARD = "org.freedesktop.DBus.Error."
YES = Variant(signature="b", value=True)
GUESTS = [{"name": "web"}, {"name": "off", "state": "shutoff"}, {"name": "still", "state": "paused"}]


class Notified:
    """A notification socket, and what was said to it (sd_notify(3))."""

    def __init__(self, address: Path) -> None:
        self.address = address
        self.heard: list[str] = []
        self._news = asyncio.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)  # noqa: FBT003  # positional only
        self._socket.bind(str(address))
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _read(self) -> None:
        self.heard += self._socket.recv(65536).decode().splitlines()
        self._news.set()

    async def until(self, word: str, *, times: int = 1) -> None:
        """Wait for a notification."""
        while self.heard.count(word) < times:
            self._news.clear()
            await self._news.wait()

    def close(self) -> None:
        """Listen no longer."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


class Daemon:
    """A daemon that was started; `lines` is its standard error."""

    def __init__(self, process: asyncio.subprocess.Process, notified: Notified) -> None:
        self.process = process
        self.notified = notified
        self.lines: list[str] = []
        self._news = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode())
            self._news.set()

    async def ready(self) -> None:
        """Wait until it says that it is ready; fail if it ends before."""
        ready = asyncio.ensure_future(self.notified.until("READY=1"))
        ended = asyncio.ensure_future(self.process.wait())
        await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (ready, ended):
            task.cancel()
        assert "READY=1" in self.notified.heard, "".join(self.lines)

    async def says(self, words: str) -> str:
        """Wait for a line of its log."""
        while True:
            for line in self.lines:
                if words in line:
                    return line
            self._news.clear()
            await self._news.wait()

    async def ended(self, number: signal.Signals | None = None) -> int:
        """Send it a signal, if one is given, and wait for its end; its exit status."""
        if number is not None:
            self.process.send_signal(number)
        status = await self.process.wait()
        await self._reading
        return status

    @property
    def log(self) -> str:
        """All it said."""
        return "".join(self.lines)


class Place:
    """Configuration and state of one host."""

    def __init__(self, folder: Path, *, port: int) -> None:
        self.config = folder / "etc"
        self.state = folder / "state"
        self.port = port
        self._pki = peer_lab.installed(folder / "root", "hosta")
        (self.config / "peers.d").mkdir(parents=True)
        self.write()

    def write(self, more: str = "", *, name: str = "hosta") -> None:
        """Write kvmigd.toml."""
        pki = "\n".join(f'{key} = "{value}"' for key, value in msgspec.structs.asdict(self._pki).items())
        listen = f'[listen]\naddress = "127.0.0.1"\nport = {self.port}'
        (self.config / "kvmigd.toml").write_text(f'name = "{name}"\n{more}\n{listen}\n[pki]\n{pki}\n', "utf-8")

    def spoil(self) -> str:
        """Write what is no TOML; how the error begins."""
        file = self.config / "kvmigd.toml"
        file.write_text('name = "hosta"\n\nlog_level = = "info"\n', "utf-8")
        return f"{file}:3:13: Invalid value"

    def add_peer(self, name: str) -> None:
        """Configure a peer where nobody listens."""
        text = f'name = "{name}"\naddress = "127.0.0.1"\nport = {peer_lab.free_port()}\n'
        (self.config / f"peers.d/{name}.toml").write_text(text, "utf-8")


@pytest.fixture
def here(tmp_path: Path) -> Place:
    """This host."""
    return Place(tmp_path, port=peer_lab.free_port())


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for sockets; their paths may have 107 bytes only."""
    with tempfile.TemporaryDirectory(prefix="notify-") as folder:
        yield Path(folder)


@asynccontextmanager
async def daemon(
    place: Place, short: Path, *, environment: dict[str, str] | None = None, **hypervisor: Any
) -> AsyncIterator[Daemon]:
    """Start the daemon. It must end within the block or by SIGTERM, and never with a traceback."""
    notified = Notified(short / f"notify-{len(list(short.iterdir()))}")
    given = {name: value for name, value in os.environ.items() if name not in ("JOURNAL_STREAM", "WATCHDOG_USEC")}
    given |= {
        "NOTIFY_SOCKET": str(notified.address),
        "SIMULATED_HYPERVISOR": json.dumps({"guests": GUESTS} | hypervisor),
        **(environment or {}),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "tests.bus.simulated_daemon", str(place.config), str(place.state)),
        cwd=ROOT,
        env=given,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    started = Daemon(process, notified)
    try:
        yield started
        if process.returncode is None:
            assert await started.ended(signal.SIGTERM) == 0, started.log
        assert not re.search(r"Traceback|Exception ignored|Warning:", started.log), started.log
    finally:
        if process.returncode is None:
            process.kill()
            await started.ended()
        notified.close()


@asynccontextmanager
async def client() -> AsyncIterator[Caller]:
    """A caller, and a polkit that says yes, where tests are not run by root."""
    authority = await Connection.open()
    await Polkit.start(authority)
    caller = await Caller.start()
    try:
        yield caller
    finally:
        await caller.connection.close()
        await authority.close()


@asynccontextmanager
async def running(place: Place, short: Path, **how: Any) -> AsyncIterator[tuple[Daemon, Caller]]:
    """A daemon that is ready, and a caller."""
    async with daemon(place, short, **how) as started:
        await started.ready()
        async with client() as caller:
            yield started, caller


async def peers(caller: Caller) -> set[str]:
    """Names of the peers that are published."""
    (objects,) = await caller.call(path.ROOT, STANDARD.removesuffix("Error.") + "ObjectManager", "GetManagedObjects")
    return {parts[path.PEER]["Name"].value for parts in objects.values() if path.PEER in parts}


async def guests(caller: Caller) -> dict[str, str]:
    """Names and readiness of the guests that are published."""
    (objects,) = await caller.call(path.ROOT, STANDARD.removesuffix("Error.") + "ObjectManager", "GetManagedObjects")
    published = [parts[path.GUEST] for parts in objects.values() if path.GUEST in parts]
    return {guest["Name"].value: guest["Readiness"].value for guest in published}


async def refusal(caller: Caller, member: str, signature: str = "", *body: Any) -> tuple[str, str]:
    """The name and text of the error that a call is answered with."""
    with pytest.raises(CallFailed) as caught:
        await caller.manager(member, signature, *body)
    return caught.value.name, caught.value.text


# Start


@pytest.mark.usefixtures("bus")
async def test_whoever_sees_the_name_finds_everything(here: Place, short: Path) -> None:
    here.add_peer("hostb")
    async with client() as caller, daemon(here, short) as started:
        while not (await caller.connection.call_bus("NameHasOwner", "s", path.NAME)).body[0]:
            await asyncio.sleep(0.01)
        assert await caller.properties(path.ROOT, path.MANAGER) == {
            "Version": __version__,
            "HostId": "00000001-0000-4000-8000-000000000000",
            "HostName": "hosta",
            "State": "ready",
            "Maintenance": False,
            "Readiness": "blocked",
            "Stuck": ["still", "web"],
            "Checks": list(CHECKS),
        }
        assert await peers(caller) == {"hostb"}
        assert await guests(caller) == {"web": "unknown", "off": "", "still": "blocked"}
        await started.ready()


@pytest.mark.usefixtures("bus")
async def test_libvirt_may_come_later(here: Place, short: Path) -> None:
    async with running(here, short, alive=False) as (started, caller):
        assert (await caller.properties(path.ROOT, path.MANAGER))["State"] == "no-hypervisor"
        name, text = await refusal(caller, "Migrate", "ssa{sv}", "web", "", {})
        assert (name, "libvirt on hosta does not answer" in text) == (ERROR + "HypervisorUnavailable", True)
        await started.notified.until("STATUS=Waiting for libvirt: libvirt on hosta does not answer: simulated.")


@pytest.mark.usefixtures("bus")
async def test_systemd_is_told(here: Place, short: Path) -> None:
    async with daemon(here, short, environment={"WATCHDOG_USEC": "20000"}) as started:
        await started.ready()
        await started.notified.until("WATCHDOG=1", times=3)
        await started.notified.until("STATUS=Ready")
        assert "STOPPING=1" not in started.notified.heard
        assert await started.ended(signal.SIGTERM) == 0
        await started.notified.until("STOPPING=1")


@pytest.mark.usefixtures("bus")
async def test_a_daemon_that_is_not_watched_is_silent(here: Place, short: Path) -> None:
    async with running(here, short) as (started, caller):
        await caller.properties(path.ROOT, path.MANAGER)
        assert "WATCHDOG=1" not in started.notified.heard


@pytest.mark.usefixtures("bus")
async def test_broken_configuration_is_told_and_status_1(here: Place, short: Path) -> None:
    told = here.spoil()
    async with daemon(here, short) as started:
        assert await started.ended() == 1
        assert told in started.log
        assert "READY=1" not in started.notified.heard
        assert any(word.startswith(f"STATUS={told}") for word in started.notified.heard)


@pytest.mark.usefixtures("bus")
async def test_unusable_state_is_told_and_status_1(here: Place, short: Path) -> None:
    here.state.write_text("", "utf-8")
    async with daemon(here, short) as started:
        assert await started.ended() == 1
        assert f"{here.state}: the state directory cannot be made" in started.log


async def test_without_a_bus_it_ends_with_status_1(
    here: Place, short: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    async with daemon(here, short) as started:
        assert await started.ended() == 1
        assert "The system message bus cannot be reached" in started.log


@pytest.mark.usefixtures("bus")
async def test_two_for_one_name(here: Place, short: Path, tmp_path: Path) -> None:
    other = Place(tmp_path / "other", port=peer_lab.free_port())
    async with running(here, short) as (_, caller), daemon(other, short) as second:
        assert await second.ended() == 1
        assert "another kvmigd runs" in second.log
        assert "READY=1" not in second.notified.heard
        assert (await caller.properties(path.ROOT, path.MANAGER))["HostName"] == "hosta"


@pytest.mark.usefixtures("bus")
async def test_a_port_that_is_taken_is_told_and_stops_nothing_else(here: Place, short: Path) -> None:
    with socket.create_server(("127.0.0.1", here.port)):
        async with running(here, short) as (started, caller):
            await started.says(f"Cannot listen on 127.0.0.1 port {here.port}: Address already in use.")
            assert (await caller.properties(path.ROOT, path.MANAGER))["State"] == "ready"


# Verbs


@pytest.mark.usefixtures("bus")
@pytest.mark.parametrize("verb", ["Check", "Migrate"])
async def test_what_cannot_be_has_its_own_error_at_once(here: Place, short: Path, verb: str) -> None:
    here.add_peer("hostb")
    async with running(here, short) as (_, caller):
        for guest, peer, name, words in (
            ("web", "nobody", "NoSuchPeer", "known peers: hostb"),
            ("web", "hosta", "SameHost", "this host itself"),
        ):
            assert (await refusal(caller, verb, "ssa{sv}", guest, peer, {}))[0] == ERROR + name
            assert words in (await refusal(caller, verb, "ssa{sv}", guest, peer, {}))[1]
        assert (await refusal(caller, verb, "ssa{sv}", "nobody", "", {}))[0] == ERROR + "NoSuchGuest"
        if verb == "Migrate":
            name, text = await refusal(caller, verb, "ssa{sv}", "web", "hostb", {})
            assert name == ERROR + "PeerUnreachable"
            assert "Connection refused" in text
        else:
            verdict, findings = await caller.call(path.ROOT, path.MANAGER, verb, "ssa{sv}", "web", "hostb", {})
            assert (verdict, [finding[0] for finding in findings]) == ("unknown", ["peer.answers"])
            assert "Connection refused" in findings[0][3]["found"].value
        for signature, body in (
            ("ssa{sv}", ("web", "hostb", {"nonsense": YES})),
            ("ssa{sv}", ("", "hostb", {})),
            ("ssa{sv}", ("web", "hostb", {"bandwidth": Variant("s", "1")})),
            ("ss", ("web", "hostb")),
            ("", ()),
        ):
            assert (await refusal(caller, verb, signature, *body))[0] == STANDARD + "InvalidArgs"
        assert caller.members(at=path.ROOT).count("JobNew") == 0


@pytest.mark.usefixtures("bus")
async def test_without_proofs_it_is_answered_from_what_is_known(here: Place, short: Path) -> None:
    here.add_peer("hostb")
    known = {"prove": Variant(signature="b", value=False)}
    async with running(here, short) as (_, caller):
        for guest in ("web", "off"):
            for destination in ("hostb", ""):
                verdict, findings = await caller.call(
                    path.ROOT, path.MANAGER, "Check", "ssa{sv}", guest, destination, known
                )
                assert (verdict, [finding[0] for finding in findings]) == ("unknown", ["peer.answers"])
                assert findings[0][3]["peer"].value == "hostb"
        rows = await caller.manager("CheckAll", "ssa{sv}", "", "", {})
        assert [row[:3] for row in rows] == [["still", "hostb", "blocked"], ["web", "hostb", "unknown"]]
        assert [finding[0] for finding in rows[0][3]] == ["guest.state", "peer.answers"]


@pytest.mark.usefixtures("bus")
async def test_migrate_has_errors_for_guests_and_bandwidths(here: Place, short: Path) -> None:
    async with running(here, short) as (_, caller):
        for guest, hint in (("off", "virsh start off"), ("still", "virsh resume still")):
            name, text = await refusal(caller, "Migrate", "ssa{sv}", guest, "", {})
            assert name == ERROR + "GuestNotRunning"
            assert text.endswith(hint)
        name, text = await refusal(caller, "Migrate", "ssa{sv}", "web", "", {})
        assert (name, "no peer is configured" in text) == (ERROR + "NoDestination", True)
        for bandwidth in (1, (1 << 20) - 1, (1 << 53) + 1, (1 << 64) - 1):
            option = {"bandwidth": Variant("t", bandwidth)}
            name, text = await refusal(caller, "Migrate", "ssa{sv}", "web", "", option)
            assert name == STANDARD + "InvalidArgs"
            assert str(bandwidth) in text or "Options of Migrate" in text


@pytest.mark.usefixtures("bus")
async def test_evacuation_without_peers_says_who_stays_and_why(here: Place, short: Path) -> None:
    async with running(here, short) as (_, caller):
        job = await caller.manager("Evacuate", "a{sv}", {})
        assert await caller.call(job, path.JOB, "Wait") == ["failed"]
        shown = await caller.properties(job, path.JOB)
        assert shown["ErrorName"] == ERROR + "GuestsStayed"
        assert shown["ErrorMessage"] == "0 of 2 guests have left; still here: still, web."
        guests = (await caller.properties(job, path.EVACUATION))["Guests"]
        assert [(name, state) for name, _, state, _, _ in guests] == [("still", "failed"), ("web", "failed")]
        assert all("no peer is configured" in message for *_, message, _ in guests)
        assert (await caller.properties(path.ROOT, path.MANAGER))["State"] == "maintenance"


@pytest.mark.usefixtures("bus")
async def test_maintenance_survives_a_restart(here: Place, short: Path) -> None:
    for before, after in ((False, True), (True, True), (True, False), (False, False)):
        async with running(here, short) as (_, caller):
            assert (await caller.properties(path.ROOT, path.MANAGER))["Maintenance"] is before
            await caller.manager("SetMaintenance", "ba{sv}", after, {})
            shown = await caller.properties(path.ROOT, path.MANAGER)
            assert (shown["Maintenance"], shown["State"]) == (after, "maintenance" if after else "ready")


@pytest.mark.usefixtures("bus")
async def test_maintenance_survives_a_crash(here: Place, short: Path) -> None:
    async with running(here, short) as (started, caller):
        await caller.manager("SetMaintenance", "ba{sv}", YES.value, {})
        await started.ended(signal.SIGKILL)
    async with running(here, short) as (_, caller):
        assert (await caller.properties(path.ROOT, path.MANAGER))["Maintenance"] is True


@pytest.mark.usefixtures("bus")
async def test_kvmigctl_shows_it(here: Place, short: Path) -> None:
    here.add_peer("hostb")
    async with running(here, short):
        shown = await kvmigctl("status", "--json")
        assert shown.status == 0, shown.err
        assert "hosta" in shown.out
        failed = await kvmigctl("migrate", "web", "hosta")
        assert (failed.status, failed.err) == (1, "kvmigctl: hosta is this host itself.\n")


# Reload


@pytest.mark.usefixtures("bus")
async def test_reload_brings_and_takes_peers(here: Place, short: Path) -> None:
    here.add_peer("hostb")
    async with running(here, short) as (_, caller):
        here.add_peer("hostc")
        (here.config / "peers.d/hostb.toml").unlink()
        await caller.manager("Reload")
        assert await peers(caller) == {"hostc"}
        added, removed = await caller.until("InterfacesAdded"), await caller.until("InterfacesRemoved")
        assert (added.body[0], removed.body[0]) == (path.peer_path("hostc"), path.peer_path("hostb"))


@pytest.mark.usefixtures("bus")
async def test_reload_of_a_broken_configuration_keeps_the_old_one(here: Place, short: Path) -> None:
    here.add_peer("hostb")
    async with running(here, short) as (started, caller):
        told = here.spoil()
        name, text = await refusal(caller, "Reload")
        assert (name, text.startswith(told)) == (ERROR + "ConfigurationInvalid", True)
        assert await peers(caller) == {"hostb"}
        started.process.send_signal(signal.SIGHUP)
        assert told in await started.says("configuration not reloaded")
        assert await peers(caller) == {"hostb"}
        here.write()
        here.add_peer("hostc")
        started.process.send_signal(signal.SIGHUP)
        await caller.until("InterfacesAdded")
        assert await peers(caller) == {"hostb", "hostc"}


@pytest.mark.usefixtures("bus")
async def test_reload_moves_the_port(here: Place, short: Path) -> None:
    async with running(here, short) as (started, caller):
        before, here.port = here.port, peer_lab.free_port()
        here.write()
        await caller.manager("Reload")
        (await asyncio.open_connection("127.0.0.1", here.port))[1].close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", before)
        assert started.process.returncode is None


@pytest.mark.usefixtures("bus")
async def test_the_name_stays_until_the_restart(here: Place, short: Path) -> None:
    async with running(here, short) as (started, caller):
        here.write(name="other", more='log_level = "debug"')
        await caller.manager("Reload")
        await started.says("restart needed")
        assert (await caller.properties(path.ROOT, path.MANAGER))["HostName"] == "hosta"
        assert (await refusal(caller, "Check", "ssa{sv}", "web", "hosta", {}))[0] == ERROR + "SameHost"
    async with running(here, short) as (_, caller):
        assert (await caller.properties(path.ROOT, path.MANAGER))["HostName"] == "other"


# The end


@pytest.mark.usefixtures("bus")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly(here: Place, short: Path, number: signal.Signals) -> None:
    here.add_peer("hostb")
    async with running(here, short) as (started, caller):
        (await asyncio.open_connection("127.0.0.1", here.port))[1].close()
        assert await started.ended(number) == 0
        assert "daemon stopped" in started.log
        assert (await caller.connection.call_bus("NameHasOwner", "s", path.NAME)).body == [False]


async def test_the_end_of_the_bus_is_its_end(bus: Bus, here: Place, short: Path) -> None:
    async with daemon(here, short) as started:
        await started.ready()
        here.write()  # that files have changed is noticed while everything ends
        bus.kill()
        assert await started.ended() == 1
        assert "The connection to the system message bus was lost." in started.log
