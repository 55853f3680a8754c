"""Identities of mounted file systems."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host.storage import devices, filesystems, probe
from kvmigd.model.mounts import MountFact, MountKind
from kvmigd.model.storage import FileSystemIdentity
from tests.unit.storage_trees import NAA, block, san, write

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "virtiofs")
DISKS = ("ext4", "xfs", "btrfs")


def mount(source: str, fs_type: str, *options: str, **more: Any) -> MountFact:
    kind = MountKind.NETWORK if fs_type in NETWORK else MountKind.DISK if fs_type in DISKS else MountKind.CLUSTER
    return MountFact(
        **{"point": "/srv", "source": source, "fs_type": fs_type, "super_options": options, "kind": kind, **more}
    )


def identity(of: MountFact, root: Path, answer: filesystems.Answer | None = None) -> FileSystemIdentity:
    return filesystems.identity(of, filesystems.read(root, devices.read(root)), answer)


VOLUMES = """\
NV SERVER   PORT DEV          FSID                              FSC
v4 0a000004  801 0:52         7b1bcb0f6ec0bc49:0                no
v4 0a000004  801 0:53         0:0                               no
v3 fd000000000000000000000000000010  801 0:54 c10a1819257f4d4d:a0d6372e2f44b4e3 yes
nonsense
"""


def test_nfs(tmp_path: Path) -> None:
    write(tmp_path / "proc/fs/nfsfs/volumes", VOLUMES)
    found = identity(mount("nas:/guests", "nfs4", "vers=4.2", "addr=10.0.0.4", device="0:52"), tmp_path)
    assert (found.server, found.export, found.addresses) == ("nas", "/guests", ("10.0.0.4",))
    assert (found.uuid, found.problem) == ("7b1bcb0f6ec0bc49:0", "")
    assert identity(mount("nas:/", "nfs4", device="0:53"), tmp_path).uuid == "", "a pseudo root has no fsid"
    found = identity(mount("[fd00::10]:/a b", "nfs", "mountaddr=fd00::10", device="0:54", root="/sub"), tmp_path)
    assert (found.server, found.export, found.root) == ("fd00::10", "/a b", "/sub")
    assert found.uuid == "c10a1819257f4d4d:a0d6372e2f44b4e3"


def test_glusterfs(tmp_path: Path) -> None:
    store = mount("store:/vm", "fuse.glusterfs")
    waiting = identity(store, tmp_path)
    assert (waiting.server, waiting.export, waiting.problem) == ("store", "vm", "/srv is being asked what it is")
    answer = filesystems.Answer(uuid="9c8de078-b27c-4c3e-bda2-cfc05fce8c3a", bricks=("store:/brick",))
    known = identity(store, tmp_path, answer)
    assert (known.uuid, known.devices, known.problem) == (answer.uuid, ("store:/brick",), "")
    assert identity(mount("store:vm", "fuse.glusterfs"), tmp_path, answer).export == known.export
    silent = identity(store, tmp_path, filesystems.Answer(problem="no answer for 5 s"))
    assert silent.problem == "/srv does not tell what it is: no answer for 5 s"
    hanging = identity(mount("store:/vm", "fuse.glusterfs", problem="it hangs"), tmp_path)
    assert hanging.problem == "/srv cannot be asked what it is: it hangs"


VOLFILE = """\
volume rep-client-0
    type protocol/client
    option remote-subvolume /srv/brick/r1
    option remote-host 10.77.2.10
end-volume

volume rep-client-1
    type protocol/client
    option remote-host 10.77.2.10
    option remote-subvolume /srv/brick/r2
end-volume

volume rep-replicate-0
    type cluster/replicate
    option afr-pending-xattr rep-client-0,rep-client-1
    option volume-id 9c8de078-b27c-4c3e-bda2-cfc05fce8c3a
    subvolumes rep-client-0 rep-client-1
end-volume
"""


def test_a_volume_file_of_glusterfs_is_asked_by_a_process(tmp_path: Path) -> None:
    write(tmp_path / ".meta/graphs/active/volfile", VOLFILE)
    here = mount("store:/rep", "fuse.glusterfs", point=str(tmp_path))
    gone = mount("store:/rep", "fuse.glusterfs", point=str(tmp_path / "gone"))
    answers = asyncio.run(filesystems.ask((here, gone), seconds=30))
    assert answers[here.point].uuid == "9c8de078-b27c-4c3e-bda2-cfc05fce8c3a"
    assert answers[here.point].bricks == ("10.77.2.10:/srv/brick/r1", "10.77.2.10:/srv/brick/r2")
    assert answers[gone.point].problem == "No such file or directory"


def test_a_file_system_that_hangs_is_given_up(tmp_path: Path) -> None:
    (tmp_path / ".meta/graphs/active").mkdir(parents=True)
    os.mkfifo(tmp_path / ".meta/graphs/active/volfile")
    here = mount("store:/rep", "fuse.glusterfs", point=str(tmp_path))
    assert asyncio.run(filesystems.ask((here,), seconds=0.3))[here.point].problem == "no answer for 0 s"


def test_gfs2_and_ocfs2(tmp_path: Path) -> None:
    san(tmp_path)
    write(tmp_path / "sys/fs/gfs2/west:vm/id", "253:1")
    write(tmp_path / "sys/fs/gfs2/west:vm/uuid", "AAAA1111-2222-3333-4444-555555555555")
    write(tmp_path / "sys/kernel/config/dlm/cluster/cluster_name", "west")
    gfs2 = identity(mount("/dev/mapper/vg--a-web", "gfs2", device="253:1"), tmp_path)
    assert (gfs2.lock_table, gfs2.uuid) == ("west:vm", "aaaa1111-2222-3333-4444-555555555555")
    assert (gfs2.devices, gfs2.problem) == ((f"naa.{NAA.hex()}",), "")
    given = identity(mount("/dev/mapper/vg--a-web", "gfs2", "locktable=east:vm", device="253:1"), tmp_path)
    assert given.lock_table == "east:vm"
    ocfs2 = identity(mount("/dev/mapper/vg--a-db--1", "ocfs2", device="253:2"), tmp_path)
    assert ocfs2.lock_table == "west:AAAA1111222233334444555555555555"
    assert "UUID" in identity(mount("/dev/sdz", "ocfs2", device="8:240"), tmp_path).problem


def test_file_systems_on_disks(tmp_path: Path) -> None:
    san(tmp_path)
    block(tmp_path, "vda", "254:0", at="virtio1", udev={"ID_FS_UUID": "0A0A-1B1B"})
    write(tmp_path / "sys/fs/btrfs/features/x", "0")
    for name in ("sdc", "vda"):
        write(tmp_path / "sys/fs/btrfs/5b5b5b5b-1111-4222-8333-444455556666/devices" / name / "size", "1")
    assert identity(mount("/dev/vda", "ext4", device="254:0"), tmp_path).uuid == "0a0a-1b1b"
    btrfs = identity(mount("/dev/vda", "btrfs", device="0:33", root="/@vm"), tmp_path)
    assert (btrfs.uuid, btrfs.root) == ("5b5b5b5b-1111-4222-8333-444455556666", "/@vm")
    assert btrfs.devices == ("naa.60014056666666666666666666666666", "vda")
    xfs = mount("/dev/sdc", "xfs", device="8:32")
    assert "is being asked" in identity(xfs, tmp_path).problem
    assert identity(xfs, tmp_path, filesystems.Answer(uuid="u")).uuid == "u"
    zfs = identity(mount("tank/vm", "zfs", device="0:40", kind=MountKind.OTHER), tmp_path)
    assert (zfs.export, zfs.problem) == ("tank/vm", "")


FSID = "d7a1b2c3-1111-4222-8333-444455556666"


@pytest.mark.parametrize(
    ("of", "server", "export", "uuid"),
    [
        (mount("//NAS/vm/sub", "cifs", "addr=10.0.0.4"), "nas", "vm/sub", ""),
        (mount("root@nas:/vm", "fuse.sshfs"), "nas", "/vm", ""),
        (mount("root@nas:", "fuse.sshfs"), "nas", "~root", ""),
        (mount("root@[fd00::1]:/vm", "fuse.sshfs"), "fd00::1", "/vm", ""),
        (mount("hostshare", "9p", "trans=virtio"), "", "hostshare", ""),
        (mount("10.0.0.4", "9p", "trans=tcp", "aname=/vm"), "10.0.0.4", "/vm", ""),
        (mount("tag", "virtiofs"), "", "tag", ""),
        (mount("10.0.0.1@tcp:10.0.0.2@tcp:/lfs/vm", "lustre"), "10.0.0.1@tcp:10.0.0.2@tcp", "lfs/vm", ""),
        (mount("gpfs0", "gpfs"), "", "gpfs0", ""),
        (mount(f"admin@{FSID}.vmfs=/vm", "ceph", "mon_addr=10.0.0.1:6789"), "", "vmfs=/vm", FSID),
        (mount("10.0.0.1:6789,b:/vm", "ceph", f"fsid={FSID}"), "10.0.0.1:6789,b", "/vm", FSID),
        (mount("10.0.0.1:6789:/vm", "ceph"), "10.0.0.1:6789", "/vm", FSID),
        (mount("10.9.9.9:6789:/vm", "ceph"), "10.9.9.9:6789", "/vm", ""),
        (mount("ceph-fuse", "fuse.ceph-fuse"), "", "/", FSID),
        (mount("quo:/vol", "fuse.quobyte"), "quo", "/vol", ""),
    ],
)
def test_network_and_cluster_file_systems(tmp_path: Path, of: MountFact, server: str, export: str, uuid: str) -> None:
    write(tmp_path / "etc/ceph/ceph.conf", f"[global]\nfsid = {FSID}\nmon_host = 10.0.0.1,10.0.0.2\n")
    found = identity(of, tmp_path)
    assert (found.server, found.export, found.uuid) == (server, export, uuid)
    assert bool(found.problem) is (of.fs_type == "ceph" and not uuid)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("nas:/a:b", ("nas", "/a:b")),
        ("a,b:/x", ("a,b", "/x")),
        ("nas:vm", ("nas", "vm")),
        ("[::1]:/", ("::1", "/")),
        ("/dev/x:/y", ("", "/dev/x:/y")),
        ("", ("", "")),
    ],
)
def test_sources(source: str, parts: tuple[str, str]) -> None:
    assert filesystems.split_source(source) == parts


def test_this_machine_is_asked(tmp_path: Path) -> None:
    answers = asyncio.run(filesystems.ask((mount("/dev/x", "ext4", point=str(tmp_path)),), seconds=30))
    answer = answers[str(tmp_path)]
    assert not answer.bricks
    assert len(answer.uuid) in (0, 36)


def test_an_interpreter_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    answers = asyncio.run(filesystems.ask((mount("/dev/x", "ext4"),)))
    assert "/nowhere/python" in answers["/srv"].problem


_TYPES = st.sampled_from([*(fs_type for types, _ in filesystems._READERS for fs_type in types), "ext4", "btrfs", "odd"])


@given(st.text(max_size=80), _TYPES, st.lists(st.text(max_size=20)), st.text(max_size=9), st.sampled_from(MountKind))
def test_odd_mounts_never_raise(source: str, fs_type: str, options: list[str], device: str, kind: MountKind) -> None:
    of = mount(source, fs_type, *options, device=device, kind=kind)
    assert filesystems.identity(of, filesystems.Host()).point == "/srv"


@given(st.text(max_size=300))
def test_odd_tables_never_raise(text: str) -> None:
    filesystems.parse_volumes(text)
    probe.gluster(text)


@given(st.binary(max_size=200))
def test_odd_answers_never_raise(line: bytes) -> None:
    filesystems.parse_answer(line)
    filesystems.parse_answer(json.dumps({"uuid": repr(line)}).encode())
