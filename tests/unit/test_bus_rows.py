"""Facts as `a{sv}`, and that each key is documented."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from kvmigd.bus import interface as xml
from kvmigd.bus import path
from kvmigd.bus.body import Body, Typed
from kvmigd.bus.host import HostObject
from kvmigd.bus.rows import row, unsigned, version
from kvmigd.host.picture import Picture
from kvmigd.model.firewall import Answer, Firewall, FirewallBackend, PortHint, PortUse
from kvmigd.model.hypervisor import HypervisorState, NetworkFact, PoolFact
from kvmigd.model.links import BridgeFact, BridgePort, LinkFact, Links, RouteFact
from kvmigd.model.mounts import MountFact, MountKind, Mounts, Space
from kvmigd.model.storage import FileSystemIdentity, Storage
from kvmigd.model.system import Clock, HugePages, NumaNode, Package, System

NFS = MountFact(point="/srv", fs_type="nfs4", source="nas:/a", kind=MountKind.NETWORK, space=Space(total=9, free=5))
FULL = (
    Mounts(problem="", mounts=(NFS,)),
    Storage(problem="", filesystems=(FileSystemIdentity(point="/srv", fs_type="nfs4"),)),
    Links(
        problem="",
        links=(LinkFact(index=1, name="lo"),),
        bridges=(BridgeFact(name="br0", exists=True, ports=(BridgePort(name="eth0", uplink=True),)),),
        routes=(RouteFact(peer="hostb", address="192.0.2.2"),),
    ),
    Firewall(
        problem="",
        ports=(PortUse(purpose="stream", first=49152, last=49215),),
        backends=(FirewallBackend(name="nftables", active=True),),
        hints=(PortHint(peer="hostb", address="192.0.2.2", purpose="stream", answer=Answer.OPEN),),
    ),
    System(
        problem="",
        packages=(Package(name="qemu-system-x86", version="1:7.2"),),
        clock=Clock(synchronised=True),
        hugepages=(HugePages(node=0, size=2 << 20),),
        numa=(NumaNode(node=0),),
        userfaultfd=True,
    ),
    HypervisorState(
        problem="",
        networks=(NetworkFact(name="default", exists=True),),
        pools=(PoolFact(name="p", uuid="u", active=True),),
    ),
)
"""A picture in which every list has something and nothing is None."""


def test_a_fact_is_a_row() -> None:
    found = row(NFS)
    assert found["fsType"] == ("s", "nfs4")
    assert found["kind"] == ("s", "network")
    assert found["space"] == ("a{sv}", {"total": ("t", 9), "free": ("t", 5), "filesFree": ("t", 0)})
    assert found["problemSinceUSec"] == ("t", 0)
    Body("a{sv}", found)


def test_what_is_none_has_no_key() -> None:
    assert "space" not in row(msgspec.structs.replace(NFS, space=None))


@pytest.mark.parametrize(("number", "carried"), [(-1, 0), (5, 5), (2**70, 2**64 - 1)])
def test_every_number_can_be_carried(number: int, carried: int) -> None:
    assert unsigned(number) == carried


def test_versions() -> None:
    assert (version(9_000_000), version(7_002_013), version(0)) == ("9.0.0", "7.2.13", "")


def _properties(*subjects: Any) -> dict[str, Any]:
    picture = Picture()
    for subject in subjects:
        picture.publish(subject)
    return HostObject(picture, None, None).properties()  # type: ignore[arg-type]


def _keys_in(text: str) -> dict[str, str]:
    """Key and type, as the comment of a property has them: eight spaces, key, type, colon."""
    return dict(re.findall(r"^ {8}(\w+) ([a-z(){}]+)\??: ", text, re.MULTILINE))


def _keys_of(values: list[Any]) -> dict[str, str]:
    if isinstance(values[0], dict):
        return {key: item.signature for row in values for key, item in row.items()}
    return {key: item.signature for key, item in values}


def test_every_key_is_documented_and_every_documented_key_is_there() -> None:
    text = xml.path_of(path.HOST).read_text(encoding="utf-8")
    comments = dict(re.findall(r"<!--\s+(\w+): (.*?)-->", text, re.DOTALL))
    checked = 0
    for name, value in _properties(*FULL).items():
        if hasattr(value, "make"):
            assert _keys_of(list(value.make())) == _keys_in(comments[name]), name
            checked += 1
    assert checked == 15


def test_inner_keys_are_documented_too() -> None:
    text = xml.path_of(path.HOST).read_text(encoding="utf-8")

    def inner(values: Any) -> None:
        for key, item in values:
            assert isinstance(item, Typed)
            if item.signature in ("a{sv}", "aa{sv}"):
                rows = [item.value] if item.signature == "a{sv}" else item.value
                assert rows, key
                for name, found in rows[0].items():
                    assert f'"{name}" {found.signature}' in text, (key, name)

    for value in _properties(*FULL).values():
        if hasattr(value, "make"):
            for made in value.make():
                inner(made.items() if isinstance(made, dict) else [made])


def test_what_is_not_known_is_empty() -> None:
    found = _properties()
    assert set(found["Unknown"]) == {"mounts", "storage", "links", "firewall", "system", "hypervisor"}
    assert list(found["Mounts"].make()) == []
    assert dict(found["Software"].make())["libvirt"] == ("s", "")


def test_only_storage_is_among_the_mounts() -> None:
    proc = MountFact(point="/proc", fs_type="proc", source="proc", kind=MountKind.KERNEL)
    found = _properties(Mounts(problem="", mounts=(proc, NFS)))
    assert [made["point"].value for made in found["Mounts"].make()] == ["/srv"]
