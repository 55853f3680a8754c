"""Evidence: what is asked again and why, what is proved and stays so, what guests need, and what a change means."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kvmigd.model.guest import Disk, Nic
from kvmigd.model.host import CpuFact, Examination, Look, ResolvedName
from kvmigd.model.hypervisor import HypervisorState
from kvmigd.model.links import BridgePort
from kvmigd.model.mounts import MountFact, MountKind, Space
from kvmigd.model.proof import FrameProof, PortProof, Proofs, StorageProof, Throughput
from kvmigd.model.state import HostState
from kvmigd.model.storage import FileSystemIdentity, PathFact
from kvmigd.prove.wanted import Segment
from kvmigd.readiness import changes
from kvmigd.readiness.evidence import HERE, Evidence, merged
from kvmigd.readiness.wanted import wanted_for
from tests.unit.cases import BRIDGE, GUEST, LOCAL, NFS, PATHS, SOURCE, changed

OTHER = changed(GUEST, name="db", uuid="0000000b-1111-4111-8111-111111111111")
STATE = SOURCE.state


def look(guest: Any, *, usec: int = 1, **how: Any) -> Look:
    """A look at a guest."""
    return Look(guest=guest.uuid, paths=PATHS, taken_usec=usec, **how)


def evidence(*guests: Any) -> tuple[Evidence, list[tuple[str, str, str]]]:
    """Evidence about these guests, and what it tells."""
    told: list[tuple[str, str, str]] = []
    made = Evidence(lambda *words: told.append(words))
    made.guests(guests)
    return made, told


# Looks


def test_who_was_not_asked_is_to_be_asked() -> None:
    made, told = evidence(GUEST, OTHER)
    assert made.wanted() == made.wanted("hostb") == {GUEST.uuid, OTHER.uuid}
    made.took(HERE, [GUEST], [look(GUEST)])
    made.took("hostb", [OTHER], [look(OTHER)])
    assert (made.wanted(), made.wanted("hostb")) == ({OTHER.uuid}, {GUEST.uuid})
    assert told == [(HERE, GUEST.uuid, "look"), ("hostb", OTHER.uuid, "look")]


def test_what_is_doubted_is_still_told_and_asked_again() -> None:
    made, told = evidence(GUEST, OTHER)
    for host in (HERE, "hostb"):
        made.took(host, [GUEST, OTHER], [look(GUEST), look(OTHER)])
    told.clear()
    made.doubt("hostb", uuids=[GUEST.uuid, "nobody"])
    assert made.wanted("hostb") == {GUEST.uuid}
    assert made.wanted() == set()
    assert made.look(GUEST.uuid, "hostb") == look(GUEST)
    made.took("hostb", [GUEST], [look(GUEST, usec=2)])
    assert told == [("hostb", GUEST.uuid, "age")], "the same was seen"
    made.doubt()
    assert made.wanted() == made.wanted("hostb") == {GUEST.uuid, OTHER.uuid}
    made.took("hostb", [GUEST], [look(GUEST, usec=3, cpu=CpuFact(compatible=False))])
    assert told[-1] == ("hostb", GUEST.uuid, "look")


def test_only_what_a_look_depends_on_makes_it_stale() -> None:
    made, _told = evidence(GUEST)
    made.took(HERE, [GUEST], [look(GUEST)])
    made.guests([changed(GUEST, memory=1, nics=(), state="paused")])
    assert made.wanted() == set()
    for how in ({"machine": "pc-q35-8.0"}, {"name": "www"}, {"disks": ()}, {"cpu_xml": "<cpu/>"}):
        made.guests([changed(GUEST, **how)])
        assert made.wanted() == {GUEST.uuid}, how
        made.took(HERE, [changed(GUEST, **how)], [look(GUEST)])
        assert made.wanted() == set()


def test_a_look_that_comes_too_late_says_nothing() -> None:
    made, told = evidence(GUEST)
    made.guests([changed(GUEST, machine="pc-q35-8.0")])
    made.took(HERE, [GUEST], [look(GUEST)])
    made.guests([])
    made.took(HERE, [GUEST], [look(GUEST)])
    assert (told, made.look(GUEST.uuid), made.wanted()) == ([], None, set())


def test_a_guest_that_is_gone_is_forgotten() -> None:
    made, _told = evidence(GUEST)
    made.took(HERE, [GUEST], [look(GUEST)])
    made.guests([])
    made.guests([GUEST])
    assert made.wanted() == {GUEST.uuid}


def test_the_oldest_of_what_a_verdict_rests_on_is_its_age() -> None:
    made, _told = evidence(GUEST)
    made.took(HERE, [GUEST], [look(GUEST, usec=7)])
    made.took("hostb", [GUEST], [look(GUEST, usec=9)])
    assert made.proved_usec(GUEST.uuid, "hostb") == 0
    made.proved("hostb", Proofs(ports=(PortProof(to="hosta", taken_usec=1), PortProof(to="hostb", taken_usec=8))))
    assert made.proved_usec(GUEST.uuid, "hostb") == 7


# Proofs


def test_what_was_not_tried_again_stands() -> None:
    old = Proofs(
        ports=(PortProof(to="hostb", taken_usec=1), PortProof(to="hosta", taken_usec=1)),
        storage=(StorageProof(folder="/a", taken_usec=1), StorageProof(folder="/b", taken_usec=1)),
        throughput=Throughput(rate=1),
    )
    new = Proofs(
        ports=(PortProof(to="hostb", taken_usec=2, problem="timeout"),),
        storage=(StorageProof(folder="/b", taken_usec=2),),
    )
    now = merged(old, new)
    assert [(it.to, it.taken_usec, it.problem) for it in now.ports] == [("hostb", 2, "timeout"), ("hosta", 1, "")]
    assert [(it.folder, it.taken_usec) for it in now.storage] == [("/a", 1), ("/b", 2)]
    assert now.throughput == Throughput(rate=1)
    assert merged(Proofs(), new) == new


@pytest.mark.parametrize("problem", ["busy", "no-answer"])
def test_what_could_not_be_tried_changes_nothing(problem: str) -> None:
    good = Proofs(storage=(StorageProof(folder="/srv", taken_usec=1),))
    passing = Proofs(storage=(StorageProof(folder="/srv", taken_usec=2, problem=problem),))
    assert merged(good, passing) == good
    assert merged(Proofs(), passing) == passing
    assert merged(passing, good) == good


def test_that_no_port_is_free_is_no_passing_thing() -> None:
    good = Proofs(ports=(PortProof(to="hostb", taken_usec=1),))
    taken = Proofs(ports=(PortProof(to="hostb", taken_usec=2, problem="busy"),))
    assert merged(good, taken) == taken


def test_proofs_that_nobody_needs_are_forgotten() -> None:
    made, told = evidence(GUEST)
    frames = (FrameProof(bridge="br0"), FrameProof(bridge="br0", vlan=7))
    made.proved("hostb", Proofs(storage=(StorageProof(folder="/a"), StorageProof(folder="/b")), frames=frames))
    made.limit("hostb", folders=frozenset({"/b"}), segments=frozenset({"br0/7"}))
    assert made.contact("hostb").proofs == Proofs(storage=(StorageProof(folder="/b"),), frames=frames[1:])
    told.clear()
    made.limit("hostb", folders=frozenset({"/b"}), segments=frozenset({"br0/7"}))
    assert told == []
    made.forget("hostb")
    assert made.contact("hostb").proofs == Proofs()


def test_a_peer_that_does_not_answer_is_named_as_before() -> None:
    made, told = evidence(GUEST)
    named = ResolvedName(name="hostb", addresses=("192.0.2.2",))
    naming = ResolvedName(name="hosta", addresses=("192.0.2.1",))
    here = Examination(facts=SOURCE.facts, other=named, remote=SOURCE.remote)
    made.met("hostb", here, Examination(facts=SOURCE.facts, other=naming))
    made.met("hostb", msgspec.structs.replace(here, remote=None), None)
    contact = made.contact("hostb")
    assert (contact.named, contact.naming, contact.remote) == (named, naming, SOURCE.remote)
    assert told == [("hostb", "", "facts")]


# What guests need


def test_what_guests_need() -> None:
    tagged = changed(OTHER, nics=(Nic(mac="", kind="bridge", source="br0", vlans=(7, 8), mtu=9000),), disks=())
    wanted = wanted_for([GUEST, tagged], STATE, looks={GUEST.uuid: look(GUEST)}, tls=True)
    assert wanted.storage == ("/srv/guests",), "the firmware's folder is no shared storage"
    assert wanted.frames == tuple(
        Segment(bridge="br0", vlan=vlan, mtu=mtu) for vlan, mtu in ((0, 1500), (7, 9000), (8, 9000))
    ), "libvirt's own bridge leads nowhere"
    assert (wanted.ports, wanted.back, wanted.tls, wanted.throughput) == (("stream",), ("stream",), True, False)
    assert wanted_for([], STATE, looks={}, tls=False, disks=True).ports == ("stream", "disks")


def test_without_a_look_the_mounts_tell_what_is_shared() -> None:
    state = changed(STATE, mounts__mounts=(changed(LOCAL, kind=MountKind.DISK), changed(NFS, kind=MountKind.NETWORK)))
    assert wanted_for([GUEST], state, looks={}, tls=False).storage == ("/srv/guests",)
    block = changed(GUEST, disks=(Disk(target="vda", kind="block", paths=("/dev/sda",)),))
    assert wanted_for([block], state, looks={}, tls=False).storage == ()
    fact = PathFact(path="/dev/sda", exists=True, is_block=True, mount=NFS)
    seen = Look(guest=block.uuid, paths=(fact,))
    assert wanted_for([block], state, looks={block.uuid: seen}, tls=False).storage == ()


# What changes mean


def test_containers_that_come_and_go_touch_nothing() -> None:
    layer = MountFact(point="/var/lib/containers/1", fs_type="overlay", source="overlay", kind=MountKind.STACKED)
    assert changes.changed_here(STATE, changed(STATE, mounts__mounts=(*STATE.mounts.mounts, layer))) == frozenset()
    assert changes.changed_here(STATE, changed(STATE, mounts__mounts=STATE.mounts.mounts[:1])) == {"mounts"}
    assert changes.changed_here(STATE, changed(STATE, mounts__problem="it hangs")) == {"mounts"}


def test_a_guest_of_this_host_is_told_by_itself() -> None:
    with_guest = changed(STATE, hypervisor__guests=(GUEST,))
    other = changed(with_guest, hypervisor__guests=(changed(GUEST, memory=1),))
    assert changes.changed_here(with_guest, other) == frozenset()
    assert changes.changed_here(STATE, with_guest) == {"hypervisor"}
    assert changes.changed_here(with_guest, changed(with_guest, hypervisor__networks=())) == {"hypervisor"}
    assert changes.changed_there(with_guest, other) == {"hypervisor"}


def test_facts_and_memory() -> None:
    facts = SOURCE.facts
    less = changed(facts, memory_free=1)
    assert changes.changed_facts(facts, less, here=True) == {"memory-here"}
    assert changes.changed_facts(facts, less) == changes.changed_facts(None, facts) == {"facts"}
    assert changes.changed_facts(facts, changed(facts, accepting=False, memory_free=1), here=True) == {"facts"}
    assert changes.changed_facts(facts, changed(facts)) == frozenset()


def test_where_something_else_is_mounted() -> None:
    def mounted(*mounts: MountFact) -> HostState:
        return changed(STATE, mounts__mounts=mounts)

    assert changes.places(mounted(LOCAL, NFS), mounted(LOCAL, NFS)) == frozenset()
    assert changes.places(mounted(LOCAL, NFS), mounted(LOCAL)) == {"/srv/guests"}
    roomy = changed(NFS, space=Space(total=9, free=1))
    assert changes.places(mounted(LOCAL, NFS), mounted(LOCAL, roomy)) == frozenset(), "room is no place"
    assert changes.places(mounted(LOCAL, NFS), mounted(LOCAL, changed(NFS, source="nas:/other"))) == {"/srv/guests"}
    assert changes.places(STATE, changed(STATE, mounts__problem="it hangs")) == {"/"}
    system = FileSystemIdentity(point="/srv/guests", fs_type="nfs4", uuid="1")
    known = changed(STATE, storage__filesystems=(system,))
    assert changes.places(known, changed(STATE, storage__filesystems=(changed(system, uuid="2"),))) == {"/srv/guests"}


def test_what_lies_below() -> None:
    places = frozenset({"/srv/guests"})
    assert changes.lies_below(["/srv/guests/web.qcow2"], places)
    assert changes.lies_below(["/srv/guests"], places)
    assert not changes.lies_below(["/srv/guests2/web.qcow2", "/srv", "relative"], places)


def test_taps_do_not_change_a_segment() -> None:
    def bridged(**how: Any) -> Any:
        return changed(STATE, links__bridges=(changed(BRIDGE, **how),)).links

    tap = BridgePort(name="vnet0", uplink=False)
    assert changes.segments(bridged(), bridged(ports=(tap,), carrier=False)) == frozenset()
    assert changes.segments(bridged(), bridged(ports=(changed(tap, uplink=True),))) == {"br0"}
    for how in ({"mtu": 9000}, {"up": False}, {"uplinks": ()}):
        assert changes.segments(bridged(), bridged(**how)) == {"br0"}
    down = changed(STATE, links__links=tuple(changed(it, carrier=False) for it in STATE.links.links))
    assert changes.segments(STATE.links, down.links) == {"br0"}


def test_names_that_are_taken() -> None:
    nobody, web = HypervisorState(problem=""), HypervisorState(problem="", guests=(GUEST,))
    assert changes.names_taken(nobody, web) == changes.names_taken(web, nobody) == {GUEST.name, GUEST.uuid}
    same = HypervisorState(problem="", guests=(changed(GUEST, memory=1),))
    assert changes.names_taken(web, same) == frozenset()
