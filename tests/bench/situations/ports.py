"""Ports and wires between the hosts: dropped, refused, taken, one way only."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.situations.ground import Ground
from tests.bench.situations.situation import FAILS, WORKS, situation
from tests.lab import faults
from tests.lab.faults import Direction
from tests.lab.network import Network

STREAMS = "49152-49215"


@situation(FAILS, "port.open")
def streams_dropped(ground: Ground) -> Iterator[None]:
    """The firewall there drops what goes to the migration ports."""
    ground.start()
    with faults.block_port(ground.b, STREAMS):
        yield


@situation(FAILS, "port.open")
def streams_rejected(ground: Ground) -> Iterator[None]:
    """The firewall there refuses what goes to the migration ports."""
    ground.start()
    with faults.reject_port(ground.b, STREAMS):
        yield


@situation(FAILS, "port.open")
def streams_dropped_on_the_way(ground: Ground) -> Iterator[None]:
    """A firewall between the hosts drops what goes to the migration ports."""
    ground.start()
    with faults.drop_one_way(ground.b, Network.MIGRATION, Direction.IN, match=f"tcp dport {STREAMS}"):
        yield


@situation(FAILS, "port.open")
def streams_dropped_here(ground: Ground) -> Iterator[None]:
    """The firewall here drops what goes out to the migration ports."""
    ground.start()
    with faults.firewall_rule(ground.a, f"tcp dport {STREAMS} drop", hook="output"):
        yield


@situation(FAILS, "port.open", "port.free", verdicts=("blocked", "degraded"))
def range_closed(ground: Ground) -> Iterator[None]:
    """qemu.conf there has migrations come to other ports, and the firewall there is open for the usual ones only."""
    # kvmigd may name a port of its own, but virsh then cannot
    ground.start()
    with (
        faults.libvirt_setting(ground.b, "migration_port_min = 50000\nmigration_port_max = 50020"),
        faults.block_port(ground.b, "50000-50020"),
    ):
        yield


@situation(FAILS, "port.open", "host.name", "host.resolve", verdicts=("blocked", "degraded"))
def called_elsewhere(ground: Ground) -> Iterator[None]:
    """qemu.conf there has streams sent to an address that nobody has (migration_host)."""
    # kvmigd may name an address of its own
    ground.start()
    with faults.libvirt_setting(ground.b, 'migration_host = "10.77.1.77"'):
        yield


@situation(FAILS, "port.free", "port.open")
def all_ports_taken(ground: Ground) -> Iterator[None]:
    """All migration ports there are taken by another program."""
    ground.start()
    with faults.ports_taken(ground.b, 49152, 49215):
        yield


@situation(WORKS, "port.open", back=True)
def way_back_closed(ground: Ground) -> Iterator[None]:
    """The firewall here drops what comes to the migration ports: the guest cannot come back."""
    ground.start()
    with faults.block_port(ground.a, STREAMS):
        yield


@situation(FAILS, "port.open", "network.mtu")
def large_packets_lost(ground: Ground) -> Iterator[None]:
    """The migration network loses large packets on their way there."""
    ground.start()
    with faults.large_frames_lost(ground.b, Network.MIGRATION):
        yield


@situation(FAILS, "hypervisor.remote", "port.open")
def libvirt_dropped(ground: Ground) -> Iterator[None]:
    """The firewall there drops what goes to libvirt's port."""
    ground.start()
    with faults.block_port(ground.b, 16514):
        yield


@situation(FAILS, "hypervisor.remote", "port.open")
def libvirt_rejected(ground: Ground) -> Iterator[None]:
    """The firewall there refuses what goes to libvirt's port."""
    ground.start()
    with faults.reject_port(ground.b, 16514):
        yield


@situation(FAILS, "hypervisor.remote", "port.open")
def libvirt_without_tls_socket(ground: Ground) -> Iterator[None]:
    """libvirt there has no TLS socket."""
    ground.start()
    b = ground.b
    # whoever asks for libvirt meanwhile starts it, with the sockets that there are
    b.sh(
        "systemctl --quiet --runtime mask libvirtd-tls.socket\n"
        "for n in $(seq 20); do systemctl stop libvirtd-tls.socket libvirtd.service; systemctl start libvirtd.service\n"
        "ss --no-header --tcp --listening --numeric 'sport = :16514' | grep -q . || exit 0; done; exit 1"
    )
    try:
        yield
    finally:
        # While it runs no socket of its can be started, and kvmigd would start it at once.
        b.sh(
            "systemctl --quiet --runtime unmask libvirtd-tls.socket\n"
            "systemctl reset-failed kvmigd.service libvirtd.service libvirtd-tls.socket\n"
            "systemctl stop kvmigd.service libvirtd.service\n"
            "systemctl start libvirtd-tls.socket\n"
            "systemctl start libvirtd.service kvmigd.service"
        )
