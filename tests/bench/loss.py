"""How soon a host knows that a peer is lost: from the fault until its daemon says `unreachable`.

The baseline is what plain libvirt has for the same, measured once in the same run: a virsh on one host, connected to
libvirt on the other, until its keepalive tells it that the link is cut.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from tests.bench.report import Figure, median, percentile, tell
from tests.lab import daemon, faults
from tests.lab.host import Host, wait_until
from tests.lab.lab import Lab

ROUNDS = int(os.environ.get("ROUNDS", "5"))


def virsh_ms(a: Host, b: Host) -> float:
    """Milliseconds until a virsh that is connected to the other host's libvirt has noticed."""
    command = ("event", "--event", "lifecycle", "--loop", "--timeout", "120")
    virsh = a.spawn("virsh", "--connect", f"qemu+tls://{b.name}/system", *command)
    time.sleep(2)
    with faults.cut(b):
        began = time.monotonic()
        virsh.communicate(timeout=120)
        return (time.monotonic() - began) * 1000


def lost_ms(a: Host, b: Host, fault: Callable[[], AbstractContextManager[None]]) -> float:
    """Milliseconds until hosta has noticed."""
    daemon.wait_connected(a, b)
    time.sleep(1)
    with fault():
        began = time.monotonic()
        wait_until("the loss is noticed", lambda: daemon.peer_state(a, b.name) == "unreachable", every=0.005)
        return (time.monotonic() - began) * 1000


def main() -> None:
    """Measure and tell."""
    figures: dict[str, Figure] = {}
    worst = 0.0
    with Lab.up(os.environ.get("KVMIGD_LAB", "bench")) as lab:
        a, b = lab.host("hosta"), lab.host("hostb")
        for name, fault in (
            ("link_cut", lambda: faults.cut(b)),
            ("daemon_hangs", lambda: faults.paused(b, "kvmigd.service")),
            ("daemon_stops", lambda: faults.stopped(b, "kvmigd.service")),
        ):
            took = [lost_ms(a, b, fault) for _ in range(ROUNDS)]
            figures[f"{name}_ms_median"] = median(took)
            worst = max(worst, percentile(took, 100))
        virsh = virsh_ms(a, b)
    tell(
        "loss",
        figures={**figures, "worst_ms": round(worst, 1), "rounds": ROUNDS},
        baseline={"virsh_ms": round(virsh, 1)},
        aims={"worst_ms": "≤ 2000"},
        note="Asking once takes some 20 ms, which the figures include.",
    )


if __name__ == "__main__":
    main()
