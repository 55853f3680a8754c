"""What the watch stream says of the picture, and what a peer makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.errors import InvalidArguments
from kvmigd.host.picture import Picture
from kvmigd.model.hypervisor import HypervisorState
from kvmigd.model.links import BridgeFact, Links
from kvmigd.model.mounts import MountFact, MountKind, Mounts
from kvmigd.model.peer import PeerState
from kvmigd.model.state import SUBJECTS, HostState
from kvmigd.peer import wire
from kvmigd.peer.news import MOUNTS_LIMIT, News, Newsreader
from tests import simulated
from tests.unit import peer_lab as lab

NFS = MountFact(point="/srv", fs_type="nfs4", source="nas:/a", id=9, kind=MountKind.NETWORK)
PROC = MountFact(point="/proc", fs_type="proc", source="proc", id=2, kind=MountKind.KERNEL)


def heard(lines: bytes, state: HostState | None = None) -> HostState:
    """The picture that a peer has after these lines."""
    now = state or HostState()
    for line in lines.splitlines():
        assert len(line) <= wire.LINE_LIMIT
        now = wire.decode(line, News).applied(now)
    return now


def reader(picture: Picture) -> Newsreader:
    return Newsreader(lambda: lab.FACTS, lambda: picture.state)


def test_a_newcomer_hears_everything() -> None:
    picture = Picture()
    picture.publish(Mounts(problem="", mounts=(PROC, NFS)))
    picture.publish(Links(problem="", bridges=(BridgeFact(name="br0", exists=True),)))
    lines = reader(picture).whole()
    assert wire.decode(lines.splitlines()[0], News).facts == lab.FACTS
    state = heard(lines)
    assert state.mounts.mounts == (NFS,), "the kernel's own mounts are nobody else's business"
    assert state.mounts.since_usec == picture.state.mounts.since_usec
    assert state.links == picture.state.links
    assert not state.hypervisor.is_known


def test_only_what_changed_is_told() -> None:
    picture = Picture()
    news = reader(picture)
    state = heard(news.changes())
    picture.publish(Links(problem="", bridges=(BridgeFact(name="br0", exists=True),)))
    lines = news.changes()
    assert [next(iter(json.loads(line))) for line in lines.splitlines()] == ["links", "generation"]
    assert news.generation == picture.state.generation
    state = heard(lines, state)
    assert state.generation == news.generation
    assert state.links.bridges[0].name == "br0"
    assert news.changes() == b""
    picture.publish(Mounts(problem="", mounts=(NFS,)))
    heard(news.changes(), state)
    picture.publish(Mounts(problem="", mounts=(NFS, PROC)))
    told = news.generation
    assert news.changes() == b"", "nothing that matters to peers"
    assert news.generation == told < picture.state.generation
    picture.unknown(Links, "the kernel is silent")
    state = heard(news.changes(), state)
    assert state.links.problem == "the kernel is silent"
    assert state.links.bridges == ()


def test_a_newcomer_takes_nothing_from_those_who_wait() -> None:
    picture = Picture()
    news = reader(picture)
    news.changes()
    picture.publish(Links(problem="", bridges=(BridgeFact(name="br0", exists=True),)))
    news.whole()
    assert heard(news.changes()).links.bridges


def test_guests_are_told_in_brief() -> None:
    picture = Picture()
    guest = msgspec.structs.replace(simulated.guest("web", memory=7), cpu_xml="<cpu/>")
    picture.publish(HypervisorState(problem="", guests=(guest,)))
    (told,) = heard(reader(picture).whole()).hypervisor.guests
    assert (told.name, told.uuid, told.memory) == ("web", guest.uuid, 7)
    assert told.cpu_xml == ""


def test_too_many_mounts_and_too_much() -> None:
    picture = Picture()
    local = tuple(
        MountFact(point=f"/m{number}", fs_type="ext4", source="x", id=100 + number, kind=MountKind.DISK)
        for number in range(2 * MOUNTS_LIMIT)
    )
    picture.publish(Mounts(problem="", mounts=(*local, msgspec.structs.replace(NFS, id=9999))))
    told = heard(reader(picture).whole()).mounts.mounts
    assert len(told) == MOUNTS_LIMIT
    assert told[-1].point == "/srv"
    picture.publish(Mounts(problem="", mounts=(msgspec.structs.replace(NFS, source="x" * wire.LINE_LIMIT),)))
    state = heard(reader(picture).whole())
    assert "too large" in state.mounts.problem


def test_a_path_of_odd_bytes_is_told_all_the_same() -> None:
    picture = Picture()
    picture.publish(Mounts(problem="", mounts=(msgspec.structs.replace(NFS, point="/srv/\udcff"),)))
    assert heard(reader(picture).whole()).mounts.mounts[0].point == "/srv/?"


@given(st.binary(max_size=200))
def test_odd_lines_are_errors_and_nothing_else(line: bytes) -> None:
    try:
        wire.decode(line, News).applied(HostState())
    except InvalidArguments:
        pass
    except Exception:
        pytest.fail("another exception")


@lab.asynchronous
async def test_the_picture_travels_and_is_forgotten_when_the_peer_is_lost(tmp_path: Path) -> None:
    host = lab.MadeUpHost()
    host.picture.publish(Links(problem="", bridges=(BridgeFact(name="br0", exists=True),)))
    pki = lab.installed(tmp_path / "a", "hosta")
    port = lab.free_port()
    async with lab.running(lab.link_to(port, pki)) as link:
        async with lab.serving(tmp_path, local=host, port=port):
            await lab.state(link, PeerState.CONNECTED)
            await lab.until(lambda: link.view.picture.links.is_known)
            host.picture.publish(Links(problem="", bridges=(BridgeFact(name="br1", exists=True),)))
            await lab.until(lambda: [bridge.name for bridge in link.view.picture.links.bridges] == ["br1"])
        await lab.state(link, PeerState.UNREACHABLE)
        assert link.view.picture.unknown == SUBJECTS
