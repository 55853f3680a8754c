"""What daemons say to each other while they prove something together, beside ports: messages and their limits."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kvmigd.peer.wire import ProofOffer, Token

CONNECT_LIMIT = 5.0
STEP_LIMIT = 64 << 10
"""Bytes of TLS records in one message; a chain of certificates takes a few thousand."""

Address = Annotated[str, msgspec.Meta(min_length=2, max_length=64)]
UnprivilegedPort = Annotated[int, msgspec.Meta(ge=1024, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=CONNECT_LIMIT)]
FOLDERS_LIMIT = 64
SEGMENTS_LIMIT = 16
"""Bridges and VLANs in one request; each takes a socket or a few."""

Folder = Annotated[str, msgspec.Meta(pattern=r"^/[^\0]*$", max_length=4096)]
NonceName = Annotated[str, msgspec.Meta(pattern=r"^\.kvmigd-[0-9a-f]{32}$")]
NonceContent = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")]
Bridge = Annotated[str, msgspec.Meta(pattern=r"^[^\0/\s]{1,15}$")]
Vlan = Annotated[int, msgspec.Meta(ge=0, le=4094)]
Size = Annotated[int, msgspec.Meta(ge=64, le=65535)]
Problem = Annotated[str, msgspec.Meta(max_length=32)]
Text = Annotated[str, msgspec.Meta(max_length=1000)]


class ConnectRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Connect to me at `address`, `port`, and see whether `nonce` is to be read there within `seconds`."""

    address: Address
    port: UnprivilegedPort
    nonce: Token
    seconds: Seconds


class Connected(msgspec.Struct, frozen=True, kw_only=True):
    """How the connection went; problems as in model.proof.PortProof."""

    problem: Problem = ""
    text: Text = ""


class BurstRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Listen for a burst of bytes from me, and count them."""


class BurstAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Where to send the burst or, where one has been counted not long ago, how fast that was."""

    offer: ProofOffer | None = None
    rate: int = 0
    received: int = 0
    age_seconds: float = 0.0


class TlsStep(msgspec.Struct, frozen=True, kw_only=True):
    """TLS records of a handshake in which you are `role`; without a token a new one begins."""

    role: Literal["server", "client"]
    token: Token | None = None
    data: Annotated[bytes, msgspec.Meta(max_length=STEP_LIMIT)] = b""


class TlsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The records that answer them. `done`: this side has finished; problems as in model.proof.TlsProof, seen by it."""

    token: Token
    data: Annotated[bytes, msgspec.Meta(max_length=STEP_LIMIT)] = b""
    done: bool = False
    problem: Problem = ""
    text: Text = ""


class NonceAt(msgspec.Struct, frozen=True, kw_only=True):
    """A nonce that I have written into a folder. No other names than those of nonces are ever opened."""

    folder: Folder
    name: NonceName


class StorageOpen(msgspec.Struct, frozen=True, kw_only=True):
    """Get ready to read nonces."""


class StorageOpened(msgspec.Struct, frozen=True, kw_only=True):
    """Ready for one request with this token, for a few seconds."""

    token: Token


class StorageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Read these, as QEMU's user, and try whether it can write there."""

    nonces: Annotated[tuple[NonceAt, ...], msgspec.Meta(max_length=FOLDERS_LIMIT)]
    token: Token | None = None


class NonceRead(msgspec.Struct, frozen=True, kw_only=True):
    """What was read; problems as in model.proof.StorageProof."""

    content: NonceContent = ""
    user: Annotated[str, msgspec.Meta(max_length=256)] = ""
    can_write: bool | None = None
    problem: Problem = ""
    text: Text = ""


class StorageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer a nonce, in the order of the request."""

    nonces: Annotated[tuple[NonceRead, ...], msgspec.Meta(max_length=FOLDERS_LIMIT)]


class CatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Frames with this nonce, one small and one with `mtu` bytes of payload, shall be caught on a bridge."""

    bridge: Bridge
    vlan: Vlan = 0
    mtu: Size = 1500
    nonce: Token


class FramesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Catch frames for me, until I ask what has come or a few seconds have passed."""

    segments: Annotated[tuple[CatchRequest, ...], msgspec.Meta(max_length=SEGMENTS_LIMIT)]


class Caught(msgspec.Struct, frozen=True, kw_only=True):
    """Where to send to, and afterwards which sizes have come; problems as in model.proof.FrameProof."""

    mac: Annotated[str, msgspec.Meta(max_length=17)] = ""
    sizes: Annotated[tuple[int, ...], msgspec.Meta(max_length=8)] = ()
    problem: Problem = ""
    text: Text = ""


class FramesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer a segment, in the order of the request."""

    token: Token
    segments: Annotated[tuple[Caught, ...], msgspec.Meta(max_length=SEGMENTS_LIMIT)]
