"""The admission desk: which guests may come to this host now, with how much memory and through which port.

No I/O but the question whether a port can be bound; the clock is given. Leases end by themselves, so a source that
dies leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice

import msgspec

from kvmigd.config import Migration
from kvmigd.errors import AdmissionBusy, InvalidArguments, NoLease, NotAuthorised
from kvmigd.peer.wire import AdmissionRequest, Busy, Claim, Refused

PAST_LIMIT = 256
"""So many ended leases are remembered, because a source may settle after its lease has run out."""


_SPARED = {"stream": 0, "disks": 1, "burst": 2}
"""So many ports from the top are for others, even while proofs listen there."""


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """One lease; `expires` is on the desk's clock."""

    job: str
    peer: str
    uuid: str
    guest: str
    memory: int
    port: int
    expires: float


def can_bind(port: int) -> bool:
    """Whether QEMU could listen on the port: on every address, and without SO_REUSEADDR to help it."""
    for family, wildcard in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        try:
            probe = socket.socket(family, socket.SOCK_STREAM)
        except OSError:  # no IPv6 on this host
            continue
        with probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((wildcard, port))
            except OSError as error:
                if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue
                return False
    return True


class AdmissionDesk:
    """All leases of guests that are on their way to this host."""

    def __init__(
        self,
        migration: Migration,
        *,
        clock: Callable[[], float] = time.monotonic,
        bindable: Callable[[int], bool] = can_bind,
    ) -> None:
        self._migration = migration
        self._clock = clock
        self._bindable = bindable
        self._leases: dict[str, Reservation] = {}
        self._past: OrderedDict[str, Reservation] = OrderedDict()
        self._listeners: list[Callable[[], None]] = []

    def apply(self, migration: Migration) -> None:
        """New limits and ports; leases that were given stay."""
        self._migration = migration

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a lease was given or has ended."""
        self._listeners.append(listener)

    def _changed(self) -> None:
        for listener in tuple(self._listeners):
            listener()

    @property
    def reservations(self) -> tuple[Reservation, ...]:
        """The leases that are valid now."""
        self.expire()
        return tuple(self._leases.values())

    @property
    def reserved_memory(self) -> int:
        """What is promised to guests on their way here, bytes."""
        return sum(lease.memory for lease in self.reservations)

    @property
    def seconds_to_expiry(self) -> float | None:
        """How long until the next lease ends by itself; None while there is none."""
        soonest = min((lease.expires for lease in self._leases.values()), default=None)
        return None if soonest is None else max(0.0, soonest - self._clock())

    def expire(self) -> None:
        """Drop the leases that have run out."""
        now = self._clock()
        over = [lease for lease in self._leases.values() if lease.expires <= now]
        for lease in over:
            self._forget(lease)
        if over:
            self._changed()

    def _forget(self, lease: Reservation) -> None:
        del self._leases[lease.job]
        self._past[lease.job] = lease
        self._past.move_to_end(lease.job)
        while len(self._past) > PAST_LIMIT:
            self._past.popitem(last=False)

    def free_ports(self) -> Iterable[int]:
        """Ports that nobody has, from the top of the range downwards: libvirt gives its own from the bottom up."""
        taken = {lease.port for lease in self.reservations}
        for port in range(self._migration.port_max, self._migration.port_min - 1, -1):
            if port not in taken and self._bindable(port):
                yield port

    def admit(
        self, request: AdmissionRequest, *, peer: str, not_accepting: str, memory_free: int
    ) -> Reservation | Busy | Refused:
        """Give a lease or say why not. Asking again for the same job gives the same lease, prolonged.

        `memory_free` is what the host has before anything promised here is taken off.
        """
        self.expire()
        own = self._leases.get(request.job)
        if own is not None:
            self._check_owner(own, peer)
            if (own.uuid, own.memory) != (request.guest.uuid, request.memory):
                raise InvalidArguments(
                    f"Job {request.job} was admitted for guest {own.guest!r} and {own.memory} bytes."
                )
            return self._prolong(own)
        if request.job in self._past:
            self._check_owner(self._past[request.job], peer)
        if not_accepting:
            return Refused(reason=not_accepting)
        return self._obstacle(request, peer, memory_free) or self._give(request, peer)

    def _obstacle(self, request: AdmissionRequest, peer: str, memory_free: int) -> Busy | Refused | None:
        for lease in self._leases.values():
            if lease.uuid == request.guest.uuid:
                reason = f"Guest {lease.guest!r} is already admitted here, from {lease.peer}."
                return self._busy(reason) if lease.peer == peer else Refused(reason=reason)
        if len(self._leases) >= self._migration.incoming_limit:
            return self._busy(f"{len(self._leases)} guests are on their way here; the limit is {len(self._leases)}.")
        promised = sum(lease.memory for lease in self._leases.values())
        if request.memory > memory_free - promised:
            needs = f"Guest {request.guest.name!r} needs {_mib(request.memory)} of memory"
            if request.memory <= memory_free:
                # The promise overlaps with what arriving guests have filled already: it may fit when they are here.
                return self._busy(f"{needs}; {_mib(memory_free)} are free, {_mib(promised)} of them are promised.")
            return Refused(reason=f"{needs}; {_mib(max(0, memory_free))} are free.")
        return None

    def _busy(self, reason: str) -> Busy:
        left = self.seconds_to_expiry or 0.0
        return Busy(reason=reason, retry_after=round(min(max(left, 1.0), 10.0), 1))

    def _give(self, request: AdmissionRequest, peer: str) -> Reservation | Refused:
        port = next(iter(self.free_ports()), None)
        if port is None:
            span = f"{self._migration.port_min}-{self._migration.port_max}"
            return Refused(
                reason=f"No port of the migration range {span} is free.", hint="ss -ltnp shows who has them."
            )
        return self._keep(
            Reservation(
                job=request.job,
                peer=peer,
                uuid=request.guest.uuid,
                guest=request.guest.name,
                memory=request.memory,
                port=port,
                expires=self._clock() + self._migration.lease_seconds,
            )
        )

    def _keep(self, lease: Reservation) -> Reservation:
        self._leases[lease.job] = lease
        self._changed()
        return lease

    def _prolong(self, lease: Reservation) -> Reservation:
        lease = msgspec.structs.replace(lease, expires=self._clock() + self._migration.lease_seconds)
        self._leases[lease.job] = lease
        return lease

    @staticmethod
    def _check_owner(lease: Reservation, peer: str) -> None:
        if lease.peer != peer:
            raise NotAuthorised(f"The admission of job {lease.job} was not given to {peer}.")

    def lease(self, job: str, *, peer: str) -> Reservation:
        """The valid lease of a job; raises NoLease, or NotAuthorised if it is another peer's."""
        self.expire()
        lease = self._leases.get(job)
        if lease is None:
            raise NoLease(f"There is no admission for job {job} here; its lease may have run out.")
        self._check_owner(lease, peer)
        return lease

    def renew(self, job: str, claim: Claim | None, *, peer: str) -> Reservation:
        """Prolong a lease.

        One that is not known is taken up again from the peer's claim, if nothing speaks against it: this daemon may
        have been restarted, and the guest is on its way. A peer that lied would gain no more than by asking libvirt.
        """
        self.expire()
        if claim is None or job in self._leases:
            return self._prolong(self.lease(job, peer=peer))
        if job in self._past:
            self._check_owner(self._past[job], peer)
        usual = self._migration
        if (
            not usual.port_min <= claim.port <= usual.port_max
            or len(self._leases) >= usual.incoming_limit
            or any(claim.port == other.port or claim.uuid == other.uuid for other in self._leases.values())
        ):
            raise NoLease(f"There is no admission for job {job} here, and what it held has been given away.")
        return self._keep(
            Reservation(
                job=job,
                peer=peer,
                uuid=claim.uuid,
                guest=claim.guest,
                memory=claim.memory,
                port=claim.port,
                expires=self._clock() + usual.lease_seconds,
            )
        )

    def release(self, job: str, *, peer: str) -> None:
        """End a lease; harmless if it has ended."""
        with contextlib.suppress(NoLease):
            self._forget(self.lease(job, peer=peer))
            self._changed()

    def check_settle(self, job: str, uuid: str, *, peer: str) -> None:
        """Whether this peer may settle this guest's job; also after the lease has ended, or was settled before."""
        self.expire()
        lease = self._leases.get(job) or self._past.get(job)
        if lease is None:
            raise NoLease(f"There was no admission for job {job} here.")
        self._check_owner(lease, peer)
        if lease.uuid != uuid:
            raise InvalidArguments(f"Job {job} was admitted for guest {lease.guest!r}, which has another UUID.")

    def proof_port(self, job: str | None, *, peer: str, purpose: str = "stream") -> int:
        """The port to be proved: the one of the admitted job, else the one that would be given next.

        NBD (`disks`) would get the one after it, and a `burst` stays away from both where there are others. A port
        where a proof listens now is not free.
        """
        if job is not None:
            lease = self.lease(job, peer=peer)
            if purpose == "stream":
                return lease.port
        usual = self._migration
        leased = {lease.port for lease in self.reservations}
        unleased = (port for port in range(usual.port_max, usual.port_min - 1, -1) if port not in leased)
        spared = set(islice(unleased, 0 if job is not None else _SPARED.get(purpose, 0)))
        free = list(islice(self.free_ports(), len(spared) + 1))
        port = next((port for port in free if port not in spared), free[0] if free else None)
        if port is None:
            raise AdmissionBusy(
                f"No port of the migration range {usual.port_min}-{usual.port_max} is free.",
                hint="ss -ltnp shows who has them.",
            )
        return port


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"
