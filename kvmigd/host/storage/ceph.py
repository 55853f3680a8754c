"""Ceph: which cluster a host belongs to, and the images of its pools that the kernel has mapped."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import NamedTuple

from kvmigd.host.storage import attributes

_FOLDER = "etc/ceph"


class Cluster(NamedTuple):
    """A cluster that is configured here."""

    name: str
    fsid: str
    monitors: frozenset[str]
    """Host names and addresses, without ports."""


def fsid(root: Path, cluster: str = "ceph") -> str:
    """UUID of a cluster, from /etc/ceph/NAME.conf; empty where it is not written there."""
    return _read(root, cluster).fsid


def clusters(root: Path) -> tuple[Cluster, ...]:
    """All clusters that are configured here."""
    files = attributes.names(f"{root}/{_FOLDER}")
    return tuple(_read(root, name.removesuffix(".conf")) for name in files if name.endswith(".conf"))


def _read(root: Path, name: str) -> Cluster:
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True, interpolation=None)
    try:
        parser.read_string(attributes.text(f"{root}/{_FOLDER}/{name}.conf"))
    except (configparser.Error, ValueError):
        return Cluster(name, "", frozenset())
    # Ceph takes `mon host`, `mon_host` and `mon-host` for the same.
    known = {key.replace(" ", "_").replace("-", "_"): value or "" for key, value in _globals(parser)}
    monitors = f"{known.get('mon_host', '')},{known.get('mon_initial_members', '')}"
    return Cluster(name, known.get("fsid", "").strip().strip("\"'").lower(), addresses(monitors))


def _globals(parser: configparser.RawConfigParser) -> list[tuple[str, str | None]]:
    return list(parser.items("global")) if parser.has_section("global") else []


def addresses(monitors: str) -> frozenset[str]:
    """Hosts in a list of monitors: `a:6789,[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0],[fe80::1]:3300`, or with slashes."""
    plain = re.sub(r"\bv[12]:", "", monitors)
    found: set[str] = set()
    for part in re.split(r"[,;\s/]+", plain):
        bracketed = re.search(r"\[([0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)\]", part)
        host = bracketed[1] if bracketed else part.strip("[]")
        if not bracketed and host.count(":") == 1:
            host = host.partition(":")[0]
        if host and not host.isdigit():
            found.add(host)
    return frozenset(found)


def rbd(root: str) -> dict[str, str]:
    """What each mapped image is, by the kernel's name of its device: `rbd:FSID/POOL/IMAGE`, with a namespace before the
    image and a snapshot after it where there are."""
    found = {}
    for number in attributes.names(f"{root}/sys/bus/rbd/devices"):
        folder = f"{root}/sys/bus/rbd/devices/{number}"
        names = (attributes.text(f"{folder}/{name}") for name in ("cluster_fsid", "pool", "pool_ns", "name"))
        snapshot = attributes.text(f"{folder}/current_snap")
        image = "/".join(name for name in names if name)
        found[f"rbd{number}"] = f"rbd:{image}" + (f"@{snapshot}" if snapshot not in ("", "-") else "")
    return found
