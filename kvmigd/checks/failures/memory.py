"""Memory: room, huge pages, NUMA nodes, pinned CPUs, locked memory, post-copy."""

from __future__ import annotations

from kvmigd.checks.failures.entry import HERE, entry

_PAGES = (
    "On {there}: grep -i huge /proc/meminfo; as many free pages as the guest needs: sysctl vm.nr_hugepages=…, per "
    "node in /sys/devices/system/node/node0/hugepages"
)

MEMORY = (
    entry(
        "memory.hugepages",
        "unable to map backing store for guest RAM",
        "can't open backing store {path:[^ \n]{1,300}} for guest RAM",
        "Insufficient free host memory pages available to allocate guest RAM",
        "preallocating memory failed",
        "unable to create hugepage path {path}",
        "hugetlbfs filesystem is not mounted",
        "Unable to find any usable hugetlbfs mount for {size}",
        "not enough huge pages",
        origin="qemu softmmu/physmem.c (system/physmem.c), util/oslib-posix.c, util/mmap-alloc.c; libvirt "
        "src/qemu/qemu_conf.c, qemu_command.c",
        summary="{there} has not enough free huge pages for the guest, or none of their size.",
        remedy=_PAGES,
        subject="huge pages",
    ),
    entry(
        "memory.fits",
        "cannot set up guest memory '{block}'",
        "Can't allocate memory for {block}",
        origin="qemu softmmu/physmem.c (system/physmem.c)",
        summary="{there} has not enough memory for the guest.",
        remedy="On {there}: free -m; sysctl vm.overcommit_memory; free memory there, or choose another peer",
        subject="memory",
    ),
    entry(
        "memory.numa",
        "NUMA node {node:[0-9]{1,6}} is unavailable",
        "NUMA node {node:[0-9]{1,6}} is not available",
        "NUMA node {node:[0-9]{1,6}} is out of range",
        "NUMA isn't available on this {node:host}",
        "cannot bind memory to {node:host NUMA nodes}",
        "Invalid value '{node}' for 'cpuset.mems'",
        "Unable to write to '{node:[^'\n]{1,300}cpuset\\.mems}'",
        origin="libvirt src/util/virnuma.c, vircgroup.c, vircgroupv1.c; qemu backends/hostmem.c",
        summary="The guest's memory is bound to a NUMA node that {there} does not have ({node}).",
        remedy="On {there}: numactl --hardware; on {here}: virsh numatune {guest}; virsh edit {guest}: <numatune> "
        "with nodes that both hosts have",
        subject="NUMA",
    ),
    entry(
        "cpu.pinning",
        "cannot set CPU affinity on process {cpus:[0-9]{1,12}}",
        "Invalid value '{cpus}' for 'cpuset.cpus'",
        "Unable to write to '{cpus:[^'\n]{1,300}cpuset\\.cpus}'",
        "failed to set cpuset.cpus in cgroup for {cpus}",
        origin="libvirt src/util/virprocess.c, vircgroup.c, vircgroupv1.c, src/qemu/qemu_process.c",
        summary="The guest is pinned to CPUs that {there} does not have, or has switched off.",
        remedy="On {there}: lscpu -e; on {here}: virsh vcpupin {guest}; virsh emulatorpin {guest}: pin it to CPUs "
        "that both hosts have",
        subject="pinned CPUs",
    ),
    entry(
        "memory.lock",
        "cannot limit locked memory of process",
        "Unable to change max memlock limit",
        "Failed to adjust locked memory limit",
        "mlockall: Cannot allocate memory",
        "locking memory failed",
        "Your mlock() limits may be too low",
        "cannot start RDMA migration with no memory hard limit set",
        "VFIO_MAP_DMA failed: Cannot allocate memory",
        origin="libvirt src/util/virprocess.c, src/qemu/qemu_domain.c, qemu_migration.c; qemu os-posix.c, "
        "migration/rdma.c, hw/vfio/common.c",
        summary="The guest's memory is to be locked, and {there} does not allow so much.",
        remedy="On {here}: virsh memtune {guest} --hard-limit with room for all of it; on {there}: systemctl show "
        "libvirtd virtqemud -p LimitMEMLOCK",
        subject="locked memory",
    ),
    entry(
        "migration.postcopy",
        "failed in post-copy phase",
        "Detected IO failure for postcopy. Migration paused",
        "Migration protocol interrupted in post-copy mode",
        "cannot abort migration in post-copy mode",
        origin="libvirt src/qemu/qemu_migration.c, qemu_driver.c; qemu migration/migration.c",
        summary="The link broke while the guest's memory was being fetched by {there}; the guest waits for the rest "
        "of it.",
        remedy="Never destroy it on either host. When the link is back, on {here}: virsh migrate {guest} "
        "qemu+tls://{there}/system --p2p --live --postcopy --postcopy-resume",
        at=HERE,
        subject="post-copy",
    ),
    entry(
        "migration.postcopy",
        "Postcopy is not supported",
        "userfaultfd not available",
        "Failed to open userfault fd",
        "__NR_userfaultfd failed",
        "Missing userfault features",
        "Postcopy needs matching",
        "Postcopy requires RAM blocks",
        "Postcopy is not compatible with",
        "Postcopy preempt requires",
        "is not yet compatible with postcopy",
        "post-copy is not supported with",
        "post-copy migration is not supported with non-live or paused migration",
        "Incompatible with mlock",
        "RAM postcopy is disabled",
        "RAM postcopy is enabled",
        origin="qemu migration/postcopy-ram.c, migration/options.c, migration/savevm.c, hw/virtio/vhost-user.c; "
        "libvirt src/qemu/qemu_migration.c",
        summary="Post-copy is not possible for this guest between these hosts.",
        remedy="On {there}: sysctl vm.unprivileged_userfaultfd=1, in /etc/sysctl.d too; or migrate without post-copy",
        subject="post-copy",
    ),
)

SECURITY = (
    entry(
        "security.model",
        "security label driver mismatch: '{model}' model configured for domain",
        "Unable to find security driver for model {model}",
        "security label model {model:[^ \n]{1,50}} is not supported",
        "missing label for static security driver in domain {model}",
        origin="libvirt src/security/security_manager.c, security_selinux.c, security_apparmor.c, security_dac.c",
        summary="The guest is labelled for the security model {model}, and {there} has another one.",
        remedy="On both hosts: virsh capabilities | grep -A3 secmodel; the same security_driver in "
        "/etc/libvirt/qemu.conf",
        subject="{model}",
    ),
    entry(
        "security.model",
        "cannot load AppArmor profile '{profile}'",
        "cannot update AppArmor profile '{profile}'",
        "unable to set AppArmor profile '{profile}' for",
        "cannot generate AppArmor profile '{profile}'",
        origin="libvirt src/security/security_apparmor.c",
        summary="AppArmor on {there} did not take the guest's profile {profile}.",
        remedy="On {there}: systemctl status apparmor; journalctl -g apparmor; /etc/apparmor.d/libvirt/{profile}",
        subject="{profile}",
    ),
    entry(
        "security.model",
        "unable to set security context '{label}' on '{path}'",
        "unable to set SELinux security context '{label}' for '{path}'",
        "Setting security context '{label}' on '{path}' not supported",
        "Unable to set SELinux label on {path}",
        origin="libvirt src/security/security_selinux.c",
        summary="SELinux on {there} did not let libvirt label {path}.",
        remedy="On {there}: ls -Z {path}; ausearch -m avc -ts recent; for NFS: setsebool -P virt_use_nfs 1",
        subject="{path}",
    ),
)
