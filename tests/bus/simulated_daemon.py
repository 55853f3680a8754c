"""The real daemon with a simulated hypervisor: `python -m tests.bus.simulated_daemon CONFIG STATE`.

SIMULATED_HYPERVISOR is JSON: {"alive": true, "hold": false, "guests": [{"name": "web", "state": "running", "disk":
"/srv/web.qcow2", "bridge": "br0"}]}, all optional but the names. With `hold`, migrations begin and never end.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import msgspec

from kvmigd.config import Config
from kvmigd.daemon import start
from kvmigd.host.hypervisor import Hypervisor
from kvmigd.model.guest import Disk, GuestState, Nic
from tests.simulated import World, guest


def hypervisor(config: Config) -> Hypervisor:
    """This host's, as the environment describes it."""
    wanted = json.loads(os.environ.get("SIMULATED_HYPERVISOR", "{}"))
    host = World().host(config.name)
    for number, each in enumerate(wanted.get("guests", ()), start=1):
        state = GuestState(each.get("state", "running"))
        disks = tuple(Disk(target="vda", paths=(path,), format="raw") for path in [each.get("disk")] if path)
        bridge, mac = each.get("bridge", ""), f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}"
        nics = (Nic(mac=mac, kind="bridge", source=bridge),) if bridge else ()
        host.add(msgspec.structs.replace(guest(each["name"], number), state=state, disks=disks, nics=nics))
    if wanted.get("hold", False):
        host.hold.clear()
    if not wanted.get("alive", True):
        host.set_alive(alive=False)
    return host


if __name__ == "__main__":
    sys.exit(start(Path(sys.argv[1]), Path(sys.argv[2]), hypervisor=hypervisor))
