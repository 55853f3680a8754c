"""Real storage of other kinds than the lab's own: sshfs, and iSCSI by QEMU's own initiator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.lab import daemon
from tests.lab.host import Host, wait_for, wait_until
from tests.lab.lab import Lab
from tests.lab.network import STORE, Network, address

TARGET = "iqn.2026-11.lab:store"
PORTAL = address(STORE, Network.STORAGE)

_SERVE = """
truncate -s 64M /srv/lun
systemctl start tgt.service
tgtadm --lld iscsi --op new --mode target --tid 1 -T "$1"
tgtadm --lld iscsi --op new --mode logicalunit --tid 1 --lun 1 -b /srv/lun
tgtadm --lld iscsi --op bind --mode target --tid 1 -I ALL
"""

_GUEST = f"""
<domain type="qemu">
  <name>luny</name><memory unit="MiB">64</memory><vcpu>1</vcpu>
  <os><type arch="x86_64" machine="q35">hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type="network" device="disk">
      <driver name="qemu" type="raw" cache="none"/>
      <source protocol="iscsi" name="{TARGET}/1"><host name="{PORTAL}" port="3260"/></source>
      <target dev="vda" bus="virtio"/>
    </disk>
  </devices>
</domain>
"""


@contextmanager
def target(store: Host) -> Iterator[None]:
    """A LUN of the storage server."""
    store.sh(_SERVE, TARGET)
    try:
        yield
    finally:
        store.sh("systemctl stop tgt.service; rm -f /srv/lun")


def known(host: Host, name: str) -> dict[str, Any]:
    """What the daemon knows of a guest."""
    return next((it for it in daemon.things(host, "hypervisor", "guests") if it["name"] == name), {})


def test_a_guest_on_a_lun_is_known_by_portal_target_and_lun_and_moves(lab: Lab, a: Host, b: Host) -> None:
    daemon.wait_connected(a, b)
    with target(lab.store):
        a.write("/run/luny.xml", _GUEST)
        a.run("virsh", "create", "/run/luny.xml")
        (disk,) = wait_for("it is known", lambda: known(a, "luny"), lambda it: it.get("state") == "running")["disks"]
        assert disk["kind"] == "network"
        (layer,) = disk["layers"]
        assert (layer["protocol"], layer["name"], layer["hosts"]) == ("iscsi", f"{TARGET}/1", [f"{PORTAL}:3260"])
        assert daemon.moved(a, "luny", b.name)["Result"] == "done"
        there = wait_for("it is known there", lambda: known(b, "luny"), lambda it: it.get("state") == "running")
        wait_until("it is gone here", lambda: not known(a, "luny"))
        assert there["disks"] == [disk]
        b.run("virsh", "destroy", "luny")


_KEYS = """
test -s /etc/ssh/ssh_host_ed25519_key || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
mkdir -p /root/.ssh /srv/exported; chmod 700 /root/.ssh; echo "$1" > /root/.ssh/authorized_keys
systemctl start ssh.service
"""


def test_sshfs_is_known_with_its_server_and_path_and_noticed_when_it_hangs(lab: Lab, a: Host) -> None:
    point = "/srv/remote"
    key = a.sh("test -s /root/.ssh/id || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id; cat /root/.ssh/id.pub")
    lab.store.sh(_KEYS, key)

    def mount() -> dict[str, Any]:
        return next((it for it in daemon.things(a, "mounts", "mounts") if it["point"] == point), {})

    def identity() -> dict[str, Any]:
        return next((it for it in daemon.things(a, "storage", "filesystems") if it["point"] == point), {})

    options = "IdentityFile=/root/.ssh/id,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null"
    a.sh('mkdir -p "$2"; sshfs "$1" "$2" -o "$3"', f"{STORE}:/srv/exported", point, options)
    try:
        found = wait_for("it is known", mount, bool)
        assert (found["fs_type"], found["kind"], found["shared"]) == ("fuse.sshfs", "network", False)
        found = wait_for("its identity is known", identity, bool)
        assert (found["server"], found["export"]) == (STORE, "/srv/exported")
        lab.store.run("pkill", "-STOP", "-x", "sftp-server")
        wait_until("the hang is noticed", lambda: bool(mount().get("problem")))
        lab.store.run("pkill", "-CONT", "-x", "sftp-server")
        wait_until("it has recovered", lambda: not mount().get("problem"))
    finally:
        lab.store.sh("pkill -CONT -x sftp-server || true; systemctl stop ssh.service")
        a.run("umount", "--lazy", point)
    wait_until("it is gone", lambda: not mount())
