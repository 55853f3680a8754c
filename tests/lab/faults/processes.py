"""Faults of processes, units and whole hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.command import LabError
from tests.lab.faults.fault import undo
from tests.lab.host import Host, wait_until


def pids(host: Host, what: str | int) -> list[int]:
    """Return the processes meant: the main one of a unit (`x.service`), those of a name, or that number itself."""
    if isinstance(what, int):
        return [what]
    if what.endswith(".service"):
        return [pid for pid in (host.main_pid(what),) if pid]
    # the kernel keeps 15 characters of a process's name
    return [int(word) for word in host.run("pgrep", "-x", "--", re.escape(what[:15]), check=False).stdout.split()]


def _signal(host: Host, name: str, what: str | int) -> list[int]:
    found = pids(host, what)
    if not found:
        raise LabError(f"Nothing called {what} runs on {host.name}.")
    host.run("kill", "-s", name, *map(str, found))
    return found


@contextmanager
def paused(host: Host, what: str | int) -> Iterator[None]:
    """Stop a process (SIGSTOP), which goes on at the end if it is still there."""
    found = _signal(host, "STOP", what)
    try:
        yield
    finally:
        for pid in found:
            undo(host, "kill", "-s", "CONT", str(pid))


@contextmanager
def killed(host: Host, what: str | int) -> Iterator[None]:
    """Kill a process (SIGKILL); a unit is running again at the end."""
    found = _signal(host, "KILL", what)
    if isinstance(what, str) and what.endswith(".service"):
        # until systemd has noticed, the unit counts as running, and to start it is nothing to do
        wait_until(f"{what} on {host.name} has lost its process", lambda: host.main_pid(what) not in found)
    try:
        yield
    finally:
        if isinstance(what, str) and what.endswith(".service"):
            _started(host, what)


@contextmanager
def stopped(host: Host, unit: str, *sockets: str) -> Iterator[None]:
    """Stop a unit in the regular way, with the sockets that would start it again; all run again at the end."""
    host.run("systemctl", "stop", *sockets, unit)
    try:
        yield
    finally:
        if host.is_on:
            # a socket cannot be started while the service that it belongs to runs
            for each in (*sockets, unit):
                _started(host, each)


@contextmanager
def restarted(host: Host, unit: str) -> Iterator[None]:
    """Restart a unit; it runs at the end, whatever has become of it."""
    host.run("systemctl", "restart", unit)
    try:
        yield
    finally:
        _started(host, unit)


def _started(host: Host, unit: str) -> None:
    if host.is_on:
        host.run("systemctl", "reset-failed", unit, check=False)
        host.run("systemctl", "start", unit)


@contextmanager
def power_cut(host: Host) -> Iterator[None]:
    """Pull the plug of a host; it boots again at the end."""
    host.power_cut()
    try:
        yield
    finally:
        host.boot()
        host.wait_up()


_SQUATTERS = """\
import socket, sys
taken = []
for port in range(int(sys.argv[1]), int(sys.argv[2]) + 1):
    taken.append(socket.socket(socket.AF_INET6))
    taken[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken[-1].bind(("::", port))
    taken[-1].listen()
print("taken", flush=True)
sys.stdin.read()
"""


@contextmanager
def ports_taken(host: Host, first: int, last: int) -> Iterator[None]:
    """Have another program listen on a range of a host's TCP ports."""
    program = host.spawn("python3", "-I", "-c", _SQUATTERS, str(first), str(last))
    try:
        if program.stdout is None or program.stdout.readline() != "taken\n":
            raise LabError(f"The ports {first} to {last} of {host.name} cannot be taken.")
        yield
    finally:
        program.kill()
        program.communicate()
