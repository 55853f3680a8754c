"""Faults as verbs: each begins with its `with` and is undone at the end of it, also when the test fails.

Faults of the networks act between the hosts, where no host can see them; faults of a host are what its admin could do.
What a reboot undoes by itself is not done twice.
"""

from tests.lab.faults.certificates import (
    LIBVIRT_CLIENT,
    LIBVIRT_SERVER,
    QEMU_CLIENT,
    QEMU_SERVER,
    certificate_replaced,
    other_ca,
)
from tests.lab.faults.devices import (
    bridge_added,
    bridge_down,
    bridge_removed,
    bridge_without_uplink,
    cpu_without,
    machine_missing,
    mount_added,
    mount_changed,
    mount_removed,
    mtu_changed,
)
from tests.lab.faults.files import file_changed, group_changed, mode_changed, moved_away, package_version
from tests.lab.faults.firewall import block_port, firewall_rule, reject_port
from tests.lab.faults.processes import killed, paused, pids, ports_taken, power_cut, restarted, stopped
from tests.lab.faults.settings import LIBVIRTD_CONF, QEMU_CONF, libvirt_setting, network_defined, restart_libvirt
from tests.lab.faults.wire import (
    Direction,
    cut,
    drop_one_way,
    large_frames_lost,
    plugged_elsewhere,
    throttle,
    unplugged,
)

__all__ = [
    "LIBVIRTD_CONF",
    "LIBVIRT_CLIENT",
    "LIBVIRT_SERVER",
    "QEMU_CLIENT",
    "QEMU_CONF",
    "QEMU_SERVER",
    "Direction",
    "block_port",
    "bridge_added",
    "bridge_down",
    "bridge_removed",
    "bridge_without_uplink",
    "certificate_replaced",
    "cpu_without",
    "cut",
    "drop_one_way",
    "file_changed",
    "firewall_rule",
    "group_changed",
    "killed",
    "large_frames_lost",
    "libvirt_setting",
    "machine_missing",
    "mode_changed",
    "mount_added",
    "mount_changed",
    "mount_removed",
    "moved_away",
    "mtu_changed",
    "network_defined",
    "other_ca",
    "package_version",
    "paused",
    "pids",
    "plugged_elsewhere",
    "ports_taken",
    "power_cut",
    "reject_port",
    "restart_libvirt",
    "restarted",
    "stopped",
    "throttle",
    "unplugged",
]
