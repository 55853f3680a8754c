"""What QEMU's user may do with paths, tried by a real keeper."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host import access
from kvmigd.host.access import Access
from kvmigd.model.mounts import MountFact
from kvmigd.model.storage import PathFact
from tests.unit.peer_lab import asynchronous
from tests.unit.test_nonce import HELD, USER, Keepers, absent, needs_root, saying

ROOT = (MountFact(point="/", fs_type="ext4", source="/dev/vda1"),)


def open_folder(folder: Path) -> Path:
    """A folder that everybody may reach."""
    for place in (folder, *folder.parents[:-2]):
        place.chmod(place.stat().st_mode | 0o055)
    return folder


async def tried(*paths: Path) -> dict[str, Access]:
    keepers = Keepers()
    found = await access.tried([str(path) for path in paths], mounts=ROOT, user=USER, keeper=keepers, seconds=20)
    await keepers.ended()
    return found


@needs_root
@asynchronous
async def test_what_the_user_may_do(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    modes = {"both": 0o666, "only-read": 0o644, "only-written": 0o622, "neither": 0o600}
    for name, mode in modes.items():
        (folder / name).write_text("x")
        (folder / name).chmod(mode)
    found = await tried(*(folder / name for name in modes), folder / "missing")
    assert {Path(path).name: (one.readable, one.writable, one.barred) for path, one in found.items()} == {
        "both": (True, True, ""),
        "only-read": (True, False, ""),
        "only-written": (False, True, ""),
        "neither": (False, False, ""),
    }, "what is not there is not told of"


@needs_root
@asynchronous
async def test_a_folder_that_bars_the_way(tmp_path: Path) -> None:
    closed = open_folder(tmp_path) / "closed"
    (closed / "inner").mkdir(parents=True)
    (closed / "inner" / "disk").write_text("x")
    (closed / "inner" / "disk").chmod(0o666)
    (tmp_path / "link").symlink_to(closed / "inner" / "disk")
    closed.chmod(0o700)
    found = await tried(closed / "inner" / "disk", tmp_path / "link")
    assert [(one.readable, one.barred) for one in found.values()] == [(False, str(closed))] * 2


@asynchronous
async def test_names_that_nobody_would_give(tmp_path: Path) -> None:
    odd = open_folder(tmp_path) / "a b\n\udcff"
    odd.write_text("x")
    odd.chmod(0o666)
    assert await tried(odd) == {str(odd): Access(readable=True, writable=True)}


@asynchronous
async def test_nobody_answers() -> None:
    assert await access.tried(["/srv/a"], mounts=ROOT, user=USER, keeper=absent) == {}
    assert await access.tried(["/srv/a"], mounts=ROOT, user=USER, keeper=saying("ready"), seconds=0.1) == {}
    answers = saying(
        "ready", "0 access 0 r w -", "0 access 9 r w -", "7 access 0 r w -", "0 access 1 r - zz", ends=True
    )
    found = await access.tried(["/srv/a", "/srv/b"], mounts=ROOT, user=USER, keeper=answers)
    assert found == {"/srv/a": Access(readable=True, writable=True)}, "what makes no sense is passed over"
    assert await access.tried(["rbd:pool/a", ""], mounts=ROOT, user=USER, keeper=absent) == {}
    while HELD:
        HELD.pop().close()


@given(st.lists(st.text(max_size=8), max_size=8))
def test_whatever_a_keeper_says(words: list[str]) -> None:
    access._hear(words, [["/a"]], {})


@pytest.mark.parametrize("barred", ["", "/srv"])
def test_what_was_tried_is_told_with_the_path(barred: str) -> None:
    facts = (PathFact(path="/srv/a", exists=True), PathFact(path="/srv/b", exists=True))
    one, other = access.joined(facts, {"/srv/a": Access(readable=True, writable=False, barred=barred)})
    assert (one.readable, one.writable, one.barred) == (True, False, barred)
    assert other is facts[1]
