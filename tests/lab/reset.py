"""Putting a lab back between two tests: quick when there is nothing to do, thorough when something hangs."""

from __future__ import annotations

from collections.abc import Iterable

from tests.lab import holder, network, storage
from tests.lab.command import LabError
from tests.lab.guests import FOLDER
from tests.lab.host import Host
from tests.lab.network import BRIDGE, HOSTS, STORE, Network
from tests.lab.places import Places
from tests.lab.roots import MOUNTPOINT

FAULT = "lab_fault"
"""Every nftables table of a fault is called so; what a test that was killed has left is found by it."""

_WIRE = """\
nft flush ruleset
for link in "$@"; do
    ip link set "$link" up && tc qdisc del dev "$link" root
done 2> /dev/null
true
"""

_HOST = f"""\
pkill -CONT --runstates T || true
nft list tables | while read -r _ family name; do
    case $name in {FAULT}*) nft delete table "$family" "$name" ;; esac
done
for link in mig0 sto0 gst0; do tc qdisc del dev "$link" root 2> /dev/null || true; done
# networkd makes the bridge only when it starts, and the reset of a lab that is in order must be quick
[ -d /sys/class/net/{BRIDGE}/brif/gst0 ] || {{
    systemctl restart systemd-networkd.service
    for n in $(seq 50); do [ -d /sys/class/net/{BRIDGE}/brif/gst0 ] && break; sleep 0.1; done
}}
ip link set {BRIDGE} up
mountpoint -q {MOUNTPOINT} || mount {MOUNTPOINT}
[ -z "$(systemctl --failed --quiet)" ] || systemctl reset-failed
for socket in libvirtd.socket libvirtd-tls.socket; do systemctl is-active --quiet "$socket" || exit 3; done
systemctl start "$@"
"""

_SOCKETS = "libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd-tls.socket libvirtd-tcp.socket"

# A socket can only be started while libvirtd does not run, and whoever asks for libvirt meanwhile starts it: so kvmigd
# is stopped first. A libvirtd that is asked to end takes its time, and a start within that time fails.
_LIBVIRT = f"""\
systemctl stop kvmigd.service || true
systemctl kill --signal=KILL libvirtd.service || true
systemctl stop libvirtd.service {_SOCKETS}
systemctl reset-failed
systemctl start {_SOCKETS}
systemctl start libvirtd.service
"""

_GUESTS = """\
names=$(virsh --quiet list --all --name)
for name in $names; do
    echo "$name"
    virsh --quiet domjobabort "$name" > /dev/null 2>&1 || true
    virsh --quiet destroy "$name" > /dev/null 2>&1 || true
    # a guest that was on its way here is gone with its process
    virsh --quiet undefine --managed-save --snapshots-metadata --nvram "$name" > /dev/null 2>&1 ||
        ! virsh --quiet domstate "$name" > /dev/null 2>&1
done
"""


def wire(places: Places) -> None:
    """Undo what was done to the networks between the hosts."""
    every = (*HOSTS, STORE)
    links = [network.outer(host, each) for host in every for each in Network if each in network.networks(host)]
    holder.run_inside(places, "sh", "-c", _WIRE, "sh", *links)


def host(host: Host, units: Iterable[str]) -> None:
    """Undo what was done to a host, and start these units of its if they do not run."""
    if not host.is_up():
        host.wait_up()
    if host.run("sh", "-ec", _HOST, "sh", *units, check=False).returncode:
        host.sh(_LIBVIRT)
        host.sh(_HOST, *units)


def stop(host: Host) -> None:
    """Stop what has read files of the host, for it to read them again; `host` starts it."""
    if not host.is_up():
        host.wait_up()
    host.sh(f"systemctl daemon-reload\n{_LIBVIRT}")


def guests(host: Host) -> bool:
    """Remove a host's guests; False when there were none."""
    try:
        return host.sh(_GUESTS, timeout=20) != ""
    except LabError:
        # libvirtd hangs, or reconnects to guests after a restart and does not know them yet
        host.sh("pkill -KILL -f '^/usr/bin/qemu-system' || true")
        host.sh(_LIBVIRT)
        host.sh(_GUESTS, timeout=60)
        return True


def maintenance_off(host: Host) -> None:
    """End a host's maintenance; by the bus, as that is ten times as quick as kvmigctl."""
    call = ("busctl", "call", "org.kvmigd1", "/org/kvmigd1", "org.kvmigd1.Manager")
    host.run(*call, "SetMaintenance", "ba{sv}", "false", "0", check=False)


def disks(host: Host) -> None:
    """Remove the guests' disks, through a host, for GlusterFS to know of it."""
    folder = storage.brick_file(host, FOLDER)
    if folder.is_dir() and any(folder.iterdir()):
        host.run("find", FOLDER, "-mindepth", "1", "-delete")
