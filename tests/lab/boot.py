"""The loop that boots one host: runs inside the lab, beside the holder, until the host is off.

`systemctl reboot` makes nspawn exit with 133, and then the host boots again; anything else means that it is off.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from tests.lab import holder, network
from tests.lab.command import run
from tests.lab.places import CGROUPS, Places

_REBOOT = 133
_ENVIRONMENT = {
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    # libvirt and kvmigd set sysctls of the network
    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
    # the filter costs time with every system call of an emulated guest and protects nothing here
    "SYSTEMD_SECCOMP": "0",
}


def machine_id(lab: str, host: str) -> str:
    """Return a host's machine ID, which libvirt takes for the host's UUID: the same for every boot."""
    return uuid.uuid5(uuid.NAMESPACE_DNS, f"{host}.{lab}.kvmigd-lab").hex


def _mount(root: Path, layers: list[str]) -> None:
    if os.path.ismount(root):
        return
    lower = ":".join(layers)
    options = f"lowerdir={lower},upperdir={root.parent}/upper,workdir={root.parent}/work"
    # volatile: no fsync reaches the disk, and a host that is powered off by a kill still finds all it wrote
    run("mount", "-t", "overlay", "-o", f"{options},volatile", "overlay", root)


def _delegate(cgroup: Path) -> None:
    """Hand the controllers on to the container, as soon as nspawn has moved itself out of the way."""
    controllers = (cgroup / "cgroup.controllers").read_text(encoding="ascii").split()
    for _attempt in range(500):
        if (cgroup / "payload").is_dir():
            with contextlib.suppress(OSError):
                for name in controllers:
                    (cgroup / "cgroup.subtree_control").write_text(f"+{name}", encoding="ascii")
                return
        time.sleep(0.005)


def _nspawn(places: Places, host: str, namespace: Path) -> tuple[str, ...]:
    return (
        *("systemd-nspawn", "--quiet", "--boot", f"--directory={places.host(host)}/root"),
        *(f"--machine={host}", f"--hostname={host}", f"--uuid={machine_id(places.name, host)}"),
        *("--register=no", "--keep-unit", f"--network-namespace-path={namespace}"),
        *("--capability=all", "--drop-capability=CAP_SYS_TIME", "--bind=/dev/fuse"),
        *("--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe"),
        *((f"--bind={places.brick}:/srv/brick",) if host == network.STORE else ()),
    )


def boot(places: Places, host: str) -> int:
    """Boot a host once; returns nspawn's exit status when it is off."""
    cgroup = CGROUPS / places.cgroup / host
    cgroup.mkdir(exist_ok=True)
    namespace = places.state / "netns" / host
    network.plug(host, namespace)
    enter = ("sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', str(cgroup))
    with places.console(host).open("ab") as console:
        child = subprocess.Popen(
            enter + _nspawn(places, host, namespace),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env={**os.environ, **_ENVIRONMENT},
        )
        threading.Thread(target=_delegate, args=(cgroup,), daemon=True).start()
        status = child.wait()
        console.write(f"-- {host} went down, nspawn ended with status {status}\n".encode())
    for _attempt in range(250):
        if holder.remove_cgroups(cgroup):
            break
        time.sleep(0.02)
    return status


def main(name: str, host: str) -> None:
    """Boot a host until it is off."""
    places = Places(name)
    _mount(places.host(host) / "root", places.described("layers"))
    while boot(places, host) == _REBOOT:
        pass


if __name__ == "__main__":
    main(*sys.argv[1:3])
