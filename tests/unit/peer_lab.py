"""Two daemons' peer sides on loopback: real TLS, certificates of a real CA, and a host that is only made up."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec
from unittest.mock import patch

import msgspec

from kvmigd.bundle import Bundle, install
from kvmigd.config import Config, Listen, Migration, Peer, Pki
from kvmigd.host.picture import Picture
from kvmigd.model.guest import Guest, GuestState, Whereabouts
from kvmigd.model.host import Examination, HostFacts
from kvmigd.model.job import Progress
from kvmigd.model.peer import PeerState
from kvmigd.model.system import Release, Software
from kvmigd.peer import wire
from kvmigd.peer.admission import AdmissionDesk
from kvmigd.peer.identity import Credentials
from kvmigd.peer.link import Pace, PeerLink
from kvmigd.peer.proof import connect_and_read
from kvmigd.peer.server import PeerServer
from kvmigd.peer.wire import ProofOffer
from kvmigd.pki import Authority, pem_of_certificate, pem_of_key

GIB = 1 << 30
JOB = "11111111-1111-1111-1111-111111111111"
OTHER_JOB = "22222222-2222-2222-2222-222222222222"
GUEST = Guest(
    name="web1",
    uuid="aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa",
    state=GuestState.RUNNING,
    memory=GIB,
    vcpus=1,
    arch="x86_64",
    machine="pc-q35-7.2",
    domain_type="kvm",
    emulator="/usr/bin/qemu-system-x86_64",
)
FACTS = HostFacts(
    name="hostb",
    hypervisor_alive=True,
    accepting=True,
    memory_total=8 * GIB,
    memory_free=4 * GIB,
    software=Software(kvmigd="0.1.0", kernel="6.1", release=Release()),
)
FAST = Pace(silence=5.0, first_pause=0.02, longest_pause=0.05, steady=0.0, ping=0.05, call=2.0)
IMPATIENT = msgspec.structs.replace(FAST, silence=0.3)


Arguments = ParamSpec("Arguments")


def asynchronous(test: Callable[Arguments, Coroutine[Any, Any, None]]) -> Callable[Arguments, None]:
    """A test with a loop of its own, and an end to it if something hangs."""

    @wraps(test)
    def run(*arguments: Arguments.args, **named: Arguments.kwargs) -> None:
        async def limited() -> None:
            async with asyncio.timeout(8):
                await test(*arguments, **named)

        asyncio.run(limited())

    return run


@cache  # RSA keys take their time, so a test run makes few, and small ones
def _authority(_number: int) -> Authority:
    with patch("kvmigd.pki.KEY_BITS", 2048):
        return Authority.create()


@cache
def _bundle(name: str, ca: int) -> Bundle:
    with patch("kvmigd.pki.KEY_BITS", 2048):
        return _authority(ca).issue(name)


def authority(number: int = 1) -> Authority:
    """A CA; each number is another one."""
    return _authority(number)


def bundle(name: str, *, ca: int = 1) -> Bundle:
    """A host's bundle."""
    return _bundle(name, ca)


def pki_below(root: Path) -> Pki:
    """libvirt's places, below another root."""
    place = root / "etc/pki"
    return Pki(
        ca=place / "CA/cacert.pem",
        server_certificate=place / "libvirt/servercert.pem",
        server_key=place / "libvirt/private/serverkey.pem",
        client_certificate=place / "libvirt/clientcert.pem",
        client_key=place / "libvirt/private/clientkey.pem",
        qemu=place / "qemu",
    )


def installed(root: Path, name: str, *, ca: int = 1) -> Pki:
    """A host's PKI as `kvmigctl pki install` leaves it."""
    root.mkdir(parents=True, exist_ok=True)
    install(bundle(name, ca=ca), root, force=True)
    return pki_below(root)


def dated(name: str, *, begins: int, days: int) -> Bundle:
    """A bundle that is valid for `days` from `begins` days after today."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(bundle(name).key, password=None)
    certificate = authority().sign(
        name,
        key=key,
        alternative=[x509.DNSName(name)],
        days=days,
        begins=datetime.now(UTC) + timedelta(days=begins),
    )
    return Bundle(ca=authority().pem, certificate=pem_of_certificate(certificate), key=pem_of_key(key))


def named(
    name: str,
    *,
    alternative: tuple[str, ...],
    purposes: tuple[str, ...] = (),
    key_encipherment: bool = True,
) -> Bundle:
    """A certificate by somebody else's rules; without `purposes` it has no extended key usage at all."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    ca = authority()
    key = load_pem_private_key(bundle(name).key, password=None)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_encipherment=key_encipherment,
        key_cert_sign=False,
        crl_sign=False,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=5))
        .add_extension(usage, critical=True)
    )
    if alternative:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(each) for each in alternative]), critical=False
        )
    if purposes:
        oids = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
        builder = builder.add_extension(x509.ExtendedKeyUsage([oids[each] for each in purposes]), critical=True)
    certificate = builder.sign(ca.key, hashes.SHA256())
    return Bundle(ca=ca.pem, certificate=pem_of_certificate(certificate), key=pem_of_key(key))


def revocation(serials: list[int]) -> bytes:
    """The CA's list of revoked certificates."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority().certificate.subject)
        .last_update(now - timedelta(days=1))
        .next_update(now + timedelta(days=1))
    )
    for serial in serials:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        )
    return builder.sign(authority().key, hashes.SHA256()).public_bytes(Encoding.PEM)


def config(root: Path, *, name: str = "hostb", pki: Pki, port: int = 1, peers: tuple[Peer, ...] = ()) -> Config:
    """A configuration; the port is chosen by the kernel unless one is given."""
    low, high = PORTS
    return Config(
        name=name,
        directory=root,
        listen=Listen(address="127.0.0.1", port=port),
        pki=pki,
        migration=Migration(port_min=low, port_max=high),
        peers={peer.name: peer for peer in peers},
    )


PORTS = (27100, 27131)
"""Below those that the kernel gives to connections of other tests (net.ipv4.ip_local_port_range)."""


class MadeUpHost:
    """A LocalHost without libvirt."""

    def __init__(self) -> None:
        self.facts = FACTS
        self.picture = Picture()
        self.refreshed = 0
        self.listeners: list[Callable[[], None]] = []
        self.not_accepting = ""
        self.free = 4 * GIB
        self.settled: list[tuple[str, bool]] = []
        self.seen_from: list[str] = []

    def on_facts(self, listener: Callable[[], None]) -> None:
        self.listeners.append(listener)

    def refresh(self) -> None:
        self.refreshed += 1

    def change(self, **changes: object) -> None:
        self.facts = msgspec.structs.replace(self.facts, **changes)
        for listener in self.listeners:
            listener()

    async def examine(self, guests: Sequence[Guest], other: str, *, uri: str = "") -> Examination:
        self.seen_from.append(other)
        if any(guest.name == "broken" for guest in guests):
            raise RuntimeError("a defect")
        return Examination(facts=self.facts)

    async def whereabouts(self, uuid: str) -> Whereabouts:
        return Whereabouts(host="hostb", known=uuid == GUEST.uuid, state=GuestState.RUNNING)

    async def settle_arrived(self, uuid: str, *, autostart: bool) -> Progress | None:
        self.settled.append((uuid, autostart))
        return Progress(total=GIB, pause_usec=25_000)

    def accepting(self) -> str:
        return self.not_accepting

    def memory_free(self) -> int:
        return self.free


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@asynccontextmanager
async def serving(
    root: Path,
    *,
    pki: Pki | None = None,
    peers: tuple[str, ...] = ("hosta",),
    local: MadeUpHost | None = None,
    protocols: tuple[int, ...] = wire.PROTOCOLS,
    desk: AdmissionDesk | None = None,
    port: int = 0,
) -> AsyncIterator[PeerServer]:
    """hostb's server."""
    made = config(
        root,
        pki=pki or installed(root / "b", "hostb"),
        port=port or free_port(),
        peers=tuple(Peer(name=name) for name in peers),
    )
    async with (
        asyncio.TaskGroup() as group,
        PeerServer(made, local or MadeUpHost(), group=group, protocols=protocols, desk=desk) as server,
    ):
        yield server


def link_to(
    port: int,
    pki: Pki,
    *,
    name: str = "hostb",
    protocols: tuple[int, ...] = wire.PROTOCOLS,
    pace: Pace = FAST,
    on_change: Callable[[str], None] | None = None,
) -> PeerLink:
    """A link to hostb's server."""
    peer = Peer(name=name, address="127.0.0.1", port=port)
    return PeerLink(peer, Credentials(pki), protocols=protocols, pace=pace, on_change=on_change)


@asynccontextmanager
async def running(link: PeerLink) -> AsyncIterator[PeerLink]:
    """The link with its watch stream."""
    async with asyncio.TaskGroup() as group, link:
        task = group.create_task(link.run())
        try:
            yield link
        finally:
            task.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that will come true."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def state(link: PeerLink, wanted: PeerState) -> str:
    """Wait for a state of the link; returns the problem told with it."""
    await until(lambda: link.view.state is wanted)
    return link.view.problem


def copy(pki_root: Path, to: Path) -> Pki:
    """Another copy of an installed PKI, to be spoilt."""
    shutil.copytree(pki_root, to)
    return pki_below(to)


async def proved(link: PeerLink, job: str | None = None) -> ProofOffer:
    """Prove the peer's port, as a migration does; raises ProofFailed."""
    async with link.proving(job) as offer:
        await connect_and_read(offer.address, offer.port, offer.nonce)
    return offer
