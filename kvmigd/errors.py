"""One tree of errors, and the one table that says how each is called on the bus, on the wire and in a shell.

An error is a sentence for a person (what, where, expected, found) and, where there is one, a hint: the command
that mends it. Errors are translated at three borders only: D-Bus, the peer wire, the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kvmigd.model.finding import Finding


class Exit(IntEnum):
    """Exit statuses of kvmigctl."""

    OK = 0
    FAILED = 1
    USAGE = 2
    BLOCKED = 3
    NOT_AUTHORISED = 4
    NOT_REACHABLE = 5


class KvmigdError(Exception):
    """Base of all errors that a user can meet.

    `message` is a whole sentence, `hint` the command or step that mends it, `findings` the checks behind it, `host` the
    one it is about, if that is not the one that was asked.
    """

    def __init__(self, message: str, *, hint: str = "", findings: Sequence[Finding] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.findings = tuple(findings)
        self.host = ""

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InternalError(KvmigdError):
    """A defect of kvmigd itself; the journal has the details."""


class InvalidArguments(KvmigdError):
    """The caller gave an argument or option that does not exist or has the wrong type."""


class NotAuthorised(KvmigdError):
    """Polkit did not allow the caller to do this."""


class NoSuchGuest(KvmigdError):
    """No guest of that name or UUID is defined on this host."""


class NoSuchPeer(KvmigdError):
    """No peer of that name is configured in peers.d."""


class SameHost(KvmigdError):
    """The destination is the host itself."""


class GuestNotRunning(KvmigdError):
    """The guest is not running, so it cannot be migrated live."""


class GuestBusy(KvmigdError):
    """The guest is already being migrated, by kvmigd or by somebody else."""


class PeerUnreachable(KvmigdError):
    """The daemon on the other host does not answer."""


class PeerNotTrusted(KvmigdError):
    """TLS with the other host failed, or the name in its certificate is not the configured peer's."""


class ProtocolMismatch(KvmigdError):
    """The daemons on the two hosts have no protocol version in common."""


class PeerFailed(KvmigdError):
    """The daemon on the other host answered with an error of its own."""


class Blocked(KvmigdError):
    """Checks found something that stands in the guest's way."""


class AdmissionRefused(KvmigdError):
    """The destination does not admit the guest."""


class AdmissionBusy(KvmigdError):
    """The destination would admit the guest later; `retry_after` is in seconds."""

    def __init__(self, message: str, *, hint: str = "", retry_after: float = 10.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class NoLease(KvmigdError):
    """A peer's call refers to an admission that does not exist here, or whose lease has run out."""


class NoDestination(KvmigdError):
    """No peer can take the guest."""


class GuestsStayed(KvmigdError):
    """An evacuation has ended, and some guests are still here."""


class HypervisorUnavailable(KvmigdError):
    """libvirt on this host does not answer."""


class HypervisorFailed(KvmigdError):
    """libvirt or QEMU answered with an error; `number` is libvirt's VIR_ERR_* value, 0 where unknown."""

    def __init__(self, message: str, *, hint: str = "", number: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.number = number


class HostUnknown(KvmigdError):
    """Something of this host that the answer depends on is not known at the moment."""


class Unresolved(KvmigdError):
    """It is not known where the guest runs; nothing was touched."""


class GuestLost(KvmigdError):
    """Both hosts answered, and the guest runs on neither."""


class Cancelled(KvmigdError):
    """The job was cancelled."""


class DeadlinePassed(KvmigdError):
    """The work was not done within its time."""


class JobFinished(KvmigdError):
    """The job has ended, so it cannot be changed any more."""


class ConfigurationInvalid(KvmigdError):
    """A configuration file cannot be read or understood; names file, line and column."""


class CertificateInvalid(KvmigdError):
    """A certificate or key of this host is missing, unreadable, expired or of the wrong kind."""


class DaemonUnreachable(KvmigdError):
    """kvmigctl found no kvmigd on the system bus."""


class Row(NamedTuple):
    """How one error is called outside: D-Bus error name, code on the wire between peers, exit status."""

    error: type[KvmigdError]
    dbus: str
    wire: str
    exit: Exit


_OWN = "org.kvmigd1.Error."
_STANDARD = "org.freedesktop.DBus.Error."

TABLE: tuple[Row, ...] = (
    Row(InternalError, _OWN + "Internal", "internal", Exit.FAILED),
    Row(InvalidArguments, _STANDARD + "InvalidArgs", "invalid-arguments", Exit.USAGE),
    # Not the standard AccessDenied: sd-bus, and so busctl, would show its own words instead of ours.
    Row(NotAuthorised, _OWN + "NotAuthorised", "not-authorised", Exit.NOT_AUTHORISED),
    Row(NoSuchGuest, _OWN + "NoSuchGuest", "no-such-guest", Exit.FAILED),
    Row(NoSuchPeer, _OWN + "NoSuchPeer", "no-such-peer", Exit.FAILED),
    Row(SameHost, _OWN + "SameHost", "same-host", Exit.FAILED),
    Row(GuestNotRunning, _OWN + "GuestNotRunning", "guest-not-running", Exit.FAILED),
    Row(GuestBusy, _OWN + "GuestBusy", "guest-busy", Exit.FAILED),
    Row(PeerUnreachable, _OWN + "PeerUnreachable", "peer-unreachable", Exit.FAILED),
    Row(PeerNotTrusted, _OWN + "PeerNotTrusted", "peer-not-trusted", Exit.FAILED),
    Row(ProtocolMismatch, _OWN + "ProtocolMismatch", "protocol-mismatch", Exit.FAILED),
    Row(PeerFailed, _OWN + "PeerFailed", "peer-failed", Exit.FAILED),
    Row(Blocked, _OWN + "Blocked", "blocked", Exit.BLOCKED),
    Row(AdmissionRefused, _OWN + "AdmissionRefused", "admission-refused", Exit.BLOCKED),
    Row(AdmissionBusy, _OWN + "AdmissionBusy", "admission-busy", Exit.FAILED),
    Row(NoLease, _OWN + "NoLease", "no-lease", Exit.FAILED),
    Row(NoDestination, _OWN + "NoDestination", "no-destination", Exit.BLOCKED),
    Row(GuestsStayed, _OWN + "GuestsStayed", "guests-stayed", Exit.FAILED),
    Row(HypervisorUnavailable, _OWN + "HypervisorUnavailable", "hypervisor-unavailable", Exit.FAILED),
    Row(HypervisorFailed, _OWN + "HypervisorFailed", "hypervisor-failed", Exit.FAILED),
    Row(HostUnknown, _OWN + "HostUnknown", "host-unknown", Exit.FAILED),
    Row(Unresolved, _OWN + "Unresolved", "unresolved", Exit.FAILED),
    Row(GuestLost, _OWN + "GuestLost", "guest-lost", Exit.FAILED),
    Row(Cancelled, _OWN + "Cancelled", "cancelled", Exit.FAILED),
    Row(DeadlinePassed, _OWN + "DeadlinePassed", "deadline-passed", Exit.FAILED),
    Row(JobFinished, _OWN + "JobFinished", "job-finished", Exit.FAILED),
    Row(ConfigurationInvalid, _OWN + "ConfigurationInvalid", "configuration-invalid", Exit.FAILED),
    Row(CertificateInvalid, _OWN + "CertificateInvalid", "certificate-invalid", Exit.FAILED),
    Row(DaemonUnreachable, _OWN + "DaemonUnreachable", "daemon-unreachable", Exit.NOT_REACHABLE),
)

_BY_TYPE = {row.error: row for row in TABLE}
_BY_DBUS = {row.dbus: row for row in TABLE}
_BY_WIRE = {row.wire: row for row in TABLE}


def row_of(error: KvmigdError) -> Row:
    """The table's row for an error."""
    return _BY_TYPE.get(type(error), _BY_TYPE[InternalError])


def from_dbus(name: str, message: str) -> KvmigdError:
    """The error that a D-Bus error name stands for; foreign names become InternalError."""
    row = _BY_DBUS.get(name)
    return row.error(message) if row else InternalError(f"{name}: {message}")


def from_wire(code: str, message: str, *, hint: str = "") -> KvmigdError:
    """The error that a peer's code stands for; a code this version does not know becomes PeerFailed."""
    row = _BY_WIRE.get(code)
    return row.error(message, hint=hint) if row else PeerFailed(f"{code}: {message}", hint=hint)


def exit_status(dbus_name: str) -> Exit:
    """Exit status for a D-Bus error name; names outside the table are plain failures."""
    row = _BY_DBUS.get(dbus_name)
    return row.exit if row else Exit.FAILED
