"""What the machine that carries the lab needs: installed by apt where something is missing."""

from __future__ import annotations

import time
from pathlib import Path

from tests.lab.caches import lock
from tests.lab.command import LabError, run

_NEEDS = {
    "/usr/bin/systemd-nspawn": "systemd-container",
    "/usr/bin/mmdebstrap": "mmdebstrap",
    "/bin/busybox": "busybox-static",
    "/usr/bin/as": "binutils",
    "/usr/sbin/nft": "nftables",
    "/bin/ip": "iproute2",
    "/usr/bin/unshare": "util-linux",
    "/usr/bin/make": "make",
    # for building the Python packages that kvmigd is installed with
    "/usr/bin/gcc": "gcc",
    "/usr/bin/pkg-config": "pkg-config",
    "/usr/include/libvirt/libvirt.h": "libvirt-dev",
    "/usr/include/systemd/sd-journal.h": "libsystemd-dev",
}

APT = (
    "-qq",
    "-o",
    "Acquire::Check-Valid-Until=false",
    "-o",
    "Acquire::Check-Date=false",
    "-o",
    "DPkg::Lock::Timeout=300",
)
"""A machine for tests may have a clock that is wrong by months; Debian's signatures are still checked."""

_NO_QUESTIONS = {"DEBIAN_FRONTEND": "noninteractive"}


def missing() -> list[str]:
    """Return the packages whose files are not there."""
    return sorted({package for path, package in _NEEDS.items() if not Path(path).exists()})


def update_lists() -> None:
    """Run `apt-get update`; apt itself does not wait for the lock of its lists, so this does."""
    until = time.monotonic() + 300
    while True:
        completed = run("apt-get", *APT, "update", check=False, timeout=300)
        if completed.returncode == 0:
            return
        if "lock" not in completed.stderr or time.monotonic() > until:
            raise LabError(f"`apt-get update` failed: {completed.stderr.strip()}")
        time.sleep(1)


def prepare() -> list[str]:
    """Install what is missing and return its names; a few stat calls when nothing is."""
    if not missing():
        return []
    with lock("apt"):
        packages = missing()  # another lab may have installed it while this one waited
        if packages:
            update_lists()
            install = ("install", "--yes", "--no-install-recommends")
            run("apt-get", *APT, *install, *packages, timeout=900, env=_NO_QUESTIONS)
    if missing():
        raise LabError(f"Installed {', '.join(packages)}, but the files the lab needs did not come with it.")
    return packages
