"""Where the things of a lab lie on the machine, all of them named by the lab's name."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from tests.lab.command import LabError

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = Path("/var/cache/kvmigd-lab")
STATE = Path("/run/kvmigd-lab")
DATA = Path("/var/lib/kvmigd-lab")
"""Overlays and guests' disks: not below /run, which is memory on most machines and has no O_DIRECT there."""

CGROUPS = Path("/sys/fs/cgroup")
"""The pure cgroup2 as it is seen inside a lab."""


def default_name() -> str:
    """Return the lab's name where none was given: $KVMIGD_LAB, else one that belongs to this checkout."""
    return os.environ.get("KVMIGD_LAB") or f"lab-{hashlib.sha256(bytes(CHECKOUT)).hexdigest()[:6]}"


class Places:
    """The folders of one lab."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
            raise LabError(f"{name!r} cannot name a lab: small letters, digits and dashes, 31 at most.")
        self.name = name
        self.state = STATE / name
        self.data = DATA / name
        self.brick = self.data / "brick"
        self.description = self.state / "lab.json"
        self.ready = self.state / "ready"
        self.cgroup = f"kvmigd-lab-{name}"

    def describe(self, *, hosts: list[str], layers: list[Path], uses: list[Path]) -> None:
        """Write down what the lab is made of, for the processes that are started in it."""
        words = {"hosts": hosts, "layers": [str(layer) for layer in layers], "uses": [str(entry) for entry in uses]}
        self.description.write_text(json.dumps(words), encoding="utf-8")

    def described(self, key: str) -> list[str]:
        """Return what `describe` wrote: `hosts`, `layers` of the root from the top down, or cache entries it `uses`."""
        try:
            words = json.loads(self.description.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise LabError(f"Lab {self.name} is not up.") from None
        return [str(word) for word in words[key]]

    def host(self, host: str) -> Path:
        """Return the folder with the overlay (`upper`, `work`, mounted on `root`) of a host."""
        return self.data / host

    def console(self, host: str) -> Path:
        """Return the file with what a host printed while it booted."""
        return self.state / f"{host}.console"
