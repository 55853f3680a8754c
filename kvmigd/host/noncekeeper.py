"""A process of its own that writes nonces into folders of storage and reads those of other hosts, as QEMU's user.

Storage can hang for ever in the kernel, and who writes must be another user than the daemon, in the host's own mount
namespace: the daemon's unit sees what was mounted at its start read-only. So systemd starts this one for a connection
(kvmigd-storage.socket), `python -I -S noncekeeper.py` with the connection as standard input and output, as root
without any power over files. It imports nothing of kvmigd and next to nothing else, to start soon.

It reads orders, a line each, paths in hex; each folder is then served by a process of its own, and the answers come
in any order:

    user UID GID GROUP,GROUP
    write KEY NAME CONTENT FOLDER      -> KEY written user|owner      the file is there until the connection's end
    read KEY NAME SECONDS FOLDER       -> KEY read CONTENT WRITES     WRITES: 0, or the errno of a file made there
    access KEY PATH PATH …             -> KEY access NUMBER R W BAR   for each path: whether the user may read (r or -)
                                                                      and write (w or -); the folder that bars the way
    go                                 -> ready, and then any of      all folders are being asked now
                                          KEY error STEP ERRNO        STEP: folder, file, write

A file that was written is removed when the connection ends, whatever became of the daemon, and on SIGTERM.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Callable

PREFIX = ".kvmigd-"
NAME_LENGTH = len(PREFIX) + 32
CONTENT_LENGTH = 64
FOLDERS_LIMIT = 64
REQUEST_LIMIT = 1 << 20
_HEX = frozenset("0123456789abcdef")
_RETRY_SECONDS = 0.05
STALE_SECONDS = 600.0
"""A nonce so much older than a fresh one was left behind by a host that lost its power."""
_SWEEP_LIMIT = 2000
"""Names of a folder that are looked through for such ones."""


class Failed(Exception):
    """What could not be done, and the errno."""

    def __init__(self, step: str, number: int) -> None:
        super().__init__(step, number)
        self.step, self.number = step, number


class Identity:
    """Whom the file system sees: `become` changes the effective user only, so that root comes back between two."""

    def __init__(self, uid: int, gid: int, groups: list[int]) -> None:
        self.uid, self.gid, self.groups = uid, gid, groups

    def become(self) -> None:
        """Be this user for the file system from now on."""
        if os.getuid() != 0:
            return  # in a test without privileges there is nobody else to be
        os.seteuid(0)
        os.setgroups(self.groups)
        os.setegid(self.gid)
        os.seteuid(self.uid)

    def become_for_good(self) -> None:
        """Be this user altogether: access(2) goes by the real user."""
        if os.getuid() == 0:
            os.setgroups(self.groups)
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)


def is_name(name: str) -> bool:
    """Whether it is a name of ours; no other file is ever touched."""
    return len(name) == NAME_LENGTH and name.startswith(PREFIX) and _HEX.issuperset(name[len(PREFIX) :])


def is_content(content: str) -> bool:
    """Whether it is a nonce; nothing else is ever told."""
    return len(content) == CONTENT_LENGTH and _HEX.issuperset(content)


class Step:
    """What is done in its `with` fails as this step."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise Failed(self._name, error.errno or errno.EIO) from error


def _folder(path: bytes) -> int:
    with Step("folder"):
        # O_DIRECTORY has automounts mounted; O_PATH needs no right to list.
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _create(folder: int, name: str, content: str) -> None:
    with Step("file"):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o644, dir_fd=folder)
    try:
        with Step("write"):
            try:
                os.write(file, f"{content}\n".encode())
            finally:
                os.close(file)  # only now NFS tells of a disk that is full, or a quota
    except BaseException:
        _remove(folder, name)
        raise


def _remove(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError as error:
        sys.stderr.write(f"{name} cannot be removed: {error}\n")


def write(user: Identity, name: str, content: str, path: bytes) -> tuple[int, str]:
    """Write a nonce as QEMU's user, or else as the folder's owner; returns the folder and who it was.

    Folders of images often belong to root, and QEMU's user owns nothing but the images.
    """
    user.become()
    try:
        folder = _folder(path)
        _create(folder, name, content)
    except Failed as first:
        if first.number not in (errno.EACCES, errno.EPERM):
            raise
        try:
            Identity(0, 0, []).become()
            folder = _folder(path)
            owner = os.fstat(folder)
            Identity(owner.st_uid, owner.st_gid, []).become()
            _create(folder, name, content)
        except (Failed, OSError):
            raise first from None
        return folder, "owner"
    return folder, "user"


def keep(tell: Callable[[str], None], user: Identity, name: str, content: str, path: bytes) -> None:
    """Write a nonce and remove it when standard input ends."""
    folder, who = write(user, name, content, path)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        tell(f"written {who}")
        _sweep(folder, name)
        while os.read(0, 4096):
            pass
    finally:
        _remove(folder, name)


def _sweep(folder: int, mine: str) -> None:
    """Remove what was left behind. The server's clock counts, so ages are compared with the file just made."""
    try:
        now = os.stat(mine, dir_fd=folder, follow_symlinks=False).st_mtime
        listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return  # it may not be listed
    try:
        with os.scandir(listed) as entries:
            for count, entry in enumerate(entries):
                if count > _SWEEP_LIMIT or select.select([0], [], [], 0)[0]:
                    return
                if is_name(entry.name) and entry.name != mine:
                    found = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISREG(found.st_mode) and found.st_mtime < now - STALE_SECONDS:
                        os.unlink(entry.name, dir_fd=folder)
    except OSError:
        return
    finally:
        os.close(listed)


def read(user: Identity, name: str, seconds: float, path: bytes) -> tuple[str, int]:
    """Read a nonce as QEMU's user; returns its content, and 0 or why the user cannot write there.

    It is waited for: what another host has written may be on its way, and a client of NFS may know an older folder.
    """
    user.become()
    folder = _folder(path)
    until = time.monotonic() + seconds
    while True:
        try:
            return _content(folder, name), _writes(folder)
        except Failed as failure:
            if failure.number not in (errno.ENOENT, errno.ESTALE, errno.ENODATA) or time.monotonic() > until:
                raise
        time.sleep(_RETRY_SECONDS)
        _refresh(folder)


def _content(folder: int, name: str) -> str:
    with Step("file"):
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.ELOOP, "not a regular file")
            text = os.read(file, 256).decode("ascii", "replace")
        finally:
            os.close(file)
        if not text.endswith("\n"):
            raise OSError(errno.ENODATA, "not written yet")
    return text[:-1] if is_content(text[:-1]) else "-"


def _refresh(folder: int) -> None:
    # NFS asks the server about a folder's age when it is opened, and forgets then what was not there before.
    try:
        os.close(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder))
    except OSError:
        return  # it may not be listed


def _writes(folder: int) -> int:
    name = PREFIX + os.urandom(16).hex()
    try:
        _create(folder, name, "")
    except Failed as failure:
        return failure.number
    _remove(folder, name)
    return 0


def access(tell: Callable[[str], None], user: Identity, paths: list[bytes]) -> None:
    """Tell of each path what the user may do with it; nothing of one that is not there."""
    user.become_for_good()
    for number, path in enumerate(paths):
        bar = b""
        try:
            os.stat(path)
        except PermissionError:
            bar = _barrier(path) or _barrier(os.path.realpath(path)) or os.path.dirname(path)
        except OSError:
            continue
        reads = "r" if os.access(path, os.R_OK) else "-"
        # To open a block device for writing, even without doing so, makes udev look at it anew.
        writes = "w" if os.access(path, os.W_OK) else "-"
        tell(f"access {number} {reads} {writes} {bar.hex() or '-'}")


def _barrier(path: bytes) -> bytes:
    """The first folder on the way that the user may not enter; empty where there is none."""
    at = path.find(b"/", 1)
    while at > 0:
        if os.path.isdir(path[:at]) and not os.access(path[:at], os.X_OK):
            return path[:at]
        at = path.find(b"/", at + 1)
    return b""


def serve(order: list[str], user: Identity) -> None:
    """Do what an order says, and answer; the caller ends then."""
    key = order[1]

    def tell(line: str) -> None:
        os.write(1, f"{key} {line}\n".encode())  # so little goes out in one piece

    try:
        try:
            if order[0] == "write":
                keep(tell, user, order[2], order[3], bytes.fromhex(order[4]))
            elif order[0] == "access":
                access(tell, user, [bytes.fromhex(path) for path in order[2:]])
            else:
                content, writes = read(user, order[2], float(order[3]), bytes.fromhex(order[4]))
                tell(f"read {content} {writes}")
        except Failed as failure:
            tell(f"error {failure.step} {failure.number}")
    except ConnectionError:
        return  # nobody listens any longer


def _is_sound(order: list[str]) -> bool:
    match order:
        case ["write", key, name, content, folder]:
            return key.isdigit() and is_name(name) and is_content(content) and folder.startswith("2f")
        case ["read", key, name, seconds, folder]:
            return key.isdigit() and is_name(name) and 0 <= float(seconds) <= 60 and folder.startswith("2f")
        case ["access", key, _, *_]:
            return key.isdigit() and all(path.startswith("2f") for path in order[2:])
    return False


def orders() -> tuple[Identity, list[list[str]]]:
    """What standard input asks for; raises ValueError where it makes no sense."""
    text = b""
    while not text.endswith(b"\ngo\n"):
        part = os.read(0, 1 << 16)
        if not part or len(text) > REQUEST_LIMIT:
            raise ValueError("no whole request")
        text += part
    first, *lines = text.decode("ascii").splitlines()[:-1]
    word, uid, gid, groups = first.split()
    asked = [line.split() for line in lines]
    if word != "user" or len(asked) > FOLDERS_LIMIT or not all(map(_is_sound, asked)):
        raise ValueError("a request that makes no sense")
    return Identity(int(uid), int(gid), [int(group) for group in groups.split(",")]), asked


def _end(*_: object) -> None:
    sys.exit(1)


def main() -> None:
    """Serve one request."""
    signal.signal(signal.SIGTERM, _end)
    try:
        user, asked = orders()
    except (ValueError, OverflowError) as error:
        sys.exit(f"strange request: {error}")
    os.write(1, b"ready\n")
    for order in asked:
        # One that is stuck in the kernel keeps nobody else waiting.
        if os.fork() == 0:
            # Nothing may come between making a file and being ready to remove it.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            serve(order, user)
            sys.stderr.flush()
            os._exit(0)
    for _ in asked:
        os.wait()


if __name__ == "__main__":
    main()
