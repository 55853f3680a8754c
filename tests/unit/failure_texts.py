"""What libvirt and QEMU say when a migration fails: libvirt's number, its words, the check and the subject they mean.

The words are those of reports from the field, of the lab, and of the format strings in the sources of libvirt 7 to 11
and QEMU 5 to 10.
"""

from __future__ import annotations

EXITED = "internal error: process exited while connecting to monitor: 2026-02-11T09:14:03.512034Z qemu-system-x86_64: "
CLOSED = "internal error: qemu unexpectedly closed the monitor: 2026-02-11T09:14:09.101846Z qemu-system-x86_64: "
CLOSED_NOW = "internal error: QEMU unexpectedly closed the monitor (vm='web'): 2026-02-11T09:14:09.101846Z qemu-kvm: "
FAILED = "operation failed: job 'migration out' failed: "
BLOCKED = "Requested operation is not valid: cannot migrate domain: "
UNSUPPORTED = "unsupported configuration: "

DISK = (
    '-blockdev {"driver":"file","filename":"/srv/vm/web.qcow2","node-name":"libvirt-1-storage",'
    '"auto-read-only":true,"discard":"unmap"}: '
)
PFLASH = (
    '-blockdev {"driver":"file","filename":"/usr/share/OVMF/OVMF_CODE.fd","node-name":"libvirt-pflash%d-storage",'
    '"auto-read-only":true,"discard":"unmap"}: '
)
UUID = "c7a5fdbd-edaf-9455-926a-d65c16db1809"

TEXTS: tuple[tuple[int, str, str, str], ...] = (
    # Every fault of the lab's table, as libvirt 9.0 told it.
    (38, "unable to connect to server at 'hostb:49152': Connection timed out", "port.open", "TCP port 49152"),
    (38, "unable to connect to server at 'hostb:49152': Connection refused", "port.open", "TCP port 49152"),
    (38, "unable to connect to server at 'hostb:16514': Connection timed out", "hypervisor.remote", "TCP port 16514"),
    (38, "unable to connect to server at 'hostb:16509': Connection refused", "hypervisor.remote", "TCP port 16509"),
    (
        38,
        "Unable to resolve address 'hostb' service '49152': Name or service not known",
        "host.resolve",
        "hostb",
    ),
    (
        1,
        "internal error: hostname on destination resolved to localhost, but migration requires an FQDN",
        "host.name",
        "hostb",
    ),
    (
        1,
        EXITED + DISK + "Could not open '/srv/vm/web.qcow2': No such file or directory",
        "storage.path",
        "/srv/vm/web.qcow2",
    ),
    (38, "Cannot get interface MTU on 'br0': No such device", "network.bridge", "br0"),
    (1, f"internal error: Attempt to migrate guest to the same host {UUID}", "host.uuid", "host UUID"),
    (9, f"operation failed: domain 'web' already exists with uuid {UUID}", "guest.name", "web"),
    (81, "Unsafe migration: Migration without shared storage is unsafe", "storage.shared", "disk"),
    (
        9,
        "operation failed: guest CPU doesn't match specification: missing features: avx512f,vaes",
        "cpu.model",
        "avx512f,vaes",
    ),
    (78, "operation aborted: job 'migration out' canceled by client", "migration.cancelled", "web"),
    (9, FAILED + "Unable to write to socket: Broken pipe", "migration.stream", "migration stream"),
    (1, "internal error: client socket is closed", "hypervisor.remote", "libvirt"),
    (9, FAILED + "Unable to write to socket: Connection reset by peer", "migration.stream", "migration stream"),
    (9, "operation failed: domain is not running", "guest.state", "web"),
    (38, "End of file while reading data: Input/output error", "hypervisor.remote", "libvirt"),
    (9, "operation failed: job 'migration out' failed in post-copy phase", "migration.postcopy", "post-copy"),
    (
        1,
        (
            "internal error: unable to execute QEMU command 'object-add': Unable to access credentials "
            "/etc/pki/qemu/server-cert.pem: No such file or directory"
        ),
        "tls.material",
        "/etc/pki/qemu/server-cert.pem",
    ),
    (9, FAILED + "Cannot write to TLS channel: Input/output error", "tls.stream", "TLS"),
    (
        1,
        "internal error: Certificate /etc/pki/libvirt/servercert.pem usage does not permit key encipherment",
        "tls.material",
        "certificate",
    ),
    (
        1,
        CLOSED
        + 'Failed to get "write" lock\nIs another process using the image [/srv/vm/web.qcow2]?'
        + "\n2026-02-11T09:14:09.2Z qemu-system-x86_64: load of migration failed: Operation not permitted",
        "storage.lock",
        "/srv/vm/web.qcow2",
    ),
    (42, f"Domain not found: no domain with matching uuid '{UUID}' (web)", "guest.state", "web"),
    (
        9,
        "Requested operation is not valid: post-copy migration is not supported with non-live or paused migration",
        "migration.postcopy",
        "post-copy",
    ),
    (
        68,
        (
            "Timed out during operation: cannot acquire state change lock (held by "
            "monitor=remoteDispatchDomainMigratePerform3Params)"
        ),
        "hypervisor.busy",
        "web",
    ),
    # The hosts, their ports and TLS.
    (
        1,
        (
            "internal error: unable to execute QEMU command 'migrate-incoming': Failed to bind socket: "
            "Cannot assign requested address"
        ),
        "host.address",
        "migration address",
    ),
    (38, "unable to connect to server at '10.0.0.2:49155': No route to host", "port.open", "TCP port 49155"),
    (9, FAILED + "Failed to connect to '10.0.0.2:49153': Connection timed out", "port.open", "TCP port 49153"),
    (9, FAILED + "Failed to connect to 'hostb:49153': Connection refused", "port.open", "TCP port 49153"),
    (9, FAILED + "address resolution failed for hostb:49153: Name or service not known", "host.resolve", "hostb"),
    (
        1,
        "internal error: Unable to find an unused port in range 'migration' (49152-49215)",
        "port.free",
        "TCP ports 49152-49215",
    ),
    (1, "internal error: Unable to find an unused port in range 'display' (5900-65535)", "guest.display", "display"),
    (
        1,
        EXITED + "-vnc 192.0.2.7:0,audiodev=audio1: Failed to bind socket: Cannot assign requested address",
        "guest.display",
        "display",
    ),
    (
        1,
        EXITED + "-incoming tcp:[::]:49152: Failed to bind socket: Address already in use",
        "port.free",
        "migration port",
    ),
    (
        1,
        (
            "internal error: unable to execute QEMU command 'migrate-incoming': Failed to bind socket to "
            "0.0.0.0:49152: Address already in use"
        ),
        "port.free",
        "migration port",
    ),
    (
        38,
        (
            "operation failed: Failed to connect to remote libvirt URI qemu+ssh://hostb/system: Failed to connect "
            "socket to '/var/run/libvirt/virtqemud-sock': No such file or directory"
        ),
        "hypervisor.alive",
        "/var/run/libvirt/virtqemud-sock",
    ),
    (
        38,
        (
            "operation failed: Failed to connect to remote libvirt URI qemu+ssh://root@hostb/system: Cannot recv data: "
            "Host key verification failed.: Connection reset by peer"
        ),
        "hypervisor.remote",
        "ssh",
    ),
    (
        45,
        "authentication unavailable: no polkit agent available to authenticate action 'org.libvirt.unix.manage'",
        "hypervisor.remote",
        "libvirt",
    ),
    (
        55,
        "Requested operation is not valid: Destination libvirt does not support peer-to-peer migration protocol",
        "software.libvirt",
        "libvirt",
    ),
    (
        67,
        UNSUPPORTED + "Migration option 'multifd-compression' is not supported by QEMU binary",
        "software.qemu",
        "QEMU",
    ),
    (1, "internal error: Unsupported migration cookie feature caps", "software.libvirt", "libvirt"),
    (
        70,
        (
            "Hook script execution failed: internal error: Child process (LC_ALL=C PATH=/usr/sbin "
            "/etc/libvirt/hooks/qemu web migrate begin -) unexpected exit status 1: no"
        ),
        "hypervisor.hook",
        "/etc/libvirt/hooks/qemu",
    ),
    (
        1,
        (
            "internal error: unable to execute QEMU command 'object-add': Unable to access credentials "
            "/etc/pki/qemu/client-key.pem: Permission denied"
        ),
        "tls.material",
        "/etc/pki/qemu/client-key.pem",
    ),
    (
        1,
        "Cannot read CA certificate '/etc/pki/CA/cacert.pem': No such file or directory",
        "tls.material",
        "/etc/pki/CA/cacert.pem",
    ),
    (1, "The server certificate /etc/pki/qemu/server-cert.pem has expired", "tls.material", "certificate"),
    (
        1,
        "internal error: The client certificate /etc/pki/libvirt/clientcert.pem is not yet active",
        "clock.skew",
        "clock",
    ),
    (
        45,
        "authentication failed: Failed to verify peer's certificate",
        "tls.material",
        "certificate",
    ),
    (9, FAILED + "Certificate does not match the hostname hostb", "tls.material", "certificate"),
    (1, "internal error: Certificate [session] owner does not match the hostname hostb", "tls.material", "certificate"),
    (
        1,
        (
            "Our own certificate /etc/pki/qemu/server-cert.pem failed validation against /etc/pki/qemu/ca-cert.pem: "
            "The certificate hasn't got a known issuer"
        ),
        "tls.material",
        "certificate",
    ),
    (
        1,
        "internal error: Client's Distinguished Name is not on the list of allowed clients (tls_allowed_dn_list).",
        "tls.material",
        "tls_allowed_dn_list",
    ),
    (
        55,
        "Requested operation is not valid: host migration TLS directory not configured",
        "tls.material",
        "migrate_tls_x509_cert_dir",
    ),
    (
        55,
        "Requested operation is not valid: this libvirtd instance allows migration only with VIR_MIGRATE_TLS flag",
        "tls.stream",
        "TLS",
    ),
    # The guest.
    (55, "Requested operation is not valid: domain is already active as 'web'", "guest.uuid", "web"),
    (
        55,
        "Requested operation is not valid: Refusing to undefine while domain managed save image exists",
        "guest.save",
        "managed save image",
    ),
    (
        55,
        "Requested operation is not valid: another migration job is already running for domain 'web'",
        "hypervisor.busy",
        "web",
    ),
    (
        84,
        "Operation not supported: cannot migrate a domain with <hostdev mode='subsystem' type='pci'>",
        "guest.devices",
        "host device",
    ),
    (55, "Requested operation is not valid: domain has assigned non-USB host devices", "guest.devices", "host device"),
    (55, BLOCKED + "0000:03:00.0: VFIO migration is not supported in kernel", "guest.devices", "host device"),
    (1, "internal error: Did not find USB device 0bda:8153", "guest.devices", "0bda:8153"),
    (
        38,
        (
            "Device 0000:3b:02.1 not found: could not access /sys/bus/pci/devices/0000:3b:02.1/config: No such file or "
            "directory"
        ),
        "guest.devices",
        "0000:3b:02.1",
    ),
    (
        55,
        "Requested operation is not valid: PCI device 0000:3b:02.1 is in use by driver QEMU, domain db1",
        "guest.devices",
        "0000:3b:02.1",
    ),
    (
        67,
        UNSUPPORTED + "host doesn't support passthrough of host PCI devices",
        "guest.devices",
        "VFIO",
    ),
    (
        55,
        "Requested operation is not valid: migration with virtiofs device is not supported",
        "guest.share",
        "shared folder",
    ),
    (
        55,
        BLOCKED
        + "Migration is disabled when VirtFS export path '/srv/share' is mounted in the guest using mount_tag 's'",
        "guest.share",
        "shared folder",
    ),
    (
        55,
        BLOCKED + "State blocked by non-migratable device '0000:00:05.0/vhost-user-fs'",
        "guest.share",
        "shared folder",
    ),
    (
        9,
        "operation failed: the virtiofs export directory '/srv/share' does not exist",
        "guest.share",
        "shared folder",
    ),
    (
        55,
        (
            "Requested operation is not valid: shmem device 'shm0' cannot be migrated, only shmem with role='master' "
            "can be migrated"
        ),
        "guest.memory_share",
        "shared memory",
    ),
    (
        55,
        BLOCKED + "Migration is disabled when using feature 'peer mode' in device 'ivshmem'",
        "guest.memory_share",
        "shared memory",
    ),
    (55, BLOCKED + "SEV: Migration is not implemented", "guest.security", "launch security"),
    (
        67,
        UNSUPPORTED + "SEV launch security is not supported with this QEMU binary",
        "guest.security",
        "launch security",
    ),
    (55, BLOCKED + "State blocked by non-migratable device '0000:00:06.0/nvme'", "guest.blockers", "0000:00:06.0/nvme"),
    (
        55,
        BLOCKED + "The vmdk format used by node 'libvirt-1-format' does not support live migration",
        "guest.blockers",
        "disk",
    ),
    (55, BLOCKED + "Migration disabled: vhost lacks VHOST_F_LOG_ALL feature.", "guest.blockers", "vhost"),
    (
        55,
        "Requested operation is not valid: migration with transient disk is not supported",
        "guest.blockers",
        "web",
    ),
    (
        67,
        UNSUPPORTED + "Target domain machine type pc-q35-8.2 does not match source pc-q35-7.2",
        "machine.type",
        "pc-q35-8.2",
    ),
    (
        67,
        UNSUPPORTED + "Target device type virtio does not match source e1000",
        "guest.definition",
        "device type virtio",
    ),
    (
        67,
        UNSUPPORTED + "State of feature 'apic' differs: source: 'on', destination: 'absent'",
        "guest.definition",
        "apic",
    ),
    (
        1,
        EXITED
        + "-chardev socket,id=charnet0,path=/run/openvswitch/vhu1: Failed to connect to '/run/openvswitch/vhu1': "
        "No such file or directory",
        "guest.sockets",
        "/run/openvswitch/vhu1",
    ),
    # Firmware and TPM.
    (
        1,
        EXITED + PFLASH % 0 + "Could not open '/usr/share/OVMF/OVMF_CODE.fd': No such file or directory",
        "firmware.loader",
        "/usr/share/OVMF/OVMF_CODE.fd",
    ),
    (
        1,
        EXITED + PFLASH % 1 + "Could not open '/var/lib/libvirt/qemu/nvram/web_VARS.fd': Permission denied",
        "firmware.nvram",
        "/var/lib/libvirt/qemu/nvram/web_VARS.fd",
    ),
    (
        1,
        "internal error: process exited while connecting to monitor: qemu: could not load PC BIOS 'bios-256k.bin'",
        "firmware.loader",
        "bios-256k.bin",
    ),
    (9, "operation failed: Unable to find any firmware to satisfy 'efi'", "firmware.loader", "efi"),
    (
        9,
        "operation failed: Unable to find 'efi' firmware that is compatible with the current configuration",
        "firmware.loader",
        "efi",
    ),
    (
        9,
        "operation failed: unable to find any master var store for loader: /usr/share/OVMF/OVMF_CODE.secboot.fd",
        "firmware.nvram",
        "/usr/share/OVMF/OVMF_CODE.secboot.fd",
    ),
    (
        1,
        EXITED + "device requires 540672 bytes, block backend provides 131072 bytes",
        "firmware.nvram",
        "firmware image",
    ),
    (1, EXITED + "combined size of system firmware exceeds 8388608 bytes", "firmware.loader", "firmware image"),
    (
        1,
        EXITED + '-device {"driver":"virtio-net-pci"}: failed to find romfile "efi-virtio.rom"',
        "firmware.roms",
        "efi-virtio.rom",
    ),
    (
        1,
        CLOSED
        + "Size mismatch: 0000:00:01.0/virtio-net-pci.rom: 0x40000 != 0x80000: Invalid argument\n"
        + "2026-02-11T09:14:09.2Z qemu-system-x86_64: error while loading state for instance 0x0 of device 'ram'\n"
        + "2026-02-11T09:14:09.2Z qemu-system-x86_64: load of migration failed: Invalid argument",
        "firmware.roms",
        "0000:00:01.0/virtio-net-pci.rom",
    ),
    (
        3,
        (
            "this function is not supported by the connection driver: the running swtpm does not support migration "
            "with shared storage"
        ),
        "tpm.state",
        "TPM",
    ),
    (
        3,
        (
            "this function is not supported by the connection driver: /usr/bin/swtpm (on destination side) does not "
            "support the --migration option needed for migration with shared storage"
        ),
        "tpm.state",
        "TPM",
    ),
    (
        1,
        (
            "internal error: QEMU unexpectedly closed the monitor (vm='web'): qemu-kvm: tpm-emulator: Setting the "
            "stateblob (type 1) failed with a TPM error 0x1f\nqemu-kvm: error while loading state for instance 0x0 of "
            "device 'tpm-emulator'\nqemu-kvm: load of migration failed: Input/output error"
        ),
        "tpm.state",
        "TPM",
    ),
    (
        67,
        UNSUPPORTED + "The QEMU executable /usr/bin/qemu-system-x86_64 does not support TPM backend type emulator",
        "tpm.state",
        "TPM",
    ),
    # Storage.
    (1, EXITED + DISK + 'Failed to get shared "write" lock', "storage.lock", "image lock"),
    (87, "resource busy: Lockspace resource '/srv/vm/web.qcow2' is locked", "storage.lock", "/srv/vm/web.qcow2"),
    (67, UNSUPPORTED + "Source host lock driver lockd different from target sanlock", "storage.lock", "lock_manager"),
    (1, "internal error: Failed to acquire lock: error -243", "storage.lock", "lock_manager"),
    (
        1,
        EXITED
        + '-blockdev {"node-name":"libvirt-1-format","read-only":false,"driver":"qcow2","file":"libvirt-1-storage"}: '
        "Could not open backing file: Could not open '/srv/base/debian.qcow2': No such file or directory",
        "storage.path",
        "/srv/base/debian.qcow2",
    ),
    (
        1,
        (
            "internal error: process exited while connecting to monitor: 2015-10-25T04:37:24.489443Z qemu-kvm: -drive "
            "file=/home/web/web.qcow2,if=none,id=drive-virtio-disk0,format=qcow2: could not open disk image "
            "/home/web/web.qcow2: Could not open file: Permission denied"
        ),
        "storage.access",
        "/home/web/web.qcow2",
    ),
    (
        38,
        "Cannot access storage file '/srv/vm/web.qcow2' (as uid:64055, gid:108): No such file or directory",
        "storage.path",
        "/srv/vm/web.qcow2",
    ),
    (
        1,
        (
            "internal error: Process exited prior to exec: libvirt: QEMU Driver error : Unable to stat "
            "/var/lib/libvirt/images/870ee0f4: No such file or directory"
        ),
        "storage.path",
        "/var/lib/libvirt/images/870ee0f4",
    ),
    (1, EXITED + DISK + "Could not open '/srv/vm/web.qcow2': Permission denied", "storage.access", "/srv/vm/web.qcow2"),
    (
        38,
        "unable to set user and group to '64055:108' on '/srv/vm/web.qcow2': Operation not permitted",
        "storage.access",
        "/srv/vm/web.qcow2",
    ),
    (1, EXITED + DISK + "Could not open '/srv/vm/web.qcow2': Read-only file system", "storage.access", "disk"),
    (
        1,
        EXITED + DISK + "Could not open '/srv/vm/web.qcow2': Stale file handle",
        "storage.mount",
        "/srv/vm/web.qcow2",
    ),
    (
        1,
        EXITED + DISK + "Could not open '/dev/mapper/mpatha': Input/output error",
        "storage.hangs",
        "/dev/mapper/mpatha",
    ),
    (9, "operation failed: job 'migration out' failed due to I/O error", "storage.hangs", "disk"),
    (
        28,
        "cannot write data to file '/run/libvirt/qemu/web.xml.new': No space left on device",
        "storage.space",
        "free space",
    ),
    (
        81,
        "Unsafe migration: Migration may lead to data corruption if disks use cache other than none or directsync",
        "storage.cache",
        "disk",
    ),
    (81, "Unsafe migration: Migration may lead to data corruption if disks use cache != none", "storage.cache", "disk"),
    (
        1,
        EXITED + DISK + "Could not open '/srv/vm/web.qcow2': filesystem does not support O_DIRECT",
        "storage.cache",
        "disk",
    ),
    (55, "Requested operation is not valid: cannot migrate domain with 3 snapshots", "storage.snapshots", "snapshots"),
    (55, "Requested operation is not valid: domain has active block job", "storage.job", "disk"),
    (66, f"Secret not found: no secret with matching uuid '{UUID}'", "storage.secret", UUID),
    (1, "internal error: could not retrieve value of the secret", "storage.secret", "secret"),
    (
        1,
        EXITED + DISK + "error reading header from web: No such file or directory",
        "storage.path",
        "web",
    ),
    (1, EXITED + DISK + "error connecting: Connection timed out", "storage.devices", "disk"),
    (49, "Storage pool not found: no storage pool with matching name 'vms'", "storage.pool", "vms"),
    (55, "Requested operation is not valid: storage pool 'vms' is not active", "storage.pool", "vms"),
    (9, "operation failed: migration of disk vda failed: No space left on device", "storage.space", "free space"),
    (9, "operation failed: migration of disk vda failed: Input/output error", "storage.copy", "vda"),
    (
        9,
        (
            "internal error: unable to execute QEMU command 'blockdev-mirror': Source and target image have different "
            "sizes"
        ),
        "storage.copy",
        "disk",
    ),
    # Networks.
    (38, "Unable to add bridge br7 port vnet3: No such device", "network.bridge", "br7"),
    (1, "internal error: Unable to add port vnet3 to OVS bridge br-int", "network.bridge", "br-int"),
    (38, "Unable to add bridge eth0 port vnet3: Operation not supported", "network.bridge", "eth0"),
    (1, "internal error: Unable to run command to set OVS port data for interface vnet3", "network.bridge", "vnet3"),
    (
        1,
        "internal error: couldn't find a portgroup entry in network 'ovs' matching <portgroup name='vlan-42'>",
        "network.port_group",
        "vlan-42",
    ),
    (43, "Network not found: no network with matching name 'lan'", "network.defined", "lan"),
    (55, "Requested operation is not valid: network 'lan' is not active", "network.defined", "lan"),
    (
        67,
        UNSUPPORTED + "<virtualport type='openvswitch'> not supported for network 'lan' which uses IP forwarding",
        "network.defined",
        "lan",
    ),
    (
        1,
        "internal error: network 'fast' requires exclusive access to interfaces, but none are available",
        "network.macvtap",
        "fast",
    ),
    (67, UNSUPPORTED + "Target network card MTU 1500 does not match source 9000", "network.mtu", "MTU"),
    (38, "Cannot set interface MTU on 'vnet3': Invalid argument", "network.mtu", "vnet3"),
    (
        62,
        "Network filter not found: no nwfilter with matching name 'clean-traffic-gw'",
        "network.filter",
        "clean-traffic-gw",
    ),
    (1, "internal error: referenced filter 'tenant-7' is missing", "network.filter", "tenant-7"),
    (1, "internal error: Some rules could not be created for interface vnet3", "network.filter", "network filter"),
    (38, "Unable to get index for interface enp3s0: No such device", "network.macvtap", "enp3s0"),
    (
        38,
        "error creating macvtap interface macvtap0@enp3s0 (52:54:00:12:34:56): Device or resource busy",
        "network.macvtap",
        "enp3s0",
    ),
    (
        55,
        (
            "Requested operation is not valid: Invalid use of 'floor' on interface with MAC address "
            "52:54:00:12:34:56 - network 'lan' has no inbound QoS set"
        ),
        "network.bandwidth",
        "bandwidth",
    ),
    (38, "Unable to open /dev/net/tun, is tun module loaded?: No such file or directory", "network.tap", "tap"),
    (
        1,
        EXITED + "-netdev tap,fd=31,id=hostnet0,vhost=on: vhost-net requested but could not be initialized",
        "network.vhost",
        "vhost",
    ),
    # Memory, post-copy, labels.
    (
        1,
        EXITED + "unable to map backing store for guest RAM: Cannot allocate memory",
        "memory.hugepages",
        "huge pages",
    ),
    (
        1,
        EXITED + "os_mem_prealloc: Insufficient free host memory pages available to allocate guest RAM",
        "memory.hugepages",
        "huge pages",
    ),
    (1, "internal error: Unable to find any usable hugetlbfs mount for 1048576 KiB", "memory.hugepages", "huge pages"),
    (1, EXITED + "cannot set up guest memory 'pc.ram': Cannot allocate memory", "memory.fits", "memory"),
    (67, UNSUPPORTED + "NUMA node 1 is unavailable", "memory.numa", "NUMA"),
    (
        1,
        EXITED + '-object {"qom-type":"memory-backend-ram","id":"pc.ram"}: cannot bind memory to host NUMA nodes: '
        "Invalid argument",
        "memory.numa",
        "NUMA",
    ),
    (38, "cannot set CPU affinity on process 31337: Invalid argument", "cpu.pinning", "pinned CPUs"),
    (
        38,
        (
            "Unable to write to '/sys/fs/cgroup/machine.slice/machine-qemu.scope/libvirt/vcpu0/cpuset.cpus': Numerical "
            "result out of range"
        ),
        "cpu.pinning",
        "pinned CPUs",
    ),
    (
        38,
        "cannot limit locked memory of process 31337 to 9663676416: Operation not permitted",
        "memory.lock",
        "locked memory",
    ),
    (
        1,
        (
            "internal error: unable to execute QEMU command 'migrate-set-capabilities': Postcopy is not supported: "
            "Userfaultfd not available: Operation not permitted"
        ),
        "migration.postcopy",
        "post-copy",
    ),
    (
        67,
        UNSUPPORTED + "security label driver mismatch: 'selinux' model configured for domain, but hypervisor driver is "
        "'apparmor'.",
        "security.model",
        "selinux",
    ),
    (
        1,
        f"internal error: cannot load AppArmor profile 'libvirt-{UUID}'",
        "security.model",
        f"libvirt-{UUID}",
    ),
    (
        38,
        (
            "unable to set security context 'system_u:object_r:svirt_image_t:s0:c1,c2' on '/srv/vm/web.qcow2': "
            "Operation not permitted"
        ),
        "security.model",
        "/srv/vm/web.qcow2",
    ),
    # CPU and machine.
    (
        9,
        "operation failed: guest CPU doesn't match specification: extra features: ht, missing features: avx512f",
        "cpu.model",
        "avx512f",
    ),
    (
        91,
        "the CPU is incompatible with host CPU: Host CPU does not provide required features: avx512f, vaes",
        "cpu.model",
        "avx512f, vaes",
    ),
    (9, "operation failed: guest CPU doesn't match specification: extra features: ht", "cpu.model", "ht"),
    (91, "the CPU is incompatible with host CPU", "cpu.model", "CPU"),
    (1, EXITED + "Host doesn't support requested features", "cpu.model", "CPU"),
    (1, EXITED + "unable to find CPU model 'SapphireRapids-v2'", "cpu.model", "SapphireRapids-v2"),
    (
        67,
        UNSUPPORTED
        + "CPU mode 'host-passthrough' for x86_64 qemu domain on x86_64 host is not supported by hypervisor",
        "cpu.model",
        "host-passthrough",
    ),
    (
        55,
        BLOCKED + "'hv-passthrough' CPU flag prevents migration, use explicit set of hv-* flags instead",
        "cpu.model",
        "Hyper-V",
    ),
    (
        55,
        "Requested operation is not valid: domain has 'invtsc' CPU feature but TSC frequency is not specified",
        "cpu.tsc",
        "invtsc",
    ),
    (
        67,
        UNSUPPORTED + "Requested TSC frequency 2893200000 Hz is outside tolerance range ([2593700000, 2594900000] Hz) "
        "around host frequency 2594300000 Hz and TSC scaling is not supported by the host CPU",
        "cpu.tsc",
        "TSC",
    ),
    (
        1,
        EXITED + "warning: TSC frequency mismatch between VM (2893200 kHz) and host (2594300 kHz), and TSC scaling "
        "unavailable",
        "cpu.tsc",
        "TSC",
    ),
    (
        55,
        BLOCKED + "Nested VMX virtualization does not support live migration yet",
        "cpu.nested",
        "nested virtualization",
    ),
    (1, CLOSED + "error: failed to set MSR 0x48f to 0x7fefff00036dfb", "cpu.model", "CPU state"),
    (
        1,
        CLOSED + "error while loading state for instance 0x0 of device 'cpu'\nqemu-system-x86_64: load of migration "
        "failed: Invalid argument",
        "cpu.model",
        "CPU state",
    ),
    (
        67,
        UNSUPPORTED + "Emulator '/usr/bin/qemu-system-x86_64' does not support machine type 'pc-q35-9.2'",
        "machine.type",
        "pc-q35-9.2",
    ),
    (
        1,
        EXITED + 'unsupported machine type "pc-q35-9.2"\nUse -machine help to list supported machines',
        "machine.type",
        "pc-q35-9.2",
    ),
    (
        1,
        EXITED + "-machine pc-q35-9.2: unsupported machine type\nUse -machine help to list supported machines",
        "machine.type",
        "machine type",
    ),
    (1, EXITED + "Could not access KVM kernel module: No such file or directory", "machine.kvm", "KVM"),
    (
        67,
        UNSUPPORTED + "Emulator '/usr/bin/qemu-system-x86_64' does not support virt type 'kvm'",
        "machine.kvm",
        "KVM",
    ),
    (
        38,
        "Cannot check QEMU binary /usr/bin/kvm-spice: No such file or directory",
        "machine.emulator",
        "/usr/bin/kvm-spice",
    ),
    (
        1,
        EXITED + '-device {"driver":"virtio-sound-pci"}: \'virtio-sound-pci\' is not a valid device model name',
        "machine.devices",
        "virtio-sound-pci",
    ),
    (
        1,
        (
            "internal error: QEMU unexpectedly closed the monitor (vm='web'): 2026-02-11T09:14:09.101846Z qemu-kvm: "
            "Features 0x1c0010130afffaf unsupported. Allowed features: 0x10179bfffef\n2026-02-11T09:14:09.2Z qemu-kvm: "
            "Failed to load virtio-net:virtio\n2026-02-11T09:14:09.2Z qemu-kvm: error while loading state for instance "
            "0x0 of device '0000:00:02.0:00.0/virtio-net'\n2026-02-11T09:14:09.2Z qemu-kvm: load of migration failed: "
            "Operation not permitted"
        ),
        "machine.features",
        "virtio features",
    ),
    (
        1,
        CLOSED + "get_pci_config_device: Bad config data: i=0x6e read: 0 device: 40 cmask: ff wmask: 0 w1cmask:19\n"
        "qemu-kvm: Failed to load PCIDevice:config\nqemu-kvm: load of migration failed: Invalid argument",
        "machine.features",
        "PCI device",
    ),
    (
        1,
        CLOSED
        + "Length mismatch: pc.ram: 0x100000000 in != 0x8000000: Invalid argument\nqemu-system-x86_64: error while "
        "loading state for instance 0x0 of device 'ram'",
        "machine.features",
        "pc.ram",
    ),
    (
        1,
        CLOSED_NOW + "Missing section footer for 0000:00:01.3/piix4_pm\nqemu-kvm: load of migration failed: Invalid "
        "argument",
        "machine.features",
        "0000:00:01.3/piix4_pm",
    ),
    (
        1,
        CLOSED + "Unknown savevm section or instance '0000:00:05.0/virtio-rng' 0. Make sure that your current VM setup "
        "matches your saved VM setup, including any hotplugged devices",
        "machine.features",
        "0000:00:05.0/virtio-rng",
    ),
    (1, CLOSED + "savevm: unsupported version 3 for 'fw_cfg' v2", "machine.features", "fw_cfg"),
    (
        1,
        CLOSED + "Capability validate-uuid is off, but received capability is on",
        "machine.features",
        "migration stream",
    ),
    # How it ended.
    (55, BLOCKED + "a blocker that nobody has heard of", "guest.blockers", "web"),
    (39, "operation failed: Lost connection to destination host", "hypervisor.remote", "libvirt"),
    (1, "internal error: connection closed due to keepalive timeout", "hypervisor.remote", "libvirt"),
    (
        9,
        "operation failed: Failed to connect to remote libvirt URI qemu+tls://hostb/system: something new",
        "hypervisor.remote",
        "qemu+tls://hostb/system",
    ),
    (9, "operation failed: domain is not running on destination host", "guest.state", "web"),
    (1, "internal error: End of file from qemu monitor (vm='web')", "guest.state", "web"),
    (38, "cannot fork child process: Cannot allocate memory", "memory.fits", "memory"),
    (68, "Timed out during operation", "hypervisor.busy", "web"),
    (9, FAILED + "Channel error: Input/output error", "migration.stream", "migration stream"),
    (
        1,
        CLOSED_NOW
        + "check_section_footer: Read section footer failed: -5\nqemu-kvm: load of migration failed: Invalid "
        "argument",
        "migration.stream",
        "migration stream",
    ),
    (9, "operation failed: job 'migration out' unexpectedly failed", "migration.stream", "migration stream"),
    (1, EXITED + "something that nobody has heard of", "migration.start", "web"),
    # Words in another language, with libvirt's number for them.
    (91, "die CPU ist nicht kompatibel", "cpu.model", "CPU"),
    (81, "Unsichere Migration", "storage.shared", "disk"),
    (78, "Vorgang abgebrochen", "migration.cancelled", "web"),
    (70, "Hook-Skript fehlgeschlagen", "hypervisor.hook", "/etc/libvirt/hooks/qemu"),
    (66, "Secret nicht gefunden", "storage.secret", "secret"),
    (62, "Netzwerkfilter nicht gefunden", "network.filter", "network filter"),
    (50, "Datenträger nicht gefunden", "storage.pool", "storage volume"),
    (49, "Speicherpool nicht gefunden", "storage.pool", "storage pool"),
    (43, "Netzwerk nicht gefunden", "network.defined", "network"),
)

NOT_UNDERSTOOD = (
    (0, ""),
    (9, "operation failed: something nobody has written yet"),
    (1, "internal error: simulated refusal"),
    (9, "a disk, a bridge, a port, a certificate and a CPU are mentioned, and nothing is said"),
    (38, "Could not open"),
)
