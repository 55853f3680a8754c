"""What disks and firmware come with beside their files: secrets, pools, servers, templates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.situations.ground import Ground, second_disk
from tests.bench.situations.situation import FAILS, WORKS, situation
from tests.lab import faults, guests
from tests.lab.guests import FOLDER
from tests.lab.host import Host

SECRET = "6dd3e4a5-1d1d-4d3e-8f4a-9a2b6a0f7c11"
_SECRET_XML = (
    f"<secret ephemeral='no' private='yes'><uuid>{SECRET}</uuid>"
    "<usage type='volume'><volume>{}</volume></usage></secret>"
)


def _define_secret(host: Host, disk: str) -> None:
    host.run("virsh", "--quiet", "secret-define", "/dev/stdin", input=_SECRET_XML.format(disk))
    host.run("virsh", "--quiet", "secret-set-value", SECRET, "--plain", "--file", "/dev/stdin", input="geheim")


@contextmanager
def _luks(ground: Ground, *hosts: Host) -> Iterator[None]:
    disk = f"{FOLDER}/secret.luks"
    create = ("qemu-img", "create", "-q", "-f", "luks", "--object", "secret,id=s,data=geheim", "-o", "key-secret=s")
    ground.a.run(*create, "-o", "iter-time=10", disk, "1M")
    ground.a.run("chown", "libvirt-qemu:kvm", disk)
    for host in hosts:
        _define_secret(host, disk)
    inside = f"<encryption format='luks'><secret type='passphrase' uuid='{SECRET}'/></encryption>"
    try:
        # the encryption belongs to the source
        xml = second_disk(disk).replace(f"<source file='{disk}'/>", f"<source file='{disk}'>{inside}</source>")
        ground.start(devices=xml)
        yield
    finally:
        for host in hosts:
            host.run("virsh", "--quiet", "secret-undefine", SECRET, check=False)


@situation(WORKS)
def secret(ground: Ground) -> Iterator[None]:
    """An encrypted disk, whose secret both hosts have."""
    with _luks(ground, ground.a, ground.b):
        yield


@situation(FAILS, "storage.secret")
def secret_missing(ground: Ground) -> Iterator[None]:
    """The secret of an encrypted disk is missing there."""
    with _luks(ground, ground.a):
        yield


@situation(WORKS, "storage.lock")
def lock_manager_differs(ground: Ground) -> Iterator[None]:
    """libvirt locks disks there (lock_manager), and not here."""
    ground.start()
    with faults.libvirt_setting(ground.b, 'lock_manager = "lockd"'):
        yield


POOL = f"<pool type='dir'><name>guests</name><target><path>{FOLDER}</path></target></pool>"


@contextmanager
def _pool(host: Host) -> Iterator[None]:
    host.run("virsh", "--quiet", "pool-define", "/dev/stdin", input=POOL)
    host.run("virsh", "--quiet", "pool-start", "guests")
    try:
        yield
    finally:
        host.run("virsh", "--quiet", "pool-destroy", "guests", check=False)
        host.run("virsh", "--quiet", "pool-undefine", "guests", check=False)


def _in_pool(ground: Ground) -> None:
    guest = ground.sector()
    guests.define(ground.a, guest)
    ground.a.run("virsh", "--quiet", "pool-refresh", "guests")
    old = f"<source file='{guest.disk}'/>"
    edits = (("<disk type='file'", "<disk type='volume'"), (old, "<source pool='guests' volume='web.raw'/>"))
    ground.start(uuid=guest.uuid, edits=edits)


@situation(WORKS)
def pool(ground: Ground) -> Iterator[None]:
    """A disk that is a volume of a storage pool, which both hosts have."""
    with _pool(ground.a), _pool(ground.b):
        _in_pool(ground)
        ground.b.run("virsh", "--quiet", "pool-refresh", "guests")
        yield


@situation(FAILS, "storage.pool", "storage.path")
def pool_missing(ground: Ground) -> Iterator[None]:
    """A disk is a volume of a storage pool, which the other host does not have."""
    with _pool(ground.a):
        _in_pool(ground)
        yield


TARGET = "iqn.2026-11.lab:truth"
_SERVE = """
truncate -s 64M /srv/lun-truth
systemctl start tgt.service
tgtadm --lld iscsi --op new --mode target --tid 7 -T "$1"
tgtadm --lld iscsi --op new --mode logicalunit --tid 7 --lun 1 -b /srv/lun-truth
tgtadm --lld iscsi --op bind --mode target --tid 7 -I ALL
"""


@contextmanager
def _lun(ground: Ground) -> Iterator[None]:
    """A guest with a second disk that is a LUN of the storage server, opened by QEMU itself."""
    store = ground.lab.store
    store.sh(_SERVE, TARGET)
    try:
        ground.start(
            devices="<disk type='network' device='disk'><driver name='qemu' type='raw' cache='none'/>"
            f"<source protocol='iscsi' name='{TARGET}/1'><host name='10.77.2.10' port='3260'/></source>"
            "<target dev='vdb' bus='virtio'/></disk>"
        )
        yield
    finally:
        store.sh("systemctl stop tgt.service; rm -f /srv/lun-truth")


@situation(WORKS)
def iscsi(ground: Ground) -> Iterator[None]:
    """A disk that is a LUN, which both hosts reach."""
    with _lun(ground):
        yield


@situation(FAILS, "storage.devices")
def iscsi_unreachable(ground: Ground) -> Iterator[None]:
    """The LUN's server refuses the other host."""
    with _lun(ground), faults.firewall_rule(ground.b, "tcp dport 3260 reject with tcp reset", hook="output"):
        yield


FIRMWARE = "/srv/firmware/code.fd"
TEMPLATE = "/srv/firmware/vars.fd"
_FIRMWARE = """
mkdir -p "${1%/*}"
# any code does for a machine that is only to be there: SeaBIOS, as large as a flash chip is to be
cp /usr/share/seabios/bios-256k.bin "$1"; truncate -s 256K "$2"
"""


@contextmanager
def _firmware(ground: Ground, nvram: str = f"{FOLDER}/web.fd") -> Iterator[None]:
    for host in (ground.a, ground.b):
        host.sh(_FIRMWARE, FIRMWARE, TEMPLATE)
    flash = (
        f"hvm</type><loader readonly='yes' type='pflash'>{FIRMWARE}</loader>"
        f"<nvram template='{TEMPLATE}'>{nvram}</nvram>"
    )
    try:
        ground.start(edits=(("hvm</type>", flash),))
        yield
    finally:
        for host in (ground.a, ground.b):
            host.run("rm", "-rf", "/srv/firmware")


@situation(WORKS)
def firmware(ground: Ground) -> Iterator[None]:
    """A guest with firmware and NVRAM of its own, on shared storage."""
    with _firmware(ground):
        yield


@situation(WORKS)
def firmware_local_nvram(ground: Ground) -> Iterator[None]:
    """A guest whose NVRAM lies in libvirt's own folder on each host."""
    with _firmware(ground, "/var/lib/libvirt/qemu/nvram/web.fd"):
        yield


@situation(FAILS, "firmware.loader", "storage.path")
def firmware_missing(ground: Ground) -> Iterator[None]:
    """The guest's firmware is missing there."""
    with _firmware(ground), faults.moved_away(ground.b, FIRMWARE):
        yield


@situation(WORKS, "firmware.nvram")
def template_missing(ground: Ground) -> Iterator[None]:
    """The template of the NVRAM is missing there, and the NVRAM is on shared storage."""
    with _firmware(ground), faults.moved_away(ground.b, TEMPLATE):
        yield


@situation(FAILS, "firmware.nvram")
def template_missing_local_nvram(ground: Ground) -> Iterator[None]:
    """The template of the NVRAM is missing there, and the NVRAM lies in libvirt's own folder."""
    with _firmware(ground, "/var/lib/libvirt/qemu/nvram/web.fd"), faults.moved_away(ground.b, TEMPLATE):
        yield
