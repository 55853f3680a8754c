"""What the daemon costs at rest: on a lab host with one peer and two guests, for a minute.

CPU time is that of its main process from /proc/PID/stat, memory its VmRSS. The start is timed by systemd: from the
moment the unit was started until the daemon said READY=1.
"""

from __future__ import annotations

import os
import time

from tests.bench.report import median, tell
from tests.lab import daemon, guests
from tests.lab.host import Host
from tests.lab.lab import Lab

SECONDS = float(os.environ.get("SECONDS_AT_REST", "60"))
STARTS = 5
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(host: Host, pid: int) -> float:
    """User and system time of a process, proc_pid_stat(5)."""
    fields = host.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mib(host: Host, pid: int) -> float:
    """Resident memory of a process."""
    line = next(line for line in host.read(f"/proc/{pid}/status").splitlines() if line.startswith("VmRSS:"))
    return round(int(line.split()[1]) / 1024, 1)


def start_ms(host: Host) -> float:
    """Restart the daemon; milliseconds until it was ready."""
    daemon.restart(host)
    shown = host.run(
        *("systemctl", "show", "kvmigd.service", "--value"),
        *("--property=InactiveExitTimestampMonotonic", "--property=ActiveEnterTimestampMonotonic"),
    ).stdout.split()
    began, ready = sorted(map(int, shown))
    return (ready - began) / 1000


def main() -> None:
    """Measure and tell."""
    with Lab.up(os.environ.get("KVMIGD_LAB", "bench")) as lab:
        a, b = lab.host("hosta"), lab.host("hostb")
        bare = host_python_ms(a)
        starts = [start_ms(a) for _ in range(STARTS)]
        daemon.wait_connected(a, b)
        for number in (1, 2):
            guests.create(a, guests.boot_sector(f"idle{number}", memory=64, number=number))
        time.sleep(5)
        pid = a.main_pid("kvmigd.service")
        before, began = cpu_seconds(a, pid), time.monotonic()
        time.sleep(SECONDS)
        used, passed = cpu_seconds(a, pid) - before, time.monotonic() - began
        libvirtd = rss_mib(a, a.main_pid("libvirtd.service"))
        resident = rss_mib(a, pid)
    tell(
        "idle",
        figures={
            "cpu_percent": round(100 * used / passed, 2),
            "rss_mib": resident,
            "start_to_ready_ms": median(starts),
            "seconds": round(passed),
        },
        baseline={"libvirtd_rss_mib": libvirtd, "bare_python_start_ms": bare},
        aims={"cpu_percent": "≤ 0.3", "rss_mib": "≤ 64", "start_to_ready_ms": "≤ 1000"},
    )


def host_python_ms(host: Host) -> float:
    """How long the host's Python takes to do nothing: what any daemon written in it pays first."""
    script = "begin=$(date +%s%N); python3 -I -c pass; echo $((($(date +%s%N) - begin) / 1000))"
    return median([int(host.sh(script)) / 1000 for _ in range(STARTS)])


if __name__ == "__main__":
    main()
