"""Faults as verbs: each begins with its `with` and is undone at the end of it, also when the test fails.

Faults of the networks act between the hosts, where no host can see them; faults of a host are what its admin could do.
What a reboot undoes by itself is not done twice.
"""

from tests.lab.faults.devices import (
    bridge_added,
    bridge_down,
    bridge_removed,
    bridge_without_uplink,
    cpu_without,
    mount_added,
    mount_changed,
    mount_removed,
)
from tests.lab.faults.files import file_changed, package_version
from tests.lab.faults.firewall import block_port, firewall_rule, reject_port
from tests.lab.faults.processes import killed, paused, pids, power_cut, restarted, stopped
from tests.lab.faults.wire import Direction, cut, drop_one_way, throttle, unplugged

__all__ = [
    "Direction",
    "block_port",
    "bridge_added",
    "bridge_down",
    "bridge_removed",
    "bridge_without_uplink",
    "cpu_without",
    "cut",
    "drop_one_way",
    "file_changed",
    "firewall_rule",
    "killed",
    "mount_added",
    "mount_changed",
    "mount_removed",
    "package_version",
    "paused",
    "pids",
    "power_cut",
    "reject_port",
    "restarted",
    "stopped",
    "throttle",
    "unplugged",
]
