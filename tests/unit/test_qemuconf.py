"""What of qemu.conf both hosts must agree on."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmigd.host import qemuconf


def test_what_is_not_set_is_the_default(tmp_path: Path) -> None:
    found = qemuconf.read(tmp_path / "qemu.conf")
    assert (found.dynamic_ownership, found.lock_manager, found.shared_filesystems) == (True, "", ())
    assert not found.problem


def test_what_is_set(tmp_path: Path) -> None:
    file = tmp_path / "qemu.conf"
    file.write_text(
        'user = "root"\ngroup = "root"\n#lock_manager = "sanlock"\nlock_manager = "lockd"\ndynamic_ownership = 0\n'
        'shared_filesystems = [\n  "/srv/a",\n  "/srv/b"\n]\n'
    )
    found = qemuconf.read(file)
    assert (found.user, found.uid, found.gid) == ("root", 0, 0)
    assert (found.dynamic_ownership, found.lock_manager) == (False, "lockd")
    assert found.shared_filesystems == ("/srv/a", "/srv/b")


@pytest.mark.parametrize("value", ['"nop"', "3", "[]"])
def test_a_lock_manager_that_is_none(tmp_path: Path, value: str) -> None:
    file = tmp_path / "qemu.conf"
    file.write_text(f"lock_manager = {value}\n")
    assert qemuconf.read(file).lock_manager == ""


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read" in qemuconf.read(tmp_path).problem
