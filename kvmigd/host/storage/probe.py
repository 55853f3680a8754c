"""A process that asks mounted file systems what they are. It is given up if one of them hangs, so it does nothing else.

Run with `python -I -S`, without the rest of kvmigd: it starts in some 15 ms. Arguments are mount points, each with its
file system type before it; for each it prints a line of JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys

_GETFSUUID = 0x80111500
"""FS_IOC_GETFSUUID of linux/fs.h, since Linux 6.9: a length and up to 16 bytes."""
_VOLFILE = ".meta/graphs/active/volfile"
_VOLFILE_LIMIT = 4 << 20
_OPTION = re.compile(r"^\s*option\s+(\S+)\s+(.*?)\s*$", re.MULTILINE)


def gluster(volfile: str) -> dict[str, object]:
    """The volume's ID and its bricks, from the graph that a client has got from its server.

    The ID is an option of replicated and dispersed volumes only; the bricks are there always. The extended attribute
    `trusted.glusterfs.volume-id` is no help: it is one of the bricks, clients answer ENODATA.
    """
    uuid, bricks = "", []
    for block in re.split(r"^end-volume\b", volfile, flags=re.MULTILINE):
        options = dict(_OPTION.findall(block))
        uuid = uuid or options.get("volume-id", "")
        if "remote-host" in options and options.get("remote-subvolume", "").startswith("/"):
            bricks.append(f"{options['remote-host']}:{options['remote-subvolume']}")
    return {"uuid": uuid, "bricks": sorted(set(bricks))}


def ask(fs_type: str, point: str) -> dict[str, object]:
    """What the file system at a mount point says of itself; raises OSError."""
    if fs_type in ("fuse.glusterfs", "glusterfs"):
        with open(os.path.join(point, _VOLFILE), "rb") as volfile:
            return gluster(volfile.read(_VOLFILE_LIMIT).decode(errors="replace"))
    folder = os.open(point, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        answer = bytearray(17)
        fcntl.ioctl(folder, _GETFSUUID, answer)
    finally:
        os.close(folder)
    digits = answer[1 : 1 + min(answer[0], 16)].hex()
    if len(digits) != 32 or not digits.strip("0"):
        return {"uuid": ""}
    return {"uuid": "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))}


def main(arguments: list[str]) -> None:
    """Ask for each pair of file system type and mount point."""
    for fs_type, point in zip(arguments[::2], arguments[1::2], strict=False):
        try:
            answer = ask(fs_type, point)
        except OSError as error:
            answer = {"problem": error.strerror or str(error)}
        print(json.dumps({"point": point, **answer}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
