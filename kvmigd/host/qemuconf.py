"""What of libvirt's qemu.conf both hosts of a migration must agree on. Reading it blocks: it belongs in threads."""

from __future__ import annotations

from pathlib import Path

from kvmigd.host.firewall import libvirtconf
from kvmigd.host.qemuuser import QEMU_CONF, QemuUser
from kvmigd.model.hypervisor import QemuSettings


def read(path: Path = QEMU_CONF) -> QemuSettings:
    """The settings in the file, and the defaults of what it does not say.

    libvirt reads it when it starts: whoever reads it when a connection comes up sees what libvirt has seen.
    """
    try:
        values = libvirtconf.read(path)
    except OSError as error:
        return QemuSettings(problem=f"{path} cannot be read: {error.strerror or error}")
    user = QemuUser.find(path)
    folders = values.get("shared_filesystems", [])
    lock = values.get("lock_manager", "")
    return QemuSettings(
        user=user.name if user else "",
        uid=user.uid if user else -1,
        gid=user.gid if user else -1,
        dynamic_ownership=libvirtconf.number(values, "dynamic_ownership", 1) != 0,
        # `nop` is what libvirt calls having none
        lock_manager=lock if isinstance(lock, str) and lock != "nop" else "",
        shared_filesystems=tuple(folders if isinstance(folders, list) else [str(folders)]),
    )
