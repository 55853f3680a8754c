"""What was looked at and tried, with its age: looks at guests, and proofs with peers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from kvmigd.model.guest import Guest
from kvmigd.model.host import Examination, Look, RemoteFact, ResolvedName
from kvmigd.model.proof import FrameProof, PortProof, Proof, Proofs, StorageProof, TlsProof

HERE = ""
"""This host, where a peer could be named."""

_PASSING = frozenset({"busy", "no-answer"})
"""Problems that say nothing of what was to be proved: what was proved before stands."""

Keyed = TypeVar("Keyed", PortProof, StorageProof, FrameProof, TlsProof)


class Contact(msgspec.Struct, frozen=True, kw_only=True):
    """What this host and a peer find when they look for each other, and what they have tried together."""

    named: ResolvedName | None = None
    """What the peer's name resolves to here."""
    naming: ResolvedName | None = None
    """What this host's name resolves to there."""
    remote: RemoteFact | None = None
    proofs: Proofs = Proofs()


class Evidence:
    """Looks by host and guest, and one Contact for each peer. What is stale is still told, with its age.

    `on_change(host, uuid, word)` is told what is new: the look of a host (HERE is this one) at a guest, by the word
    `look` or, where only its time is another one, `age`; with an empty UUID what is known of a peer: `facts`, `proofs`.
    """

    def __init__(self, on_change: Callable[[str, str, str], None] = lambda _peer, _uuid, _word: None) -> None:
        self._on_change = on_change
        self._guests: dict[str, tuple[object, ...]] = {}
        self._looks: dict[str, dict[str, Look]] = {HERE: {}}
        self._stale: dict[str, set[str]] = {HERE: set()}
        self._contacts: dict[str, Contact] = {}

    # What is known

    def look(self, uuid: str, host: str = HERE) -> Look | None:
        """What a host has said of a guest; None while it was not asked."""
        return self._looks.get(host, {}).get(uuid)

    def contact(self, peer: str) -> Contact:
        """What is known of a peer."""
        return self._contacts.get(peer, _STRANGER)

    def is_stale(self, uuid: str, host: str = HERE) -> bool:
        """A host has to be asked (again) about a guest."""
        return uuid not in self._looks.get(host, {}) or uuid in self._stale.get(host, ())

    def wanted(self, host: str = HERE) -> set[str]:
        """UUIDs of the guests that a host has to be asked about."""
        missing = self._guests.keys() - self._looks.get(host, {}).keys()
        return missing | self._stale.get(host, set())

    def proved_usec(self, uuid: str, peer: str) -> int:
        """When the oldest of both looks and of the proofs of the peer's port was made; 0 where one is missing."""
        proofs = self.contact(peer).proofs
        times = [proof.taken_usec for proof in proofs.ports if proof.to == peer]
        times += [look.taken_usec for host in (HERE, peer) if (look := self.look(uuid, host)) is not None]
        return min(times) if len(times) >= 3 else 0

    # What is learnt

    def guests(self, guests: Iterable[Guest]) -> None:
        """These guests are active here now. Looks at others are forgotten, at those that are defined anew stale."""
        now = {guest.uuid: looked_at(guest) for guest in guests}
        for uuid, before in self._guests.items():
            if uuid not in now:
                for host, looks in self._looks.items():
                    looks.pop(uuid, None)
                    self._stale[host].discard(uuid)
            elif now[uuid] != before:
                self.doubt(uuids=(uuid,))
        self._guests = now

    def doubt(self, host: str | None = None, *, uuids: Iterable[str] | None = None) -> None:
        """What one host, or all, have said of these guests, or of all, may be true no longer."""
        wanted = set(self._guests if uuids is None else uuids) & self._guests.keys()
        for name in self._looks if host is None else (host,):
            self._stale.setdefault(name, set()).update(wanted & self._looks.get(name, {}).keys())

    def forget(self, peer: str) -> None:
        """The peer is configured no longer."""
        for kept in (self._looks, self._stale, self._contacts):
            kept.pop(peer, None)

    def took(self, host: str, asked: Iterable[Guest], looks: Iterable[Look]) -> None:
        """A host has looked at guests, as they were when it was asked."""
        kept, stale = self._looks.setdefault(host, {}), self._stale.setdefault(host, set())
        for guest, look in zip(asked, looks, strict=True):
            if self._guests.get(guest.uuid) != looked_at(guest):
                continue  # it is gone, or is another one meanwhile
            before = kept.get(guest.uuid)
            kept[guest.uuid] = look
            stale.discard(guest.uuid)
            same = before is not None and msgspec.structs.replace(before, taken_usec=look.taken_usec) == look
            self._on_change(host, guest.uuid, "age" if same else "look")

    def met(self, peer: str, here: Examination, there: Examination | None) -> None:
        """Both hosts have looked for each other."""
        before = self.contact(peer)
        now = msgspec.structs.replace(
            before,
            named=here.other,
            remote=here.remote or before.remote,
            naming=there.other if there is not None else before.naming,
        )
        self._keep(peer, now, "facts")

    def proved(self, peer: str, proofs: Proofs) -> None:
        """Something was tried with a peer; the rest of what was proved before stands."""
        before = self.contact(peer)
        self._keep(peer, msgspec.structs.replace(before, proofs=merged(before.proofs, proofs)), "proofs")

    def limit(self, peer: str, *, folders: frozenset[str], segments: frozenset[str]) -> None:
        """Forget proofs of folders and segments that no guest needs any longer."""
        before = self.contact(peer)
        storage = tuple(proof for proof in before.proofs.storage if proof.folder in folders)
        frames = tuple(proof for proof in before.proofs.frames if proof.key in segments)
        proofs = msgspec.structs.replace(before.proofs, storage=storage, frames=frames)
        self._keep(peer, msgspec.structs.replace(before, proofs=proofs), "proofs")

    def _keep(self, peer: str, now: Contact, word: str) -> None:
        before = self.contact(peer)
        self._contacts[peer] = now
        if now != before:
            self._on_change(peer, "", word)


_STRANGER = Contact()


def looked_at(guest: Guest) -> tuple[object, ...]:
    """What of a guest a look depends on; the rest of it can change without a new look."""
    return (
        guest.name,
        guest.local_paths,
        guest.formats,
        guest.cpu_xml,
        (guest.emulator, guest.arch, guest.machine, guest.domain_type),
    )


def merged(before: Proofs, now: Proofs) -> Proofs:
    """What is proved after something was tried anew."""
    return Proofs(
        ports=_merged(before.ports, now.ports),
        storage=_merged(before.storage, now.storage),
        frames=_merged(before.frames, now.frames),
        tls=_merged(before.tls, now.tls),
        throughput=_newer(before.throughput, now.throughput),
    )


def _merged(before: tuple[Keyed, ...], now: tuple[Keyed, ...]) -> tuple[Keyed, ...]:
    kept = {proof.key: proof for proof in before}
    for proof in now:
        kept[proof.key] = _newer(kept.get(proof.key), proof) or proof
    return tuple(kept.values())


Tried = TypeVar("Tried", bound=Proof)


def _newer(before: Tried | None, now: Tried | None) -> Tried | None:
    if now is None or (before is not None and _is_passing(now) and not _is_passing(before)):
        return before
    return now


def _is_passing(proof: Proof) -> bool:
    # Of ports, busy means that none of the range is free, which lasts.
    return proof.problem in _PASSING and not (proof.problem == "busy" and isinstance(proof, PortProof))
