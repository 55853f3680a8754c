"""Asking both hosts about a guest and judging what they say."""

from __future__ import annotations

import asyncio

import msgspec

from kvmigd.checks.case import Case, PortProof
from kvmigd.checks.catalogue import judge
from kvmigd.checks.guest import memory_needed
from kvmigd.errors import AdmissionBusy, KvmigdError
from kvmigd.host.local import Host
from kvmigd.model.finding import Basis, Finding, Severity, ordered
from kvmigd.model.guest import Guest
from kvmigd.peer.client import PeerClient
from kvmigd.peer.proof import ProofFailed, connect_and_read


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found, and whether the guest's stream would be encrypted."""

    findings: tuple[Finding, ...]
    tls: bool


async def check(host: Host, link: PeerClient, guest: Guest, *, prove: bool) -> Checked:
    """All findings about moving `guest` to the peer. With `prove`, a connection is made to its migration port.

    A peer that fails in the middle becomes a finding of severity `unknown`: what it would have said is not known.
    """
    try:
        here, there, port = await asyncio.gather(
            host.examine(guest, link.name, uri=link.peer.uri), link.examine(guest), _port(link) if prove else _no_port()
        )
    except KvmigdError as error:
        return Checked(findings=(_unknown(host.config.name, link.name, error),), tls=False)
    case = Case(
        guest=guest,
        source=here,
        destination=there,
        memory_needed=memory_needed(guest.memory, guest.vcpus),
        port=port if isinstance(port, PortProof) else None,
    )
    findings = judge(case)
    if isinstance(port, KvmigdError):
        findings = ordered((*findings, _unknown(host.config.name, link.name, port)))
    return Checked(findings=findings, tls=here.facts.stream_tls and there.facts.stream_tls)


async def prove_port(link: PeerClient, job: str | None = None) -> PortProof:
    """Connect to the peer's migration port: the one of an admitted job, else the one it would give next."""
    async with link.proving(job) as offer:
        try:
            await connect_and_read(offer.address, offer.port, offer.nonce)
        except ProofFailed as error:
            return PortProof(address=offer.address, port=offer.port, problem=error.reason, text=error.text.rstrip("."))
    return PortProof(address=offer.address, port=offer.port)


async def _port(link: PeerClient) -> PortProof | KvmigdError:
    try:
        return await prove_port(link)
    except AdmissionBusy as error:
        return error


async def _no_port() -> None:
    return None


def _unknown(here: str, there: str, error: KvmigdError) -> Finding:
    return Finding(
        check="peer.answers",
        severity=Severity.UNKNOWN,
        summary=f"{here} and {there} could not look at the guest together.",
        host=there,
        expected="answers from libvirt and kvmigd on both hosts",
        found=error.message,
        remedy=error.hint,
        basis=Basis.PROVED,
    )
