"""Readers of /proc, /sys and /etc, on trees made for the purpose."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host import links, mounts

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 0:36 / /srv/vm rw,relatime shared:20 - fuse.glusterfs store:/vm rw,user_id=0
41 22 0:37 /export/a\040b /srv/with\040space rw - nfs4 nas:/export/a\040b rw,vers=4.2
42 40 0:38 / /srv/vm/deep rw - tmpfs tmpfs rw
43 22 0:39 / /srv/vm rw - ext4 /dev/vdb rw
garbage
"""


def test_mounts_are_read_with_escapes_undone() -> None:
    table = mounts.parse(MOUNTINFO)
    assert [mount.point for mount in table] == ["/", "/srv/vm", "/srv/with space", "/srv/vm/deep", "/srv/vm"]
    assert table[2].source == "nas:/export/a b"
    assert [mount.shared for mount in table] == [False, True, True, False, False]


def test_the_deepest_and_last_mount_counts() -> None:
    table = mounts.parse(MOUNTINFO)
    found = mounts.containing("/srv/vm/a.img", table)
    assert found is not None
    assert found.fs_type == "ext4", "a later mount covers an earlier one"
    deep = mounts.containing("/srv/vm/deep/x", table)
    assert deep is not None
    assert deep.fs_type == "tmpfs"
    root = mounts.containing("/srv/vmware/x", table)
    assert root is not None
    assert root.point == "/"


@given(st.text(max_size=200))
def test_odd_lines_of_mountinfo_never_raise(line: str) -> None:
    mounts.parse_line(line)


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=40))
def test_escapes_come_back(text: str) -> None:
    escaped = "".join(f"\\{ord(c):03o}" if c in " \t\n\\#" else c for c in text)
    assert mounts.unescape(escaped) == text


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    for name, flags in (("br0", "0x1003"), ("eth0", "0x1003"), ("vnet0", "0x1003")):
        write(tmp_path / name / "flags", flags + "\n")
        write(tmp_path / name / "mtu", "1500\n")
        write(tmp_path / name / "uevent", f"INTERFACE={name}\n")
        write(tmp_path / name / "carrier", "1\n")
    (tmp_path / "br0" / "bridge").mkdir()
    write(tmp_path / "br0/brif/eth0", "")
    write(tmp_path / "br0/brif/vnet0", "")
    write(tmp_path / "vnet0/tun_flags", "0x1002\n")
    return tmp_path


def test_a_bridge_with_an_uplink_and_a_tap(net: Path) -> None:
    fact = links.bridge("br0", net=net)
    assert (fact.exists, fact.is_bridge, fact.up, fact.carrier, fact.mtu) == (True, True, True, True, 1500)
    assert fact.uplinks == ("eth0",)


def test_a_bridge_that_is_down(net: Path) -> None:
    write(net / "br0/flags", "0x1002\n")
    assert not links.bridge("br0", net=net).up


def test_links_that_are_no_bridges(net: Path) -> None:
    assert not links.bridge("eth0", net=net).is_bridge
    for name in ("br9", "", "../br0"):
        assert not links.bridge(name, net=net).exists
