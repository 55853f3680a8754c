"""Trees of /sys, /proc and /run as kernels show them, put together piece by piece."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, content: str | bytes) -> None:
    """One attribute; text ends with a newline, as in sysfs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())


def link(path: Path, target: Path) -> None:
    """A link as sysfs has them: relative."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


def block(root: Path, name: str, number: str, **more: object) -> Path:
    """A block device below /sys/devices.

    `at` is the folder of the device that it belongs to, `size` its sectors, `slaves` what it is made of, `attributes`
    are files in its own folder, `udev` what udev has noted of it.
    """
    at = root / "sys/devices" / str(more.get("at", "virtual"))
    folder = at / "block" / name if not more.get("disk") else at / "block" / str(more["disk"]) / name
    write(folder / "dev", number)
    write(folder / "size", str(more.get("size", 2048)))
    (folder / "slaves").mkdir()
    (folder / "holders").mkdir()
    if more.get("disk"):
        write(folder / "partition", "1")
    elif "at" in more:
        link(folder / "device", at)
    attributes = more.get("attributes", {})
    assert isinstance(attributes, Mapping)
    for key, value in attributes.items():
        write(folder / key, value)
    link(root / "sys/class/block" / name, folder)
    slaves = more.get("slaves", ())
    assert isinstance(slaves, tuple)
    for slave in slaves:
        link(folder / "slaves" / slave, Path(os.path.realpath(root / "sys/class/block" / slave)))
    udev = more.get("udev")
    if isinstance(udev, Mapping):
        lines = "".join(f"E:{key}={value}\n" for key, value in udev.items())
        write(root / f"run/udev/data/b{number}", f"S:disk/by-id/x\nI:123\n{lines}G:systemd".encode())
    return folder


def page83(*designators: tuple[int, int, bytes]) -> bytes:
    """VPD page 0x83 of (association, type, value)."""
    body = b"".join(
        bytes((1, association << 4 | kind, 0, len(value))) + value for association, kind, value in designators
    )
    return b"\0\x83" + len(body).to_bytes(2, "big") + body


def page80(serial: bytes) -> bytes:
    """VPD page 0x80."""
    return b"\0\x80" + len(serial).to_bytes(2, "big") + serial


NAA = bytes.fromhex("600140512345678900000000000000aa")
FC = "pci0000:00/0000:00:05.0/host3/rport-3:0-1/target3:0:1/3:0:1:0"
FC_OTHER = "pci0000:00/0000:00:06.0/host4/rport-4:0-1/target4:0:1/4:0:1:0"
ISCSI = "platform/host5/session1/target5:0:0/5:0:0:7"


def san(root: Path) -> None:
    """A LUN over two Fibre Channel ports as multipath, with LVM on it, and an iSCSI disk."""
    for name, number, at in (("sda", "8:0", FC), ("sdb", "8:16", FC_OTHER)):
        device = root / "sys/devices" / at
        write(device / "state", "running")
        write(device / "vpd_pg83", page83((1, 3, bytes.fromhex("5001405000000001")), (0, 3, NAA), (0, 1, b"LIO-ORG x")))
        write(device / "vpd_pg80", page80(b"51234567-89"))
        block(root, name, number, at=at, size=4194304)
    block(
        root,
        "dm-0",
        "253:0",
        size=4194304,
        slaves=("sda", "sdb"),
        attributes={"dm/name": "lun1", "dm/uuid": f"mpath-3{NAA.hex()}", "dm/suspended": "0"},
        udev={"DM_NAME": "lun1", "ID_FS_TYPE": "LVM2_member", "ID_FS_UUID": "aBcDeF-gHiJ-kLmN-oPqR-sTuV-wXyZ-012345"},
    )
    group, volume = "VkQ2mYdKfJ6sP0nXaZtRcWuHgLbEi1o3", "0123456789abcdefghijABCDEFGHIJ01"
    for number, name in enumerate(("vg--a-web", "vg--a-db--1"), 1):
        block(
            root,
            f"dm-{number}",
            f"253:{number}",
            slaves=("dm-0",),
            attributes={"dm/name": name, "dm/uuid": f"LVM-{group}{volume}", "dm/suspended": str(number - 1)},
            udev={"ID_FS_TYPE": "gfs2", "ID_FS_UUID": "AAAA1111-2222-3333-4444-555555555555"},
        )
    device = root / "sys/devices" / ISCSI
    write(device / "state", "transport-offline")
    write(device / "wwid", "naa.60014056666666666666666666666666")
    block(root, "sdc", "8:32", at=ISCSI)
    session = root / "sys/devices/platform/host5/session1"
    for key, value in {"targetname": "iqn.2003-01.org.linux-iscsi.nas:vm", "state": "FAILED", "tpgt": "1"}.items():
        write(session / "iscsi_session/session1" / key, value)
    link(session / "iscsi_session/session1/device", session)
    link(root / "sys/class/iscsi_session/session1", session / "iscsi_session/session1")
    connection = root / "sys/class/iscsi_connection/connection1:0"
    for key, value in {
        "address": "fd00::10",
        "port": "3260",
        "persistent_address": "nas",
        "persistent_port": "1",
    }.items():
        write(connection / key, value)
    for host, port in (("host3", "0x21000024ff000001"), ("host4", "0x21000024ff000002")):
        state = {"port_state": "Online" if host == "host3" else "Linkdown", "speed": "16 Gbit", "node_name": "0x2000"}
        for key, value in {"port_name": port, "fabric_name": "0x100000051e000001", **state}.items():
            write(root / "sys/class/fc_host" / host / key, value)
    for name, roles, state in (
        ("rport-3:0-1", "FCP Target", "Online"),
        ("rport-3:0-2", "FCP Target, FCP Initiator", "Blocked"),
        ("rport-3:0-3", "Fabric Port", "Online"),
        ("rport-4:0-1", "FCP Target", "Not Present"),
    ):
        remote = root / "sys/class/fc_remote_ports" / name
        write(remote / "port_name", f"0x5001405000000{name[-1]}01")
        write(remote / "roles", roles)
        write(remote / "port_state", state)
