"""A process that reads headers of disk images. It is given up if the storage hangs, so it does nothing else.

Run with `python -I -S`, without the rest of kvmigd. Arguments are a path and its format (`raw` is not looked into, an
empty one is found out), in turn. For each image and each layer below it, it prints a line of JSON.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Iterator

DEPTH = 64
"""Layers of a chain that are followed."""
_HEAD = 1 << 16
_NAME_LIMIT = 4096
_QCOW2_BACKING_FORMAT = 0xE2792ACA
_QCOW2_DATA_FILE = 0x44415441
_QCOW2_EXTERNAL = 1 << 2
_VMDK_PARENT = re.compile(rb'^parentFileNameHint="([^"\r\n]*)"', re.MULTILINE)
_VMDK_TEXT = re.compile(rb"(?:#[^\n]*\n|[ \t\r]*\n)*version=[123]\s")
"""A descriptor in a file of its own: comments, then its version (vmdk_probe in QEMU's block/vmdk.c)."""
_MAGICS = (
    (0, b"\x7f\x10\xda\xbe", "vdi"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"conectix", "vpc"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
)


class Header:
    """What an image's header tells: its format and the names that it has in it."""

    def __init__(self, name: str, *, backing: str = "", backing_format: str = "", data_file: str = "") -> None:
        self.format = name
        self.backing = backing
        self.backing_format = backing_format
        self.data_file = data_file


def parse(head: bytes, tail: bytes = b"") -> Header:
    """The header in the first 64 KiB of an image; `tail` are its last 512 bytes, where fixed VHDs have theirs."""
    if head[:4] == b"QFI\xfb":
        return _qcow(head)
    if head[:4] == b"QED\0":
        return _qed(head)
    if head[:4] in (b"KDMV", b"COWD"):
        return _vmdk(_embedded(head))
    if _VMDK_TEXT.match(head):
        return _vmdk(head)
    for at, magic, name in _MAGICS:
        if head[at : at + len(magic)] == magic:
            return Header(name)
    return Header("vpc" if tail[:8] == b"conectix" else "raw")


def _integer(head: bytes, at: int, length: int) -> int:
    return int.from_bytes(head[at : at + length], "big")


def _text(head: bytes, at: int, length: int) -> str:
    whole = at >= 0 and at + length <= len(head) and length <= _NAME_LIMIT
    return os.fsdecode(head[at : at + length].split(b"\0")[0]) if whole else ""


def _qcow(head: bytes) -> Header:
    """docs/interop/qcow2.txt of QEMU: versions 2 and 3; version 1 is another format."""
    version = _integer(head, 4, 4)
    if version < 2:
        return Header("qcow", backing=_text(head, _integer(head, 8, 8), _integer(head, 16, 4)))
    backing = _text(head, _integer(head, 8, 8), _integer(head, 16, 4))
    external = version >= 3 and bool(_integer(head, 72, 8) & _QCOW2_EXTERNAL)
    backing_format = data_file = ""
    at = _integer(head, 100, 4) if version >= 3 else 72
    while at >= 72 and at + 8 <= len(head):
        kind, length = _integer(head, at, 4), _integer(head, at + 4, 4)
        if not kind or length > _HEAD:
            break
        if kind == _QCOW2_BACKING_FORMAT:
            backing_format = _text(head, at + 8, length)
        elif kind == _QCOW2_DATA_FILE and external:
            data_file = _text(head, at + 8, length)
        at += 8 + (length + 7) // 8 * 8
    return Header("qcow2", backing=backing, backing_format=backing_format, data_file=data_file)


def _qed(head: bytes) -> Header:
    """docs/interop/qed_spec.rst: little-endian; feature 1 is a backing file, 4 that it is not to be looked into."""
    features = int.from_bytes(head[16:24], "little")
    if not features & 1:
        return Header("qed")
    at, length = (int.from_bytes(head[start : start + 4], "little") for start in (56, 60))
    return Header("qed", backing=_text(head, at, length), backing_format="raw" if features & 4 else "")


def _embedded(head: bytes) -> bytes:
    """The text in a sparse VMDK: its sector and its length in sectors are in the header."""
    if head[:4] != b"KDMV":
        return b""
    start, length = (int.from_bytes(head[at : at + 8], "little") * 512 for at in (28, 36))
    return head[start : start + length]


def _vmdk(text: bytes) -> Header:
    found = _VMDK_PARENT.search(text)
    return Header("vmdk", backing=os.fsdecode(found[1]) if found else "")


def absolute(name: str, image: str) -> str:
    """A name in an image's header as a path; `json:{…}` and network disks as they are.

    Like QEMU (path_combine in its block.c) and libvirt: relative to the image's path as it was given, not to where a
    link at that path leads.
    """
    if name.startswith("file:"):
        name = name.removeprefix("file:")
    elif not name or ":" in name.partition("/")[0]:
        return name
    return os.path.join(os.path.dirname(image), name)


def read(path: str, wanted: str) -> dict[str, str]:
    """Format, backing file and its format, and data file of an image; raises OSError."""
    found = os.stat(path)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        return {"problem": "it is neither a file nor a block device"}
    if wanted == "raw":
        return {"format": "raw"}
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        head = os.pread(descriptor, _HEAD, 0)
        tail = os.pread(descriptor, 512, end - 512) if end >= 512 and stat.S_ISREG(found.st_mode) else b""
    finally:
        os.close(descriptor)
    header = parse(head, tail)
    if wanted and wanted != header.format:
        return {"format": header.format, "problem": f"it is {header.format}, not {wanted}"}
    return {
        "format": header.format,
        "backing_format": header.backing_format,
        "backing": absolute(header.backing, path),
        "data_file": absolute(header.data_file, path),
    }


def identity(path: str) -> str:
    """What tells a file under whatever name it is reached; its path if it is not there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return path
    return f"{found.st_dev}:{found.st_ino}"


def chain(path: str, wanted: str) -> Iterator[dict[str, str]]:
    """An image and the layers below it, until the last one, one that cannot be read, or one that was there before."""
    seen: set[str] = set()
    for _ in range(DEPTH):
        if identity(path) in seen:
            yield {"path": path, "problem": "the chain of its layers goes in a circle"}
            return
        seen.add(identity(path))
        try:
            layer = read(path, wanted)
        except (OSError, ValueError) as error:
            layer = {"problem": getattr(error, "strerror", None) or str(error)}
        wanted = layer.pop("backing_format", "")
        yield {"path": path, **layer}
        if layer.get("data_file"):
            yield {"path": layer["data_file"], "format": "raw"}
        path = layer.get("backing", "")
        if not path.startswith("/"):
            return
    yield {"path": path, "problem": f"the chain of its layers is longer than {DEPTH}"}


def main(arguments: list[str]) -> None:
    """Print the layers of each image."""
    for path, wanted in zip(arguments[::2], arguments[1::2], strict=False):
        for layer in chain(path, wanted):
            print(json.dumps({"top": path, **layer}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
