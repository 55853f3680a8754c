"""The proofs that two daemons make together, between real hosts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from tests.lab import daemon, faults
from tests.lab.host import Host, wait_equal
from tests.lab.network import Network
from tests.lab.proofs import problems, prove

RANGE = "49152-49215"
BOTH = ("stream", "disks")
EVERYTHING: dict[str, Any] = {
    "ports": BOTH,
    "back": BOTH,
    "storage": ("/srv/vm",),
    "frames": ({"bridge": "br0"},),
    "tls": True,
    "throughput": True,
}


def listeners(host: Host) -> str:
    """Who listens on ports of the migration range."""
    return host.run("ss", "-Htlnp", "sport >= 49152 and sport <= 49215").stdout


def connections(host: Host, port: int) -> str:
    """What is left of connections on a port, in whatever state."""
    return host.run("ss", "-Htan", f"sport = :{port}").stdout


def test_everything_is_proved_and_nothing_left(a: Host, b: Host) -> None:
    proofs = prove(a, b, times=3, **EVERYTHING)
    assert problems(proofs, "ports") == dict.fromkeys(
        ("hosta/stream", "hosta/disks", "hostb/stream", "hostb/disks"), ""
    )
    assert problems(proofs, "storage") == {"/srv/vm": ""}
    assert problems(proofs, "frames") == {"br0/0": ""}
    assert problems(proofs, "tls") == {"hosta": "", "hostb": ""}
    assert proofs["throughput"]["rate"] > 0
    for proof in proofs["ports"]:
        at = a if proof["to"] == a.name else b
        assert proof["address"] == at.address
        wait_equal("its connections are gone", lambda h=at, p=proof["port"]: connections(h, p), "")
    wait_equal("its files are gone", lambda: a.sh("ls -A /srv/vm | grep kvmigd- || true"), "")


@pytest.mark.parametrize(("fault", "problem"), [(faults.block_port, "timeout"), (faults.reject_port, "refused")])
def test_ports_are_closed_on_one_host(a: Host, b: Host, fault: Any, problem: str) -> None:
    with fault(b, RANGE):
        found = problems(prove(a, b, ports=BOTH, back=BOTH), "ports")
        assert found == {"hostb/stream": problem, "hostb/disks": problem, "hosta/stream": "", "hosta/disks": ""}
    with fault(a, RANGE):
        found = problems(prove(a, b, ports=BOTH, back=BOTH), "ports")
        assert found == {"hostb/stream": "", "hostb/disks": "", "hosta/stream": problem, "hosta/disks": problem}
    wait_equal("nobody listens any longer", lambda: listeners(a) + listeners(b), "")


def test_one_port_is_closed(a: Host, b: Host) -> None:
    """NBD listens on another port than the stream."""
    with faults.block_port(b, 49214):
        assert problems(prove(a, b, ports=("stream",)), "ports") == {"hostb/stream": ""}
        assert problems(prove(a, b, ports=BOTH), "ports") == {"hostb/stream": "", "hostb/disks": "timeout"}


def test_the_own_firewall_lets_nothing_out(a: Host, b: Host) -> None:
    with faults.firewall_rule(a, f"tcp dport {RANGE} reject with icmpx admin-prohibited", hook="output"):
        assert problems(prove(a, b, ports=("stream",), back=("stream",)), "ports") == {
            "hostb/stream": "no-route",
            "hosta/stream": "",
        }


def test_a_foreign_certificate_of_the_server(a: Host, b: Host) -> None:
    with faults.certificate_replaced(b, faults.QEMU_SERVER, authority=None):
        proofs = prove(a, b, tls=True)
        assert problems(proofs, "tls") == {"hostb": "refused", "hosta": ""}
        assert "the server certificate of hostb was not issued by this host's CA" in proofs["tls"][0]["text"]


def test_a_foreign_certificate_of_the_client(a: Host, b: Host) -> None:
    with faults.certificate_replaced(a, faults.QEMU_CLIENT, authority=None):
        proofs = prove(a, b, tls=True)
        assert problems(proofs, "tls") == {"hostb": "refused", "hosta": ""}
        assert proofs["tls"][0]["text"].startswith("on hostb, the client certificate of hosta")


def test_an_expired_certificate_and_one_for_another_name(a: Host, b: Host) -> None:
    with faults.certificate_replaced(b, faults.QEMU_SERVER, authority=a, days=-1):
        assert "has expired" in prove(a, b, tls=True)["tls"][0]["text"]
    with faults.certificate_replaced(b, faults.QEMU_SERVER, authority=a, name="hostc"):
        assert "is for another host" in prove(a, b, tls=True)["tls"][0]["text"]
    assert problems(prove(a, b, tls=True), "tls") == {"hostb": "", "hosta": ""}


def test_a_revoked_certificate(a: Host, b: Host) -> None:
    with faults.file_changed(a, "/etc/pki/qemu/ca-crl.pem", revocation(a, b)):
        proofs = prove(a, b, tls=True)
        assert problems(proofs, "tls") == {"hostb": "refused", "hosta": "refused"}
        assert "has been revoked" in proofs["tls"][0]["text"]


def revocation(authority: Host, host: Host) -> bytes:
    """The list of revoked certificates of the lab's CA, with those of a host's streams."""
    issuer = x509.load_pem_x509_certificate(authority.read("/root/pki/cacert.pem").encode()).subject
    key = load_pem_private_key(authority.read("/root/pki/ca-key.pem").encode(), password=None)
    assert isinstance(key, RSAPrivateKey)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(now - timedelta(days=1))
        .next_update(now + timedelta(days=1))
    )
    serials = {
        x509.load_pem_x509_certificate(host.read(f"/etc/pki/qemu/{role}-cert.pem").encode()).serial_number
        for role in ("server", "client")
    }
    for serial in serials:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_certificates_that_are_missing(a: Host, b: Host) -> None:
    with faults.moved_away(b, "/etc/pki/qemu/server-key.pem"):
        assert problems(prove(a, b, tls=True), "tls") == {"hostb": "none-there", "hosta": ""}
    with faults.moved_away(a, "/etc/pki/qemu/client-cert.pem"):
        assert problems(prove(a, b, tls=True), "tls") == {"hostb": "none-here", "hosta": ""}


def test_throughput_of_a_narrow_path(a: Host, b: Host) -> None:
    with faults.throttle(b, Network.MIGRATION, 100):
        daemon.restart(b)  # it remembers what it has measured
        daemon.wait_connected(a, b)
        measured = prove(a, b, throughput=True, times=2)["throughput"]
        assert measured["problem"] == ""
        assert 12_500_000 / 5 < measured["rate"] < 12_500_000 * 2
        assert prove(a, b, throughput=True)["throughput"]["rate"] == measured["rate"], "not measured again"


def test_other_storage_is_mounted_there(a: Host, b: Host) -> None:
    with faults.mount_added(b, "/srv/vm"):
        assert problems(prove(a, b, storage=("/srv/vm",)), "storage") == {"/srv/vm": "different"}
    with faults.mount_removed(b, "/srv/vm"):
        assert problems(prove(a, b, storage=("/srv/vm",)), "storage") == {"/srv/vm": "different"}
    assert problems(prove(a, b, storage=("/srv/vm", "/srv")), "storage") == {"/srv/vm": "", "/srv": "different"}


def test_frames_that_do_not_arrive(a: Host, b: Host) -> None:
    wanted = ({"bridge": "br0"},)
    with faults.bridge_without_uplink(b):
        assert problems(prove(a, b, frames=wanted), "frames") == {"br0/0": "lost"}
    with faults.large_frames_lost(b, Network.GUESTS):
        assert problems(prove(a, b, frames=wanted), "frames") == {"br0/0": "too-large"}
    with faults.plugged_elsewhere(b):
        assert problems(prove(a, b, frames=wanted), "frames") == {"br0/0": "lost"}
    assert problems(prove(a, b, frames=wanted), "frames") == {"br0/0": ""}


def test_the_peer_hangs_or_is_gone(a: Host, b: Host) -> None:
    with faults.paused(b, "kvmigd"):
        assert prove(a, b, **EVERYTHING)["error"] == "PeerUnreachable"
        wait_equal("nobody listens any longer", lambda: listeners(a), "")
    with faults.stopped(b, "kvmigd.service"):
        assert prove(a, b, **EVERYTHING)["error"] == "PeerUnreachable"
    wait_equal("nobody listens any longer", lambda: listeners(a) + listeners(b), "")


def test_whoever_asked_has_died(a: Host, b: Host) -> None:
    """What a peer has opened for a host that is gone since ends by itself."""
    a.run("python3", "-I", "-c", DYING)
    wait_equal("the ports are free again", lambda: listeners(b), "")
    assert problems(prove(a, b, ports=BOTH), "ports") == {"hostb/stream": "", "hostb/disks": ""}


DYING = """
import asyncio, os, sys
sys.path.insert(0, "/usr/lib/kvmigd/site")
from kvmigd import config
from kvmigd.peer.client import PeerClient
from kvmigd.peer.identity import Credentials
from kvmigd.peer.proofwire import CatchRequest, TlsStep

async def main():
    settings = config.load()
    link = PeerClient(settings.peers["hostb"], Credentials(settings.pki))
    for purpose in ("stream", "disks"):
        await link.proof(purpose=purpose)
    await link.burst()
    for _ in range(2):
        await link.catch_frames([CatchRequest(bridge="br0", nonce="0" * 32)])
    await link.tls_step(TlsStep(role="client"))
    os._exit(0)

asyncio.run(main())
"""
