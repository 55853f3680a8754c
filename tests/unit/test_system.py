"""Release, memory and names of the host."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host import system


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_release_and_memory(tmp_path: Path) -> None:
    write(tmp_path / "etc/os-release", 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n#x\n')
    assert system.release(tmp_path).pretty_name == "Debian GNU/Linux 12 (bookworm)"
    assert system.release(tmp_path).version_id == "12"
    assert system.release(tmp_path / "nowhere").id == ""
    write(
        tmp_path / "meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\nHugePages_Total: 0\n"
    )
    assert system.memory(tmp_path / "meminfo") == (2048 * 1024, 1024 * 1024)


def test_the_vendors_release_counts_where_there_is_no_own(tmp_path: Path) -> None:
    write(tmp_path / "usr/lib/os-release", "ID=fedora\nVERSION_ID='41'\n")
    assert (system.release(tmp_path).id, system.release(tmp_path).version_id) == ("fedora", "41")


@given(st.text(max_size=300))
def test_odd_lines_of_os_release_never_raise(text: str) -> None:
    system.platform_fields(text)


@given(st.from_regex(r"[A-Z_]{1,10}", fullmatch=True), st.text("abc 1.()/", max_size=30))
def test_what_is_assigned_is_read(name: str, value: str) -> None:
    assert system.platform_fields(f'\0\n{name}="{value}"\n')[name] == value


def test_names_resolve_or_say_why_not() -> None:
    assert asyncio.run(system.resolve("localhost")).addresses
    failed = asyncio.run(system.resolve("no-such-host.invalid"))
    assert not failed.addresses
    assert failed.problem


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.1.1", True), ("::1", True), ("10.0.0.1", False), ("fe80::1%eth0", False), ("what", False)],
)
def test_loopback(address: str, *, loopback: bool) -> None:
    assert system.is_loopback(address) is loopback
