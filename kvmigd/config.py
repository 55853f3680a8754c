"""The configuration: /etc/kvmigd/kvmigd.toml and one file a peer in /etc/kvmigd/peers.d, as one frozen Config."""

from __future__ import annotations

import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from kvmigd.errors import ConfigurationInvalid

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
    peers: dict[str, Peer] = {}


T = TypeVar("T")
_POSITION = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_LEVELS = ("debug", "info", "warning", "error")


def _toml(path: Path, shape: type[T]) -> T:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationInvalid(f"{path}:{line}:1: not UTF-8: {error.reason}.") from error
    except OSError as error:
        raise ConfigurationInvalid(f"{path}: cannot be read: {error.strerror}.") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _POSITION.search(str(error))
        line, column = text.count("\n") + 1, 1
        if found and found[1]:
            line, column = int(found[1]), int(found[2])
        what = _POSITION.sub("", str(error))
        raise ConfigurationInvalid(f"{path}:{line}:{column}: {what}.") from error
    try:
        return msgspec.convert(data, shape)
    except msgspec.ValidationError as error:
        line, column = _position_of_key(text, str(error))
        raise ConfigurationInvalid(f"{path}:{line}:{column}: {error}.") from error


def _position_of_key(text: str, message: str) -> tuple[int, int]:
    """Line and column of the key that a validation error names; TOML's parser keeps no positions of its own."""
    unknown = re.search(r"unknown field `([^`]+)`", message)
    place = re.search(r"at `\$\.?([^`]*)`", message)
    where = place[1].split(".") if place and place[1] else []
    keys = [*where, unknown[1]] if unknown else where
    if not keys:
        return 1, 1
    table, key = keys[:-1], keys[-1]
    current: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line)
        if header:
            current = [part.strip().strip("\"'") for part in header[1].split(".")]
            if current == keys:
                return number, line.index("[") + 1
            continue
        entry = re.match(rf"\s*([\"']?){re.escape(key)}\1\s*=", line)
        if entry and current == table:
            return number, len(line) - len(line.lstrip()) + 1
    return 1, 1


def load(directory: Path = Path("/etc/kvmigd")) -> Config:
    """Read the configuration; a missing kvmigd.toml means defaults.

    Raises ConfigurationInvalid, which names file, line and column, and changes nothing.
    """
    main = directory / "kvmigd.toml"
    file = _toml(main, File) if main.exists() else File()
    if file.log_level not in _LEVELS:
        raise ConfigurationInvalid(f"{main}: log_level is {file.log_level!r}; expected one of {', '.join(_LEVELS)}.")
    if file.migration.port_min > file.migration.port_max:
        raise ConfigurationInvalid(
            f"{main}: migration.port_min {file.migration.port_min} is above port_max {file.migration.port_max}."
        )
    name = file.name or socket.gethostname().split(".")[0]
    peers: dict[str, Peer] = {}
    for path in sorted((directory / "peers.d").glob("*.toml")):
        peer = _toml(path, Peer)
        if peer.name in peers:
            raise ConfigurationInvalid(f"{path}: a peer called {peer.name!r} is configured twice.")
        if peer.name == name:
            raise ConfigurationInvalid(f"{path}: peer {peer.name!r} has this host's own name.")
        peers[peer.name] = peer
    return Config(
        name=name,
        directory=directory,
        hypervisor=file.hypervisor,
        log_level=file.log_level,
        listen=file.listen,
        pki=file.pki,
        migration=file.migration,
        evacuation=file.evacuation,
        peers=peers,
    )
