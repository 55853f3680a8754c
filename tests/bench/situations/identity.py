"""Who the hosts are to each other: libvirt, names, UUIDs, certificates, kvmigd itself."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.bench.situations.ground import Ground
from tests.bench.situations.situation import FAILS, WORKS, situation
from tests.lab import daemon, faults
from tests.lab.faults import LIBVIRT_CLIENT, LIBVIRT_SERVER, LIBVIRTD_CONF, QEMU_CLIENT, QEMU_SERVER
from tests.lab.host import Host, wait_until

SOCKETS = (
    *("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket"),
    *("libvirtd-tls.socket", "libvirtd-tcp.socket"),
)


@situation(FAILS, "hypervisor.alive")
def libvirt_stopped(ground: Ground) -> Iterator[None]:
    """libvirt does not run there."""
    ground.start()
    with faults.stopped(ground.b, "libvirtd.service", *SOCKETS):
        yield


@situation(FAILS, "hypervisor.alive", "hypervisor.remote", "peer.answers", verdicts=("blocked", "unknown"))
def libvirt_hangs(ground: Ground) -> Iterator[None]:
    """libvirtd hangs there."""
    # what the other host cannot ask of it is unknown, and whose silence that is is told
    ground.start()
    with faults.paused(ground.b, "libvirtd.service"):
        yield


@situation(FAILS, "host.uuid")
def same_host_uuid(ground: Ground) -> Iterator[None]:
    """Both hosts have the same UUID."""
    ground.start()
    uuid = daemon.properties(ground.a, daemon.ROOT, daemon.MANAGER)["HostId"]
    setting = f'host_uuid_source = "smbios"\nhost_uuid = "{uuid}"'
    with faults.libvirt_setting(ground.b, setting, path=LIBVIRTD_CONF):
        yield


def _without(host: Host, name: str) -> str:
    return "".join(line for line in host.read("/etc/hosts").splitlines(keepends=True) if name not in line)


@situation(FAILS, "host.name", "host.resolve")
def name_unknown_here(ground: Ground) -> Iterator[None]:
    """The other host's name does not resolve here."""
    ground.start()
    with faults.file_changed(ground.a, "/etc/hosts", _without(ground.a, ground.b.name)):
        yield


@situation(WORKS, "host.name", "host.resolve", back=True)
def name_unknown_there(ground: Ground) -> Iterator[None]:
    """This host's name does not resolve there: the guest cannot come back."""
    ground.start()
    with faults.file_changed(ground.b, "/etc/hosts", _without(ground.b, ground.a.name)):
        yield


@situation(FAILS, "host.name", "host.resolve", verdicts=("blocked", "degraded"))
def name_is_localhost_there(ground: Ground) -> Iterator[None]:
    """The other host's name is localhost: that is what it calls itself."""
    # kvmigd may name an address of its own
    ground.start()
    b = ground.b
    b.run("hostname", "localhost.localdomain")
    try:
        faults.restart_libvirt(b)
        yield
    finally:
        b.run("hostname", b.name)
        faults.restart_libvirt(b)


@situation(WORKS, may=("host.name", "host.resolve"))
def name_resolves_to_localhost_there(ground: Ground) -> Iterator[None]:
    """The other host's name resolves to 127.0.1.1 there, as Debian's installer has it."""
    ground.start()
    with faults.file_changed(ground.b, "/etc/hosts", "127.0.1.1 hostb\n" + _without(ground.b, "hostb")):
        faults.restart_libvirt(ground.b)
        yield
    faults.restart_libvirt(ground.b)


@situation(FAILS, "host.name", "host.resolve")
def name_resolves_elsewhere_here(ground: Ground) -> Iterator[None]:
    """The other host's name resolves to an address here that nobody has."""
    ground.start()
    text = _without(ground.a, "hostb") + "10.77.1.77 hostb\n"
    with faults.file_changed(ground.a, "/etc/hosts", text):
        yield


TLS = ("tls.material", "hypervisor.remote", "hypervisor.alive")
# kvmigd shows libvirt's certificate, too: where that is none, the daemons may have lost each other
LOST = ("blocked", "unknown")


@situation(FAILS, *TLS, "peer.answers", verdicts=LOST)
def certificate_expired(ground: Ground) -> Iterator[None]:
    """libvirt's certificate has expired there, while libvirtd was running."""
    ground.start()
    seconds = 4  # it would not start with one that has expired
    with faults.certificate_replaced(ground.b, LIBVIRT_SERVER, authority=ground.a, days=seconds / 86400):
        faults.restart_libvirt(ground.b)
        time.sleep(seconds)
        yield
    faults.restart_libvirt(ground.b)


@situation(FAILS, *TLS, verdicts=LOST)
def certificate_of_another_name(ground: Ground) -> Iterator[None]:
    """libvirt's certificate there is for another name."""
    ground.start()
    with faults.certificate_replaced(
        ground.b, LIBVIRT_SERVER, authority=ground.a, name="mail.example", address="10.99.99.99"
    ):
        faults.restart_libvirt(ground.b)
        yield
    faults.restart_libvirt(ground.b)


@situation(FAILS, *TLS, "peer.answers", verdicts=LOST)
def ca_differs_here(ground: Ground) -> Iterator[None]:
    """This host trusts another CA than the one that the other host's certificate is of."""
    ground.start()
    with faults.file_changed(ground.a, "/etc/pki/CA/cacert.pem", faults.other_ca()):
        yield


@situation(FAILS, *TLS, verdicts=LOST)
def certificate_missing(ground: Ground) -> Iterator[None]:
    """libvirt's certificate is missing there, and libvirtd does not start without it."""
    ground.start()
    b = ground.b
    with faults.file_changed(b, LIBVIRT_SERVER[0], None):
        faults.restart_libvirt(b, check=False)
        yield
    faults.restart_libvirt(b)


@situation(FAILS, *TLS, "peer.answers", verdicts=LOST)
def client_certificate_missing(ground: Ground) -> Iterator[None]:
    """The certificate by which libvirt here connects to libvirt there is missing."""
    ground.start()
    with faults.file_changed(ground.a, LIBVIRT_CLIENT[0], None):
        yield


@situation(FAILS, "tls.material", "tls.stream")
def stream_certificate_missing(ground: Ground) -> Iterator[None]:
    """The certificate of QEMU's stream is missing there."""
    ground.start()
    with faults.file_changed(ground.b, QEMU_SERVER[0], None):
        yield


@situation(WORKS, "tls.material", "tls.stream", own=True, tls=False)
def stream_certificate_missing_without_tls(ground: Ground) -> Iterator[None]:
    """The certificate of QEMU's stream is missing there; virsh does not encrypt the stream, kvmigd would."""
    ground.start()
    with faults.file_changed(ground.b, QEMU_SERVER[0], None):
        yield


@situation(FAILS, "tls.material", "tls.stream")
def stream_certificate_missing_here(ground: Ground) -> Iterator[None]:
    """The CA of QEMU's stream is missing here."""
    ground.start()
    with faults.file_changed(ground.a, "/etc/pki/qemu/ca-cert.pem", None):
        yield


@situation(FAILS, "tls.material", "tls.stream")
def stream_certificate_expired(ground: Ground) -> Iterator[None]:
    """The certificate of QEMU's stream has expired there."""
    ground.start()
    with faults.certificate_replaced(ground.b, QEMU_SERVER, authority=ground.a, days=-1):
        yield


@situation(FAILS, "tls.material", "tls.stream")
def stream_certificate_of_another_name(ground: Ground) -> Iterator[None]:
    """The certificate of QEMU's stream there is for another name."""
    ground.start()
    with faults.certificate_replaced(
        ground.b, QEMU_SERVER, authority=ground.a, name="mail.example", address="10.99.99.99"
    ):
        yield


@situation(FAILS, "tls.material", "tls.stream")
def stream_certificate_of_another_ca(ground: Ground) -> Iterator[None]:
    """The certificate of QEMU's stream there is of another CA."""
    ground.start()
    with faults.certificate_replaced(ground.b, QEMU_SERVER, authority=None):
        yield


@situation(FAILS, "tls.material", "tls.stream")
def stream_key_unreadable(ground: Ground) -> Iterator[None]:
    """QEMU's user may not read the key of its stream there."""
    ground.start()
    with faults.mode_changed(ground.b, QEMU_SERVER[1], "0600"):
        yield


@situation(WORKS, "tls.material", "tls.stream", back=True)
def client_stream_certificate_expired_there(ground: Ground) -> Iterator[None]:
    """The certificate by which QEMU there would send has expired: the guest cannot come back."""
    ground.start()
    with faults.certificate_replaced(ground.b, QEMU_CLIENT, authority=ground.a, days=-1):
        yield


@situation(WORKS, "host.accepting", own=True)
def maintenance(ground: Ground) -> Iterator[None]:
    """The other host is in maintenance, of which virsh knows nothing."""
    ground.start()
    ground.b.run("kvmigctl", "maintenance", "on")
    try:
        yield
    finally:
        ground.b.run("kvmigctl", "maintenance", "off")


@situation(WORKS, "peer.answers", "peer.connected", verdicts=("unknown",), own=True)
def kvmigd_stopped(ground: Ground) -> Iterator[None]:
    """kvmigd does not run there: nobody can say what the other host has."""
    ground.start()
    with faults.stopped(ground.b, "kvmigd.service"):
        yield
    daemon.wait_ready(ground.b)


@situation(WORKS, "memory.fits", own=True)
def reserve(ground: Ground) -> Iterator[None]:
    """The other host keeps its memory for itself (memory_reserve), of which virsh knows nothing."""
    ground.start()
    b = ground.b
    total = int(b.sh("awk '/MemTotal/ {printf \"%.0f\", $2 * 1024}' /proc/meminfo"))
    text = f'name = "hostb"\n[migration]\nmemory_reserve = {total}\n'
    with faults.file_changed(b, "/etc/kvmigd/kvmigd.toml", text):
        b.run("systemctl", "reload", "kvmigd.service")
        yield
    b.run("systemctl", "reload", "kvmigd.service")
    wait_until("the daemon is ready", lambda: daemon.state(b) == "ready")
