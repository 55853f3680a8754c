"""Software and machine."""

from __future__ import annotations

import msgspec

from kvmigd.model.subject import Subject


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """The distribution, from os-release(5)."""

    id: str = ""
    version_id: str = ""
    pretty_name: str = ""


class Software(msgspec.Struct, frozen=True, kw_only=True):
    """Versions of what migrates guests; libvirt's and QEMU's are as libvirt counts them: 1000000a + 1000b + c."""

    kvmigd: str
    kernel: str
    release: Release
    libvirt: int = 0
    qemu: int = 0


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """An installed package that matters for migration."""

    name: str
    version: str
    """As dpkg or rpm compares it: epoch:version-release."""
    arch: str = ""

    @property
    def key(self) -> str:
        """Name and architecture."""
        return f"{self.name}:{self.arch}"


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """The processors."""

    arch: str = ""
    vendor: str = ""
    model_name: str = ""
    family: int = 0
    model: int = 0
    stepping: int = 0
    microcode: str = ""
    flags: tuple[str, ...] = ()
    """The kernel's words, sorted."""
    threads: int = 0
    online: str = ""
    """List of online CPUs: `0-7`."""
    tsc_khz: int = 0
    """0 where the kernel does not tell it."""
    clocksource: str = ""


class Kvm(msgspec.Struct, frozen=True, kw_only=True):
    """Hardware virtualisation."""

    device: bool = False
    """/dev/kvm is there."""
    parameters: tuple[str, ...] = ()
    """`kvm_intel.nested=Y`, sorted."""


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """The host's clock."""

    synchronised: bool | None = None
    """adjtimex(2) without STA_UNSYNC; None where it could not be asked (a system call filter forbids it)."""
    jumps: int = 0
    """How often the wall clock was set, by a millisecond or more, while kvmigd ran."""


class HugePages(msgspec.Struct, frozen=True, kw_only=True):
    """One pool of huge pages."""

    node: int
    size: int
    """Bytes a page."""
    total: int = 0
    free: int = 0

    @property
    def key(self) -> str:
        """Node and size."""
        return f"{self.node}/{self.size}"


class NumaNode(msgspec.Struct, frozen=True, kw_only=True):
    """One NUMA node."""

    node: int
    cpus: str = ""
    memory: int = 0
    """Bytes."""

    @property
    def key(self) -> str:
        """Its number."""
        return str(self.node)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine, as its firmware names it (DMI, or the device tree); empty where it does not say."""

    vendor: str = ""
    product: str = ""
    uuid: str = ""
    """Lower case. Vendors ship boards with one UUID for all of them, and libvirt takes it for the host's."""
    firmware: str = ""
    """Version of the BIOS or UEFI."""


class System(Subject, frozen=True, kw_only=True):
    """Software and machine of this host."""

    release: Release = Release()
    kernel: str = ""
    package_manager: str = ""
    """dpkg or rpm; empty where neither is known."""
    packages: tuple[Package, ...] = ()
    packages_problem: str = ""
    """Why the packages are not known; then there are none in `packages`."""
    machine: Machine = Machine()
    cpu: Cpu = Cpu()
    kvm: Kvm = Kvm()
    clock: Clock = Clock()
    security: str = ""
    """Mandatory access control: selinux-enforcing, selinux-permissive, apparmor or none."""
    memory_total: int = 0
    """Bytes."""
    hugepages: tuple[HugePages, ...] = ()
    numa: tuple[NumaNode, ...] = ()
    userfaultfd: bool | None = None
    """Whether QEMU may use post-copy (vm.unprivileged_userfaultfd or /dev/userfaultfd); None where not known."""
