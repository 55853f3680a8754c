"""The configuration: /etc/kvmigd/kvmigd.toml and one file a peer in /etc/kvmigd/peers.d, as one frozen Config."""

from __future__ import annotations

import re
import socket
import tomllib
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from kvmigd.errors import ConfigurationInvalid
from kvmigd.model.job import bandwidth_problem

CONTROL_PORT = 16515
"""Where daemons listen for each other; libvirt's own ports are 16509 (TCP) and 16514 (TLS)."""

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**50)]


class Listen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the daemon listens for its peers; an empty address means every address of the host."""

    address: str = ""
    port: Port = CONTROL_PORT


class Pki(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Places of certificates and keys, libvirt's and QEMU's own (libvirt.org/kbase/tlscerts.html)."""

    ca: Path = Path("/etc/pki/CA/cacert.pem")
    server_certificate: Path = Path("/etc/pki/libvirt/servercert.pem")
    server_key: Path = Path("/etc/pki/libvirt/private/serverkey.pem")
    client_certificate: Path = Path("/etc/pki/libvirt/clientcert.pem")
    client_key: Path = Path("/etc/pki/libvirt/private/clientkey.pem")
    qemu: Path = Path("/etc/pki/qemu")

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them, to be watched."""
        return (self.ca, self.server_certificate, self.server_key, self.client_certificate, self.client_key, self.qemu)


class Migration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Defaults of migrations. The ports are QEMU's (`migration_port_min`, `migration_port_max` in qemu.conf)."""

    port_min: Port = 49152
    port_max: Port = 49215
    address: str = ""
    """Where incoming streams shall arrive on this host; empty: where the control connection arrives."""
    tls: bool = True
    """Encrypt streams wherever both hosts have the PKI for it."""
    bandwidth: Bytes = 0
    """Default limit in bytes a second, 0 for none."""
    memory_reserve: Bytes = 256 << 20
    """Bytes of memory that incoming guests never get."""
    incoming_limit: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    lease_seconds: Annotated[float, msgspec.Meta(ge=5, le=600)] = 30.0


class Evacuation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens when the host goes down."""

    on_shutdown: bool = True
    deadline_seconds: Annotated[int, msgspec.Meta(ge=1, le=1740)] = 1200
    """systemd forces a reboot 30 minutes after it was asked for; libvirt-guests gets the rest."""


Judgement = Literal["block", "warn", "ignore"]
"""What the owner makes of a check's findings."""


class Peer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A configured peer. `name` must be in its certificate; `address` is where it is reached, else its name."""

    name: Name
    address: str = ""
    port: Port = CONTROL_PORT
    libvirt_uri: str = ""

    @property
    def host(self) -> str:
        """What to connect to."""
        return self.address or self.name

    @property
    def uri(self) -> str:
        """The URI by which libvirt on this host reaches libvirt on the peer."""
        return self.libvirt_uri or f"qemu+tls://{self.name}/system"


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of kvmigd.toml."""

    name: Name | None = None
    hypervisor: str = "qemu:///system"
    log_level: str = "info"
    listen: Listen = Listen()
    pki: Pki = Pki()
    migration: Migration = Migration()
    evacuation: Evacuation = Evacuation()
    checks: dict[str, Any] = {}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration. `name` is this host's: what its peers call it and what its certificate says."""

    name: str
    directory: Path
    hypervisor: str = "qemu:///system"
    log_level: str = "info"
    listen: Listen = Listen()
    pki: Pki = Pki()
    migration: Migration = Migration()
    evacuation: Evacuation = Evacuation()
    checks: dict[str, Judgement] = {}
    """Severities of checks that are not the catalogue's own, by the check's id."""
    peers: dict[str, Peer] = {}


T = TypeVar("T")
_JUDGEMENTS: tuple[str, ...] = typing.get_args(Judgement)
_LEVELS = ("debug", "info", "warning", "error")
_POSITION = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_PART = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)"""
_KEY = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*\[{{1,2}}\s*({_KEY})\s*\]")
_ENTRY = re.compile(rf"\s*({_KEY})\s*=")


class _Text:
    """A configuration file as text, for errors that say where."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text

    def error(self, what: str, *keys: str) -> ConfigurationInvalid:
        """An error about the value of a key, given with the tables that it is in."""
        line, column = self._position(list(keys))
        return ConfigurationInvalid(f"{self.path}:{line}:{column}: {what.rstrip('.')}.")

    def _position(self, keys: list[str]) -> tuple[int, int]:
        """Where the key is, or what holds it; TOML's parser keeps no positions of its own."""
        found, depth = (1, 1), 0
        table: list[str] = []
        for number, line in enumerate(self.text.split("\n"), start=1):
            if header := _HEADER.match(line):
                names = table = _parts(header[1])
                column = line.index("[") + 1
            elif entry := _ENTRY.match(line):
                names = table + _parts(entry[1])
                column = entry.start(1) + 1
            else:
                continue
            if len(names) > depth and names == keys[: len(names)]:
                found, depth = (number, column), len(names)
        return found


def _parts(key: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_PART, key)]


def _read(path: Path) -> _Text | None:
    try:
        return _Text(path, path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
        raise ConfigurationInvalid(f"{path}:{line}:{column}: not UTF-8: {error.reason}.") from error
    except OSError as error:
        raise ConfigurationInvalid(f"{path}: cannot be read: {error.strerror}.") from error


def _parse(text: _Text, shape: type[T]) -> T:
    try:
        data = tomllib.loads(text.text)
    except (ValueError, RecursionError) as error:  # also numbers too long for int, and brackets too deep
        found = _POSITION.search(str(error))
        line, column = 1, 1
        if found and found[1]:
            line, column = int(found[1]), int(found[2])
        elif found:  # at the end of the document
            line, column = text.text.count("\n") + 1, len(text.text) - text.text.rfind("\n")
        what = _POSITION.sub("", str(error))
        raise ConfigurationInvalid(f"{text.path}:{line}:{column}: {what}.") from error
    try:
        return msgspec.convert(data, shape, dec_hook=_convert)
    except msgspec.ValidationError as error:
        message = str(error)
        place = re.search(r" - at `\$\.?([^`]*)`$", message)
        keys = place[1].split(".") if place and place[1] else []
        if unknown := re.search(r"unknown field `(.*?)`(?: - at `[^`]*`)?$", message, re.DOTALL):
            keys.append(unknown[1])
        raise text.error(message, *keys) from error


def _convert(kind: type, value: Any) -> Any:
    """Paths, which msgspec does not know."""
    if kind is not Path:
        raise NotImplementedError(kind)
    if not isinstance(value, str):
        raise ValueError(f"Expected `str`, got `{type(value).__name__}`")
    if not value.startswith("/") or "\0" in value:
        raise ValueError(f"Expected an absolute path, got {value!r}")
    return Path(value)


def _check(file: File, text: _Text, settable: Collection[str] | None) -> None:
    """What one key alone does not tell."""
    for subject, things in file.checks.items():
        if not isinstance(things, dict):
            raise text.error('Expected a check\'s id, as in software.release = "warn"', "checks", subject)
        for thing, how in things.items():
            if how not in _JUDGEMENTS:
                what = f"Expected one of {', '.join(_JUDGEMENTS)}, got {how!r}"
                raise text.error(what, "checks", subject, thing)
            if settable is not None and f"{subject}.{thing}" not in settable:
                what = f"there is no check {subject}.{thing} whose severity can be set; `kvmigctl explain` lists them"
                raise text.error(what, "checks", subject, thing)
    if file.log_level not in _LEVELS:
        raise text.error(f"log_level is {file.log_level!r}; expected one of {', '.join(_LEVELS)}", "log_level")
    migration = file.migration
    if migration.port_min > migration.port_max:
        what = f"port_min is {migration.port_min}; expected at most port_max, which is {migration.port_max}"
        raise text.error(what, "migration", "port_min")
    if problem := bandwidth_problem(migration.bandwidth):
        raise text.error(problem, "migration", "bandwidth")


def files(directory: Path) -> tuple[Path, ...]:
    """What the configuration is read from, to be watched."""
    return directory / "kvmigd.toml", directory / "peers.d"


def load(directory: Path = Path("/etc/kvmigd"), *, settable: Collection[str] | None = None) -> Config:
    """Read the configuration; a missing kvmigd.toml means defaults.

    `settable` are the ids of checks whose severity may be set; None where nobody knows them.

    Raises ConfigurationInvalid, which names file, line and column, and changes nothing.
    """
    main, peers = files(directory)
    text = _read(main)
    file = File()
    if text is not None:
        file = _parse(text, File)
        _check(file, text, settable)
    name = file.name or socket.gethostname().split(".")[0]
    return Config(
        name=name,
        directory=directory,
        hypervisor=file.hypervisor,
        log_level=file.log_level,
        listen=file.listen,
        pki=file.pki,
        migration=file.migration,
        evacuation=file.evacuation,
        checks={f"{subject}.{thing}": how for subject, things in file.checks.items() for thing, how in things.items()},
        peers=_peers(peers, name),
    )


def _peers(folder: Path, own_name: str) -> dict[str, Peer]:
    """The peers by name. Names are those of hosts, where case means nothing."""
    peers: dict[str, Peer] = {}
    taken: dict[str, Path] = {}
    for path in sorted(folder.glob("*.toml")):
        text = _read(path)
        if text is None:  # removed this moment, or a link that leads nowhere
            raise ConfigurationInvalid(f"{path}: cannot be read: it does not exist.")
        peer = _parse(text, Peer)
        folded = peer.name.casefold()
        if folded == own_name.casefold():
            raise text.error(f"peer {peer.name!r} has this host's own name", "name")
        if folded in taken:
            raise text.error(f"a peer called {peer.name!r} is configured already in {taken[folded]}", "name")
        peers[peer.name] = peer
        taken[folded] = path
    return peers
