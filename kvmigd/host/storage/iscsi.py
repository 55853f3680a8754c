"""Sessions of the kernel's iSCSI initiator, from /sys/class/iscsi_session and iscsi_connection."""

from __future__ import annotations

import os
import re
from pathlib import Path

from kvmigd.host.storage import attributes
from kvmigd.model.storage import IscsiSession

_UNIT = re.compile(r"\d+:\d+:\d+:(\d+)")
"""host:channel:target:LUN."""


def sessions(root: Path) -> tuple[IscsiSession, ...]:
    """All sessions, also those whose connection is lost."""
    folder = f"{root}/sys/class/iscsi_session"
    return tuple(_session(root, name) for name in attributes.names(folder) if name.startswith("session"))


def _session(root: Path, name: str) -> IscsiSession:
    folder = f"{root}/sys/class/iscsi_session/{name}"
    return IscsiSession(
        name=name,
        target=attributes.text(f"{folder}/targetname"),
        portal=_portal(root, name.removeprefix("session"), attributes.text(f"{folder}/tpgt")),
        state=attributes.text(f"{folder}/state"),
        luns=_luns(f"{folder}/device"),
    )


def _portal(root: Path, number: str, group: str) -> str:
    """Where the session's first connection leads: `address` is the peer's, `persistent_address` what was configured.

    The former is empty while the connection is down, and drivers with an engine of their own may not have it.
    """
    folder = f"{root}/sys/class/iscsi_connection"
    for name in attributes.names(folder):
        if not name.startswith(f"connection{number}:"):
            continue
        for prefix in ("", "persistent_"):
            address = attributes.text(f"{folder}/{name}/{prefix}address")
            if not address:
                continue
            port = attributes.text(f"{folder}/{name}/{prefix}port")
            host = f"[{address}]" if ":" in address and not address.startswith("[") else address
            return f"{host}:{port or '3260'}" + (f",{group}" if group else "")
    return ""


def _luns(device: str) -> tuple[str, ...]:
    found: list[tuple[int, str]] = []
    for target in attributes.names(device):
        if not target.startswith("target"):
            continue
        for unit in attributes.names(f"{device}/{target}"):
            if matched := _UNIT.fullmatch(unit):
                disks = attributes.names(os.path.join(device, target, unit, "block"))
                found.extend((int(matched[1]), disk) for disk in disks)
    return tuple(f"{lun}={disk}" for lun, disk in sorted(found))
