"""Which ports a migration needs on this host, and whether the host's own firewall lets peers reach them."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from kvmigd.model.subject import Subject


class PortUse(msgspec.Struct, frozen=True, kw_only=True):
    """TCP ports that have to be reachable, and which configuration says so."""

    purpose: str
    """control (kvmigd), libvirt, stream (QEMU's memory), disks (NBD)."""
    first: int
    last: int
    origin: str = ""
    """The file and key, or `default`."""

    @property
    def key(self) -> str:
        """What it is for."""
        return self.purpose


class Answer(StrEnum):
    """What a firewall does with a connection."""

    OPEN = "open"
    CLOSED = "closed"
    UNKNOWN = "unknown"


class Duration(StrEnum):
    """Whether a rule is there again after a reboot or reload."""

    PERMANENT = "permanent"
    RUNTIME = "runtime"
    UNKNOWN = "unknown"


class PortHint(msgspec.Struct, frozen=True, kw_only=True):
    """What reading the rules says about one peer and one purpose. A hint: only a connection proves a port."""

    peer: str
    address: str
    purpose: str
    answer: Answer
    duration: Duration = Duration.UNKNOWN
    by: str = ""
    """The rule, zone or chain that decides."""

    @property
    def key(self) -> str:
        """Peer and purpose."""
        return f"{self.peer}/{self.purpose}"


class FirewallBackend(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of packet filter on this host."""

    name: str
    """firewalld, nftables or iptables-legacy."""
    active: bool
    generation: int = 0
    """nftables' ruleset generation; 0 where there is none."""
    problem: str = ""
    """Why its rules are not known; then hints that depend on it are `unknown`."""
    problem_since_usec: int = 0

    @property
    def key(self) -> str:
        """Its name."""
        return self.name


class Firewall(Subject, frozen=True, kw_only=True):
    """The ports and what is known of the filters before them."""

    ports: tuple[PortUse, ...] = ()
    backends: tuple[FirewallBackend, ...] = ()
    hints: tuple[PortHint, ...] = ()
