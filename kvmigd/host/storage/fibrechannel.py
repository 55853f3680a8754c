"""Fibre Channel ports of this host and the storage ports that they see, from /sys/class/fc_host and fc_remote_ports."""

from __future__ import annotations

import re
from pathlib import Path

from kvmigd.host.storage import attributes
from kvmigd.model.storage import FcPort

_REMOTE = re.compile(r"rport-(\d+):.*")
"""rport-HOST:CHANNEL-NUMBER."""


def ports(root: Path) -> tuple[FcPort, ...]:
    """All ports, with the targets that can be reached through each."""
    targets: dict[str, list[str]] = {}
    remote = f"{root}/sys/class/fc_remote_ports"
    for name in attributes.names(remote):
        matched = _REMOTE.fullmatch(name)
        if matched and _is_target(f"{remote}/{name}"):
            targets.setdefault(f"host{matched[1]}", []).append(world_wide_name(f"{remote}/{name}/port_name"))
    folder = f"{root}/sys/class/fc_host"
    return tuple(
        FcPort(
            name=name,
            wwpn=world_wide_name(f"{folder}/{name}/port_name"),
            wwnn=world_wide_name(f"{folder}/{name}/node_name"),
            state=attributes.text(f"{folder}/{name}/port_state"),
            speed=attributes.text(f"{folder}/{name}/speed"),
            fabric=world_wide_name(f"{folder}/{name}/fabric_name"),
            targets=tuple(sorted(targets.get(name, ()))),
        )
        for name in attributes.names(folder)
    )


def _is_target(remote: str) -> bool:
    """Whether a remote port is storage and there: not a switch's port, not one that waits for dev_loss_tmo."""
    return "FCP Target" in attributes.text(f"{remote}/roles") and attributes.text(f"{remote}/port_state") == "Online"


def world_wide_name(path: str) -> str:
    """Sixteen hexadecimal digits as libvirt writes them; empty for none (all zeros or all ones)."""
    digits = attributes.text(path).lower().removeprefix("0x")
    return "" if set(digits) in ({"0"}, {"f"}) else digits
