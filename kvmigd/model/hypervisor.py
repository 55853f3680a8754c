"""The hypervisor of a host: what libvirt says of itself and its guests."""

from __future__ import annotations

import msgspec

from kvmigd.model.guest import Guest
from kvmigd.model.subject import Subject


class NetworkFact(msgspec.Struct, frozen=True, kw_only=True):
    """A libvirt network."""

    name: str
    exists: bool
    active: bool = False
    bridge: str = ""
    uuid: str = ""
    autostart: bool = False
    forward: str = ""
    """nat, route, bridge, open, private, hostdev …; empty for isolated ones."""
    port_groups: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name."""
        return self.name


class PoolFact(msgspec.Struct, frozen=True, kw_only=True):
    """A libvirt storage pool."""

    name: str
    uuid: str
    active: bool
    autostart: bool = False
    kind: str = ""
    """dir, netfs, logical, iscsi, rbd …"""
    path: str = ""
    source: str = ""
    """What it is made of: `host:path`, a device, the name of a volume group or Ceph pool."""

    @property
    def key(self) -> str:
        """Its name."""
        return self.name


class SecretFact(msgspec.Struct, frozen=True, kw_only=True):
    """A libvirt secret; never its value."""

    uuid: str
    usage_type: str = ""
    usage: str = ""

    @property
    def key(self) -> str:
        """Its UUID."""
        return self.uuid


class QemuSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What libvirt's qemu.conf says, as far as both hosts must agree on it. It counts from libvirt's start on."""

    user: str = ""
    """As whom QEMU runs; empty where there is no such user."""
    uid: int = -1
    gid: int = -1
    dynamic_ownership: bool = True
    """libvirt gives images to QEMU's user when a guest starts or comes."""
    lock_manager: str = ""
    """lockd or sanlock; empty where images are locked by QEMU alone."""
    shared_filesystems: tuple[str, ...] = ()
    """Folders that libvirt is told to take for shared; a libvirt that is too old for it does not."""
    problem: str = ""
    """Why it could not be read; then nothing else here says anything."""


class HypervisorState(Subject, frozen=True, kw_only=True):
    """libvirt on this host. Versions are libvirt's numbers: 1000000a + 1000b + c."""

    uri: str = ""
    daemon: str = ""
    """libvirtd (monolithic) or virtqemud (modular); empty where it cannot be told."""
    host_id: str = ""
    host_name: str = ""
    libvirt: int = 0
    qemu: int = 0
    cpu_model: str = ""
    """The host's CPU as libvirt names it (capabilities' <model>)."""
    cpu_vendor: str = ""
    cpu_features: tuple[str, ...] = ()
    """What the host's CPU has beyond the model, sorted."""
    tsc_hz: int = 0
    tsc_scaling: bool | None = None
    """Whether the CPU can run a guest's TSC at another frequency; None where libvirt does not tell."""
    iommu: bool = False
    cells: int = 0
    """The host's NUMA nodes."""
    transports: tuple[str, ...] = ()
    """Transports of migration that libvirt offers: tcp, rdma."""
    machine_types: tuple[str, ...] = ()
    """`arch/machine`, canonical names and aliases, sorted."""
    security_models: tuple[str, ...] = ()
    """`model` with `:DOI`: selinux:0, apparmor:0, dac:0."""
    guests: tuple[Guest, ...] = ()
    networks: tuple[NetworkFact, ...] = ()
    pools: tuple[PoolFact, ...] = ()
    secrets: tuple[SecretFact, ...] = ()
    filters: tuple[str, ...] = ()
    """Names of network filters."""
    settings: QemuSettings = QemuSettings(problem="not read")
    missing: tuple[str, ...] = ()
    """`part: why`: what of it libvirt could not tell, and so is empty here."""
