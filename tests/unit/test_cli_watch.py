"""kvmigctl watch: how changes are told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kvmigd.cli.watch import Memory, line
from kvmigd.model.encoding import to_json
from kvmigd.model.guest import GuestState
from kvmigd.model.hypervisor import HypervisorState
from kvmigd.model.links import BridgeFact, Links
from kvmigd.model.mounts import MountFact, MountKind, Mounts
from kvmigd.model.state import HostState
from kvmigd.model.subject import Subject, item_changes
from kvmigd.model.system import Clock, Package, System
from tests.unit.test_cli_host import GUEST

BR0 = BridgeFact(name="br0", exists=True, up=True, uplinks=("eth0",), mtu=1500)
NFS = MountFact(
    point="/srv", fs_type="nfs4", source="nas:/a", id=40, kind=MountKind.NETWORK, shared=True, options=("rw",)
)


def lines(subject: str, before: Subject, now: Subject) -> list[str]:
    """What is told, without the time, which is that of now."""
    memory = Memory(HostState(**{subject: before}))
    rows = [
        [c.kind, c.field, c.key, "" if c.kind == "removed" else to_json(c.value).decode()]
        for c in item_changes(before, now)
    ]
    return [line(change).partition(" ")[2] for change in memory.completed(2, subject, rows)]


@pytest.mark.parametrize(
    ("subject", "before", "now", "told"),
    [
        (
            "links",
            Links(problem="", bridges=(BR0,)),
            Links(problem="", bridges=(msgspec.structs.replace(BR0, up=False, uplinks=("eth1",)),)),
            ["links changed bridge br0: up yes -> no, uplinks -eth0 +eth1"],
        ),
        (
            "mounts",
            Mounts(problem=""),
            Mounts(problem="", mounts=(NFS,)),
            [
                "mounts added mount /srv: fs_type nfs4, source nas:/a, options rw, kind network, shared yes",
            ],
        ),
        ("mounts", Mounts(problem="", mounts=(NFS,)), Mounts(problem=""), ["mounts removed mount /srv"]),
        (
            "mounts",
            Mounts(problem="", mounts=(NFS,)),
            Mounts(problem="the table cannot be read"),
            ["mounts not known: the table cannot be read", "mounts removed mount /srv"],
        ),
        ("mounts", Mounts(problem="x"), Mounts(problem=""), ["mounts known"]),
        (
            "system",
            System(problem="", kernel="6.1", clock=Clock(synchronised=True)),
            System(problem="", kernel="6.2", clock=Clock(), userfaultfd=True),
            [
                "system changed kernel: 6.1 -> 6.2",
                "system changed clock: synchronised yes -> unknown",
                "system changed userfaultfd: unknown -> yes",
            ],
        ),
        (
            "system",
            System(problem="", packages=(Package(name="qemu", version="1:7", arch="amd64"),)),
            System(problem="", packages=(Package(name="qemu", version="1:8", arch="amd64"),)),
            ["system changed package qemu:amd64: version 1:7 -> 1:8"],
        ),
        (
            "hypervisor",
            HypervisorState(problem="", guests=(GUEST,)),
            HypervisorState(
                problem="", guests=(msgspec.structs.replace(GUEST, state=GuestState.PAUSED),), filters=("a",)
            ),
            ["hypervisor changed guest web1: state running -> paused", "hypervisor changed filters: +a"],
        ),
    ],
)
def test_lines(subject: str, before: Subject, now: Subject, told: list[str]) -> None:
    assert lines(subject, before, now) == told


def test_memory_goes_on() -> None:
    memory = Memory(HostState(mounts=Mounts(problem="", mounts=(NFS,))))

    def step(*row: str) -> dict[str, Any]:
        (change,) = memory.completed(5, "mounts", [list(row)])
        return change

    assert step("changed", "mounts", "40:/srv", '{"a":1}')["before"]["source"] == "nas:/a"
    assert step("changed", "mounts", "40:/srv", '{"a":2}')["before"] == {"a": 1}
    removed = step("removed", "mounts", "40:/srv", "")
    assert (removed["before"], removed["value"], removed["generation"]) == ({"a": 2}, None, 5)
    assert step("added", "mounts", "40:/srv", '{"a":3}')["before"] is None


def test_a_change_of_what_is_not_remembered_is_told_as_well() -> None:
    change = {
        "time_usec": 1,
        "generation": 1,
        "subject": "new",
        "kind": "changed",
        "field": "f",
        "key": "k",
        "before": None,
    }
    assert line({**change, "value": {"a": 1}}).endswith("new changed f k: unknown -> a 1")
    assert line({**change, "kind": "added", "value": 5}).endswith("new added f k")
