"""What daemons say to each other: messages, limits, and how errors are carried. JSON over HTTPS, one object a body."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from kvmigd.config import Bytes, Port
from kvmigd.errors import InvalidArguments, KvmigdError, NotAuthorised, PeerFailed, from_wire, row_of
from kvmigd.model.encoding import to_json
from kvmigd.model.finding import Finding
from kvmigd.model.guest import Guest, Whereabouts
from kvmigd.model.job import Progress

PROTOCOLS: tuple[int, ...] = (3,)
"""Protocol versions that this kvmigd speaks; two daemons use the highest that both do."""

BODY_LIMIT = 1 << 20
LINE_LIMIT = 1 << 20
BEAT_SECONDS = 0.5
"""A watch stream is never silent for longer than this."""
SILENCE_SECONDS = 1.75
"""Silence of a watch stream that counts as a loss: a loss shall be known within two seconds."""
HEARTBEAT = b"\n"
"""An empty line: nothing to decode, and nothing to see where a person looks with curl."""

GUESTS_LIMIT = 64
"""Guests that are looked at for one request."""

JobId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Token = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of GET /version, the only path outside a version."""

    protocols: tuple[int, ...]
    version: str
    name: str


class WireError(msgspec.Struct, frozen=True, kw_only=True):
    """An error; `code` is from the table in kvmigd.errors."""

    code: str
    message: str
    hint: str = ""
    findings: tuple[Finding, ...] = ()
    retry_after: float = 0.0


class ExamineRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Look at these guests as if they should come to you. Who asks is known from the certificate."""

    guests: Annotated[tuple[Guest, ...], msgspec.Meta(max_length=GUESTS_LIMIT)]


class AdmissionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Reserve memory (bytes) and a port for this guest."""

    job: JobId
    guest: Guest
    memory: Bytes


class Granted(msgspec.Struct, frozen=True, kw_only=True, tag="granted", tag_field="answer"):
    """Admitted: the stream shall arrive at `address`, `port`; the lease ends by itself unless it is renewed."""

    port: int
    address: str
    lease_seconds: float


class Busy(msgspec.Struct, frozen=True, kw_only=True, tag="busy", tag_field="answer"):
    """Not now; ask again in `retry_after` seconds."""

    reason: str
    retry_after: float


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused", tag_field="answer"):
    """No, and waiting does not help."""

    reason: str
    hint: str = ""
    findings: tuple[Finding, ...] = ()


AdmissionAnswer = Granted | Busy | Refused


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What was granted for a job."""

    uuid: JobId
    guest: str
    memory: Bytes
    port: Port


class RenewRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Prolong a lease. With the claim, a daemon that was restarted meanwhile can take it up again."""

    claim: Claim | None = None


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """Done, or done before."""


class ProofRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Listen on the admitted job's port or, without a job, on the port that would be given next.

    With the purpose `disks` it is the port that would be given to NBD beside it.
    """

    job: JobId | None = None
    purpose: Literal["stream", "disks"] = "stream"


class ProofOffer(msgspec.Struct, frozen=True, kw_only=True):
    """Connect to `address`, `port` within `seconds`, read `nonce`, then close the proof by its token."""

    token: Token
    address: str
    port: int
    nonce: str
    seconds: float


class ProofEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The listener is gone. `connected_from` is the address of whoever connected; empty if nobody did."""

    connected_from: str = ""
    received: int = 0
    """Bytes of a burst."""
    rate: int = 0
    """Bytes a second of a burst, from its first to its last byte; 0 where that cannot be said."""


class WhereaboutsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Where does the guest with this UUID stand on your host?"""

    uuid: JobId


class SettleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The job is over: the guest `arrived` at your host or `stayed` where it was; the lease ends."""

    job: JobId
    uuid: JobId
    outcome: Literal["arrived", "stayed"]
    autostart: bool


class Settled(Whereabouts, frozen=True, kw_only=True):
    """Where the guest stands afterwards and, if it arrived, what libvirt there counted of the stream."""

    statistics: Progress | None = None


T = TypeVar("T")

_STATUS = {
    "invalid-arguments": 400,
    "not-authorised": 403,
    "peer-not-trusted": 403,
    "no-lease": 404,
    "no-such-guest": 404,
    "protocol-mismatch": 404,
    "internal": 500,
    "hypervisor-unavailable": 503,
    "admission-busy": 503,
    "deadline-passed": 504,
}


def status_of(error: KvmigdError) -> int:
    """HTTP status for an error; it is only for people and proxies, daemons read the code in the body."""
    return _STATUS.get(row_of(error).wire, 409)


def encode(message: msgspec.Struct) -> bytes:
    """One message as a body or line."""
    return to_json(message)


def encode_error(error: KvmigdError) -> bytes:
    """An error as a body."""
    return encode(
        WireError(
            code=row_of(error).wire,
            message=error.message,
            hint=error.hint,
            findings=error.findings,
            retry_after=float(getattr(error, "retry_after", 0.0)),
        )
    )


def decode(body: bytes, shape: type[T]) -> T:
    """A message from another host, types strictly checked; fields this version does not know are ignored.

    Raises InvalidArguments.
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise InvalidArguments(f"The message is not a {_name(shape)}: {error}.") from error
    # Bytes that are no UTF-8 and nesting without end have their own exceptions.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArguments(f"The message is not JSON: {error}.") from error


def job_id(text: str) -> str:
    """A job's UUID out of a path; raises InvalidArguments."""
    try:
        return msgspec.convert(text, JobId)
    except msgspec.ValidationError as error:
        raise InvalidArguments(f"The job is not a UUID: {error}.") from error


def _name(shape: Any) -> str:
    return getattr(shape, "__name__", "known answer")


def decode_error(body: bytes, *, peer: str, status: int) -> KvmigdError:
    """The error behind a peer's answer.

    A defect of the peer, or an argument of ours that it does not understand, is no mistake of the user's here: both
    become PeerFailed.
    """
    try:
        told = decode(body, WireError)
    except InvalidArguments:
        return PeerFailed(f"Peer {peer} answered with HTTP status {status} and no reason.")
    if told.code in ("internal", "invalid-arguments"):
        return PeerFailed(f"Peer {peer} answered: {told.message}", hint=told.hint)
    error = from_wire(told.code, told.message, hint=told.hint)
    if isinstance(error, NotAuthorised):  # on the bus that name is for polkit's refusals
        error = PeerFailed(f"Peer {peer} answered: {told.message}", hint=told.hint)
    error.findings = told.findings
    if hasattr(error, "retry_after"):
        error.retry_after = told.retry_after
    return error
