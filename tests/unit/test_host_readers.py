"""Readers of /proc, /sys and /etc, on trees made for the purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmigd.host import links


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
