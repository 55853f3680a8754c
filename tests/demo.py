"""`make demo`: kvmigd on two real hosts, from check to a reboot that loses nobody. Cleans up after itself."""

from __future__ import annotations

import os
import shlex
import threading
import time
from types import TracebackType
from typing import Self

from tests.lab import daemon, guests
from tests.lab.guests import Guest
from tests.lab.host import Host, wait_until
from tests.lab.lab import Lab

BEGAN = time.monotonic()
CALL = "busctl call org.kvmigd1 /org/kvmigd1 org.kvmigd1.Manager"


def say(text: str) -> None:
    """A heading of the story."""
    print(f"\n\033[1m[{time.monotonic() - BEGAN:5.1f} s] {text}\033[0m", flush=True)


def show(host: Host, command: str, *, check: bool = True) -> str:
    """Run a command on a host and show both it and what it prints."""
    print(f"  {host.name}# {command}", flush=True)
    done = host.run(*shlex.split(command), check=False, timeout=180)
    output = (done.stdout + done.stderr).rstrip()
    for line in output.splitlines():
        print(f"    {line}", flush=True)
    if check and done.returncode:
        raise SystemExit(f"demo: `{command}` on {host.name} ended with status {done.returncode}")
    return output


class Observer:
    """Reads a guest's counter from the storage itself, past both hosts, and notes the longest time it stood still."""

    def __init__(self, host: Host, guest: Guest) -> None:
        self._host = host
        self._guest = guest
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.first = guests.tick(host, guest)
        self.last = self.first
        self.skipped = 0
        self.longest = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        changed = time.monotonic()
        while not self._stop.wait(0.02):
            now = guests.tick(self._host, self._guest)
            if now.count and now != self.last:
                self.skipped += max(0, now.count - self.last.count - 1) if now.boot == self.last.boot else 1
                self.longest = max(self.longest, time.monotonic() - changed)
                self.last, changed = now, time.monotonic()

    def tell(self) -> None:
        """Say what was seen; the guest counts once a second, so about one second between two numbers is no gap."""
        same = "the same run of the guest" if self.first.boot == self.last.boot else "ANOTHER RUN OF THE GUEST"
        print(
            f"    counter of {self._guest.name} on the shared storage: {self.first.count} -> {self.last.count}, "
            f"{self.skipped} numbers skipped, longest time between two {self.longest:.2f} s, {same}"
        )


def migrate(source: Host, destination: Host, guest: Guest) -> None:
    """Migrate over the bus, with progress."""
    show_call = (
        f"busctl call org.kvmigd1 /org/kvmigd1 org.kvmigd1.Manager Migrate ssa{{sv}} {guest.name} {destination.name} 0"
    )
    answer = show(source, show_call)
    job = answer.split('"')[1]
    told = ""
    while True:
        state = daemon.properties(source, job, daemon.JOB)
        moved = daemon.properties(source, job, daemon.MIGRATION)
        line = f"{state['Phase']:<10} {state['Progress']:4.0%}  {moved['BytesProcessed'] >> 20} MiB sent"
        if line != told:
            print(f"    {line}", flush=True)
            told = line
        if state["Result"]:
            print(f"    {job}: {state['Result']} {state['ErrorMessage']}", flush=True)
            if state["Result"] != "done":
                raise SystemExit("demo: the migration failed")
            return
        time.sleep(0.1)


def check(source: Host, destination: Host, guest: Guest) -> str:
    """Check over the bus; the verdict."""
    return show(source, f"{CALL} Check ssa{{sv}} {guest.name} {destination.name} 0").split('"')[1]


def expect(what: str, seen: object, expected: object) -> None:
    """End the demo where it does not show what it promises."""
    if seen != expected:
        raise SystemExit(f"demo: {what}: expected {expected!r}, found {seen!r}")


def story(lab: Lab) -> None:
    """The whole of it."""
    a, b = lab.host("hosta"), lab.host("hostb")
    daemon.wait_connected(a, b)
    for host in (a, b):
        daemon.wait_ready(host)
    show(a, "kvmigctl status")

    say("A guest starts on hosta. It writes a counter to its disk on the shared storage, once a second.")
    web = guests.create(a, guests.linux("web1", number=1))
    show(a, "virsh list")

    say("Could it move to hostb? kvmigd on both hosts looks at storage, bridges, CPU, names, ports and certificates.")
    expect("Check", check(a, b, web), "ready")

    say("It moves while it runs.")
    with Observer(a, web) as observer:
        migrate(a, b, web)
        guests.wait_counting(a, web, ticks=2)
    observer.tell()
    show(b, "virsh list")

    say("Something breaks: the bridge on hosta goes down. Plain libvirt would migrate the guest and cut its network.")
    show(a, "ip link set br0 down")
    expect("Check", check(b, a, web), "blocked")
    show(b, "kvmigctl check web1 hosta", check=False)

    say("The remedy is applied, and the way is free again.")
    show(a, "ip link set br0 up")
    wait_until("the bridge has its carrier back", lambda: check_quietly(b, a, web) == "ready")
    expect("Check", check(b, a, web), "ready")

    say("The guest goes back home.")
    with Observer(a, web) as observer:
        show(b, "kvmigctl migrate web1 hosta")
        guests.wait_counting(a, web, ticks=2)
    observer.tell()

    say("A second guest starts, and then somebody just types `reboot` on their host.")
    db = guests.create(a, guests.linux("db1", number=2))
    show(a, "virsh list")
    boot = a.boot_id()
    with Observer(a, web) as one, Observer(a, db) as two:
        show(a, "reboot")
        a.wait_up(after=boot)
        guests.wait_counting(b, web, ticks=2)
        guests.wait_counting(b, db, ticks=2)
    say("hosta is up again. Its guests ran on, on hostb.")
    show(b, "virsh list")
    show(a, "virsh list --all")
    for observer, guest in ((one, web), (two, db)):
        observer.tell()
        expect(f"{guest.name} on hostb", guests.state(b, guest), "running")
        expect(f"run of {guest.name}", observer.last.boot, observer.first.boot)


def check_quietly(source: Host, destination: Host, guest: Guest) -> str:
    """The verdict, without a word."""
    return daemon.check(source, guest.name, destination.name)[0]


def main() -> None:
    """Tell the story on a lab of its own."""
    say("Two hosts come up: containers with systemd, libvirt and QEMU of their own, and a third that serves storage.")
    with Lab.up(os.environ.get("KVMIGD_LAB", "demo"), log=lambda line: print(f"    {line}", flush=True)) as lab:
        story(lab)
        say("The hosts are taken down.")
    say("Done; nothing is left behind but the caches in /var/cache/kvmigd-lab.")


if __name__ == "__main__":
    main()
