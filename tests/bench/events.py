"""From the kernel's event to the signal at a client of the bus; and what a storm of mounts does to the daemon.

All of it happens on one lab host, under the unit that is shipped. The baseline is reading and parsing the mount table
of the storm once, with the daemon's own parser.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from kvmigd.host import mounts
from tests.bench.report import Figure, median, percentile, tell
from tests.lab import daemon
from tests.lab.lab import Lab

ROUNDS = int(os.environ.get("ROUNDS", "100"))
MOUNTS = int(os.environ.get("MOUNTS", "10000"))
CLIENT = "/run/events_client.py"


def parse_ms(text: str) -> float:
    """Milliseconds to parse a mount table from nothing."""
    began = time.perf_counter()
    mounts.parse(text)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    """Measure and tell."""
    with Lab.up(os.environ.get("KVMIGD_LAB", "bench")) as lab:
        a, b = lab.host("hosta"), lab.host("hostb")
        daemon.wait_connected(a, b)
        a.write(CLIENT, (Path(__file__).parent / "events_client.py").read_text(encoding="utf-8"))
        pid = a.main_pid("kvmigd.service")
        out = a.run("python3", "-I", CLIENT, str(ROUNDS), str(MOUNTS), str(pid), timeout=900).stdout
        found = json.loads(out.splitlines()[-1])
        parsing = parse_ms(a.read("/proc/1/mountinfo"))
        alive = a.main_pid("kvmigd.service") == pid
    storm, hang, recovery = (found.pop(name) for name in ("storm", "hang", "recovery"))
    figures: dict[str, Figure] = {}
    for name, took in found.items():
        figures[f"{name}_ms_p50"] = median(took)
        figures[f"{name}_ms_p99"] = percentile(took, 99)
    baseline = {
        "storm_bus_ms_max": storm.pop("storm_bus_ms_max"),
        "mountinfo_read_ms": storm.pop("mountinfo_read_ms"),
        "mountinfo_parse_ms": round(parsing, 1),
        "mountinfo_lines": storm.pop("mountinfo_lines"),
    }
    tell(
        "events",
        figures={
            **figures,
            **storm,
            "hang_noticed_ms_max": percentile(hang, 100),
            "recovery_noticed_ms_max": percentile(recovery, 100),
            "events_each": len(found["mount"]),
            "daemon_survived": "yes" if alive else "no",
        },
        baseline=baseline,
        aims={
            **{f"{name}_ms_p99": "≤ 25" for name in found},
            "storm_loop_lag_ms_max": "≤ 50",
            "storm_settle_ms": "≤ 200",
            "hang_noticed_ms_max": "≤ 5000",
        },
        note="The loop's lag is the longest answer to a Ping in the storm less the median of those before it.",
    )


if __name__ == "__main__":
    main()
