"""Headers of disk images, and chains of them."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host.storage import header, images
from kvmigd.model.mounts import MountFact
from kvmigd.model.storage import PathFact

ROOT = (MountFact(point="/", fs_type="ext4", source="/dev/vda"),)


def qcow2(backing: str = "", backing_format: str = "", data_file: str = "", *, version: int = 3) -> bytes:
    """A header as `qemu-img create` writes it: version 3 is 104 or 112 bytes long, then extensions, then the name."""
    length = 72 if version == 2 else 112
    extensions = b""
    for kind, text in ((0xE2792ACA, backing_format), (0x44415441, data_file)):
        if text:
            value = text.encode()
            extensions += struct.pack(">II", kind, len(value)) + value.ljust((len(value) + 7) // 8 * 8, b"\0")
    extensions += struct.pack(">II", 0x6803F857, 48) + bytes(48) + bytes(8)
    name = backing.encode()
    at = length + len(extensions) if name else 0
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, at, len(name), 16, 1 << 30, 0, 16, 3 << 16, 1 << 16, 1, 0, 0
    )
    if version == 3:
        head += struct.pack(">QQQII", 4 if data_file else 0, 0, 0, 4, length) + bytes(8)
    return (head + extensions + name).ljust(1024, b"\0")


def qed(backing: str, *, features: int) -> bytes:
    name = backing.encode()
    return struct.pack("<4sIIIQQQQQII", b"QED\0", 65536, 4, 1, features, 0, 0, 65536, 1 << 30, 64, len(name)) + name


DESCRIPTOR = b'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=2\ncreateType="x"\nparentFileNameHint="base.vmdk"\n'


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (qcow2(), ("qcow2", "", "", "")),
        (qcow2("base.img", "raw"), ("qcow2", "base.img", "raw", "")),
        (qcow2("base.img", version=2), ("qcow2", "base.img", "", "")),
        (qcow2("/b", "qcow2", "data.raw"), ("qcow2", "/b", "qcow2", "data.raw")),
        (qed("base", features=1), ("qed", "base", "", "")),
        (qed("base", features=5), ("qed", "base", "raw", "")),
        (qed("base", features=0), ("qed", "", "", "")),
        (DESCRIPTOR, ("vmdk", "base.vmdk", "", "")),
        (b"KDMV" + bytes(24) + struct.pack("<QQ", 1, 2) + bytes(468) + DESCRIPTOR, ("vmdk", "base.vmdk", "", "")),
        (b"<<< Oracle VM".ljust(64, b"\0") + b"\x7f\x10\xda\xbe", ("vdi", "", "", "")),
        (b"conectix", ("vpc", "", "", "")),
        (b"vhdxfile", ("vhdx", "", "", "")),
        (b"LUKS\xba\xbe\0\1", ("luks", "", "", "")),
        (b"\xeb\x63\x90", ("raw", "", "", "")),
        (b"", ("raw", "", "", "")),
    ],
)
def test_headers(head: bytes, expected: tuple[str, str, str, str]) -> None:
    found = header.parse(head)
    assert (found.format, found.backing, found.backing_format, found.data_file) == expected


def test_a_fixed_vhd_has_its_header_at_the_end() -> None:
    assert header.parse(b"", b"conectix").format == "vpc"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("base", "/srv/vm/base"),
        ("../base", "/srv/vm/../base"),
        ("/base", "/base"),
        ("file:base", "/srv/vm/base"),
        ("a/b:c", "/srv/vm/a/b:c"),
        ('json:{"file": 1}', 'json:{"file": 1}'),
        ("nbd://h/x", "nbd://h/x"),
        ("", ""),
    ],
)
def test_names_in_headers(name: str, path: str) -> None:
    assert header.absolute(name, "/srv/vm/top.qcow2") == path


@given(
    st.binary(max_size=400),
    st.sampled_from((b"", b"QFI\xfb\0\0\0\3", b"QFI\xfb\0\0\0\2", b"QFI\xfb\0\0\0\1", b"QED\0", b"KDMV")),
)
def test_odd_images_never_raise(rest: bytes, magic: bytes) -> None:
    header.parse(magic + rest)


@given(st.binary(max_size=200))
def test_odd_output_never_raises(output: bytes) -> None:
    images.parse(output)


def chain(*paths: Path | str, **formats: str) -> tuple[PathFact, ...]:
    known = {str(path): formats[Path(path).stem] for path in paths if Path(path).stem in formats}
    return asyncio.run(images.chain([str(path) for path in paths], mounts=ROOT, formats=known, seconds=30))


def test_a_chain_is_followed_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "base.img").write_bytes(b"raw disk")
    (tmp_path / "middle.qcow2").write_bytes(qcow2("base.img", "raw", "data.bin"))
    (tmp_path / "data.bin").write_bytes(bytes(4096))
    (tmp_path / "top.qcow2").write_bytes(qcow2("middle.qcow2"))
    top, middle, data, base = chain(tmp_path / "top.qcow2")
    assert (top.format, top.backing) == ("qcow2", str(tmp_path / "middle.qcow2"))
    assert (middle.format, middle.backing, middle.data_file) == ("qcow2", base.path, data.path)
    assert (base.path, base.format, base.backing, base.size) == (str(tmp_path / "base.img"), "raw", "", 8)
    assert (data.size, data.format) == (4096, "raw")
    assert base.inode == (tmp_path / "base.img").stat().st_ino
    assert all(fact.exists and not fact.problem and fact.mount == ROOT[0] for fact in (top, middle, base))


def test_what_a_guest_has_written_into_a_raw_disk_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "evil.img").write_bytes(qcow2("/etc/shadow"))
    (fact,) = chain(tmp_path / "evil.img", evil="raw")
    assert (fact.format, fact.backing) == ("raw", "")
    (tmp_path / "top.qcow2").write_bytes(qcow2("evil.img", "raw"))
    assert [Path(one.path).name for one in chain(tmp_path / "top.qcow2")] == ["top.qcow2", "evil.img"]


def test_chains_that_go_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.qcow2").write_bytes(qcow2("b.qcow2"))
    (tmp_path / "b.qcow2").write_bytes(qcow2("./a.qcow2"))
    assert "in a circle" in chain(tmp_path / "a.qcow2")[-1].problem
    (tmp_path / "c.qcow2").write_bytes(qcow2("missing.img"))
    top, missing = chain(tmp_path / "c.qcow2")
    assert (top.problem, missing.exists, missing.problem) == ("", False, "No such file or directory")
    (tmp_path / "d.qcow2").write_bytes(qcow2("nbd://nas/base"))
    (only,) = chain(tmp_path / "d.qcow2")
    assert only.backing == "nbd://nas/base"
    (tmp_path / "e.img").write_bytes(b"raw")
    assert chain(tmp_path / "e.img", e="qcow2")[0].problem == "its header could not be read: it is raw, not qcow2"
    assert "neither a file nor a block device" in chain(tmp_path)[0].problem
    for number in range(header.DEPTH + 1):
        (tmp_path / f"l{number}").write_bytes(qcow2(f"l{number + 1}"))
    assert f"longer than {header.DEPTH}" in chain(tmp_path / "l0")[-1].problem


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/b\xff\n.img")
    Path(odd).write_bytes(b"x")
    head = bytearray(qcow2("b?\n.img", "raw"))
    head[head.index(b"b?\n.img") + 1] = 0xFF
    (tmp_path / "top.qcow2").write_bytes(head)
    top, base = chain(tmp_path / "top.qcow2")
    assert (top.backing, base.path, base.exists) == (odd, odd, True)


def test_images_on_storage_that_hangs_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    (tmp_path / "top.qcow2").write_bytes(qcow2())
    monkeypatch.setattr("sys.executable", str(slow))
    (fact,) = asyncio.run(images.chain([str(tmp_path / "top.qcow2")], mounts=ROOT, seconds=0.3))
    assert (fact.format, fact.problem) == ("", "its header could not be read within 0 s")
