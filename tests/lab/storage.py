"""The shared storage: GlusterFS on a server of its own, one brick, so that no host's death takes it along."""

from __future__ import annotations

from pathlib import Path

from tests.lab.guestfiles import guest_files
from tests.lab.host import Host, wait_until
from tests.lab.network import STORE
from tests.lab.roots import MOUNTPOINT, VOLUME

_OPTIONS = {
    # what GlusterFS itself sets for volumes with guests' disks (its group `virt`), without sharding: a disk stays one
    # file, which the lab can read from the brick without asking any host
    "performance.quick-read": "off",
    "performance.read-ahead": "off",
    "performance.io-cache": "off",
    "performance.strict-o-direct": "on",
    "network.remote-dio": "disable",
    "cluster.eager-lock": "enable",
    # who opened a file on one host sees at once what another has written
    "performance.stat-prefetch": "off",
    "performance.open-behind": "off",
    # locks of a host that lost its power are given up after seconds, not most of a minute
    "network.ping-timeout": "5",
    "client.tcp-user-timeout": "5",
    "client.keepalive-time": "2",
    "client.keepalive-interval": "1",
    "client.keepalive-count": "3",
    "server.tcp-user-timeout": "5",
    "server.keepalive-time": "2",
    "server.keepalive-interval": "1",
    "server.keepalive-count": "3",
}


def serve(store: Host) -> None:
    """Make the volume on the storage server, which has booted, and start it."""
    volume = "gluster --mode=script volume"
    options = " ".join(f"{name} {value}" for name, value in _OPTIONS.items())
    store.sh(
        "until gluster --mode=script pool list > /dev/null 2>&1; do sleep 0.1; done\n"
        f"mkdir -p /srv/brick/{VOLUME}\n"
        f"{volume} create {VOLUME} {STORE}:/srv/brick/{VOLUME} force\n"
        f"{volume} set {VOLUME} {options}\n"
        f"{volume} start {VOLUME}\n"
    )


def fill(host: Host) -> None:
    """Lay down what guests boot from, through the first host that has the volume mounted."""
    for name in ("vmlinuz", "initrd.gz"):
        host.write(f"{MOUNTPOINT}/boot/{name}", (guest_files() / name).read_bytes(), mode="0644")


def wait_mounted(host: Host) -> None:
    """Wait until a host has the volume."""
    wait_until(f"{host.name} has mounted {MOUNTPOINT}", lambda: is_mounted(host), timeout=60)


def is_mounted(host: Host) -> bool:
    """Whether a host has the volume mounted."""
    return host.run("mountpoint", "-q", MOUNTPOINT, check=False).returncode == 0


def brick_file(host: Host, path: str) -> Path:
    """Return where a file of the volume lies on this machine: seen without the help of any host."""
    return host.places.brick / VOLUME / path.removeprefix(MOUNTPOINT).lstrip("/")
