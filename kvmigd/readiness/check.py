"""Asking both hosts about one guest, wherever it stands, and judging what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from kvmigd.checks.catalogue import Judge
from kvmigd.checks.knowledge import ANSWERS
from kvmigd.checks.view import Case, Hosts, HostView, Local
from kvmigd.errors import KvmigdError, PeerFailed
from kvmigd.host.local import Host
from kvmigd.model.finding import Basis, Finding, Verdict, verdict_of
from kvmigd.model.guest import Guest
from kvmigd.model.host import Examination
from kvmigd.model.job import CheckOptions
from kvmigd.model.proof import PortProof, Proofs
from kvmigd.peer.link import PeerLink
from kvmigd.peer.proof import ProofFailed, connect_and_read


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found, and whether the guest's stream would be encrypted."""

    findings: tuple[Finding, ...]
    verdict: Verdict
    tls: bool


async def check(
    host: Host,
    link: PeerLink,
    guest: Guest,
    options: CheckOptions,
    *,
    proofs: Proofs = Proofs(),  # noqa: B008  # frozen
) -> Checked:
    """All findings about moving `guest` to the peer, of looks that are taken now and of the proofs that are given.

    A peer that fails in the middle becomes a finding of severity `unknown`: what it would have said is not known.
    """
    try:
        here, there = await asyncio.gather(
            examined_here(host, link, (guest,), anew=options.prove), link.examine((guest,))
        )
    except KvmigdError as error:
        findings: tuple[Finding, ...] = (unanswered(host.config.name, link.name, error),)
        return Checked(findings=findings, verdict=verdict_of(findings, strict=options.strict), tls=False)
    view = await link.heard(there.told)
    source = HostView(facts=here.facts, state=host.picture.state, other=here.other, remote=here.remote)
    destination = HostView(facts=there.facts, state=view.picture, other=there.other, remote=there.remote)
    case = Case(
        local=Local(guest=guest, source=source, look=here.looks[0], options=options),
        hosts=Hosts(source=source, destination=destination, proofs=proofs),
        look=there.looks[0],
    )
    findings = Judge(host.config.checks).case(case)
    return Checked(
        findings=findings,
        verdict=verdict_of(findings, strict=options.strict),
        tls=here.facts.stream_tls and there.facts.stream_tls,
    )


async def examined_here(host: Host, link: PeerLink, guests: Sequence[Guest], *, anew: bool) -> Examination:
    """What this host sees when it looks at guests for the peer; what is raised tells that it is about this host."""
    try:
        return await host.examine(guests, link.name, uri=link.peer.uri, anew=anew)
    except KvmigdError as error:
        error.host = host.config.name
        raise


async def examined(link: PeerLink, guests: Sequence[Guest]) -> Examination:
    """What the peer sees when it looks at guests; raises PeerFailed if that is not what it was asked for."""
    there = await link.examine(guests)
    if [look.guest for look in there.looks] != [guest.uuid for guest in guests]:
        raise PeerFailed(f"Peer {link.name} was asked about {len(guests)} guests and answered about others.")
    return there


async def prove_port(link: PeerLink, job: str | None = None) -> PortProof:
    """Connect to the peer's migration port: the one of an admitted job, else the one it would give next."""
    async with link.proving(job) as offer:
        try:
            await connect_and_read(offer.address, offer.port, offer.nonce)
        except ProofFailed as error:
            return PortProof(
                to=link.name,
                address=offer.address,
                port=offer.port,
                problem=error.reason,
                text=error.text.rstrip("."),
            )
    return PortProof(to=link.name, address=offer.address, port=offer.port)


def unanswered(here: str, there: str, error: KvmigdError) -> Finding:
    """What is said where a peer, or libvirt, fails in the middle of the questions."""
    return ANSWERS.finding(
        f"{here} and {there} could not look at the guest together: {error.message.removesuffix('.')}.",
        host=error.host or there,
        expected="answers from libvirt and kvmigd on both hosts",
        found=error.message,
        remedy=error.hint or ANSWERS.remedy,
        basis=Basis.PROVED,
    )
