"""Packages, from databases of dpkg and from a pretended rpm."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host import packages

KERNEL = "6.1.0-30-amd64"
STATUS = """\
Package: qemu-system-x86
Status: install ok installed
Priority: optional
Architecture: amd64
Version: 1:7.2+dfsg-7+deb12u12
Description: QEMU
 Package: ovmf
 .
 Version: 9

Package: libvirt0
Status: hold ok installed
Architecture: i386
Multi-Arch: same
Version: 9.0.0-4

Package: libvirt0
Status: install ok triggers-pending
Architecture: amd64
Multi-Arch: same
Version: 9.0.0-4

Package: seabios
Status: deinstall ok config-files
Architecture: all
Version: 1.16.2-1

Package: lvm2
Status: install ok half-configured
Architecture: amd64
Version: 2.03.16-2

Package: linux-image-6.1.0-30-amd64
Status: install ok installed
Architecture: amd64
Version: 6.1.124-1

Package: linux-image-6.1.0-29-amd64
Status: install ok installed
Architecture: amd64
Version: 6.1.123-1

Package: vim
Status: install ok installed
Architecture: amd64
Version: 2:9.0

Package: swtpm-tools
Status: install ok installed
Architecture: amd64
Version: 0.7.1"""
FOUND = [
    "libvirt0:amd64 9.0.0-4",
    "libvirt0:i386 9.0.0-4",
    "linux-image-6.1.0-30-amd64:amd64 6.1.124-1",
    "qemu-system-x86:amd64 1:7.2+dfsg-7+deb12u12",
    "swtpm-tools:amd64 0.7.1",
]


def told(installed: packages.Installed) -> list[str]:
    return [f"{package.key} {package.version}" for package in installed.packages]


def ask(root: Path) -> packages.Installed:
    return asyncio.run(packages.installed(root, kernel=KERNEL))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 18])
def test_what_is_installed_and_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(packages, "CHUNK_BYTES", piece)
    write(tmp_path / packages.DPKG, STATUS)
    found = ask(tmp_path)
    assert (found.manager, found.problem) == ("dpkg", "")
    assert told(found) == FOUND


def test_no_database_is_a_problem(tmp_path: Path) -> None:
    assert ask(tmp_path).problem == "there is neither dpkg's nor rpm's database"
    assert packages.fingerprint(tmp_path) is None


def test_a_database_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / packages.DPKG, STATUS)

    def fail(path: Path, **_: str) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(packages, "read_dpkg", fail)
    found = ask(tmp_path)
    assert (found.manager, found.packages) == ("dpkg", ())
    assert "Input/output error" in found.problem


def test_the_fingerprint_tells_a_replaced_database(tmp_path: Path) -> None:
    path = tmp_path / packages.DPKG
    write(path, STATUS)
    before = packages.fingerprint(tmp_path)
    assert packages.fingerprint(tmp_path) == before
    fresh = path.with_name("status-new")
    fresh.write_text(STATUS)
    fresh.rename(path)
    assert packages.fingerprint(tmp_path) != before


def pretend_rpm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A host with an rpm database (an empty dpkg database beside it), and a program in rpm's place."""
    write(tmp_path / packages.DPKG, "")
    write(tmp_path / packages.RPM[0], "SQLite")
    program = tmp_path / "rpm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    original = asyncio.create_subprocess_exec

    async def instead(_program: str, *arguments: str, **options: object) -> asyncio.subprocess.Process:
        return await original(str(program), *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", instead)
    return tmp_path


ROWS = r"printf 'edk2-ovmf\t20240813-2.fc41\tnoarch\nqemu-kvm\t2:9.1-1\tx86_64\n'"


def test_rpm_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pretend_rpm(tmp_path, monkeypatch, ROWS)
    found = ask(root)
    assert (found.manager, found.problem) == ("rpm", "")
    assert told(found) == ["edk2-ovmf:noarch 20240813-2.fc41", "qemu-kvm:x86_64 2:9.1-1"]


def test_rpm_that_fails_or_hangs_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pretend_rpm(tmp_path, monkeypatch, "echo 'error: rpmdb is broken' >&2; exit 1")
    assert ask(root).problem == "rpm failed: error: rpmdb is broken"
    (tmp_path / "rpm").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(packages, "RPM_SECONDS", 0.1)
    assert "did not answer" in ask(root).problem


def test_a_missing_rpm_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pretend_rpm(tmp_path, monkeypatch, "")
    os.remove(tmp_path / "rpm")
    assert ask(root).problem == "rpm cannot be run: No such file or directory"


@pytest.mark.parametrize(
    ("kernel", "found"),
    [
        ("6.12.5-200.fc41.x86_64", ["kernel-core:x86_64 6.12.5-200.fc41"]),
        ("6.4.0-150600.23.7-default", ["kernel-default:x86_64 6.4.0-150600.23.7.3"]),
        ("6.12.5", []),
    ],
)
def test_of_kernels_the_running_one_counts(kernel: str, found: list[str]) -> None:
    rows = [
        ("kernel-core", "6.12.4-200.fc41"),
        ("kernel-core", "6.12.5-200.fc41"),
        ("kernel-default", "6.4.0-150600.23.7.3"),
        ("kernel-default", "6.4.0-150600.23.70.1"),
    ]
    text = "".join(f"{name}\t{version}\tx86_64\n" for name, version in rows)
    assert [f"{package.key} {package.version}" for package in packages.parse_rpm(text, kernel=kernel)] == found


@given(st.binary(max_size=300))
def test_odd_bytes_in_a_status_file_never_raise(text: bytes) -> None:
    list(packages.parse_dpkg(b"Package: qemu-kvm\n" + text, kernel=KERNEL))


@given(st.text(max_size=300))
def test_odd_lines_of_rpm_never_raise(text: str) -> None:
    packages.parse_rpm(text, kernel=KERNEL)


WORD = st.from_regex(r"[a-z0-9][a-z0-9.+:~-]{0,20}", fullmatch=True)


@given(st.lists(st.tuples(st.sampled_from(["qemu-system-", "swtpm", "libvirt-daemon", "zsh"]), WORD, WORD), max_size=8))
def test_dpkg_and_rpm_tell_the_same(rows: list[tuple[str, str, str]]) -> None:
    names = {f"{stem}{end}": version for stem, end, version in rows if "\n" not in end + version}
    status = "\n".join(
        f"Package: {name}\nStatus: install ok installed\nArchitecture: all\nVersion: {version}\n"
        for name, version in names.items()
    )
    wanted = {name: version for name, version in names.items() if not name.startswith("zsh")}
    found = {package.name: package.version for package in packages.parse_dpkg(status.encode(), kernel=KERNEL)}
    assert found == wanted
    text = "".join(f"{name}\t{version}\tall\n" for name, version in wanted.items())
    assert {package.name: package.version for package in packages.parse_rpm(text, kernel=KERNEL)} == wanted
