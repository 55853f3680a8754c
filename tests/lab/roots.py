"""What makes a host this host: the files that are written into its overlay before its first boot."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from tests.lab import network
from tests.lab.boot import machine_id
from tests.lab.network import STORE
from tests.lab.places import Places

VOLUME = "vm"
MOUNTPOINT = "/srv/vm"

_AWAIT_STORE = """\
[Unit]
Description=Wait until the storage server answers
After=network-online.target
Wants=network-online.target
DefaultDependencies=no
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/await-store
TimeoutStartSec=120
"""

_AWAIT_STORE_SCRIPT = f"""\
#!/bin/sh
# hosts and storage boot together here, and mount(8) tries only once
until gluster --remote-host={STORE} --mode=script volume status {VOLUME} detail 2> /dev/null | grep -q "^Online.*: Y"
do sleep 0.2; done
"""

_FSTAB = (
    f"{STORE}:/{VOLUME} {MOUNTPOINT} glusterfs "
    "_netdev,x-systemd.requires=await-store.service,x-systemd.mount-timeout=150 0 0\n"
)

_TCP = """\
# for comparison with TLS only, and only where the lab migrates
[Socket]
ListenStream=
ListenStream={address}:16509
FreeBind=true
"""

_GLUSTERD = """\
volume management
    type mgmt/glusterd
    option working-directory /var/lib/glusterd
    option transport-type socket
    option transport.socket.keepalive-time 2
    option transport.socket.keepalive-interval 1
    option transport.socket.read-fail-log off
    option transport.socket.listen-port 24007
    option ping-timeout 0
    option event-threads 1
    option base-port 49400
    option max-port 49450
end-volume
"""


_MANAGER = """\
# A host that goes down waits so long for what does not end, instead of 90 s: libvirtd takes 25 s to stop after some
# migrations, and a process that a test has left stopped never ends by itself.
[Manager]
DefaultTimeoutStopSec=10s
"""


def _host_files(places: Places, host: str) -> dict[str, str]:
    files = {
        "etc/hostname": f"{host}\n",
        "etc/hosts": network.hosts_file(),
        "etc/machine-id": f"{machine_id(places.name, host)}\n",
        "etc/systemd/system.conf.d/lab.conf": _MANAGER,
    }
    files |= {f"etc/systemd/network/{name}": text for name, text in network.networkd_files(host).items()}
    if host == STORE:
        files["etc/glusterfs/glusterd.vol"] = _GLUSTERD
    else:
        files["etc/fstab"] = _FSTAB
        files["etc/systemd/system/await-store.service"] = _AWAIT_STORE
        files["usr/local/sbin/await-store"] = _AWAIT_STORE_SCRIPT
        files["etc/systemd/system/libvirtd-tcp.socket.d/lab.conf"] = _TCP.format(address=network.address(host))
        files |= {f"etc/kvmigd/{name}": text for name, text in _kvmigd_files(places, host).items()}
    return files


def _kvmigd_files(places: Places, host: str) -> dict[str, str]:
    files = {"kvmigd.toml": f'name = "{host}"\n'}
    for peer in places.described("hosts"):
        if peer != host:
            files[f"peers.d/{peer}.toml"] = f'name = "{peer}"\naddress = "{network.address(peer)}"\n'
    return files


def write(places: Places, host: str, *, enable: Iterable[str] = (), mask: Iterable[str] = ()) -> None:
    """Make a host's overlay, empty but for what is the host's own; `enable` and `mask` name units."""
    folder = places.host(host)
    upper = folder / "upper"
    for name in ("upper", "work", "root"):
        (folder / name).mkdir(parents=True)
    for name, text in _host_files(places, host).items():
        path = upper / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755 if "/sbin/" in name else 0o644)
    system = upper / "etc/systemd/system"
    for unit in enable:
        wants = system / "multi-user.target.wants" / unit
        wants.parent.mkdir(parents=True, exist_ok=True)
        wants.symlink_to(f"/lib/systemd/system/{unit}")
    for unit in mask:
        system.mkdir(parents=True, exist_ok=True)
        (system / unit).symlink_to("/dev/null")


def remove(places: Places) -> None:
    """Put away all that a lab keeps on the machine; the caches stay."""
    for folder in (places.data, places.state):
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent.is_dir() and not any(folder.parent.iterdir()):
            folder.parent.rmdir()
