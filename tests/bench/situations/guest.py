"""The guest itself: its state, its place there, and devices that stay behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.situations.ground import Ground
from tests.bench.situations.situation import BROKEN, FAILS, WORKS, left_out, situation
from tests.lab import guests
from tests.lab.guests import FOLDER
from tests.lab.host import Host


@situation(WORKS, "guest.state", verdicts=("degraded", "blocked"), own=True)
def paused(ground: Ground) -> Iterator[None]:
    """The guest is paused; virsh moves it as it is, kvmigd moves guests that run."""
    guest = ground.start()
    ground.a.run("virsh", "--quiet", "suspend", guest.name)
    yield


@situation(FAILS, "guest.state")
def shut_off(ground: Ground) -> Iterator[None]:
    """The guest does not run."""
    guest = ground.sector()
    guests.define(ground.a, guest)
    ground.guest = guest
    yield


@situation(FAILS, "guest.state", "guest.save")
def saved(ground: Ground) -> Iterator[None]:
    """The guest was saved to disk (managedsave) and does not run."""
    guest = ground.start()
    ground.a.run("virsh", "--quiet", "managedsave", guest.name)
    yield


@situation(BROKEN, "guest.save", verdicts=("blocked", "degraded"))
def saved_there(ground: Ground) -> Iterator[None]:
    """An old saved state of the guest lies there, which its next start there would restore over a newer disk."""
    guest = ground.sector()
    guests.create(ground.b, guest)
    ground.b.run("virsh", "--quiet", "managedsave", guest.name)
    ground.start(guest)
    yield


@situation(FAILS, "guest.name")
def name_taken(ground: Ground) -> Iterator[None]:
    """Another guest of that name is defined there."""
    guest = ground.start()
    other = dataclasses.replace(guest, uuid="6b7d8d8c-6a0f-4f5c-9a6a-5f3c1c1f0a01")
    ground.b.run("virsh", "--quiet", "define", "/dev/stdin", input=other.xml())
    yield


@situation(FAILS, "guest.uuid")
def uuid_taken(ground: Ground) -> Iterator[None]:
    """A guest of another name with that UUID is defined there."""
    guest = ground.start()
    xml = guest.xml().replace("<name>web</name>", "<name>other</name>")
    ground.b.run("virsh", "--quiet", "define", "/dev/stdin", input=xml)
    yield


@situation(FAILS, "guest.uuid", "guest.name")
def runs_there(ground: Ground) -> Iterator[None]:
    """A guest of that name and UUID runs there already, on a copy of the disk."""
    guest = ground.start()
    guests.create(ground.b, dataclasses.replace(guest, folder=f"{FOLDER}/copy"))
    yield


@situation(FAILS, "storage.path", "guest.devices", "guest.sockets")
def log_folder_missing(ground: Ground) -> Iterator[None]:
    """The folder that a serial line is logged to is missing there."""
    ground.a.run("mkdir", "-p", "/var/log/consoles")
    log = "<serial type='file'><source path='/var/log/consoles/web.log'/><target port='1'/></serial>"
    ground.start(devices=log)
    yield


@situation(FAILS, "guest.devices", "guest.display")
def screen_on_this_host(ground: Ground) -> Iterator[None]:
    """The guest's screen listens on an address that only this host has."""
    ground.start(devices=f"<graphics type='vnc' autoport='yes' listen='{ground.a.address}'/>")
    yield


@situation(FAILS, "guest.devices", "guest.share")
def share_missing(ground: Ground) -> Iterator[None]:
    """The folder that the guest shares with its host (9p) is missing there."""
    ground.a.run("mkdir", "-p", "/srv/share")
    ground.b.run("rm", "-rf", "/srv/share")
    share = "<filesystem type='mount' accessmode='mapped'><source dir='/srv/share'/><target dir='share'/></filesystem>"
    ground.start(devices=share)
    yield


@situation(WORKS, "guest.share", verdicts=("degraded", "blocked"), own=True)
def share(ground: Ground) -> Iterator[None]:
    """The guest shares a folder with its host (9p): QEMU moves it as long as it has not mounted the folder."""
    for host in (ground.a, ground.b):
        host.run("mkdir", "-p", "/srv/share")
    share = "<filesystem type='mount' accessmode='mapped'><source dir='/srv/share'/><target dir='share'/></filesystem>"
    ground.start(devices=share)
    try:
        yield
    finally:
        ground.b.run("rm", "-rf", "/srv/share")


@situation(FAILS, "guest.share", "guest.memory_share", "guest.devices")
def virtiofs(ground: Ground) -> Iterator[None]:
    """The guest shares a folder with its host (virtiofs)."""
    for host in (ground.a, ground.b):
        host.run("mkdir", "-p", "/srv/share")
    share = (
        "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/share'/><target dir='share'/></filesystem>"
    )
    memory = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking><vcpu>1</vcpu>"
    ground.start(edits=(("<vcpu>1</vcpu>", memory),), devices=share)
    yield


@situation(FAILS, "guest.devices", "guest.memory_share")
def shared_memory(ground: Ground) -> Iterator[None]:
    """The guest shares memory with others (ivshmem)."""
    shmem = "<shmem name='window'><model type='ivshmem-plain'/><size unit='M'>1</size></shmem>"
    ground.start(devices=shmem)
    yield


ARGUMENTS = (
    "<domain type='qemu'>",
    "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>",
)


def _with_arguments(ground: Ground, *words: str) -> None:
    inside = "".join(f"<qemu:arg value='{word}'/>" for word in words)
    ground.start(edits=(ARGUMENTS, ("</domain>", f"<qemu:commandline>{inside}</qemu:commandline></domain>")))


@situation(WORKS, may=("guest.arguments",))
def arguments(ground: Ground) -> Iterator[None]:
    """The guest's QEMU has arguments that libvirt knows nothing of, and that do no harm."""
    _with_arguments(ground, "-fw_cfg", "name=opt/lab,string=hello")
    yield


@situation(FAILS, "guest.arguments", verdicts=("blocked", "degraded"))
def argument_file_missing(ground: Ground) -> Iterator[None]:
    """An argument of the guest's QEMU names a file that is missing there."""
    with ground.file("/srv/ignition.json", "{}", ground.a):
        _with_arguments(ground, "-fw_cfg", "name=opt/lab,file=/srv/ignition.json")
        yield


@contextmanager
def _user(host: Host) -> Iterator[None]:
    host.run("useradd", "--system", "--no-create-home", "guestuser")
    try:
        yield
    finally:
        host.run("userdel", "guestuser", check=False)


@situation(FAILS, "guest.security", "security.model", "storage.access")
def user_missing(ground: Ground) -> Iterator[None]:
    """The guest's QEMU is to run as a user whom the other host does not know."""
    with _user(ground.a):
        label = "<seclabel type='static' model='dac' relabel='yes'><label>guestuser:libvirt-qemu</label></seclabel>"
        ground.start(edits=(("</domain>", f"{label}</domain>"),))
        try:
            yield
        finally:
            ground.clean()


left_out("host-devices", "PCI, mdev, SCSI and USB devices of the host", reason="the lab has no such devices")
left_out("vhost-user", "Interfaces of vhost-user", reason="the lab has no switch that speaks it")
