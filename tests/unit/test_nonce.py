"""Nonces in folders: a real keeper where files matter, a pretended one where it is about what it says."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kvmigd.host import nonce, noncekeeper
from kvmigd.host.nonce import Connection, Keeper
from kvmigd.host.noncekeeper import is_content, is_name
from kvmigd.host.qemuuser import QemuUser
from tests.unit.peer_lab import asynchronous

NAME = ".kvmigd-" + "0" * 32
CONTENT = "a" * 64
COMMAND = (sys.executable, "-I", "-S", noncekeeper.__file__)
ROOT = os.geteuid() == 0
NOBODY = QemuUser("nobody", 65534, frozenset({65534}), 65534)
USER = NOBODY if ROOT else QemuUser("me", os.geteuid(), frozenset(os.getgroups()), os.getegid())
needs_root = pytest.mark.skipif(not ROOT, reason="becomes another user")


class Keepers:
    """Starts real keepers, without systemd."""

    def __init__(self) -> None:
        self.processes: list[asyncio.subprocess.Process] = []

    async def __call__(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *COMMAND, stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True
            )
        self.processes.append(process)
        return await asyncio.open_unix_connection(sock=ours)

    async def ended(self) -> None:
        for process in self.processes:
            await process.wait()


def saying(*lines: str, ends: bool = False) -> Keeper:
    """A keeper that says what it is told to, and then nothing more."""

    async def start() -> Connection:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        theirs.send("".join(f"{line}\n" for line in lines).encode())
        if ends:
            theirs.shutdown(socket.SHUT_WR)
        HELD.append(theirs)
        return reader, writer

    return start


HELD: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _close_held() -> Iterator[None]:
    yield
    while HELD:
        HELD.pop().close()


async def absent() -> Connection:
    raise FileNotFoundError(errno.ENOENT, "No such file or directory")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that QEMU's user owns, in folders that everybody may enter."""
    made = tmp_path / "images with spaces"
    made.mkdir()
    for parent in tmp_path.parents:
        if parent.owner() != "root" or parent.stat().st_mode & 0o005 == 0:
            with suppress(PermissionError):
                parent.chmod(0o755)
    tmp_path.chmod(0o755)
    if ROOT:
        os.chown(made, NOBODY.uid, NOBODY.gid)
    return made


def left_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@asynchronous
async def test_what_is_written_is_read_and_then_gone(folder: Path) -> None:
    keepers = Keepers()
    async with nonce.written([str(folder)], user=USER, keeper=keepers) as (written,):
        assert (written.problem, written.as_owner) == ("", False)
        assert written.user == str(USER)
        assert is_name(written.name)
        assert is_content(written.content)
        (found,) = await nonce.read({str(folder): written.name}, user=USER, keeper=keepers)
        assert found.content == written.content
        assert (found.problem, found.can_write, found.write_text) == ("", True, "")
        assert left_in(folder) == [written.name]
    assert left_in(folder) == []
    await keepers.ended()


@asynchronous
async def test_several_folders_are_served_by_one_keeper(folder: Path) -> None:
    keepers = Keepers()
    inner = [folder / str(number) for number in range(5)]
    for each in inner:
        each.mkdir()
        each.chmod(0o777)
    folders = [*map(str, inner), str(folder / "none"), "relative"]
    async with nonce.written(folders, user=USER, keeper=keepers) as written:
        assert [it.folder for it in written] == folders
        assert [it.problem for it in written] == [*[""] * 5, "failed", "failed"]
        assert written[5].text == "No such file or directory"
        assert written[6].text == "it is not an absolute path"
        assert len({it.name for it in written[:5]}) == 5
    assert len(keepers.processes) == 1
    await keepers.ended()


@asynchronous
async def test_more_folders_than_one_keeper_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonce, "FOLDERS_LIMIT", 2)
    keepers = Keepers()
    async with nonce.written([str(folder)] * 3, user=USER, keeper=keepers) as written:
        assert [it.problem for it in written] == ["", "", ""]
        assert left_in(folder) == sorted(it.name for it in written)
    assert left_in(folder) == []
    assert len(keepers.processes) == 2
    await keepers.ended()


@asynchronous
async def test_it_is_removed_when_the_daemon_is_gone(folder: Path) -> None:
    keepers = Keepers()
    reader, writer = await keepers()
    who = f"user {USER.uid} {USER.gid} {','.join(map(str, USER.groups))}\n"
    writer.write(f"{who}write 0 {NAME} {CONTENT} {os.fsencode(folder).hex()}\ngo\n".encode())
    assert await reader.readline() == b"ready\n"
    assert await reader.readline() == b"0 written user\n"
    assert left_in(folder) == [NAME]
    writer.transport.abort()  # what the kernel does for a process that was killed
    await keepers.ended()
    assert left_in(folder) == []


@asynchronous
async def test_it_is_removed_when_the_keeper_is_stopped(folder: Path) -> None:
    keepers = Keepers()
    async with nonce.written([str(folder)], user=USER, keeper=keepers) as (written,):
        assert left_in(folder) == [written.name]
        os.killpg(keepers.processes[0].pid, signal.SIGTERM)  # as systemd does it: all of them
        await keepers.ended()
    assert left_in(folder) == []


@asynchronous
async def test_it_is_removed_when_the_proof_is_cancelled(folder: Path) -> None:
    keepers = Keepers()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), nonce.written([str(folder)], user=USER, keeper=keepers):
            await asyncio.Event().wait()
    await keepers.ended()
    assert left_in(folder) == []


@asynchronous
async def test_what_was_left_behind_long_ago_is_removed_and_nothing_else(folder: Path) -> None:
    old, other, young = (".kvmigd-" + digit * 32 for digit in "123")
    for name in (old, other + "0", "disk.qcow2", young):
        (folder / name).touch()
        if name != young:
            os.utime(folder / name, (0, 0))
    (folder / other).symlink_to("disk.qcow2")
    keepers = Keepers()
    async with nonce.written([str(folder)], user=USER, keeper=keepers):
        pass
    await keepers.ended()
    # It may have ended before it looked; then the next one does.
    async with nonce.written([str(folder)], user=USER, keeper=keepers):
        while old in left_in(folder):
            await asyncio.sleep(0.005)
    assert left_in(folder) == sorted([other, other + "0", "disk.qcow2", young])
    await keepers.ended()


@needs_root
@asynchronous
async def test_a_folder_of_root_is_written_by_its_owner_and_read_by_the_user(folder: Path) -> None:
    os.chown(folder, 0, 0)
    folder.chmod(0o711)
    keepers = Keepers()
    async with nonce.written([str(folder)], user=NOBODY, keeper=keepers) as (written,):
        assert (written.problem, written.as_owner) == ("", True)
        assert (folder / written.name).stat().st_uid == 0
        (found,) = await nonce.read({str(folder): written.name}, user=NOBODY, keeper=keepers)
        assert found.content == written.content
        assert (found.can_write, found.write_text) == (False, "Permission denied")
    assert left_in(folder) == []
    await keepers.ended()


@needs_root
@asynchronous
async def test_a_folder_that_nobody_writes_to(folder: Path) -> None:
    folder.chmod(0o555)
    keepers = Keepers()
    async with nonce.written([str(folder)], user=NOBODY, keeper=keepers) as (written,):
        assert written.problem == "unwritable"
        assert "nobody (65534:65534), as whom QEMU runs, may not write there" in written.text
    await keepers.ended()


@needs_root
@asynchronous
async def test_a_folder_that_the_user_may_not_enter(folder: Path) -> None:
    folder.chmod(0)
    keepers = Keepers()
    (found,) = await nonce.read({str(folder): NAME}, user=NOBODY, keeper=keepers)
    assert found.problem == "denied"
    await keepers.ended()


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder", "text", "half"])
@asynchronous
async def test_what_is_planted_under_the_name_is_not_told(folder: Path, kind: str) -> None:
    secret = folder / "secret"
    secret.write_text(f"{CONTENT}\n")
    path = folder / NAME
    match kind:
        case "symlink":
            path.symlink_to(secret)
        case "fifo":
            os.mkfifo(path, 0o666)
        case "folder":
            path.mkdir()
        case "text":
            path.write_text("root:x:0:0\n")
        case "half":
            path.write_text(CONTENT[:7])
    keepers = Keepers()
    (found,) = await nonce.read({str(folder): NAME}, user=USER, arrival=0.1, keeper=keepers)
    assert (found.problem, found.content) == ("different", "")
    await keepers.ended()


@asynchronous
async def test_a_nonce_that_arrives_late_is_waited_for(folder: Path) -> None:
    keepers = Keepers()

    async def arrive() -> None:
        await asyncio.sleep(0.2)
        (folder / NAME).write_text(f"{CONTENT}\n")

    async with asyncio.TaskGroup() as group:
        group.create_task(arrive())
        (found,) = await nonce.read({str(folder): NAME}, user=USER, arrival=10, keeper=keepers)
    assert (found.problem, found.content) == ("", CONTENT)
    await keepers.ended()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (f"0 error folder {errno.ENOENT}", "missing"),
        (f"0 error folder {errno.ENOTDIR}", "missing"),
        (f"0 error folder {errno.EACCES}", "denied"),
        (f"0 error folder {errno.ENOTCONN}", "failed"),
        (f"0 error folder {errno.EIO}", "failed"),
        (f"0 error folder {errno.ETIMEDOUT}", "hangs"),
        (f"0 error file {errno.ENOENT}", "different"),
        (f"0 error file {errno.ELOOP}", "different"),
        (f"0 error file {errno.EACCES}", "denied"),
        (f"0 error file {errno.ESTALE}", "failed"),
        ("0 read - 0", "different"),
        (f"0 read {CONTENT} 0", ""),
        (f"0 read {CONTENT} {errno.EROFS}", ""),
        ("0 what", "failed"),
    ],
)
@asynchronous
async def test_what_the_reader_says_is_named(answer: str, problem: str) -> None:
    (found,) = await nonce.read({"/srv": NAME}, user=USER, keeper=saying("ready", answer, ends=True))
    assert found.problem == problem
    assert bool(found.text) == bool(problem)


@pytest.mark.parametrize(
    ("answer", "problem", "text"),
    [
        (f"0 error file {errno.EACCES}", "unwritable", "may not write there"),
        (f"0 error folder {errno.EACCES}", "unwritable", "may not enter it"),
        (f"0 error file {errno.EROFS}", "unwritable", "Read-only file system"),
        (f"0 error write {errno.ENOSPC}", "failed", "No space left on device"),
        (f"0 error write {errno.EDQUOT}", "failed", "Disk quota exceeded"),
        (f"0 error folder {errno.EHOSTDOWN}", "hangs", "Host is down"),
    ],
)
@asynchronous
async def test_what_the_writer_says_is_named(answer: str, problem: str, text: str) -> None:
    async with nonce.written(["/srv"], user=USER, keeper=saying("ready", answer, ends=True)) as (written,):
        assert written.problem == problem
        assert text in written.text


@asynchronous
async def test_a_folder_that_does_not_answer_hangs_and_the_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonce, "_REMOVAL_SECONDS", 0.01)
    keeper = saying("ready", "1 written user")
    async with nonce.written(["/dead", "/srv"], user=USER, seconds=0.5, keeper=keeper) as written:
        assert [it.problem for it in written] == ["hangs", ""]
        assert written[0].text == "it did not answer for 0.5 s"


@asynchronous
async def test_keepers_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonce, "START_SECONDS", 0.5)
    monkeypatch.setattr(nonce, "_REMOVAL_SECONDS", 0.01)
    for keeper, text in (
        (absent, "`systemctl start kvmigd-storage.socket`"),
        (saying(ends=True), "journalctl"),
        (saying("ready", ends=True), "journalctl"),
        (saying(), "did not start within"),
    ):
        (found,) = await nonce.read({"/srv": NAME}, user=USER, keeper=keeper)
        assert found.problem == "failed"
        assert text in found.text


@asynchronous
async def test_without_a_user_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QemuUser, "find", lambda: None)
    async with nonce.written(["/srv"], keeper=absent) as (written,):
        assert "there is no user for QEMU" in written.text
    (found,) = await nonce.read({"/srv": NAME}, keeper=absent)
    assert "there is no user for QEMU" in found.text


@asynchronous
async def test_names_that_are_none_are_never_asked_for() -> None:
    for name in ("passwd", ".kvmigd-../../../../../../../../etc/passwd", NAME.upper(), NAME + "0"):
        with pytest.raises(ValueError, match="none of a nonce"):
            await nonce.read({"/etc": name}, user=USER, keeper=absent)


@pytest.mark.parametrize(
    "request_text",
    [
        "go\n",
        "user 0 0 0\nread 0 passwd 1 2f657463\ngo\n",
        f"user 0 0 0\nwrite 0 {NAME} {CONTENT} 657463\ngo\n",
        f"user 0 0 0\nwrite 0 {NAME} short 2f657463\ngo\n",
        f"user root 0 0\nread 0 {NAME} 1 2f\ngo\n",
        f"user 0 0 0\nread 0 {NAME} 900 2f\ngo\n",
        f"user 0 0 0\nread 0 {NAME} 1 2f\n",
    ],
)
@asynchronous
async def test_the_keeper_refuses_what_makes_no_sense(request_text: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(request_text.encode())
    assert output == b""
    assert errors.startswith(b"strange request")
    assert process.returncode == 1


def test_the_user_is_the_one_of_qemu_conf(tmp_path: Path) -> None:
    conf = tmp_path / "qemu.conf"
    conf.write_text('user = "nobody"\ngroup = "+0"\n')
    user = QemuUser.find(conf)
    assert user is not None
    assert (user.uid, user.gid) == (65534, 0)
    assert 0 in user.groups
    conf.write_text('user = "no-such-user"\n')
    assert QemuUser.find(conf) is None
