"""Check from warm state against Ping: run by tests.bench.check in namespaces of its own, prints one line of JSON.

The daemon is a process of its own on a private bus, with real monitors and a simulated hypervisor. The peers are real
servers of another process on loopback, with pictures and answers that are made up. All mounts and rules are real.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from dbus_next.signature import Variant

from kvmigd import __version__
from kvmigd.bus import path
from kvmigd.bus.connection import Connection
from kvmigd.config import Listen, Peer
from kvmigd.model.firewall import Firewall
from kvmigd.model.guest import Guest
from kvmigd.model.host import CpuFact, Examination, HostFacts, Look, ResolvedName
from kvmigd.model.hypervisor import HypervisorState
from kvmigd.model.links import BridgeFact, Links
from kvmigd.model.mounts import MountFact, Mounts
from kvmigd.model.storage import PathFact, Storage
from kvmigd.model.system import Release, Software, System
from kvmigd.peer.server import PeerServer
from tests.bench.report import median, percentile
from tests.bus.conftest import Bus
from tests.unit import peer_lab

GUESTS = int(os.environ.get("GUESTS", "200"))
PEERS = int(os.environ.get("PEERS", "16"))
MOUNTS = int(os.environ.get("MOUNTS", "1000"))
RULES = int(os.environ.get("RULES", "10000"))
CALLS = int(os.environ.get("CALLS", "1000"))
ROOT = Path(__file__).parents[2]
FIRST_PORT = 24100
LIBVIRT_PORT = 16514
PLACE = "/run/kvmigd-bench"


# The peers


def _release() -> Release:
    """This machine's, which is the daemon's too."""
    lines = Path("/etc/os-release").read_text("utf-8").splitlines()
    told = {name.lower(): value.strip('"') for name, _, value in (line.partition("=") for line in lines)}
    return Release(**{name: told.get(name, "") for name in Release.__struct_fields__})


class MadeUpPeer(peer_lab.MadeUpHost):
    """A peer that has what every guest needs."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__()
        self.facts = HostFacts(
            name=name,
            host_id=f"{number:08d}-2222-4000-8000-000000000000",
            hypervisor_alive=True,
            accepting=True,
            memory_total=1 << 40,
            memory_free=1 << 40,
            software=Software(
                kvmigd=__version__,
                kernel=os.uname().release,
                release=_release(),
                libvirt=9_000_000,  # as the simulated hypervisor's
                qemu=7_002_000,
            ),
        )
        bridge = BridgeFact(name="br0", exists=True, is_bridge=True, kind="linux", up=True, mtu=1500)
        for subject in (
            Mounts(problem="", mounts=(MountFact(point="/", fs_type="ext4", source="/dev/vda1"),)),
            Storage(problem=""),
            Links(problem="", bridges=(bridge,)),
            Firewall(problem=""),
            System(problem="", kernel=self.facts.software.kernel, release=self.facts.software.release),
            HypervisorState(problem="", host_name=name, libvirt=9_000_000, qemu=7_002_000),
        ):
            self.picture.publish(subject)

    async def examine(self, guests: Sequence[Guest], other: str, *, uri: str = "") -> Examination:
        now = time.time_ns() // 1000
        mount = MountFact(point=PLACE, fs_type="nfs4", source="nas:/guests", shared=True)
        looks = tuple(
            Look(
                guest=guest.uuid,
                paths=tuple(PathFact(path=each, exists=True, mount=mount) for each in guest.local_paths),
                cpu=CpuFact(compatible=True),
                taken_usec=now,
            )
            for guest in guests
        )
        return Examination(facts=self.facts, looks=looks, other=ResolvedName(name=other, addresses=("192.0.2.1",)))


async def serve(folder: Path) -> None:
    """All peers, until this process is ended."""
    async with asyncio.TaskGroup() as group:
        await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", LIBVIRT_PORT)
        for number in range(1, PEERS + 1):
            name = f"peer{number}"
            config = msgspec.structs.replace(
                peer_lab.config(folder, name=name, pki=peer_lab.pki_below(folder / name), peers=(Peer(name="hosta"),)),
                listen=Listen(address="127.0.0.1", port=FIRST_PORT + number),
            )
            await PeerServer(config, MadeUpPeer(name, number), group=group).__aenter__()
        print("serving", flush=True)


# The host


def burden() -> None:
    """Mounts, rules, a bridge, and names of the peers. It is gone with the namespaces."""

    def sh(script: str, *arguments: str) -> None:
        subprocess.run(["sh", "-ec", script, "sh", *arguments], check=True, stdout=subprocess.DEVNULL)

    sh("ip link set lo up; ip link add br0 type bridge; ip link set br0 up")
    sh('mkdir -p "$1"; mount -t tmpfs bench "$1"', PLACE)
    names = "".join(f"198.51.100.{number} peer{number}\n" for number in range(1, PEERS + 1))
    Path(f"{PLACE}/hosts").write_text(f"127.0.0.1 localhost\n{names}", "utf-8")
    sh('mount --bind "$1/hosts" /etc/hosts', PLACE)
    sh('for n in $(seq "$2"); do mkdir "$1/m$n"; mount -t tmpfs -o size=4k b "$1/m$n"; done', PLACE, str(MOUNTS))
    chain = "add table inet bench\nadd chain inet bench forward { type filter hook forward priority 0; }\n"
    places = (f"198.18.{number // 250 % 250}.{number % 250} tcp dport {number % 60000 + 1}" for number in range(RULES))
    text = chain + "".join(f"add rule inet bench forward ip saddr {place} drop\n" for place in places)
    subprocess.run(["nft", "--file", "-"], input=text.encode(), check=True, timeout=120)


def configure(folder: Path) -> tuple[Path, Path]:
    """Certificates for all, and the host's configuration; its folders."""
    for number in range(1, PEERS + 1):
        peer_lab.installed(folder / f"peer{number}", f"peer{number}")
    pki = peer_lab.installed(folder / "hosta", "hosta")
    config = folder / "etc"
    (config / "peers.d").mkdir(parents=True)
    places = "\n".join(f'{key} = "{value}"' for key, value in msgspec.structs.asdict(pki).items())
    listen = f'[listen]\naddress = "127.0.0.1"\nport = {FIRST_PORT}'
    (config / "kvmigd.toml").write_text(f'name = "hosta"\n{listen}\n[pki]\n{places}\n', "utf-8")
    for number in range(1, PEERS + 1):
        text = f'name = "peer{number}"\naddress = "127.0.0.1"\nport = {FIRST_PORT + number}\n'
        text += 'libvirt_uri = "qemu+tls://127.0.0.1/system"\n'
        (config / f"peers.d/peer{number}.toml").write_text(text, "utf-8")
    return config, folder / "state"


class Client:
    """A client that times its calls."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def call(self, interface: str, member: str, signature: str = "", *body: Any) -> list[Any]:
        """Call the root object."""
        return list((await self.connection.call(path.NAME, path.ROOT, interface, member, signature, body)).body)

    async def check(self, guest: str, peer: str) -> list[Any]:
        """Check from what is known."""
        return await self.call(path.MANAGER, "Check", "ssa{sv}", guest, peer, {"prove": Variant("b", False)})  # noqa: FBT003

    async def ping(self) -> None:
        """org.freedesktop.DBus.Peer.Ping."""
        await self.call("org.freedesktop.DBus.Peer", "Ping")

    async def settled(self) -> None:
        """Wait until both hosts have looked at each guest."""
        async with asyncio.timeout(120):
            while True:
                try:
                    (rows,) = await self.call(
                        path.MANAGER,
                        "CheckAll",
                        "ssa{sv}",
                        "",
                        "",
                        {"prove": Variant("b", False)},  # noqa: FBT003
                    )
                except Exception:  # it is being started
                    rows = []
                if len(rows) == GUESTS * PEERS and all(row[2] != "unknown" for row in rows):
                    return
                await asyncio.sleep(1)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(daemon: int) -> dict[str, Any]:
    """Both calls in turn."""
    client = Client(await Connection.open())
    await client.settled()
    await asyncio.sleep(10)
    checks: list[float] = []
    pings: list[float] = []
    everywhere: list[float] = []
    findings = 0
    for number in range(CALLS + 50):
        guest, peer = f"guest{number % GUESTS + 1}", f"peer{number % PEERS + 1}"
        began = time.perf_counter()
        _verdict, found = await client.check(guest, peer)
        checks.append((time.perf_counter() - began) * 1000)
        findings = max(findings, len(found))
        began = time.perf_counter()
        await client.ping()
        pings.append((time.perf_counter() - began) * 1000)
    cpu = []
    for what in (lambda: client.check("guest1", "peer1"), client.ping):
        before = cpu_seconds(daemon)
        for _ in range(CALLS):
            await what()
        cpu.append(round((cpu_seconds(daemon) - before) / CALLS * 1e6))
    for number in range(100):
        began = time.perf_counter()
        await client.check(f"guest{number % GUESTS + 1}", "")
        everywhere.append((time.perf_counter() - began) * 1000)
    resident = next(line for line in Path(f"/proc/{daemon}/status").read_text().splitlines() if "VmRSS" in line)
    verdict, found = await client.check("guest1", "peer1")
    await client.connection.close()
    del checks[:50], pings[:50]
    return {
        "p50_ms": round(sorted(checks)[len(checks) // 2], 3),
        "p99_ms": percentile(checks, 99),
        "ping_p50_ms": round(sorted(pings)[len(pings) // 2], 3),
        "ping_p99_ms": percentile(pings, 99),
        "every_peer_p50_ms": median(everywhere),
        "daemon_cpu_usec": cpu[0],
        "ping_daemon_cpu_usec": cpu[1],
        "findings": findings,
        "verdict": verdict,
        "checks_told": sorted({each[0] for each in found}),
        "daemon_rss_mib": round(int(resident.split()[1]) / 1024, 1),
        "mounts": len(Path(f"/proc/{daemon}/mountinfo").read_text().splitlines()),
    }


def main() -> None:
    """Everything, and one line of JSON."""
    burden()
    with tempfile.TemporaryDirectory(prefix="check-") as name:
        folder = Path(name)
        config, state = configure(folder)
        bus = Bus(folder)
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = bus.address
        guests = [{"name": f"guest{number}", "bridge": "br0"} for number in range(1, GUESTS + 1)]
        environment = {
            **os.environ,
            "SIMULATED_HYPERVISOR": json.dumps({"guests": guests}),
        }
        python = (sys.executable, "-W", "ignore", "-m")
        peers = subprocess.Popen(
            (*python, "tests.bench.check_warm", str(folder)), cwd=ROOT, stdout=subprocess.PIPE, stderr=sys.stderr
        )
        assert peers.stdout is not None
        peers.stdout.readline()
        log = (folder / "log").open("wb")
        daemon = subprocess.Popen(
            (*python, "tests.bus.simulated_daemon", str(config), str(state)), cwd=ROOT, env=environment, stderr=log
        )
        try:
            print(json.dumps(asyncio.run(measure(daemon.pid))))
        except BaseException:
            sys.stderr.write((folder / "log").read_text()[-8000:])
            raise
        finally:
            for process in (daemon, peers):
                process.terminate()
            for process in (daemon, peers):
                process.wait(30)
            log.close()
            bus.kill()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(serve(Path(sys.argv[1])))
    else:
        main()
