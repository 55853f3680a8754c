"""What the daemon costs at rest, for a minute, on a lab host with a peer, two guests, 1,000 mounts, 10,000 nft rules.

CPU time is that of its main process from /proc/PID/stat, memory its VmRSS; what its helper processes take is told
apart. Wake-ups are the voluntary context switches of all its threads (proc_pid_status(5)), told for the event loop's
and for libvirt's threads. The start is timed by systemd: from the moment the unit was started until the daemon said
READY=1.
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
MOUNTS = int(os.environ.get("MOUNTS", "1000"))
RULES = int(os.environ.get("RULES", "10000"))
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(host: Host, pid: int) -> float:
    """User and system time of a process, proc_pid_stat(5)."""
    fields = host.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mib(host: Host, pid: int) -> float:
    """Resident memory of a process."""
    line = next(line for line in host.read(f"/proc/{pid}/status").splitlines() if line.startswith("VmRSS:"))
    return round(int(line.split()[1]) / 1024, 1)


def wakeups(host: Host, pid: int) -> dict[str, int]:
    """Voluntary context switches so far, of each thread."""
    script = 'grep -H voluntary_ctxt "/proc/$1"/task/*/status | grep -v nonvol'
    lines = host.sh(script, str(pid)).splitlines()
    return {line.split("/")[4]: int(line.split()[-1]) for line in lines}


def helpers(host: Host, pid: int) -> list[int]:
    """The processes that the daemon keeps beside itself."""
    return [int(word) for word in host.run("pgrep", "-P", str(pid), check=False).stdout.split()]


def burden(host: Host) -> None:
    """Many mounts and rules, none of which matters to a migration."""
    places = (f"198.18.{number // 250 % 250}.{number % 250} tcp dport {number % 60000 + 1}" for number in range(RULES))
    chain = "add table inet bench\nadd chain inet bench forward { type filter hook forward priority 0; }\n"
    host.write("/run/bench.nft", chain + "".join(f"add rule inet bench forward ip saddr {it} drop\n" for it in places))
    host.run("nft", "--file", "/run/bench.nft", timeout=120)
    script = 'for n in $(seq "$1"); do mkdir -p /run/bench/$n; mount -t tmpfs -o size=4k b /run/bench/$n; done'
    host.sh(script, str(MOUNTS))


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
        burden(a)
        daemon.restart(a)  # it finds them all, as after a boot
        daemon.wait_connected(a, b)
        time.sleep(15)
        pid = a.main_pid("kvmigd.service")
        beside = helpers(a, pid)
        before, woken, began = cpu_seconds(a, pid), wakeups(a, pid), time.monotonic()
        theirs = sum(cpu_seconds(a, helper) for helper in beside)
        time.sleep(SECONDS)
        used, passed = cpu_seconds(a, pid) - before, time.monotonic() - began
        minute = {thread: (count - woken.get(thread, 0)) * 60 / passed for thread, count in wakeups(a, pid).items()}
        theirs = sum(cpu_seconds(a, helper) for helper in beside) - theirs
        small = sum(rss_mib(a, helper) for helper in beside)
        libvirtd = rss_mib(a, a.main_pid("libvirtd.service"))
        resident = rss_mib(a, pid)
    tell(
        "idle",
        figures={
            "cpu_percent": round(100 * used / passed, 2),
            "rss_mib": resident,
            "wakeups_per_min": round(sum(minute.values())),
            "wakeups_per_min_loop": round(minute.get(str(pid), 0)),
            "helpers": len(beside),
            "helpers_cpu_percent": round(100 * theirs / passed, 2),
            "helpers_rss_mib": round(small, 1),
            "start_to_ready_ms": median(starts),
            "seconds": round(passed),
        },
        baseline={"libvirtd_rss_mib": libvirtd, "bare_python_start_ms": bare},
        aims={"cpu_percent": "≤ 0.1", "rss_mib": "≤ 72", "start_to_ready_ms": "≤ 1000"},
        note="The loop wakes up twice a second for each direction of the watch stream: 240 times a minute.",
    )


def host_python_ms(host: Host) -> float:
    """How long the host's Python takes to do nothing: what any daemon written in it pays first."""
    script = "begin=$(date +%s%N); python3 -I -c pass; echo $((($(date +%s%N) - begin) / 1000))"
    return median([int(host.sh(script)) / 1000 for _ in range(STARTS)])


if __name__ == "__main__":
    main()
