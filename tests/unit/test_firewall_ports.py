"""The ports that a migration needs, and libvirt's configuration files that say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.config import Config, Listen, Migration
from kvmigd.host.firewall import libvirtconf, ports

TEXT = """
# migration_port_min = 1
migration_port_min = 50000   # with a comment
  migration_port_max=50063
listen_tls = 0
listen_tcp = "1"
tcp_port = '16600'
unix_sock_dir = "/run/libvirt # not a comment"
tls_allowed_dn_list = [
   "CN=a", # the first
   'CN=b',
]
empty = []
long = \"\"\"two
lines\"\"\"
migration_port_min = 50001
odd value
broken = "no end
also = [ "x"
"""


def test_libvirts_format() -> None:
    assert libvirtconf.parse(TEXT) == {
        "migration_port_min": 50001,
        "migration_port_max": 50063,
        "listen_tls": 0,
        "listen_tcp": "1",
        "tcp_port": "16600",
        "unix_sock_dir": "/run/libvirt # not a comment",
        "tls_allowed_dn_list": ["CN=a", "CN=b"],
        "empty": [],
        "long": "two\nlines",
    }


@given(st.text(st.sampled_from("ab=[]\"',# \n12-") | st.characters(), max_size=80))
def test_any_text_is_read(text: str) -> None:
    values = libvirtconf.parse(text)
    for key in values:
        assert 0 < libvirtconf.port(values, key, 1) < 65536


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
        st.integers(-(2**31), 2**31)
        | st.text(st.characters(exclude_characters='"\n', exclude_categories=["Cs"]), max_size=8),
    )
)
def test_what_is_written_is_read(values: dict[str, int | str]) -> None:
    lines = (f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in values.items())
    assert libvirtconf.parse("\n".join(lines)) == values


def config(**more: object) -> Config:
    return Config(name="hosta", directory=Path("/etc/kvmigd"), **more)  # type: ignore[arg-type]


def told(root: Path, settings: Config | None = None) -> dict[str, tuple[int, int, str]]:
    uses = ports.read(settings or config(), root=root)
    return {use.purpose: (use.first, use.last, use.origin) for use in uses}


def write(root: Path, path: Path, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_defaults(tmp_path: Path) -> None:
    assert told(tmp_path) == {
        "control": (16515, 16515, "default"),
        "libvirt": (16514, 16514, "default of libvirtd"),
        "stream": (49152, 49215, "default"),
        "disks": (49152, 49215, "default"),
    }


def test_our_own_range_counts_and_another_of_qemus_is_told(tmp_path: Path) -> None:
    write(tmp_path, ports.QEMU, "migration_port_min = 50000\nmigration_port_max = 50063\n")
    settings = config(listen=Listen(port=17000), migration=Migration(port_min=49300, port_max=49310))
    found = told(tmp_path, settings)
    assert found["control"] == (17000, 17000, "/etc/kvmigd/kvmigd.toml: listen.port")
    first, last, origin = found["stream"]
    assert (first, last) == (49300, 49310)
    assert "kvmigd.toml" in origin
    assert "qemu.conf: migration_port_min, migration_port_max: 50000-50063" in origin
    assert found["libvirt-streams"][:2] == (50000, 50063)


def test_libvirts_listeners(tmp_path: Path) -> None:
    write(tmp_path, ports.LIBVIRTD, 'listen_tls = 0\nlisten_tcp = 1\ntcp_port = "16600"\n')
    write(tmp_path, ports.VIRTPROXYD, 'tls_port = "16700"\n')
    found = told(tmp_path)
    assert "libvirt" not in found
    assert found["libvirt-tcp"] == (16600, 16600, "/etc/libvirt/libvirtd.conf: tcp_port")
    write(tmp_path, ports.VIRTQEMUD_SOCKET)
    assert told(tmp_path)["libvirt"] == (16700, 16700, "/etc/libvirt/virtproxyd.conf: tls_port")
    write(tmp_path, ports.LIBVIRTD_PID)
    assert "libvirt" not in told(tmp_path), "libvirtd runs, whatever else is installed"


@pytest.mark.parametrize("text", ["tls_port = 0", "tls_port = 99999", 'tls_port = "x"', "tls_port = []"])
def test_a_port_that_is_none_is_the_default(tmp_path: Path, text: str) -> None:
    write(tmp_path, ports.LIBVIRTD, text)
    assert told(tmp_path)["libvirt"][0] == 16514
