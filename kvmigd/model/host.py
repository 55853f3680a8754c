"""A host as its peers see it, and what one host finds when it looks at one guest."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from kvmigd.model.storage import PathFact
from kvmigd.model.system import Software


class CertificateFact(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate or key file of the host's PKI; `problem` is empty when it can be used."""

    path: str
    purpose: str
    problem: str = ""
    not_after: str = ""
    """RFC 3339, UTC."""
    names: tuple[str, ...] = ()

    @property
    def is_for_stream(self) -> bool:
        """QEMU's, for the migration stream; without it guests can still move, unencrypted."""
        return self.purpose.startswith("migration stream")


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a host says of itself. Sizes are bytes."""

    name: str
    host_id: str = ""
    """libvirt's host UUID; empty while libvirt does not answer."""
    hypervisor_alive: bool
    hypervisor_problem: str = ""
    accepting: bool
    not_accepting_reason: str = ""
    memory_total: int = 0
    memory_free: int = 0
    """MemAvailable less what is promised to incoming guests and less the configured reserve."""
    software: Software
    addresses: tuple[str, ...] = ()
    """What the host's own name resolves to on the host itself."""
    certificates: tuple[CertificateFact, ...] = ()
    stream_tls: bool = False
    """The PKI for QEMU's migration stream is there, so streams to and from this host are encrypted."""


class CpuFact(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the guest's CPU can run on the host (virConnectCompareHypervisorCPU)."""

    compatible: bool
    problem: str = ""


class NameFact(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a guest's name or UUID on a host; empty where nobody does."""

    uuid_of_name: str = ""
    name_of_uuid: str = ""
    uuid_is_active: bool = False
    uuid_has_save: bool = False
    """The guest with that UUID is shut off, and libvirt would start it from a saved image (virsh managedsave)."""


class ResolvedName(msgspec.Struct, frozen=True, kw_only=True):
    """What the other host's name resolves to here."""

    name: str
    addresses: tuple[str, ...] = ()
    problem: str = ""


class RemoteCause(StrEnum):
    """Why libvirt on the other host cannot be reached: what decides how it is mended."""

    NONE = ""
    UNREACHED = "unreached"
    """No connection comes about, or one without TLS where it must be."""
    MUTE = "mute"
    """The connection stands, and libvirt does not speak, or ends it."""
    THEIRS = "theirs"
    """The certificate there is not taken here."""
    OURS = "ours"
    """The certificate of this host is not taken there."""


class RemoteFact(msgspec.Struct, frozen=True, kw_only=True):
    """Whether libvirt on the other host can be reached by `uri`; `problem` is empty when it can."""

    uri: str
    problem: str = ""
    """A phrase."""
    cause: RemoteCause = RemoteCause.NONE


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one host says of one guest that runs there or shall come there, when it is asked."""

    guest: str
    """Its UUID."""
    paths: tuple[PathFact, ...] = ()
    """Every path that the guest needs, images with the chains below them."""
    machine_problem: str = ""
    """Why its machine type, emulator or domain type cannot be had, in libvirt's words; empty if they can."""
    cpu: CpuFact | None = None
    """None where libvirt was not asked, because it does not answer."""
    names: NameFact = NameFact()
    absent: tuple[str, ...] = ()
    """What of the guest's devices, sockets and shared folders is not there: paths, and `usb:vendor:product`; sorted."""
    unreached: tuple[str, ...] = ()
    """Servers of the guest's network disks to which no connection is made, `host:port` or a socket's path; sorted."""
    taken_usec: int = 0
    """When it looked, wall clock, microseconds since 1970."""


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """What one host finds when it looks at guests."""

    facts: HostFacts
    told: int = 0
    """The generation of its picture that its watch streams have told, with everything it knew when it looked."""
    looks: tuple[Look, ...] = ()
    other: ResolvedName | None = None
    """What the other host's name resolves to."""
    remote: RemoteFact | None = None
    """Whether the other host's libvirt is reached from here; None where it was not asked."""
