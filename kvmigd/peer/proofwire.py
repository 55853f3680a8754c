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
