"""Looking at paths, through processes that can be given up."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host import paths
from kvmigd.model.mounts import MountFact

ROOT = MountFact(point="/", fs_type="ext4", source="/dev/vda", id=1)
NAS = MountFact(point="/srv/nas", fs_type="nfs4", source="nas:/", id=2)


def test_paths_are_looked_at_through_a_process(tmp_path: Path) -> None:
    here = tmp_path / "with space\nand newline"
    here.write_text("12345")
    found, missing = asyncio.run(paths.look([str(here), str(tmp_path / "missing")], mounts=(ROOT,)))
    known = here.stat()
    assert (found.exists, found.size, found.inode, found.is_block) == (True, 5, known.st_ino, False)
    assert found.device == f"{os.major(known.st_dev)}:{os.minor(known.st_dev)}"
    assert found.born_usec == 0 or abs(found.born_usec - known.st_ctime_ns // 1000) < 60_000_000
    assert found.mount == ROOT
    assert (missing.exists, missing.problem) == (False, "No such file or directory")
    assert asyncio.run(paths.look([], mounts=(ROOT,))) == ()


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    Path(odd).write_text("1")
    (fact,) = asyncio.run(paths.look([odd], mounts=()))
    assert (fact.path, fact.exists, fact.mount) == (odd, True, None)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("123")
    (tmp_path / "link").symlink_to("target")
    (fact,) = asyncio.run(paths.look([str(tmp_path / "link")], mounts=()))
    assert (fact.path, fact.size) == (str(tmp_path / "link"), 3)


def test_what_stat_says_of_a_block_device() -> None:
    (fact,) = paths.parse(b"6 103 0 61b0 fd 1f 1795126191.860171 1795126191.860172 0 6 /dev/dm-31\0cut off")
    assert (fact.is_block, fact.device, fact.inode) == (True, "253:31", 103)
    assert (fact.born_usec, fact.changed_usec) == (1795126191860171, 1795126191860172)
    assert (fact.uid, fact.gid, oct(fact.mode)) == (0, 6, "0o660")
    (fact,) = paths.parse(b"65024 103 7 81a4 0 0 0.000000 0.000000 64055 64055 /a b\0")
    assert (fact.is_block, fact.device, fact.born_usec, fact.path) == (False, "254:0", 0, "/a b")


@given(st.binary(max_size=200))
def test_odd_output_never_raises(output: bytes) -> None:
    tuple(paths.parse(output + b"\0"))


def test_a_path_that_hangs_is_given_up_and_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "stat"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    original = asyncio.create_subprocess_exec

    async def slowly(program: str, *arguments: str, **options: object) -> asyncio.subprocess.Process:
        program = str(slow) if "/srv/nas/a" in arguments else program
        return await original(program, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slowly)
    hanging, here = asyncio.run(paths.look(["/srv/nas/a", str(tmp_path)], mounts=(ROOT, NAS), seconds=1))
    assert (hanging.exists, hanging.hangs, here.hangs) == (False, True, False)
    assert "did not answer" in hanging.problem
    assert here.exists
