"""iSCSI sessions, Fibre Channel ports, volume groups, lockspaces and quorum, on trees of /sys."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host.storage import cluster, devices, fibrechannel, iscsi, lvm
from kvmigd.model.storage import Lockspace
from tests.unit.storage_trees import block, san, write


def test_iscsi_sessions(tmp_path: Path) -> None:
    san(tmp_path)
    (session,) = iscsi.sessions(tmp_path)
    assert (session.name, session.target) == ("session1", "iqn.2003-01.org.linux-iscsi.nas:vm")
    assert (session.portal, session.state, session.luns) == ("[fd00::10]:3260,1", "FAILED", ("7=sdc",))
    write(tmp_path / "sys/class/iscsi_connection/connection1:0/address", "")
    assert iscsi.sessions(tmp_path)[0].portal == "nas:1,1", "while it is down, what was configured"
    assert iscsi.sessions(tmp_path / "nowhere") == ()


def test_fibre_channel_ports(tmp_path: Path) -> None:
    san(tmp_path)
    online, down = fibrechannel.ports(tmp_path)
    assert (online.name, online.wwpn, online.state) == ("host3", "21000024ff000001", "Online")
    assert (online.speed, online.fabric) == ("16 Gbit", "100000051e000001")
    assert online.targets == ("5001405000000101",), "no switch, and none that is blocked"
    assert (down.state, down.targets) == ("Linkdown", ())
    write(tmp_path / "sys/class/fc_host/host4/fabric_name", "0xffffffffffffffff")
    assert fibrechannel.ports(tmp_path)[1].fabric == ""
    assert fibrechannel.ports(tmp_path / "nowhere") == ()


def test_volume_groups(tmp_path: Path) -> None:
    san(tmp_path)
    (group,) = lvm.volume_groups(devices.read(tmp_path))
    assert (group.name, group.uuid) == ("vg-a", "VkQ2mY-dKfJ-6sP0-nXaZ-tRcW-uHgL-bEi1o3")
    assert group.lock_type == ""
    (group,) = lvm.volume_groups(devices.read(tmp_path), lockspaces=(Lockspace(name="lvm_vg-a"),))
    assert group.lock_type == "dlm"
    uuid = "LVM-VkQ2mYdKfJ6sP0nXaZtRcWuHgLbEi1o3" + "x" * 32
    block(tmp_path, "dm-9", "253:9", attributes={"dm/name": "vg--a-lvmlock", "dm/uuid": uuid})
    (group,) = lvm.volume_groups(devices.read(tmp_path))
    assert group.lock_type == "sanlock"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("vg-lv", ("vg", "lv")),
        ("vg--a-lv--b", ("vg-a", "lv-b")),
        ("a----b-c", ("a--b", "c")),
        ("vg-snap-cow", ("vg", "snap-cow")),
        ("plain", ("plain", "")),
        ("", ("", "")),
    ],
)
def test_names_of_volumes(name: str, parts: tuple[str, str]) -> None:
    assert lvm.split_name(name) == parts


_LVM_NAME = st.text(alphabet="ab-_.+", min_size=1, max_size=10).filter(lambda name: name[0] != "-")


@given(_LVM_NAME.filter(lambda name: not name.endswith("-")), _LVM_NAME)
def test_names_of_volumes_come_back(group: str, volume: str) -> None:
    escaped = f"{group.replace('-', '--')}-{volume.replace('-', '--')}"
    assert lvm.split_name(escaped) == (group, volume)


def test_lockspaces(tmp_path: Path) -> None:
    for name, status in (("lvm_vg-a", "ff"), ("vm", "3")):
        write(tmp_path / "sys/kernel/dlm" / name / "id", "1234567")
        write(tmp_path / "sys/kernel/dlm" / name / "recover_status", status)
    for node in ("2", "10", "1"):
        write(tmp_path / "sys/kernel/config/dlm/cluster/spaces/vm/nodes" / node / "nodeid", node)
    write(tmp_path / "sys/kernel/config/dlm/cluster/cluster_name", "west")
    still, busy = cluster.lockspaces(tmp_path)
    assert (still.name, still.id, still.control, still.members) == ("lvm_vg-a", "1234567", "", ())
    assert (busy.name, busy.control, busy.members) == ("vm", "recovering", ("1", "2", "10"))
    assert cluster.name(tmp_path) == "west"
    assert cluster.lockspaces(tmp_path / "nowhere") == ()


QUORATE = """Quorum information
------------------
Date:             Wed Nov 25 16:00:00 2026
Quorum provider:  corosync_votequorum
Nodes:            2
Node ID:          1
Ring ID:          1.5
Quorate:          Yes

Votequorum information
----------------------
Expected votes:   2
Flags:            2Node Quorate WaitForAll
"""


def test_the_word_of_corosync_on_quorum() -> None:
    assert cluster.parse_quorum(QUORATE) is True
    assert cluster.parse_quorum(QUORATE.replace("Yes", "No")) is False
    assert cluster.parse_quorum("Cannot initialize QUORUM service") is None


def test_no_cluster_is_not_a_cluster_without_quorum(tmp_path: Path) -> None:
    write(tmp_path / "proc/net/unix", "Num RefCount Protocol Flags Type St Inode Path\n0: 2 0 1 1 01 17 /run/x\n")
    assert asyncio.run(cluster.quorate(tmp_path)) is None
    write(tmp_path / "proc/net/unix", "Num RefCount\n0000: 00000002 00000000 00010000 0001 01 17 @quorum@@@@@@\n")
    assert cluster.corosync_runs(tmp_path)


@given(st.text(max_size=200))
def test_odd_words_of_corosync_never_raise(text: str) -> None:
    cluster.parse_quorum(text)
    lvm.split_name(text)


@given(st.binary(max_size=40))
def test_odd_attributes_never_raise(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / "sys/kernel/dlm/x/recover_status", content)
        write(root / "sys/class/fc_host/host1/port_name", content)
        write(root / "sys/class/fc_remote_ports/rport-1:0-1/port_name", content)
        write(root / "sys/class/fc_remote_ports/rport-1:0-1/roles", b"FCP Target" + content)
        write(root / "sys/class/iscsi_session/session1/targetname", content)
        write(root / "sys/class/iscsi_connection/connection1:0/address", content)
        write(root / "proc/net/unix", content)
        cluster.lockspaces(root)
        cluster.corosync_runs(root)
        fibrechannel.ports(root)
        iscsi.sessions(root)
