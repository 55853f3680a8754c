"""Nonces on real storage and frames between real bridges, with no more rights than the daemon has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab import faults
from tests.lab.faults.devices import mtu_changed
from tests.lab.host import Host, wait_equal, wait_for, wait_until
from tests.lab.network import Network

AS_DAEMON = "as-daemon.service"
GUESTS = "/srv/vm/guests"
NONCE = "00112233445566778899aabbccddeeff"

_UNIT = f"""
sed -E -e '/^(Type|BusName|Exec[A-Za-z]+|Restart|RestartSec|WatchdogSec|TimeoutStopSec)=/d' \\
  -e '/^(StateDirectory|ConfigurationDirectory)/d' \\
  -e 's|^\\[Service\\]|&\\nType=exec\\nExecStart=/usr/bin/python3 /run/as-daemon.py|' \\
  -e 's|^NoNewPrivileges|StandardOutput=truncate:/run/as-daemon.out\\n&|' \\
  /usr/lib/systemd/system/kvmigd.service > /run/systemd/system/{AS_DAEMON}
rm -f /run/as-daemon.out
systemctl daemon-reload
systemctl start {AS_DAEMON}
"""

_PROGRAM = """
import asyncio, os, sys
sys.path.insert(0, "/usr/lib/kvmigd/site")
import msgspec
from kvmigd.host import frames, nonce

def tell(what):
    print(msgspec.json.encode(what).decode(), flush=True)

async def exists(path):
    while not os.path.exists(path):
        await asyncio.sleep(0.05)

async def write(folders, seconds=20):
    async with nonce.written(folders, seconds=seconds) as written:
        tell(written)
        await asyncio.Event().wait()

async def write_later(path, folders):
    await exists(path)
    await write(folders, seconds=8)

async def read(names):
    tell(await nonce.read(names, seconds=20))

async def catch(sizes, vlan, sent):
    try:
        async with frames.Catcher("br0", nonce=NONCE, sizes=sizes, vlan=vlan) as catcher:
            tell(catcher.mac)
            await exists(sent)
            tell(sorted(await catcher.caught(2)))
    except frames.FrameFailed as error:
        tell(error.problem)

async def send(mac, sizes, vlan):
    try:
        tell(sorted(await frames.send("br0", destination_mac=mac, nonce=NONCE, sizes=sizes, vlan=vlan)))
    except frames.FrameFailed as error:
        tell(error.problem)
"""


@contextmanager
def running(host: Host, call: str) -> Iterator[None]:
    """Run something of kvmigd's in a unit with all that the shipped one of the daemon forbids."""
    host.write("/run/as-daemon.py", f'{_PROGRAM}\n\nNONCE = bytes.fromhex("{NONCE}")\nasyncio.run({call})\n')
    host.sh(_UNIT)
    try:
        yield
    finally:
        host.sh(f"systemctl stop {AS_DAEMON}; rm -f /run/systemd/system/{AS_DAEMON}; systemctl daemon-reload")


def told(host: Host, count: int = 1) -> list[Any]:
    """What it has told, when it has told so much."""
    lines: list[str] = []

    def is_there() -> bool:
        lines[:] = host.sh("cat /run/as-daemon.out 2>/dev/null || :").splitlines()
        return len(lines) >= count

    wait_until(f"{host.name} tells {count} lines", is_there)
    return [json.loads(line) for line in lines]


def asked(host: Host, call: str) -> Any:
    """Run something and return what it tells."""
    with running(host, call):
        return told(host)[0]


def nonces(host: Host, folder: str) -> str:
    """Nonces in a folder, as the host sees it."""
    return host.sh('find "$1" -name ".kvmigd-*"', folder)


def wait_no_nonces(host: Host, folder: str) -> None:
    """Wait until there is none: who keeps them removes them when he is left."""
    wait_equal(f"{folder} on {host.name} is without nonces", lambda: nonces(host, folder), "")


def keepers(host: Host) -> list[str]:
    """The processes that keep nonces on a host."""
    pids = host.sh("systemctl show --property=MainPID --value 'kvmigd-storage@*'").split()
    return [pid for pid in pids if pid != "0"]


def names_of(written: Any) -> dict[str, str]:
    """Where to find them."""
    return {it["folder"]: it["name"] for it in written}


@pytest.fixture
def guests_folder(a: Host) -> Iterator[str]:
    """A folder of QEMU's user on the volume."""
    a.sh('mkdir -p "$1" && chown libvirt-qemu:libvirt-qemu "$1"', GUESTS)
    yield GUESTS
    a.sh('rm -rf "$1"', GUESTS)


def test_a_nonce_is_read_on_the_other_host_as_qemus_user(a: Host, b: Host, guests_folder: str) -> None:
    with running(a, f"write(['{guests_folder}', '/srv/vm', '/var/lib/libvirt/images'])"):
        (written,) = told(a)
        assert [it["problem"] for it in written] == ["", "", ""]
        assert [it["as_owner"] for it in written] == [False, True, True]
        owner = b.sh('stat --format=%U "$1"', f"{guests_folder}/{written[0]['name']}")
        assert owner == "libvirt-qemu"
        found = asked(b, f"read({names_of(written)!r})")
    assert [it["problem"] for it in found] == ["", "", "different"]
    assert [it["content"] for it in found[:2]] == [it["content"] for it in written[:2]]
    assert [it["can_write"] for it in found] == [True, False, None]
    assert found[0]["user"].startswith("libvirt-qemu (64055:")
    for host in (a, b):
        wait_no_nonces(host, "/srv/vm")
    wait_no_nonces(a, "/var/lib/libvirt/images")


def test_it_is_removed_when_the_daemon_is_killed(a: Host, guests_folder: str) -> None:
    with running(a, f"write(['{guests_folder}'])"):
        told(a)
        assert nonces(a, guests_folder)
        a.run("systemctl", "kill", "--signal=KILL", AS_DAEMON)
        wait_no_nonces(a, guests_folder)


def test_who_writes_has_the_hosts_mounts_and_no_power_over_files(a: Host, guests_folder: str) -> None:
    wait_equal("the keepers of the test before have ended", lambda: keepers(a), [])
    began = a.sh("date +@%s")
    with running(a, f"write(['{guests_folder}'])"):
        told(a)
        (keeper,) = wait_for("one keeps it", lambda: keepers(a), lambda found: len(found) == 1)
        assert a.sh('readlink "/proc/$1/ns/mnt"', keeper) == a.sh("readlink /proc/1/ns/mnt")
        status = dict(line.split(":\t") for line in a.read(f"/proc/{keeper}/status").splitlines())
    assert int(status["CapBnd"], 16) == 1 << 6 | 1 << 7, "CAP_SETGID, CAP_SETUID and nothing else"
    assert status["NoNewPrivs"] == "1"
    assert "kvmigd-storage@" not in a.journal(since=began), "a proof is no news"


def test_storage_that_is_another_one_read_only_or_not_there(a: Host, b: Host, guests_folder: str) -> None:
    with running(a, f"write(['{guests_folder}', '/srv/vm'])"):
        (written,) = told(a)
        with faults.mount_removed(b, "/srv/vm"):
            found = asked(b, f"read({names_of(written)!r})")
    assert [it["problem"] for it in found] == ["missing", "different"]
    with faults.mount_changed(a, "/srv/vm", "ro"):
        (refused,) = asked(a, f"write(['{guests_folder}'])")
    assert (refused["problem"], refused["text"]) == ("unwritable", "Read-only file system")


def test_storage_that_hangs_is_told_and_keeps_no_other_folder_waiting(a: Host) -> None:
    # It is started before: systemd itself hangs in a reload while storage does.
    with running(a, "write_later('/run/go', ['/srv/vm', '/var/lib/libvirt/images'])"):
        a.sh("pkill --exact --signal STOP glusterfs")
        try:
            a.write("/run/go", "")
            ((dead, alive),) = told(a)
        finally:
            a.sh("pkill --exact --signal CONT glusterfs; rm -f /run/go")
    assert (dead["problem"], alive["problem"]) == ("hangs", "")
    wait_until("the keeper has ended", lambda: not a.sh("systemctl list-units --no-legend 'kvmigd-storage@*'"))
    wait_no_nonces(a, "/srv/vm")


def test_nonces_are_written_while_the_host_goes_down(a: Host) -> None:
    """When guests are moved away before a reboot, systemd refuses to start whatever it would have to stop."""
    stop = "/usr/bin/python3 /run/as-daemon.py > /var/tmp/told 2>&1"
    unit = f'[Unit]\nAfter=kvmigd.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStop=/bin/sh -c "{stop}"\n'
    text = _PROGRAM.replace("await asyncio.Event().wait()", "pass")
    a.write("/run/as-daemon.py", f'{text}\nasyncio.run(write(["/srv/vm"]))\n')
    a.write("/run/systemd/system/last.service", unit)
    a.sh("systemctl daemon-reload; systemctl start last.service")
    a.reboot()
    (written,) = json.loads(a.read("/var/tmp/told"))
    a.sh("rm /var/tmp/told")
    assert written["problem"] == "", written["text"]
    wait_no_nonces(a, "/srv/vm")


def proved(a: Host, b: Host, *, vlan: int = 0, mtu: int = 1500) -> tuple[Any, Any]:
    """Sizes that the first host refuses to send, and sizes that the other one catches; or a problem."""
    b.run("rm", "-f", "/run/sent")
    with running(b, f"catch([64, {mtu}], {vlan}, '/run/sent')"):
        mac = told(b)[0]
        if mac == "no-bridge":
            return None, mac
        refused = asked(a, f"send('{mac}', [64, {mtu}], {vlan})")
        if refused == "no-bridge":
            return refused, None
        b.write("/run/sent", "")
        return refused, told(b, 2)[1]


@pytest.mark.parametrize("vlan", [0, 77])
def test_frames_go_from_bridge_to_bridge(a: Host, b: Host, vlan: int) -> None:
    assert proved(a, b, vlan=vlan) == ([], [64, 1500])
    assert proved(b, a, vlan=vlan) == ([], [64, 1500])


def test_frames_do_not_arrive(a: Host, b: Host) -> None:
    with faults.cut(b, Network.GUESTS):
        assert proved(a, b) == ([], [])
    with faults.bridge_without_uplink(b):
        assert proved(a, b) == ([], [])
    with faults.bridge_down(b):
        assert proved(a, b) == (None, "no-bridge")
    with faults.bridge_down(a):
        assert proved(a, b) == ("no-bridge", None)


def test_frames_are_too_large(a: Host, b: Host) -> None:
    assert proved(a, b, mtu=9000) == ([9000], [64])
    with mtu_changed(b, "gst0", 1400):
        assert proved(a, b) == ([], [64])
