"""TLS between QEMU's certificates of two hosts, carried by the control connection."""

from __future__ import annotations

from kvmigd.config import Pki
from kvmigd.model.proof import TlsProof
from kvmigd.peer.certificates import Role
from kvmigd.peer.client import PeerClient
from kvmigd.peer.handshake import Handshake, shake
from kvmigd.peer.proofwire import TlsAnswer, TlsStep


async def handshake(link: PeerClient, role: Role, *, here: str, pki: Pki) -> TlsProof:
    """A handshake with this host as `role`: the client, as the source of a migration is, or the server."""
    token: str | None = None

    async def ask(records: bytes) -> TlsAnswer:
        nonlocal token
        answer = await link.tls_step(
            TlsStep(role="client" if role == "server" else "server", token=token, data=records)
        )
        token = answer.token
        return answer

    return await shake(Handshake(pki, role, here=here, there=link.name), ask)
