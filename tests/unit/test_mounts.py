"""The mount table: lines, what they are, what covers what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host import mounts
from kvmigd.model.mounts import MountFact, MountKind, Persistence

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 0:36 / /srv/vm rw,relatime shared:20 - fuse.glusterfs store:/vm rw,user_id=0
41 22 0:37 /export/a\040b /srv/with\040space rw - nfs4 nas:/export/a\040b rw,vers=4.2
42 40 0:38 / /srv/vm/deep rw - tmpfs tmpfs rw
43 40 0:39 / /srv/vm rw - ext4 /dev/vdb rw
garbage
"""
ODD_FIELDS = st.text(alphabet=st.sampled_from("/ab0123456789:,-\\ \t\r\x0b\u2028"), max_size=12)
LINES = st.one_of(
    st.text(max_size=200),
    st.builds(
        lambda ids, place, tail: f"{ids[0]} {ids[1]} 0:1 / {place} rw - {tail} src rw",
        st.tuples(st.integers(0, 6), st.integers(0, 6)),
        st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/ab", "a", "", "//deleted", "/a//deleted"]),
        st.sampled_from(["ext4", "nfs", "autofs", "proc"]),
    ),
    st.lists(ODD_FIELDS, max_size=12).map(" ".join),
)


def table(*lines: str) -> tuple[MountFact, ...]:
    return mounts.parse("\n".join(lines))


def test_mounts_are_read_with_escapes_undone() -> None:
    found = mounts.parse(MOUNTINFO)
    assert [mount.point for mount in found] == ["/", "/srv/vm", "/srv/with space", "/srv/vm/deep", "/srv/vm"]
    assert (found[2].source, found[2].root) == ("nas:/export/a b", "/export/a b")
    assert [mount.shared for mount in found] == [False, True, True, False, False]


def test_all_fields() -> None:
    (found,) = table(
        "36 35 98:0 /mnt1 /mnt2 rw,noatime shared:7 master:1 propagate_from:2 what:9 - fuse.sshfs me@nas:/x rw,b,a"
    )
    assert found == MountFact(
        id=36,
        parent=35,
        device="98:0",
        root="/mnt1",
        point="/mnt2",
        options=("noatime", "rw"),
        super_options=("a", "b", "rw"),
        propagation=("shared:7", "master:1", "propagate_from:2", "what:9"),
        fs_type="fuse.sshfs",
        source="me@nas:/x",
        kind=MountKind.NETWORK,
    )


def test_a_source_and_options_may_be_empty() -> None:
    (found,) = table("36 35 98:0 / /mnt rw - tmpfs  rw")
    assert (found.source, found.super_options) == ("", ("rw",))
    (found,) = table("36 35 98:0 / /mnt rw - tmpfs x")
    assert found.super_options == ()


def test_what_was_removed_is_marked() -> None:
    (found,) = table(r"36 35 98:0 /gone\040a//deleted /mnt rw - ext4 /dev/sda rw")
    assert (found.root, found.deleted) == ("/gone a", True)
    (found,) = table("36 35 98:0 / /mnt//deleted rw - ext4 /dev/sda rw")
    assert (found.point, found.deleted) == ("/mnt", True)


@pytest.mark.parametrize(
    ("fs_type", "kind"),
    [
        *((name, MountKind.NETWORK) for name in ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "virtiofs", "9p", "afs")),
        *((name, MountKind.CLUSTER) for name in ("gfs2", "ocfs2", "fuse.glusterfs", "ceph", "fuse.ceph", "lustre")),
        *((name, MountKind.CLUSTER) for name in ("gpfs", "beegfs", "fuse.mfs", "orangefs", "fuse.quobyte")),
        *((name, MountKind.DISK) for name in ("ext4", "xfs", "btrfs")),
        *((name, MountKind.STACKED) for name in ("overlay", "autofs")),
        ("tmpfs", MountKind.MEMORY),
        ("cgroup2", MountKind.KERNEL),
        ("fuse.unheard-of", MountKind.OTHER),
        ("", MountKind.OTHER),
    ],
)
def test_kinds(fs_type: str, kind: MountKind) -> None:
    assert mounts.kind_of(fs_type) is kind


def test_libvirt_knows_only_the_oldest_smb() -> None:
    assert mounts.is_shared("cifs", ("rw", "vers=1.0"))
    assert not mounts.is_shared("cifs", ("rw", "vers=3.1.1"))
    assert not mounts.is_shared("smb3", ("vers=3.0",))
    assert not mounts.is_shared("fuse.sshfs")
    assert mounts.is_shared("gfs2")


def test_the_deepest_mount_counts_that_is_not_covered() -> None:
    found = mounts.parse(MOUNTINFO)
    for path, fs_type in (("/srv/vm/a.img", "ext4"), ("/srv/vm/deep/x", "ext4"), ("/srv/with space", "nfs4")):
        mount = mounts.containing(path, found)
        assert mount is not None
        assert mount.fs_type == fs_type
    root = mounts.containing("/srv/vmware/x", found)
    assert root is not None
    assert root.point == "/"


def covered(*lines: str) -> list[bool]:
    return [mount.covered for mount in table(*(f"{line} rw - ext4 x rw" for line in lines))]


def test_what_lies_below_a_covered_mount_is_covered_too() -> None:
    assert [mount.covered for mount in mounts.parse(MOUNTINFO)] == [False, True, False, True, False]
    assert covered("1 0 0:1 / /", "2 1 0:2 / /a/b", "3 1 0:3 / /a", "4 2 0:4 / /a/b/c") == [False, True, False, True]
    assert covered("1 0 0:1 / /", "2 1 0:2 / /a", "3 2 0:3 / /a", "4 3 0:4 / /a") == [False, True, True, False]
    assert covered("1 0 0:1 / /", "2 1 0:2 / /a-b", "3 1 0:3 / /a", "4 3 0:4 / /a/b") == [False] * 4
    assert covered("1 0 0:1 / /", "2 1 0:2 / /x/a", "3 2 0:3 / /x/a", "4 1 0:4 / /x") == [False, True, True, False]


def test_mounts_that_claim_each_other_as_parents() -> None:
    assert covered("1 2 0:1 / /a", "2 1 0:2 / /a", "3 3 0:3 / /b") == [True, True, False]


@given(LINES)
def test_odd_lines_never_raise(line: str) -> None:
    mounts.parse_line(line)


@given(st.lists(LINES, max_size=12))
def test_odd_tables_never_raise_and_lose_no_mount(lines: list[str]) -> None:
    lines = [line.replace("\n", " ") for line in lines]
    wanted = [mounts.parse_line(line) for line in dict.fromkeys(lines)]
    found = table(*lines)
    assert [mount.point for mount in found] == [mount.point for mount in wanted if mount is not None]


@given(st.binary(max_size=300))
def test_odd_bytes_never_raise(data: bytes) -> None:
    mounts.MountLines().parse(data + b"\n1 0 0:1 / /" + data.replace(b"\n", b"") + b" rw - ext4 x rw")


def test_a_line_of_64_kilobytes() -> None:
    name = "x" * 65536
    (found,) = table(f"1 0 0:1 / /{name} rw - overlay overlay rw,lowerdir={name}")
    assert found.point == f"/{name}"


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=40))
def test_escapes_come_back(text: str) -> None:
    escaped = "".join(f"\\{ord(c):03o}" if c in " \t\n\\#" else c for c in text)
    assert mounts.unescape(escaped) == text


def test_names_that_are_no_utf8_come_back() -> None:
    (found,) = mounts.MountLines().parse(b"1 0 0:1 / /srv/\xff\\040 rw - ext4 x rw")
    assert found.point.encode(errors="surrogateescape") == b"/srv/\xff "


def test_what_has_not_changed_is_the_same_object() -> None:
    lines = mounts.MountLines()
    before = lines.parse(MOUNTINFO.encode())
    again = lines.parse(MOUNTINFO.encode())
    assert all(old is new for old, new in zip(before, again, strict=True))
    after = lines.parse(MOUNTINFO.replace("store:/vm rw", "store:/vm ro").encode())
    assert [old is new for old, new in zip(before, after, strict=True)] == [True, False, True, True, True]
    uncovered = lines.parse("\n".join(MOUNTINFO.splitlines()[:5]).encode())
    assert not any(mount.covered for mount in uncovered)


def test_each_mount_is_judged_once_with_what_it_is_mounted_on() -> None:
    asked: list[tuple[str, str]] = []

    def judge(mount: MountFact, parent: MountFact | None) -> Persistence:
        asked.append((mount.point, parent.point if parent else ""))
        return Persistence.FSTAB

    lines = mounts.MountLines()
    for _ in range(2):
        found = lines.parse(MOUNTINFO.encode(), judge=judge)
        assert {mount.persistence for mount in found} == {Persistence.FSTAB}
    assert asked[:2] == [("/", ""), ("/srv/vm", "/")]
    assert len(asked) == 5
    lines.forget()
    lines.parse(MOUNTINFO.encode(), judge=judge)
    assert len(asked) == 10
