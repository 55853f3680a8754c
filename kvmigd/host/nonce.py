"""Nonces in folders of storage: what one host has written there, the other one reads if it is the same folder.

All of it is done by a process of its own (noncekeeper.py), as QEMU's user; here it is asked, with a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import msgspec

from kvmigd.host.noncekeeper import FOLDERS_LIMIT, PREFIX, is_content, is_name
from kvmigd.host.qemuuser import QEMU_CONF, QemuUser

SOCKET = "/run/kvmigd/storage"
"""systemd starts a keeper for each connection to it: kvmigd-storage.socket."""
DEADLINE_SECONDS = 3.0
"""A folder that has not answered by then hangs."""
ARRIVAL_SECONDS = 1.0
"""So long a nonce that cannot be seen yet is waited for; clients of NFS and GlusterFS remember what was not there."""
START_SECONDS = 5.0
"""Within this systemd must have started a keeper."""
_REMOVAL_SECONDS = 1.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Keeper = Callable[[], Awaitable[Connection]]
"""Starts a keeper; raises OSError."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A nonce in a folder; or, with a problem, none. Problems: unwritable, hangs, failed (see StorageProof)."""

    folder: str
    name: str = ""
    """Of the file in that folder, `.kvmigd-` and 32 hexadecimal digits."""
    content: str = ""
    """What the other host has to read there."""
    user: str = ""
    """QEMU's on this host, `name (uid:gid)`."""
    as_owner: bool = False
    """QEMU's user may not write there, so the folder's owner has written it."""
    problem: str = ""
    text: str = ""


class ReadBack(msgspec.Struct, frozen=True, kw_only=True):
    """What was read of a nonce. Problems: different, missing, denied, hangs, failed (see StorageProof)."""

    folder: str
    content: str = ""
    user: str = ""
    """QEMU's on this host, `name (uid:gid)`, who has read."""
    can_write: bool | None = None
    """Whether that user can make files in the folder; it was tried. None where it was not."""
    write_text: str = ""
    """Why it cannot."""
    problem: str = ""
    text: str = ""


async def connect() -> Connection:
    """A keeper that systemd starts."""
    return await asyncio.open_unix_connection(SOCKET)


@asynccontextmanager
async def written(
    folders: Sequence[str],
    *,
    user: QemuUser | None = None,
    seconds: float = DEADLINE_SECONDS,
    keeper: Keeper = connect,
) -> AsyncIterator[tuple[Written, ...]]:
    """Write a nonce into each folder, all at once; they are removed at the end, also if this process is killed.

    Takes at most `seconds` and raises nothing: what failed is a problem of its folder. `user` is QEMU's as
    `QemuUser.find` sees it where it is not given.
    """
    user = user or await _qemu_user()
    if user is None:
        yield tuple(Written(folder=folder, problem="failed", text=_NO_USER) for folder in folders)
        return
    orders = [_Order(folder, PREFIX + secrets.token_hex(16), secrets.token_hex(32)) for folder in folders]
    async with _asked(user, [f"write {{}} {it.name} {it.content}" for it in orders], folders, seconds, keeper) as said:
        yield tuple(_written(order, answer, user) for order, answer in zip(orders, said, strict=True))


async def read(
    names: Mapping[str, str],
    *,
    user: QemuUser | None = None,
    arrival: float = ARRIVAL_SECONDS,
    seconds: float = DEADLINE_SECONDS,
    keeper: Keeper = connect,
) -> tuple[ReadBack, ...]:
    """Read the nonces with these names (folder -> name), all at once, and try whether QEMU's user can write there.

    A nonce is waited for `arrival` seconds, an answer `seconds` beyond that. Raises nothing, except ValueError for a
    name that is none of a nonce.
    """
    if not all(map(is_name, names.values())):
        raise ValueError("a name that is none of a nonce")
    user = user or await _qemu_user()
    if user is None:
        return tuple(ReadBack(folder=folder, problem="failed", text=_NO_USER) for folder in names)
    orders = [f"read {{}} {name} {arrival:g}" for name in names.values()]
    async with _asked(user, orders, tuple(names), arrival + seconds, keeper) as said:
        return tuple(_read_back(folder, answer, user) for folder, answer in zip(names, said, strict=True))


_NO_USER = f"there is no user for QEMU: neither libvirt-qemu nor qemu exists, or not the one that {QEMU_CONF} sets"


_ENDED = "kvmigd-storage@.service ended without an answer; `journalctl --unit='kvmigd-storage@*'`"


async def _qemu_user() -> QemuUser | None:
    # In a thread, because names may come from a directory server.
    return await asyncio.to_thread(QemuUser.find)


class _Order(NamedTuple):
    folder: str
    name: str
    content: str


class _Answer(NamedTuple):
    """A line of the keeper's without its key; the word `late` where there was none, `none` where none could be."""

    word: str
    rest: tuple[str, ...] = ()
    text: str = ""


@asynccontextmanager
async def _asked(
    user: QemuUser, orders: Sequence[str], folders: Sequence[str], seconds: float, keeper: Keeper
) -> AsyncIterator[list[_Answer]]:
    """The answers to orders, in their order; what was made for them stays until the end."""
    lines = [
        f"{order.format(number)} {os.fsencode(folder).hex()}\n"
        for number, (order, folder) in enumerate(zip(orders, folders, strict=True))
    ]
    said = [_Answer("late", text=f"it did not answer for {seconds:g} s") for _ in lines]
    for number, folder in enumerate(folders):
        if not folder.startswith("/") or "\0" in folder:
            said[number] = _Answer("none", text="it is not an absolute path")
    sound = [line for line, answer in zip(lines, said, strict=True) if answer.word == "late"]
    who = f"user {user.uid} {user.gid} {','.join(map(str, sorted(user.groups)))}\n"
    async with AsyncExitStack() as stack:
        parts = [sound[at : at + FOLDERS_LIMIT] for at in range(0, len(sound), FOLDERS_LIMIT)]
        sessions = [await stack.enter_async_context(_Session(keeper, said)) for _ in parts]
        await asyncio.gather(*(session.ask(who, part, seconds) for session, part in zip(sessions, parts, strict=True)))
        yield said


class _Session:
    """One keeper, from its start to its end."""

    def __init__(self, keeper: Keeper, said: list[_Answer]) -> None:
        self._keeper = keeper
        self._said = said
        self._connection: Connection | None = None
        self._hangs = False

    async def __aenter__(self) -> _Session:
        return self

    async def ask(self, who: str, lines: Sequence[str], seconds: float) -> None:
        """Give orders and hear the answers, until all are there or the time is over."""
        waited = {int(line.split()[1]) for line in lines}
        try:
            async with asyncio.timeout(START_SECONDS):
                self._connection = await self._keeper()
                reader, writer = self._connection
                writer.write(f"{who}{''.join(lines)}go\n".encode())
                ready = await reader.readline()
            if ready and not await self._hear(reader, waited, seconds):
                self._hangs = bool(waited)  # those stay late
                return
            why = _ENDED
        except (ConnectionResetError, BrokenPipeError):
            why = _ENDED
        except TimeoutError:
            why = f"kvmigd-storage@.service did not start within {START_SECONDS:g} s"
        except OSError as error:
            why = f"{SOCKET} does not answer ({error.strerror or error}); `systemctl start kvmigd-storage.socket`"
        for number in waited:
            self._said[number] = _Answer("none", text=why)

    async def _hear(self, reader: asyncio.StreamReader, waited: set[int], seconds: float) -> bool:
        """Whether the keeper ended before all were there."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while waited:
                    line = await reader.readline()
                    if not line:
                        return True
                    key, word, *rest = line.decode("ascii", "replace").split() or ["", ""]
                    if key.isdecimal() and int(key) in waited:
                        waited.discard(int(key))
                        self._said[int(key)] = _Answer(word, tuple(rest))
        return False

    async def __aexit__(self, *_: object) -> None:
        """What it has written is gone when it has ended, in general; storage that hangs is not waited for."""
        if self._connection is None:
            return
        reader, writer = self._connection
        try:
            with contextlib.suppress(OSError, TimeoutError):
                writer.write_eof()
                async with asyncio.timeout(0 if self._hangs else _REMOVAL_SECONDS):
                    while await reader.read(4096):
                        pass
        finally:
            writer.close()


_HANGS = frozenset({errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH})
_DENIED = frozenset({errno.EACCES, errno.EPERM})
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_READ_ONLY = errno.EROFS


def _written(order: _Order, answer: _Answer, user: QemuUser) -> Written:
    match answer.word, *answer.rest:
        case "written", str(who):
            as_owner = who == "owner"
            return Written(
                folder=order.folder, name=order.name, content=order.content, user=str(user), as_owner=as_owner
            )
    step, number, problem, text = _failure(answer)
    if number in _DENIED and step in ("folder", "file"):
        what = "enter it" if step == "folder" else "write there"
        problem, text = "unwritable", f"{user}, as whom QEMU runs, may not {what}, and neither may its owner: {text}"
    elif number == _READ_ONLY:
        problem = "unwritable"
    return Written(folder=order.folder, user=str(user), problem=problem, text=text)


def _read_back(folder: str, answer: _Answer, user: QemuUser) -> ReadBack:
    match answer.word, *answer.rest:
        case "read", str(content), str(writes) if writes.isdecimal():
            why = os.strerror(int(writes)) if int(writes) else ""
            problem = "" if is_content(content) else "different"
            return ReadBack(
                folder=folder,
                content=content if not problem else "",
                user=str(user),
                can_write=not why,
                write_text=why,
                problem=problem,
                text="the file of that name there is not the one that was written" if problem else "",
            )
    step, number, problem, text = _failure(answer)
    if number in _DENIED:
        what = "enter it" if step == "folder" else "read there"
        problem, text = "denied", f"{user}, as whom QEMU runs, may not {what}: {text}"
    elif step == "folder" and number in _ABSENT:
        problem = "missing"
    elif step == "file" and number in (errno.ENOENT, errno.ELOOP, errno.ENODATA):
        problem, text = "different", "what was written by the other host cannot be seen in it"
    return ReadBack(folder=folder, user=str(user), problem=problem, text=text)


def _failure(answer: _Answer) -> tuple[str, int, str, str]:
    """Step, errno, and the problem and its text that they stand for in general."""
    match answer.word, *answer.rest:
        case "error", str(step), str(number) if number.isdecimal():
            problem = "hangs" if int(number) in _HANGS else "failed"
            return step, int(number), problem, os.strerror(int(number))
        case "late", *_:
            return "", 0, "hangs", answer.text
        case "none", *_:
            return "", 0, "failed", answer.text
    return "", 0, "failed", f"noncekeeper said {answer.word} {' '.join(answer.rest)}"
