"""Storage: missing, other, hanging, not to be written, or what libvirt does not move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.situations.ground import CDROM, Ground, second_disk
from tests.bench.situations.harmless import overlay
from tests.bench.situations.situation import BROKEN, FAILS, WORKS, left_out, situation
from tests.lab import faults, guests
from tests.lab.guests import FOLDER
from tests.lab.host import Host
from tests.lab.network import STORE
from tests.lab.roots import MOUNTPOINT

LOCAL = "/var/lib/libvirt/images"
OTHER = ("storage.same", "storage.mount", "storage.path")


@contextmanager
def copied_over(
    host: Host, guest: guests.Guest, source: str = "tmpfs", kind: str = "tmpfs", options: str = "rw"
) -> Iterator[None]:
    """Mount other storage where the guest's disk is, with a copy of all there was."""
    host.run("rm", "-rf", "/run/copy")
    host.run("cp", "-a", FOLDER, "/run/copy")
    with faults.mount_added(host, FOLDER, source=source, kind=kind, options=options):
        host.sh('cp -a /run/copy/. "$1"', FOLDER)
        yield
    host.run("rm", "-rf", "/run/copy")


@situation(FAILS, *OTHER)
def disk_missing(ground: Ground) -> Iterator[None]:
    """The disk is missing there: an empty file system hides it."""
    ground.start()
    with faults.mount_added(ground.b, FOLDER):
        yield


@situation(FAILS, "storage.path")
def mount_missing(ground: Ground) -> Iterator[None]:
    """The storage is not mounted there."""
    ground.start()
    with faults.mount_removed(ground.b, MOUNTPOINT):
        yield


@situation(FAILS, "storage.path")
def backing_missing(ground: Ground) -> Iterator[None]:
    """The backing file of a disk is missing there."""
    with overlay(ground, "/srv/base/base.raw"), faults.moved_away(ground.b, "/srv/base/base.raw"):
        yield


@situation(FAILS, "storage.path")
def iso_missing(ground: Ground) -> Iterator[None]:
    """An ISO image is missing there."""
    with ground.file("/srv/iso/install.iso", b"CD001" * 1000, ground.a):
        ground.start(devices=CDROM.format(path="/srv/iso/install.iso"))
        yield


@situation(BROKEN, "storage.same", "storage.local", "storage.path")
def iso_other(ground: Ground) -> Iterator[None]:
    """Another ISO image is in its place there."""
    path = "/srv/iso/install.iso"
    with ground.file(path, b"CD001" * 1000, ground.a), ground.file(path, b"CD002" * 2000, ground.b):
        ground.start(devices=CDROM.format(path=path))
        yield


@situation(WORKS, may=("storage.same", "storage.local", "storage.shared"))
def iso_copied(ground: Ground) -> Iterator[None]:
    """The same ISO image lies on each host's own disk."""
    path = "/srv/iso/install.iso"
    with ground.file(path, b"CD001" * 1000):
        ground.start(devices=CDROM.format(path=path))
        yield


@situation(FAILS, "storage.path")
def kernel_missing(ground: Ground) -> Iterator[None]:
    """The kernel that the guest boots is missing there."""
    path = "/srv/boot/vmlinuz"
    ground.a.sh('mkdir -p "${2%/*}"; cp "$1" "$2"; chmod 644 "$2"', f"{MOUNTPOINT}/boot/vmlinuz", path)
    try:
        ground.start(edits=(("hvm</type>", f"hvm</type><kernel>{path}</kernel>"),), kind=guests.Kind.LINUX, memory=96)
        yield
    finally:
        ground.a.run("rm", "-f", path)


@situation(BROKEN, "storage.same", "storage.mount")
def other_storage(ground: Ground) -> Iterator[None]:
    """Other storage is mounted in its place there, with a copy of the disk."""
    guest = ground.linux()
    with copied_over(ground.b, guest):
        yield


@situation(BROKEN, "storage.same", "storage.mount")
def other_folder(ground: Ground) -> Iterator[None]:
    """Another folder of the same storage is mounted in its place there, with a copy of the disk."""
    guest = ground.linux()
    ground.b.run("mkdir", "-p", f"{MOUNTPOINT}/elsewhere")
    with copied_over(ground.b, guest, f"{MOUNTPOINT}/elsewhere", "none", "bind"):
        yield
    ground.b.run("rm", "-rf", f"{MOUNTPOINT}/elsewhere")


@situation(BROKEN, "storage.same", "storage.mount")
def other_volume(ground: Ground) -> Iterator[None]:
    """Another volume of the same server is mounted in its place there, with a copy of the disk."""
    guest = ground.linux()
    store = ground.lab.store
    store.sh(
        f"gluster --mode=script volume create old {STORE}:/srv/brick/old force\ngluster --mode=script volume start old"
    )
    try:
        with copied_over(ground.b, guest, f"{STORE}:/old", "glusterfs"):
            yield
    finally:
        store.sh(
            "gluster --mode=script volume stop old force; gluster --mode=script volume delete old\n"
            "rm -rf /srv/brick/old",
            check=False,
        )


@situation(BROKEN, "storage.same", "storage.mount")
def other_file(ground: Ground) -> Iterator[None]:
    """A copy of the disk is mounted over the disk there: one file of all."""
    guest = ground.linux()
    ground.b.sh('cp -a "$1" /var/tmp/copy.raw; mount --bind /var/tmp/copy.raw "$1"', guest.disk)
    try:
        yield
    finally:
        ground.b.sh('umount --lazy "$1"; rm -f /var/tmp/copy.raw', guest.disk, check=False)


@situation(WORKS, "storage.persistent")
def mounted_by_hand(ground: Ground) -> Iterator[None]:
    """The storage was mounted by hand there: no line in its fstab."""
    ground.start()
    text = "".join(line for line in ground.b.read("/etc/fstab").splitlines(keepends=True) if MOUNTPOINT not in line)
    with faults.file_changed(ground.b, "/etc/fstab", text):
        yield


@situation(FAILS, "storage.hangs")
def storage_hangs(ground: Ground) -> Iterator[None]:
    """The storage hangs there."""
    ground.start()
    (client,) = ground.b.run("pgrep", "-x", "glusterfs").stdout.split()
    with faults.paused(ground.b, int(client)):
        yield


@situation(FAILS, "storage.readonly", "storage.access")
def read_only_there(ground: Ground) -> Iterator[None]:
    """The storage is mounted read-only there."""
    ground.start()
    with faults.mount_changed(ground.b, MOUNTPOINT, "ro"):
        yield


@situation(FAILS, "storage.access", "storage.path")
def folder_closed_there(ground: Ground) -> Iterator[None]:
    """QEMU's user may not enter a folder on the way to the disk there."""
    ground.start()
    with faults.mode_changed(ground.b, "/srv", "0700"):
        yield


@contextmanager
def _other_user(ground: Ground, setting: str) -> Iterator[None]:
    with (
        faults.group_changed(ground.b, faults.QEMU_SERVER[1], "nogroup"),
        faults.group_changed(ground.b, faults.QEMU_CLIENT[1], "nogroup"),
        faults.libvirt_setting(ground.b, f'user = "nobody"\ngroup = "nogroup"\n{setting}'),
    ):
        yield


@situation(FAILS, "storage.access")
def other_user_there(ground: Ground) -> Iterator[None]:
    """QEMU runs as another user there, to whom the disk does not belong, and libvirt does not give it to him."""
    ground.start()
    with _other_user(ground, "dynamic_ownership = 0"):
        yield


@situation(WORKS, may=("storage.access", "security.model"))
def other_user_owns_there(ground: Ground) -> Iterator[None]:
    """QEMU runs as another user there, and libvirt gives the disk to him."""
    ground.start()
    with _other_user(ground, "dynamic_ownership = 1"):
        yield


@situation(FAILS, "tls.material", "tls.stream", "storage.access")
def other_user_without_key(ground: Ground) -> Iterator[None]:
    """QEMU runs as another user there, who may not read the key of its stream."""
    ground.start()
    with faults.libvirt_setting(ground.b, 'user = "nobody"\ngroup = "nogroup"'):
        yield


@situation(FAILS, "storage.shared", "storage.local")
def disk_local(ground: Ground) -> Iterator[None]:
    """The disk lies on each host's own storage."""
    path = f"{LOCAL}/web.raw"
    try:
        ground.b.sh('truncate -s 1M "$1"; chown libvirt-qemu:kvm "$1"', path)
        ground.start(folder=LOCAL)
        yield
    finally:
        for host in (ground.a, ground.b):
            host.run("rm", "-f", path)


@situation(FAILS, "storage.shared", "storage.local", "storage.path")
def disk_local_second(ground: Ground) -> Iterator[None]:
    """A second disk lies on the host's own storage, and is missing there."""
    path = f"{LOCAL}/data.raw"
    try:
        ground.a.sh('truncate -s 1M "$1"; chown libvirt-qemu:kvm "$1"', path)
        ground.start(devices=second_disk(path))
        yield
    finally:
        ground.a.run("rm", "-f", path)


@situation(FAILS, "storage.snapshots")
def snapshot(ground: Ground) -> Iterator[None]:
    """The guest has a snapshot, which libvirt keeps in mind."""
    guest = ground.start()
    spec = f"vda,snapshot=external,file={FOLDER}/web-snapshot.qcow2"
    ground.a.run("virsh", "--quiet", "snapshot-create-as", guest.name, "s1", "--disk-only", "--diskspec", spec)
    yield


@situation(FAILS, "storage.job")
def block_job(ground: Ground) -> Iterator[None]:
    """A block job is running on a disk."""
    guest = ground.start()
    copy = f"{FOLDER}/copy.raw"
    ground.a.run("virsh", "--quiet", "blockcopy", guest.name, "vda", copy, "--format", "raw", "--transient-job")
    yield


@situation(FAILS, "storage.transient")
def transient_disk(ground: Ground) -> Iterator[None]:
    """A disk that forgets what was written to it."""
    ground.a.sh('truncate -s 1M "$1"; chown libvirt-qemu:kvm "$1"', f"{FOLDER}/second.raw")
    ground.start(devices=second_disk(f"{FOLDER}/second.raw", inside="<transient/>"))
    yield


left_out("nfs-root-squash", "NFS that takes root for nobody", reason="the lab's kernel has no NFS server")
left_out("multipath", "Paths to a LUN are down there", reason="the lab's kernel has no device-mapper, no FC, no iSCSI")
left_out("cluster-quorum", "GFS2 or OCFS2 without quorum there", reason="the lab's kernel has neither of them")
left_out("tpm", "A TPM whose state stays behind", reason="the lab's hosts have no swtpm")
left_out("selinux", "Labels of SELinux or AppArmor differ", reason="the lab's kernel has neither of them")
