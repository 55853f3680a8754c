"""Check from warm state beside Ping, and Check with proofs beside an admin's shell script.

Warm: tests.bench.check_warm, in mount and network namespaces of its own on this machine; the hypervisor and the peers'
answers are simulated, mounts, rules, daemon and bus are real. Client and daemon are processes of their own.

Proved: on two lab hosts, a guest on shared storage. The baseline asks the same over ssh and virsh, one question after
the other (tests/bench/check_admin.sh); it proves neither that bridges are one segment nor the TLS of QEMU's streams.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.report import median, percentile, tell
from tests.lab import daemon, guests
from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.lab.network import BRIDGE

FOLDER = Path(__file__).parent
PROVED = int(os.environ.get("PROVED", "30"))
ADMIN = int(os.environ.get("ADMIN", "5"))
CLIENT, SCRIPT = "/run/check_client.py", "/run/check_admin.sh"
_KEYS = """
test -s /etc/ssh/ssh_host_ed25519_key || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
mkdir -p /root/.ssh; chmod 700 /root/.ssh; echo "$1" > /root/.ssh/authorized_keys
systemctl start ssh.service
"""


def warm() -> dict[str, Any]:
    """The figures of a daemon that knows everything."""
    ran = subprocess.run(
        ["unshare", "--mount", "--net", "--propagation", "private", sys.executable, "-m", "tests.bench.check_warm"],
        stdout=subprocess.PIPE,
        check=True,
        timeout=600,
    )
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def admin_ms(a: Host, b: Host, guest: guests.Guest) -> list[float]:
    """Milliseconds of each run of the script; it must find nothing."""
    key = a.sh("test -s /root/.ssh/id || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id; cat /root/.ssh/id.pub")
    b.sh(_KEYS, key)
    a.write(SCRIPT, (FOLDER / "check_admin.sh").read_text(encoding="utf-8"))
    took = []
    try:
        for _ in range(ADMIN):
            arguments = (guest.name, b.name, b.address, a.address, guest.disk, BRIDGE, "pc-q35-7.2")
            usec, odd = a.run("sh", SCRIPT, *arguments, timeout=120).stdout.splitlines()[-2:]
            if odd != "odd:":
                raise SystemExit(f"the script says {odd}")
            took.append(int(usec) / 1000)
    finally:
        b.sh("systemctl stop ssh.service; rm -r /root/.ssh")
    return took


def proved() -> tuple[dict[str, Any], list[float]]:
    """What Check with proofs took, and what the script took."""
    with Lab.up(os.environ.get("KVMIGD_LAB", "bench")) as lab:
        a, b = lab.host("hosta"), lab.host("hostb")
        daemon.wait_connected(a, b)
        daemon.wait_ready(a)
        guest = guests.create(a, guests.boot_sector("bench", memory=64))
        a.write(CLIENT, (FOLDER / "check_client.py").read_text(encoding="utf-8"))
        time.sleep(8)  # what is done in the background after a start is done
        out = a.run("python3", "-I", CLIENT, guest.name, b.name, str(PROVED), timeout=300).stdout
        return json.loads(out.splitlines()[-1]), admin_ms(a, b, guest)


def main() -> None:
    """Measure and tell."""
    known = warm()
    tried, admin = proved()
    took = tried["took"]
    tell(
        "check",
        figures={
            "p50_ms": known["p50_ms"],
            "p99_ms": known["p99_ms"],
            "ping_p50_ms": known["ping_p50_ms"],
            "ratio_p50": round(known["p50_ms"] / known["ping_p50_ms"], 2),
            "ping_p99_ms": known["ping_p99_ms"],
            "daemon_cpu_usec": known["daemon_cpu_usec"],
            "ping_daemon_cpu_usec": known["ping_daemon_cpu_usec"],
            "findings": known["findings"],
            "every_peer_p50_ms": known["every_peer_p50_ms"],
            "daemon_rss_mib": known["daemon_rss_mib"],
            "proved_ms_p50": median(took),
            "proved_ms_p95": percentile(took, 95),
            "proved_verdict": tried["verdict"],
        },
        baseline={"admin_ms_p50": median(admin), "admin_runs": len(admin)},
        aims={"p99_ms": "≤ 5", "ratio_p50": "≤ 2", "proved_ms_p50": "≤ 300"},
    )


if __name__ == "__main__":
    main()
