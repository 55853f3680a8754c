"""The holder: the first process of a lab's own mount, network and PID namespaces.

Whatever belongs to a lab runs below it, so that killing this one process ends every process, mount and link of the lab
at once, however far `up` had come. As the init of its PID namespace it also reaps what the lab leaves behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.lab import caches, network
from tests.lab.command import Completed, LabError, run
from tests.lab.places import CGROUPS, CHECKOUT, Places

_CONTROLLERS = ("hugetlb", "pids", "memory")
"""libvirt puts guests into scopes of their own only where a cgroup2 controller is delegated; any one will do."""


def _mine(places: Places) -> list[int]:
    """Return the holder's processes: `unshare`, which waits, and the init inside: found by their command line."""
    tail = ["-m", "tests.lab.holder", places.name]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
                if argv[-3:] == tail:
                    found.append(int(entry.name))
    return found


def _is_init(pid: int) -> bool:
    return pid_inside(pid) == 1


def pid_inside(pid: int) -> int:
    """Return a process's number in its own PID namespace, 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0


def find(places: Places) -> int | None:
    """Return the process number of the lab's init, None where there is none."""
    return next((pid for pid in _mine(places) if _is_init(pid)), None)


def enter(pid: int) -> tuple[str, ...]:
    """Return the words that run a command in the lab's namespaces."""
    return ("nsenter", f"--target={pid}", "--mount", "--net", "--pid", "--")


def run_inside(
    places: Places,
    *argv: str | Path,
    check: bool = True,
    input: str | None = None,  # noqa: A002 - as subprocess calls it
) -> Completed:
    """Run a command of this machine in the lab's namespaces, outside of all hosts."""
    pid = find(places)
    if pid is None:
        raise LabError(f"Lab {places.name} is not up.")
    return run(*enter(pid), *argv, check=check, input=input)


def start(places: Places) -> int:
    """Start the holder, wait until it has made its namespaces ready, and return its process number."""
    unshared = ("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation=private")
    with (places.state / "holder.log").open("wb") as log:
        unshare = subprocess.Popen(
            ("unshare", *unshared, sys.executable, "-m", "tests.lab.holder", places.name),
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    until = time.monotonic() + 30
    while not places.ready.exists():
        if unshare.poll() is not None or time.monotonic() > until:
            text = (places.state / "holder.log").read_text(encoding="utf-8", errors="replace")
            raise LabError(f"The lab's namespaces could not be made: {text.strip()}")
        time.sleep(0.01)
    # the lab outlives this process: forget the child, or its destructor warns about it
    unshare.returncode = 0
    pid = find(places)
    if pid is None:
        raise LabError("The lab's holder went away.")
    return pid


def stop(places: Places) -> None:
    """Kill the holder, if there is one, wait until all of the lab is gone, and remove its cgroups."""
    start = time.monotonic()
    until = start + 30
    pids = _mine(places)
    while pids:
        for pid in pids:
            # `unshare` is to reap the init and then to end by itself; one without an init must be told
            if _is_init(pid) or time.monotonic() > start + 1:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # it may be this process that has started it
        if time.monotonic() > until:
            raise LabError(f"The processes {pids} of lab {places.name} do not die.")
        time.sleep(0.01)
        pids = sorted({*_mine(places), *(pid for pid in pids if Path(f"/proc/{pid}").exists())})
    for mount in _cgroup_mounts():
        top = mount / places.cgroup
        while top.is_dir() and not remove_cgroups(top):
            if time.monotonic() > until:
                raise LabError(f"The cgroups of lab {places.name} in {top} are still in use.")
            time.sleep(0.02)


def _cgroup_mounts() -> list[Path]:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    fields = [line.split() for line in lines]
    return [Path(words[4]) for words in fields if words[words.index("-") + 1] == "cgroup2" and words[3] == "/"][:1]


def remove_cgroups(top: Path) -> bool:
    """Remove a tree of cgroups; False when one of them still has processes."""
    try:
        for folder, _folders, _files in os.walk(top, topdown=False):
            os.rmdir(folder)
    except OSError:
        return False
    return True


def _prepare(places: Places) -> None:
    """Make the namespaces fit for hosts: a /run of their own, the sysfs of this network namespace, one pure cgroup2."""
    state = os.open(places.state, os.O_PATH)
    # nspawn and ip leave files below /run; with a /run of its own the lab takes them along
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    places.state.mkdir(parents=True)
    # as it is: mount(8) would look where the link points to, which is hidden by now
    run("mount", "--no-canonicalize", "--bind", f"/proc/{os.getpid()}/fd/{state}", places.state)
    os.close(state)
    Path("/run/systemd").mkdir()
    (places.state / "netns").mkdir(exist_ok=True)
    run("umount", "--lazy", CGROUPS, check=False)
    run("mount", "-t", "sysfs", "sysfs", "/sys")
    run("mount", "-t", "cgroup2", "cgroup2", CGROUPS)
    top = CGROUPS / places.cgroup
    (top / "holder").mkdir(parents=True, exist_ok=True)
    (top / "holder/cgroup.procs").write_text("0", encoding="ascii")
    controller = next(
        (name for name in _CONTROLLERS if name in (CGROUPS / "cgroup.controllers").read_text(encoding="ascii").split()),
        None,
    )
    if controller:
        for folder in (CGROUPS, top):
            (folder / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")
    network.make_bridges()


def main(name: str) -> None:
    """Be the init of a lab."""
    places = Places(name)
    caches.hold([Path(entry) for entry in places.described("uses")])
    _prepare(places)
    places.ready.touch()
    while True:
        try:
            os.wait()
        except ChildProcessError:
            # nobody to wait for yet; orphans arrive by signal
            signal.sigtimedwait([signal.SIGCHLD], 1)


if __name__ == "__main__":
    main(sys.argv[1])
