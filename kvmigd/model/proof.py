"""Proofs: what two daemons have tried together, and how it ended."""

from __future__ import annotations

import msgspec


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried. `problem` is empty when it went as it must."""

    problem: str = ""
    """Why it is not proved, as one word that rules decide on; each kind names its own.

    `failed` and `no-answer` say nothing of what was to be proved: trying itself came to nothing.
    """
    text: str = ""
    """The same as a phrase for people."""
    taken_usec: int = 0
    """When it was tried, wall clock, microseconds since 1970."""

    @property
    def is_proved(self) -> bool:
        """It went as it must."""
        return not self.problem


class PortProof(Proof, frozen=True, kw_only=True):
    """A connection through all firewalls to a port of the host `to`.

    Problems: timeout, refused, no-route, wrong-nonce; busy where no port was free to be proved.
    """

    to: str
    """The host that listened."""
    purpose: str = "stream"
    """stream (QEMU's memory) or disks (NBD)."""
    address: str = ""
    port: int = 0

    @property
    def key(self) -> str:
        """Host and purpose."""
        return f"{self.to}/{self.purpose}"


class StorageProof(Proof, frozen=True, kw_only=True):
    """Whether a folder is the same on both hosts: a nonce written by one was read by the other.

    Problems: different (the other host has another folder there: the nonce did not arrive), missing (there is no such
    folder on the peer), denied (QEMU's user may not look there on the peer), hangs (storage that does not answer),
    unwritable (QEMU's user cannot write here, so nothing is proved), failed.
    """

    folder: str
    user: str = ""
    """`name (uid:gid)` of QEMU on the peer, who read it."""
    peer_can_write: bool | None = None
    """Whether QEMU's user on the peer may write there; None where it was not tried."""

    @property
    def key(self) -> str:
        """The folder."""
        return self.folder


class FrameProof(Proof, frozen=True, kw_only=True):
    """Whether a frame sent from a bridge here arrived at the bridge of the same name on the peer.

    Problems: lost (none arrived), too-large (small ones arrive, one as large as the guest's MTU does not), no-bridge,
    failed.
    """

    bridge: str
    vlan: int = 0
    """0 for untagged frames."""
    mtu: int = 0
    """Bytes of payload in the largest frame that was sent."""

    @property
    def key(self) -> str:
        """Bridge and VLAN."""
        return f"{self.bridge}/{self.vlan}"


class TlsProof(Proof, frozen=True, kw_only=True):
    """A TLS handshake with the certificates of QEMU's streams, source as client and `to` as server.

    Problems: none-here, none-there (no certificates), refused (one side does not take the other's), failed.
    """

    to: str

    @property
    def key(self) -> str:
        """The host that was the server."""
        return self.to


class Throughput(Proof, frozen=True, kw_only=True):
    """How fast the path to the peer is for one TCP stream, measured by a short burst.

    Problems: lost (a connection stands, and no data arrives), busy (another burst takes its time), failed.
    """

    rate: int = 0
    """Bytes a second."""
    sent: int = 0
    """Bytes of the burst."""


class Proofs(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was tried between this host and one peer."""

    ports: tuple[PortProof, ...] = ()
    storage: tuple[StorageProof, ...] = ()
    frames: tuple[FrameProof, ...] = ()
    tls: tuple[TlsProof, ...] = ()
    throughput: Throughput | None = None
