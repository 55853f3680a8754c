"""Peers: who is trusted, and when one is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab import daemon, faults, guests
from tests.lab.host import Host, wait_equal, wait_for

# So many restarts in a row are more than systemd takes for healthy.
RESTART_WITHOUT_CACHE = """\
rm -f /usr/lib/kvmigd/site/kvmigd/peer/__pycache__/wire.*
systemctl reset-failed kvmigd.service
systemctl restart kvmigd.service
"""


def problem(host: Host, peer: str) -> str:
    """What a host says is wrong with a peer."""
    return str(daemon.peer(host, peer).get("Problem", ""))


def wait_problem(host: Host, peer: str, text: str) -> None:
    """Wait until a host says that."""
    wait_for(f"{host.name} says of {peer}: {text}", lambda: problem(host, peer), lambda found: text in found)


@contextmanager
def other_pki(host: Host) -> Iterator[None]:
    """Whatever happens to a host's PKI inside, it is as before afterwards."""
    host.run("cp", "-a", "/etc/pki", "/var/tmp/pki-before")
    try:
        yield
    finally:
        host.sh("rm -rf /etc/pki /root/other; mv /var/tmp/pki-before /etc/pki")
        daemon.restart(host)


def copy(source: Host, destination: Host, path: str) -> None:
    """A binary file from one host to another."""
    encoded = source.run("base64", path).stdout
    destination.run("sh", "-c", 'base64 -d > "$1"', "sh", path, input=encoded)


def test_peer_objects(a: Host, b: Host) -> None:
    own = daemon.properties(b, daemon.ROOT, daemon.MANAGER)["HostId"]
    peer = wait_for("hosta has heard", lambda: daemon.peer(a, "hostb"), lambda known: known.get("HostId") == own)
    assert (peer["Name"], peer["Address"], peer["State"], peer["Accepting"]) == ("hostb", b.address, "connected", True)
    assert peer["MemoryFree"] > 0
    assert peer["LastSeenUSec"] > 0
    assert peer["RoundTripUSec"] > 0


def test_a_daemon_that_dies_a_link_that_is_cut_and_one_that_hangs_are_noticed(a: Host, b: Host) -> None:
    daemon.wait_connected(a, b)
    with faults.killed(b, "kvmigd.service"):
        pass
    daemon.wait_connected(a, b)
    for fault in (faults.cut(b), faults.paused(b, "kvmigd.service"), faults.stopped(b, "kvmigd.service")):
        with fault:
            daemon.wait_peer_state(a, "hostb", "unreachable")
        daemon.wait_connected(a, b)


def test_no_certificate(a: Host, b: Host) -> None:
    with other_pki(b):
        b.run("rm", "/etc/pki/libvirt/servercert.pem", "/etc/pki/libvirt/clientcert.pem")
        daemon.restart(b)
        wait_problem(b, "hosta", "/etc/pki/libvirt/clientcert.pem")
        wait_for("it says so", lambda: b.journal("kvmigd.service"), lambda text: "servercert.pem" in text)
        wait_problem(a, "hostb", "cannot be reached")
    daemon.wait_connected(a, b)


def test_a_certificate_that_has_expired(a: Host, b: Host) -> None:
    with other_pki(b):
        # the CA signs a certificate that was valid last year
        script = """
import sys; sys.path.insert(0, "/usr/lib/kvmigd/site")
from datetime import UTC, datetime, timedelta
from pathlib import Path
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from kvmigd.pki import Authority, pem_of_certificate
key = load_pem_private_key(Path("/etc/pki/libvirt/private/serverkey.pem").read_bytes(), password=None)
old = Authority.load(Path("/root/pki")).sign("hostb", key=key, alternative=[x509.DNSName("hostb")], days=10,
    begins=datetime.now(UTC) - timedelta(days=400))
for name in ("server", "client"):
    Path(f"/etc/pki/libvirt/{name}cert.pem").write_bytes(pem_of_certificate(old))
"""
        b.run("mkdir", "-p", "/root/pki")
        for name in a.run("ls", "/root/pki").stdout.split():
            copy(a, b, f"/root/pki/{name}")
        b.run("python3", "-I", "-c", script)
        daemon.restart(b)
        wait_problem(b, "hosta", "has expired")
    daemon.wait_connected(a, b)


def test_a_certificate_of_another_ca(a: Host, b: Host) -> None:
    with other_pki(b):
        b.run("kvmigctl", "pki", "init", "--directory", "/root/other")
        b.run("kvmigctl", "pki", "issue", "hostb", "--directory", "/root/other", "--output", "/root/other/b.tar")
        refused = b.run("kvmigctl", "pki", "install", "/root/other/b.tar", check=False)
        assert refused.returncode == 1
        assert "--force" in refused.stderr
        b.run("kvmigctl", "pki", "install", "--force", "/root/other/b.tar")
        daemon.restart(b)
        wait_for(
            "it is not trusted",
            lambda: daemon.peer(a, "hostb"),
            lambda known: (
                known.get("State") == "not-trusted" and ("CA" in known["Problem"] or "issued" in known["Problem"])
            ),
        )
        daemon.wait_peer_state(b, "hosta", "not-trusted")
    daemon.wait_connected(a, b)


def test_the_right_ca_but_another_hosts_name(a: Host, b: Host) -> None:
    web = guests.create(a, guests.boot_sector("web", memory=64))
    with other_pki(b):
        a.run("kvmigctl", "pki", "issue", "hostx", "--directory", "/root/pki", "--output", "/root/x.tar")
        copy(a, b, "/root/x.tar")
        b.run("kvmigctl", "pki", "install", "/root/x.tar")
        daemon.restart(b)
        wait_problem(a, "hostb", "another name than hostb")
        daemon.wait_peer_state(a, "hostb", "not-trusted")
        wait_problem(b, "hosta", "hostx")
        assert "another name than hostb" in daemon.unknown(a, web.name, "hostb")
    daemon.wait_connected(a, b)


def test_another_protocol_version(a: Host, b: Host) -> None:
    web = guests.create(a, guests.boot_sector("web", memory=64))
    wire = "/usr/lib/kvmigd/site/kvmigd/peer/wire.py"
    changed = b.read(wire).replace("PROTOCOLS: tuple[int, ...] = (3,)", "PROTOCOLS: tuple[int, ...] = (7,)")
    assert "(7,)" in changed
    try:
        with faults.file_changed(b, wire, changed):
            b.sh(RESTART_WITHOUT_CACHE)
            daemon.wait_peer_state(a, "hostb", "incompatible")
            assert "protocol 7" in problem(a, "hostb")
            assert "protocol 3" in problem(a, "hostb")
            assert "protocol 7" in daemon.unknown(a, web.name, "hostb")
    finally:  # also for the tests after one that fails here
        b.sh(RESTART_WITHOUT_CACHE)
    daemon.wait_connected(a, b)


def test_a_peer_comes_and_goes_with_a_reload(a: Host, b: Host) -> None:
    with faults.file_changed(a, "/etc/kvmigd/peers.d/hostz.toml", 'name = "hostz"\naddress = "10.77.1.99"\n'):
        a.run("systemctl", "reload", "kvmigd.service")
        wait_equal("the peer is there", lambda: "hostz" in a.run("kvmigctl", "peers").stdout, expected=True)
    daemon.call(a, daemon.ROOT, daemon.MANAGER, "Reload")
    assert "hostz" not in a.run("kvmigctl", "peers").stdout
    assert daemon.peer_state(a, "hostb") == "connected", "the other peer was not touched"


def test_curl_with_the_right_certificate_may_look_and_without_may_not(a: Host, b: Host) -> None:
    script = """
import json, ssl, sys, urllib.request
context = ssl.create_default_context(cafile="/etc/pki/CA/cacert.pem")
if sys.argv[1] == "yes":
    context.load_cert_chain("/etc/pki/libvirt/clientcert.pem", "/etc/pki/libvirt/private/clientkey.pem")
print(urllib.request.urlopen("https://hostb:16515/version", context=context, timeout=30).read().decode())
"""
    assert '"protocols":[3]' in a.run("python3", "-I", "-c", script, "yes").stdout
    assert a.run("python3", "-I", "-c", script, "no", check=False).returncode != 0
