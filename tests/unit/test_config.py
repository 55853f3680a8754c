"""The configuration: every key, every kind of mistake with its place, and nothing but our own error."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from kvmigd.config import Config, Evacuation, File, Listen, Migration, Peer, Pki, load
from kvmigd.errors import ConfigurationInvalid

MAN = Path(__file__).parents[2] / "data/man/kvmigd.8"

EVERYTHING = """
name = "hosta"
hypervisor = "qemu+unix:///system"
log_level = "debug"

[listen]
address = "192.0.2.1"
port = 1000

[pki]
ca = "/pki/ca.pem"
server_certificate = "/pki/server.pem"
server_key = "/pki/server-key.pem"
client_certificate = "/pki/client.pem"
client_key = "/pki/client-key.pem"
qemu = "/pki/qemu"

[migration]
port_min = 50000
port_max = 50010
address = "192.0.2.2"
tls = false
bandwidth = 1048576
memory_reserve = 0
incoming_limit = 64
lease_seconds = 5

[evacuation]
on_shutdown = false
deadline_seconds = 1740

[checks]
software.release = "block"
network.mtu = "ignore"
"""


def configured(folder: Path, text: str | bytes, **peers: str) -> Path:
    """A configuration folder; each peer is a file of that name."""
    folder.mkdir(exist_ok=True)
    (folder / "kvmigd.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    if peers:
        (folder / "peers.d").mkdir()
    for name, peer in peers.items():
        (folder / "peers.d" / f"{name}.toml").write_text(peer, encoding="utf-8")
    return folder


def mistake(folder: Path) -> str:
    """The error's text without the folder."""
    with pytest.raises(ConfigurationInvalid) as caught:
        load(folder)
    return str(caught.value).replace(f"{folder}/", "")


def problem(folder: Path) -> str:
    """What is told about a configuration; empty if it is taken."""
    try:
        load(folder)
    except ConfigurationInvalid as error:
        return str(error)
    return ""


def keys_of(shape: Any) -> dict[str, set[str]]:
    """All keys by table; those outside of tables under ""."""
    tables: dict[str, set[str]] = {"": set()}
    for field in msgspec.structs.fields(shape):
        if field.name == "checks":
            tables[field.name] = {"software.release"}  # any check's id is a key
        elif isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            tables[field.name] = {inner.name for inner in msgspec.structs.fields(field.type)}
        else:
            tables[""].add(field.name)
    return tables


def test_every_key_is_read(tmp_path: Path) -> None:
    text = 'name = "hostb"\naddress = "192.0.2.3"\nport = 7\nlibvirt_uri = "qemu+ssh://hostb/system"'
    assert load(configured(tmp_path, EVERYTHING, b=text)) == Config(
        name="hosta",
        directory=tmp_path,
        hypervisor="qemu+unix:///system",
        log_level="debug",
        listen=Listen(address="192.0.2.1", port=1000),
        pki=Pki(
            ca=Path("/pki/ca.pem"),
            server_certificate=Path("/pki/server.pem"),
            server_key=Path("/pki/server-key.pem"),
            client_certificate=Path("/pki/client.pem"),
            client_key=Path("/pki/client-key.pem"),
            qemu=Path("/pki/qemu"),
        ),
        migration=Migration(
            port_min=50000,
            port_max=50010,
            address="192.0.2.2",
            tls=False,
            bandwidth=1 << 20,
            memory_reserve=0,
            incoming_limit=64,
            lease_seconds=5.0,
        ),
        evacuation=Evacuation(on_shutdown=False, deadline_seconds=1740),
        checks={"software.release": "block", "network.mtu": "ignore"},
        peers={"hostb": Peer(name="hostb", address="192.0.2.3", port=7, libvirt_uri="qemu+ssh://hostb/system")},
    )


def test_the_text_above_has_every_key_and_the_manual_too() -> None:
    manual = MAN.read_text(encoding="utf-8")
    for table, keys in keys_of(File).items():
        part = EVERYTHING.split(f"[{table}]")[1] if table else EVERYTHING
        assert table in manual
        for key in keys:
            assert f"\n{key} = " in part.split("\n[")[0]
            assert key in manual


def test_only_severities_of_checks_that_have_one_can_be_set(tmp_path: Path) -> None:
    folder = configured(tmp_path, "[checks]\nsoftware.relaese = 'warn'")
    assert load(folder).checks == {"software.relaese": "warn"}, "nobody here knows the catalogue"
    with pytest.raises(ConfigurationInvalid, match=r"kvmigd.toml:2:1: there is no check software.relaese whose"):
        load(folder, settable=frozenset({"software.release"}))
    folder = configured(tmp_path, "[checks.software]\nrelease = 'fatal'")
    with pytest.raises(
        ConfigurationInvalid, match=r"kvmigd.toml:2:1: Expected one of block, warn, ignore, got 'fatal'"
    ):
        load(folder)


def test_nothing_at_all_means_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "hosta.example.org")
    for folder in (tmp_path, tmp_path / "nowhere", configured(tmp_path / "empty", "")):
        assert load(folder) == Config(name="hosta", directory=folder)


def test_a_peer_is_reached_by_its_name_unless_an_address_is_given(tmp_path: Path) -> None:
    peers = load(configured(tmp_path, "", b='name = "hostb"', c='name = "hostc"\naddress = "fd00::3"')).peers
    assert list(peers) == ["hostb", "hostc"]
    assert (peers["hostb"].host, peers["hostb"].uri) == ("hostb", "qemu+tls://hostb/system")
    assert (peers["hostc"].host, peers["hostc"].uri) == ("fd00::3", "qemu+tls://hostc/system")


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        # TOML itself
        ("name =", "1:7", "Invalid value"),
        ("name = 'a'\n\nname = 'b'", "3:11", "Cannot overwrite a value"),
        ("[listen]\n[listen]", "2:8", "Cannot declare"),
        ("name = 'hosta", "1:14", "Expected"),
        ("x = [", "1:6", ""),
        (b"name = 'a'\nx = '\xff'", "2:6", "not UTF-8"),
        (b"\xff", "1:1", "not UTF-8"),
        ("x = " + "9" * 5000, "1:1", "limit"),
        ("x = " + "[" * 5000, "1:1", "recursion"),
        # keys
        ("\n bogus = 1", "2:2", "unknown field `bogus`"),
        ("[listen]\n# port = 1\n  prot = 1", "3:3", "unknown field `prot`"),
        ("[nonsense]\nx = 1", "1:1", "unknown field `nonsense`"),
        ("listen.prot = 1", "1:1", "unknown field `prot`"),
        ("\nlisten = { prot = 1 }", "2:1", "unknown field `prot`"),
        ('["listen"]\n"pr.ot" = 1', "2:1", "unknown field `pr.ot`"),
        ("[[listen]]\nport = 1", "1:1", "got `array`"),
        # types and values
        ("[listen]\nport = '1'", "2:1", "Expected `int`, got `str`"),
        ("listen = 5", "1:1", "got `int`"),
        ("[listen]\nport = 0", "2:1", ">= 1"),
        ("[listen]\nport = 65536", "2:1", "<= 65535"),
        ("listen . port = 65536", "1:1", "<= 65535"),
        ("name = '-hosta'", "1:1", "regex"),
        ("name = ''", "1:1", "regex"),
        ("name = 1979-05-27", "1:1", "date"),
        ("hypervisor = true", "1:1", "got `bool`"),
        ("log_level = 'loud'", "1:1", "expected one of debug, info, warning, error"),
        ("[pki]\nca = 5", "2:1", "Expected `str`, got `int`"),
        ("[pki]\nqemu = 'pki/qemu'", "2:1", "absolute path, got 'pki/qemu'"),
        ('[pki]\nca = "/a\\u0000b"', "2:1", "absolute path"),
        ("[migration]\nport_min = 50000\nport_max = 49999", "2:1", "at most port_max, which is 49999"),
        ("[migration]\nport_max = 49151", "1:1", "at most port_max, which is 49151"),
        ("[migration]\nbandwidth = 100", "2:1", "1 MiB/s"),
        ("[migration]\nbandwidth = -1", "2:1", ">= 0"),
        ("[migration]\nbandwidth = 99999999999999999999999999", "2:1", "<="),
        ("[migration]\ntls = 'yes'", "2:1", "Expected `bool`"),
        ("[migration]\nlease_seconds = nan", "2:1", "5.0"),
        ("[migration]\nlease_seconds = 4.9", "2:1", ">= 5.0"),
        ("[migration]\nincoming_limit = 65", "2:1", "<= 64"),
        ("[evacuation]\ndeadline_seconds = 1741", "2:1", "<= 1740"),
        ("[evacuation]\non_shutdown = 1", "2:1", "Expected `bool`"),
    ],
)
def test_mistakes_have_file_line_and_column(tmp_path: Path, text: str | bytes, place: str, words: str) -> None:
    told = mistake(configured(tmp_path, text))
    assert told.startswith(f"kvmigd.toml:{place}: ")
    assert words in told
    assert told.endswith(".")
    assert not told.endswith("..")


@pytest.mark.parametrize(
    ("peers", "told"),
    [
        ({"b": ""}, "peers.d/b.toml:1:1: Object missing required field `name`."),
        ({"b": "name = 'hostb'\nprot = 1"}, "peers.d/b.toml:2:1: Object contains unknown field `prot`."),
        ({"b": "\nname = 'hosta'"}, "peers.d/b.toml:2:1: peer 'hosta' has this host's own name."),
        ({"b": "name = 'HostA'"}, "peers.d/b.toml:1:1: peer 'HostA' has this host's own name."),
        (
            {"b": "name = 'hostb'", "c": "port = 1\nname = 'hostB'"},
            "peers.d/c.toml:2:1: a peer called 'hostB' is configured already in peers.d/b.toml.",
        ),
        ({"b": "name = 'a b'"}, "peers.d/b.toml:1:1: Expected `str` matching regex"),
    ],
)
def test_mistakes_in_peers(tmp_path: Path, peers: dict[str, str], told: str) -> None:
    assert mistake(configured(tmp_path, "name = 'hosta'", **peers)).startswith(told)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "kvmigd.toml").mkdir()
    assert mistake(tmp_path) == "kvmigd.toml: cannot be read: Is a directory."
    (tmp_path / "kvmigd.toml").rmdir()
    (tmp_path / "peers.d").mkdir()
    (tmp_path / "peers.d/b.toml").symlink_to("nowhere")
    assert mistake(tmp_path) == "peers.d/b.toml: cannot be read: it does not exist."


def test_only_toml_files_are_peers(tmp_path: Path) -> None:
    folder = configured(tmp_path, "", b="name = 'hostb'")
    (folder / "peers.d/hostc.toml.bak").write_text("nonsense", encoding="utf-8")
    assert list(load(folder).peers) == ["hostb"]


_WORDS = ["name", "listen", "port", "pki", "ca", "migration", "[", "]", "=", "\n", '"', "'", ".", "{", "}", "1", "\0"]


@given(
    some.one_of(
        some.text(),
        some.binary(),
        some.lists(some.sampled_from(_WORDS), max_size=30).map(" ".join),
        some.lists(some.sampled_from(_WORDS), max_size=30).map("".join),
    )
)
def test_whatever_a_file_holds_it_is_read_or_refused(text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("kvmigd.toml", "peers.d/b.toml"):
            file = Path(folder) / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(data)
            told = problem(Path(folder))
            assert told == "" or told.startswith(f"{file}:")
            file.unlink()


_VALUES = some.one_of(
    some.integers().map(str),
    some.floats().map(lambda number: str(number).replace("e+", "e")),
    some.sampled_from(["true", "[]", "{}", "1979-05-27", "07:32:00", '""', '"/x"', "[[1]]", "{x = 1}", "-0", "0x1f"]),
)


@given(some.sampled_from([line for line in EVERYTHING.splitlines() if "=" in line]), _VALUES)
def test_whatever_a_key_is_set_to_it_is_taken_or_refused_at_its_line(line: str, value: str) -> None:
    key = line.partition(" = ")[0]
    text = EVERYTHING.replace(line, f"{key} = {value}", 1)
    number = text.splitlines().index(f"{key} = {value}") + 1
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kvmigd.toml").write_text(text, encoding="utf-8")
        told = problem(Path(folder))
        # Of two ports that do not go together the lower one is told.
        assert told == "" or f"kvmigd.toml:{number}:" in told or key == "port_max"
