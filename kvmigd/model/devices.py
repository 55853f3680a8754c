"""What a guest is made of. Names are those of libvirt's domain XML; what is empty, 0 or False is not in it.

Sizes are bytes. These parts leave their defaults out when they are encoded: a guest has many of them.
"""

from __future__ import annotations

import msgspec


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a guest."""


class SecretRef(Part, frozen=True, kw_only=True):
    """A libvirt secret that something needs, by its UUID or by its usage."""

    kind: str = ""
    """The usage type: ceph, iscsi, volume, passphrase …"""
    uuid: str = ""
    usage: str = ""


class DiskLayer(Part, frozen=True, kw_only=True):
    """One image of a disk's chain."""

    kind: str = "file"
    """file, block, dir, network, volume, nvme, vhostuser or vhostvdpa."""
    path: str = ""
    """A path on the host: of a file, a device, a folder, a socket."""
    format: str = ""
    protocol: str = ""
    """Of a network disk: rbd, iscsi, nbd, gluster, http, nfs …"""
    name: str = ""
    """Its name there: `pool/image`, a target with its LUN …"""
    hosts: tuple[str, ...] = ()
    """`host:port`, or the path of a socket."""
    snapshot: str = ""
    config: str = ""
    """The client's configuration file (rbd)."""
    pool: str = ""
    volume: str = ""
    address: str = ""
    """The PCI address of an NVMe disk, with its namespace."""
    auth: SecretRef | None = None
    user: str = ""
    initiator: str = ""
    encryption: str = ""
    """luks, luks2, qcow …"""
    encryption_secret: SecretRef | None = None
    reservations: str = ""
    """`managed`, or the socket of the helper for persistent reservations."""
    data_file: str = ""
    """Path of qcow2's external data file."""


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """One disk, CD-ROM or floppy; `paths` are the source and its whole backing chain, outermost first."""

    target: str
    device: str = "disk"
    kind: str = "file"
    paths: tuple[str, ...] = ()
    format: str = ""
    cache: str = ""
    readonly: bool = False
    shareable: bool = False
    bus: str = ""
    io: str = ""
    transient: bool = False
    serial: str = ""
    wwn: str = ""
    startup: str = ""
    """What is done when the medium is missing: mandatory, requisite or optional."""
    job: str = ""
    """A block job with a mirror: copy, active-commit …"""
    layers: tuple[DiskLayer, ...] = ()
    """The whole chain, outermost first; empty for a drive without a medium."""

    @property
    def key(self) -> str:
        """Its target."""
        return self.target

    @property
    def is_local_path(self) -> bool:
        """The disk is reached by a path on the host (and not by a network protocol of QEMU's own)."""
        return self.kind in ("file", "block", "dir") and bool(self.paths)


class Nic(msgspec.Struct, frozen=True, kw_only=True):
    """One network interface; `source` is the bridge, the libvirt network or the device, by `kind`."""

    mac: str
    kind: str
    source: str = ""
    model: str = ""
    mtu: int = 0
    bridge: str = ""
    """The bridge behind a libvirt network, told for a guest that runs."""
    port_group: str = ""
    mode: str = ""
    """Of a macvtap: vepa, bridge, private or passthrough."""
    target: str = ""
    """Its device on the host."""
    port: str = ""
    """The virtual port's type: openvswitch, midonet, 802.1Qbg, 802.1Qbh."""
    profile: str = ""
    interface_id: str = ""
    vlans: tuple[int, ...] = ()
    trunk: bool = False
    filter: str = ""
    link: str = ""
    """down where the cable is out; empty or up otherwise."""
    address: str = ""
    """The host's PCI device, where it is one."""
    managed: bool = False
    path: str = ""
    """The socket of a vhost-user interface."""
    teaming: str = ""
    """persistent or transient: the partner of a host device takes over while it is away."""
    partner: str = ""
    """The alias of the persistent one."""
    alias: str = ""

    @property
    def key(self) -> str:
        """Its MAC address."""
        return self.mac


class Cpu(Part, frozen=True, kw_only=True):
    """The guest's CPU."""

    mode: str = ""
    match: str = ""
    check: str = ""
    migratable: str = ""
    """on or off; of host-passthrough and maximum."""
    model: str = ""
    vendor: str = ""
    features: tuple[str, ...] = ()
    """`name=policy`: `invtsc=require`."""
    sockets: int = 0
    dies: int = 0
    cores: int = 0
    threads: int = 0
    cells: int = 0
    """How many NUMA nodes the guest sees."""


class Pages(Part, frozen=True, kw_only=True):
    """Huge pages that the guest's memory is to consist of; `size` 0 is the host's default size."""

    size: int = 0
    nodes: str = ""
    """Which of the guest's NUMA nodes; empty for all."""

    @property
    def key(self) -> str:
        """Size and nodes."""
        return f"{self.size}:{self.nodes}"


class MemoryDevice(Part, frozen=True, kw_only=True):
    """A memory module: dimm, nvdimm, virtio-mem, virtio-pmem, sgx-epc."""

    model: str
    size: int = 0
    path: str = ""
    nodes: str = ""
    alias: str = ""

    @property
    def key(self) -> str:
        """Its alias, or what it is."""
        return self.alias or f"{self.model}:{self.path}:{self.size}"


class Memory(Part, frozen=True, kw_only=True):
    """How the guest's memory is made."""

    current: int = 0
    maximum: int = 0
    """What it may grow to by memory modules."""
    hugepages: tuple[Pages, ...] = ()
    source: str = ""
    """file, anonymous or memfd."""
    access: str = ""
    """shared or private."""
    locked: bool = False
    hard_limit: int = 0
    numa_mode: str = ""
    numa_nodes: str = ""
    """The host's NUMA nodes that the memory must come from: `0-1`."""
    modules: tuple[MemoryDevice, ...] = ()


class Pinning(Part, frozen=True, kw_only=True):
    """On which of the host's CPUs the guest's threads may run. Lists are like `0-3,^2,8`."""

    cpus: str = ""
    """Of all its virtual CPUs."""
    vcpus: tuple[str, ...] = ()
    """`vcpu=list`"""
    emulator: str = ""
    iothreads: tuple[str, ...] = ()
    """`iothread=list`"""


class Firmware(Part, frozen=True, kw_only=True):
    """What the guest boots with."""

    kind: str = ""
    """efi or bios where libvirt is to choose the files."""
    loader: str = ""
    loader_type: str = ""
    secure: bool = False
    nvram: str = ""
    nvram_kind: str = ""
    """file, or block or network where it says so."""
    nvram_template: str = ""
    nvram_format: str = ""
    kernel: str = ""
    initrd: str = ""
    dtb: str = ""
    command_line: str = ""
    acpi_tables: tuple[str, ...] = ()


class Tpm(Part, frozen=True, kw_only=True):
    """A TPM."""

    model: str = ""
    backend: str = ""
    """emulator (swtpm), passthrough or external."""
    version: str = ""
    persistent_state: bool = False
    """Its state stays when a transient guest ends."""
    secret: str = ""
    """UUID of the secret that its state is encrypted with."""
    path: str = ""
    """The host's device, the external one's socket, or where the state is kept."""


class HostDevice(Part, frozen=True, kw_only=True):
    """A device of the host given to the guest."""

    kind: str
    """pci, usb, mdev, scsi, scsi_host; storage, misc or net of containers."""
    address: str = ""
    """PCI address; `vendor:product` or `bus.device` (usb); UUID (mdev); `adapter:bus:target:unit`, IQN, WWPN (scsi)."""
    managed: bool = False
    model: str = ""
    """vfio-pci …, the type of a mediated device."""
    teaming: str = ""
    partner: str = ""
    startup: str = ""
    """What is done when it is missing: mandatory, requisite or optional (usb)."""
    alias: str = ""

    @property
    def key(self) -> str:
        """Kind and address."""
        return f"{self.kind}:{self.address}"


class Share(Part, frozen=True, kw_only=True):
    """A folder of the host that the guest sees."""

    target: str
    """The tag that the guest mounts."""
    source: str = ""
    driver: str = ""
    """virtiofs, path (9p) …"""
    readonly: bool = False
    socket: str = ""
    """Of a virtiofsd that somebody else runs."""

    @property
    def key(self) -> str:
        """Its target."""
        return self.target


class SharedMemory(Part, frozen=True, kw_only=True):
    """An ivshmem device."""

    name: str
    model: str = ""
    size: int = 0
    role: str = ""
    """master or peer: what a migration does with the memory."""
    server: str = ""
    """Path of the server's socket."""

    @property
    def key(self) -> str:
        """Its name."""
        return self.name


class Character(Part, frozen=True, kw_only=True):
    """A serial port, channel, console or other device of characters, with what it is connected to on the host."""

    element: str
    """serial, parallel, console, channel, redirdev, smartcard or rng."""
    kind: str = ""
    """pty, unix, file, dev, pipe, tcp, udp, spicevmc, vhost-user …; of rng: random, egd, builtin."""
    path: str = ""
    mode: str = ""
    """bind or connect."""
    name: str = ""
    """The channel's name in the guest: `org.qemu.guest_agent.0`."""
    host: str = ""
    """`host:port`"""
    log: str = ""
    alias: str = ""

    @property
    def key(self) -> str:
        """Its alias, or what it is."""
        return self.alias or f"{self.element}:{self.name}:{self.path}{self.host}"


class Graphics(Part, frozen=True, kw_only=True):
    """A graphical console."""

    kind: str
    port: int = 0
    autoport: bool = False
    listen: tuple[str, ...] = ()
    """Addresses, sockets, or `network:NAME`."""
    device: str = ""
    """The host's render node (OpenGL); migration with it is not possible."""

    @property
    def key(self) -> str:
        """Kind and port."""
        return f"{self.kind}:{self.port}"


class Timer(Part, frozen=True, kw_only=True):
    """A clock of the guest."""

    name: str
    present: str = ""
    frequency: int = 0
    """Hz; of the TSC."""
    mode: str = ""

    @property
    def key(self) -> str:
        """Its name."""
        return self.name


class Label(Part, frozen=True, kw_only=True):
    """How a security driver labels the guest."""

    model: str = ""
    kind: str = ""
    """dynamic, static or none."""
    label: str = ""
    relabel: str = ""

    @property
    def key(self) -> str:
        """Its model."""
        return self.model


class Metadata(Part, frozen=True, kw_only=True):
    """What somebody keeps in the guest's definition, by XML namespace."""

    namespace: str
    text: str = ""
    """The element as XML; empty where it is too long to be told."""
    size: int = 0
    """Characters of the text, even where it is not told."""

    @property
    def key(self) -> str:
        """Its namespace."""
        return self.namespace
