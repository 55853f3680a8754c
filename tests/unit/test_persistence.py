"""Whether a mount is there again after a reboot, on trees made for the purpose."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host import persistence
from kvmigd.host.mounts import kind_of
from kvmigd.host.persistence import FstabEntry, Plans, parse_fstab, pulled_by, unit_point
from kvmigd.model.mounts import MountFact, Persistence

FSTAB = r"""
# <file system> <mount point> <type> <options> <dump> <pass>
UUID=1-2 / ext4 errors=remount-ro 0 1
  nas:/export/vm/	/srv/vm/  nfs4	_netdev,nofail,vers=4.2 0 0
nas:/export/iso /srv/iso nfs noauto 0 0
nas:/export/late /srv/late nfs noauto,x-systemd.automount
nas:/export/a\040b /srv/with\040space nfs
nas:/x /srv/wanted nfs noauto,x-systemd.wanted-by=libvirtd.service
/swap none swap sw 0 0
broken
"""
MOUNT = "[Mount]\nWhat=nas:/x\nWhere=/x\n"


def mount(point: str, *, fs_type: str = "nfs4", source: str = "nas:/x") -> MountFact:
    return MountFact(point=point, fs_type=fs_type, source=source, kind=kind_of(fs_type))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def pull(root: Path, unit: str, *, folder: str = "etc/systemd/system/remote-fs.target.wants") -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / unit).symlink_to(f"/etc/systemd/system/{unit}")


@pytest.mark.parametrize(
    ("point", "source", "expected"),
    [
        ("/", "/dev/vda1", Persistence.FSTAB),
        ("/srv/vm", "nas:/export/vm", Persistence.FSTAB),
        ("/srv/vm", "nas:/export/other", Persistence.HAND),
        ("/srv/vm", "NAS:/export/vm", Persistence.FSTAB),
        ("/srv/iso", "nas:/export/iso", Persistence.HAND),
        ("/srv/late", "nas:/export/late", Persistence.AUTOFS),
        ("/srv/with space", "nas:/export/a b", Persistence.FSTAB),
        ("/srv/wanted", "nas:/x", Persistence.FSTAB),
        ("/srv/elsewhere", "nas:/x", Persistence.HAND),
    ],
)
def test_fstab(point: str, source: str, expected: Persistence) -> None:
    plans = Plans(fstab=parse_fstab(FSTAB))
    fact = mount(point, fs_type="ext4" if point == "/" else "nfs4", source=source)
    assert plans.persistence(fact, None) is expected


def test_what_is_no_storage_comes_by_itself() -> None:
    for fs_type in ("proc", "tmpfs", "autofs"):
        assert Plans().persistence(mount("/x", fs_type=fs_type), None) is Persistence.NATURE
    assert Plans().persistence(mount("/", fs_type="ext4"), None) is Persistence.NATURE
    assert Plans().persistence(mount("/x", fs_type="overlay"), None) is Persistence.UNKNOWN


def test_below_an_automounter() -> None:
    by_map = MountFact(point="/net/nas", fs_type="autofs", source="/etc/auto.master.d/x")
    assert Plans().persistence(mount("/net/nas/vm"), by_map) is Persistence.AUTOFS
    by_systemd = MountFact(point="/srv/vm", fs_type="autofs", source="systemd-1")
    assert Plans().persistence(mount("/srv/vm"), by_systemd) is Persistence.HAND
    assert Plans(automounts=frozenset({"/srv/vm"})).persistence(mount("/srv/vm"), by_systemd) is Persistence.AUTOFS


def test_an_export_inside_an_export_returns_with_it() -> None:
    outer = MountFact(point="/srv", fs_type="nfs4", source="nas:/export", persistence=Persistence.FSTAB)
    assert Plans().persistence(mount("/srv/vm", source="nas:/export/vm"), outer) is Persistence.FSTAB
    assert Plans().persistence(mount("/srv/vm", source="nas:/other"), outer) is Persistence.HAND


def test_units_that_something_pulls_in(tmp_path: Path) -> None:
    units = tmp_path / "etc/systemd/system"
    for name in ("srv-vm", "srv-idle", "srv-masked", "srv-auto", "srv-a\\x2db", "srv-needed", "srv-dropped"):
        write(units / f"{name}.mount", MOUNT)
    write(units / "srv-auto.automount", "[Automount]\nWhere=/srv/auto\n")
    (units / "srv-masked.mount").unlink()
    (units / "srv-masked.mount").symlink_to("/dev/null")
    write(tmp_path / "usr/lib/systemd/system/srv-masked.mount", MOUNT)
    for name in ("srv-vm.mount", "srv-masked.mount", "srv-auto.automount", "srv-a\\x2db.mount", "srv-none.mount"):
        pull(tmp_path, name)
    write(units / "vm.service", "[Unit]\nRequiresMountsFor=/srv/needed/images /var\n")
    write(units / "libvirtd.service.d/storage.conf", "[Unit]\nRequires = srv-dropped.mount\n")
    write(tmp_path / "run/systemd/system/srv-run.mount", MOUNT)
    write(tmp_path / "run/systemd/transient/srv-transient.mount", MOUNT)
    write(tmp_path / "run/systemd/generator/srv-fstab.mount", f"[Unit]\nSourcePath=/etc/fstab\n{MOUNT}")
    write(tmp_path / "run/systemd/generator/boot.mount", MOUNT)
    for name in ("srv-fstab.mount", "boot.mount"):
        pull(tmp_path, name, folder="run/systemd/generator/local-fs.target.requires")
    pull(tmp_path, "srv-run.mount")
    plans, watched = persistence.read(tmp_path)
    assert plans.mounts == {"/srv/vm", "/srv/a-b", "/srv/needed", "/srv/dropped", "/boot"}
    assert plans.automounts == {"/srv/auto"}
    assert plans.persistence(mount("/srv/vm"), None) is Persistence.UNIT
    assert plans.persistence(mount("/srv/idle"), None) is Persistence.HAND
    for path in (units, units / "remote-fs.target.wants", units / "libvirtd.service.d", tmp_path / "etc/fstab"):
        assert path in watched


def test_a_host_without_any_of_it(tmp_path: Path) -> None:
    assert persistence.read(tmp_path / "nowhere")[0] == Plans()


def test_a_link_between_the_folders_is_not_read_twice(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/systemd/system").mkdir(parents=True)
    (tmp_path / "lib/systemd").mkdir(parents=True)
    (tmp_path / "lib/systemd/system").symlink_to(tmp_path / "usr/lib/systemd/system")
    assert tmp_path / "lib/systemd/system" not in persistence.read(tmp_path)[1]


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("srv-vm.mount", "/srv/vm"),
        ("-.mount", "/"),
        ("srv-a\\x2db.automount", "/srv/a-b"),
        ("srv-\\xc3\\xa4.mount", "/srv/ä"),
        ("srv.service", None),
        (".mount", None),
        ("", None),
    ],
)
def test_names_of_units(name: str, point: str | None) -> None:
    assert unit_point(name) == point


def escape(path: str) -> str:
    """As systemd-escape --path does."""
    keep = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_."
    return "-".join(
        "".join(chr(c) if chr(c) in keep else f"\\x{c:02x}" for c in part.encode())
        for part in path.strip("/").split("/")
    )


@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_names_of_units_come_back(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    assert unit_point(f"{escape(path)}.mount") == path


@given(st.text(max_size=300))
def test_odd_files_never_raise(text: str) -> None:
    for entry in parse_fstab(text):
        assert isinstance(entry, FstabEntry)
        assert entry.point.startswith("/")
    list(pulled_by(text))
    unit_point(text)
    persistence.nfs_export(text)


@given(st.lists(st.sampled_from([*"#\\/ \t\n:,", "040", "a", "nas:/x", "/srv", "noauto", "nfs"]), max_size=40))
def test_odd_fstabs_never_raise(parts: list[str]) -> None:
    plans = Plans(fstab=parse_fstab("".join(parts)))
    plans.persistence(mount("/srv"), None)
