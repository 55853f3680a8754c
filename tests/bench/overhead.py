"""What kvmigd adds to a migration: Migrate against `virsh migrate` with the same flags, same guest, in turn.

Both are timed on the source host around ordinary programs: one `virsh migrate`, against `busctl call … Migrate` and
`busctl call … Wait`, so both pay for starting a process. The guest goes there by one and back by the other, and the
order changes with every pair, so that neither gets the better host.

Migrations of libvirt's own differ by hundreds of milliseconds from one to the next, so beside the difference of the
pairs stands what kvmigd itself took, read off its journal: all of the job but libvirt's part.
"""

from __future__ import annotations

import json
import os

from tests.bench.report import median, percentile, tell
from tests.lab import daemon, guests
from tests.lab.host import Host
from tests.lab.lab import Lab

PAIRS = int(os.environ.get("PAIRS", "30"))

_VIRSH = """\
begin=$(date +%s%N)
virsh --quiet migrate --live --p2p --persistent --undefinesource --tls --tls-destination "$2" "$1" \
    "qemu+tls://$2/system" "tcp://$3:49200" >&2
echo $((($(date +%s%N) - begin) / 1000))
"""
_KVMIGD = """\
begin=$(date +%s%N)
job=$(busctl call org.kvmigd1 /org/kvmigd1 org.kvmigd1.Manager Migrate 'ssa{sv}' "$1" "$2" 0)
job=${job#*\\"}
result=$(busctl --timeout=120 call org.kvmigd1 "${job%\\"}" org.kvmigd1.Job Wait)
end=$(date +%s%N)
[ "$result" = 's "done"' ] || { echo "ended $result" >&2; exit 1; }
echo $(((end - begin) / 1000))
"""


def timed(script: str, source: Host, destination: Host, guest: str) -> float:
    """Run one migration; milliseconds."""
    return int(source.sh(script, guest, destination.name, destination.address).split()[-1]) / 1000


def log_phases(host: Host) -> None:
    """Have the daemon log its phases."""
    host.write("/etc/kvmigd/kvmigd.toml", f'name = "{host.name}"\nlog_level = "debug"\n')
    host.run("systemctl", "reload", "kvmigd.service")


def own_ms(host: Host) -> list[float]:
    """Milliseconds of each migration job on a host that were not libvirt's, from the daemon's journal."""
    fields = ("KVMIGD_JOB", "KVMIGD_PHASE", "MESSAGE", "__REALTIME_TIMESTAMP")
    shown = host.run(
        *("journalctl", "--boot", "--unit=kvmigd.service", "--output=json", f"--output-fields={','.join(fields)}")
    )
    marks: dict[str, dict[str, int]] = {}
    for line in shown.stdout.splitlines():
        entry = json.loads(line)
        for mark, phrase in (("began", "job started"), ("asked", "migration starting"), ("ended", "job ended")):
            if entry["MESSAGE"].startswith(phrase):
                marks.setdefault(entry["KVMIGD_JOB"], {})[mark] = int(entry["__REALTIME_TIMESTAMP"])
        if entry.get("KVMIGD_PHASE") == "confirming":
            marks.setdefault(entry["KVMIGD_JOB"], {})["answered"] = int(entry["__REALTIME_TIMESTAMP"])
    return [(m["asked"] - m["began"] + m["ended"] - m["answered"]) / 1000 for m in marks.values() if len(m) == 4]


def main() -> None:
    """Measure and tell."""
    with Lab.up(os.environ.get("KVMIGD_LAB", "bench")) as lab:
        a, b = lab.host("hosta"), lab.host("hostb")
        for host in (a, b):
            log_phases(host)
        daemon.wait_connected(a, b)
        daemon.wait_ready(a)
        daemon.wait_ready(b)
        guest = guests.create(a, guests.boot_sector("bench", memory=64, filled=32))
        for script in (_VIRSH, _KVMIGD):  # what is only slow once is nobody's figure
            timed(script, a, b, guest.name)
            timed(script, b, a, guest.name)
        virsh: list[float] = []
        kvmigd: list[float] = []
        for number in range(PAIRS):
            first, second = (_VIRSH, _KVMIGD) if number % 2 else (_KVMIGD, _VIRSH)
            there = timed(first, a, b, guest.name)
            back = timed(second, b, a, guest.name)
            virsh.append(there if first is _VIRSH else back)
            kvmigd.append(back if first is _VIRSH else there)
        own = own_ms(a) + own_ms(b)
    extra = [mine - theirs for mine, theirs in zip(kvmigd, virsh, strict=True)]
    tell(
        "overhead",
        figures={
            "extra_ms_median": median(extra),
            "extra_ms_p95": percentile(extra, 95),
            "pairs": PAIRS,
            "own_ms_median": median(own),
            "own_ms_p95": percentile(own, 95),
            "kvmigd_ms_median": median(kvmigd),
            "ratio_median": round(median(kvmigd) / median(virsh), 3),
        },
        baseline={"virsh_ms_median": median(virsh), "virsh_ms_p95": percentile(virsh, 95)},
        aims={"extra_ms_median": "≤ 100"},
    )


if __name__ == "__main__":
    main()
