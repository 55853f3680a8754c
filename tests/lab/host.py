"""One host of a lab, as a test sees it: commands, files, journal, power."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TypeVar

from tests.lab import holder, network
from tests.lab.command import Completed, LabError, run, said
from tests.lab.network import Network
from tests.lab.places import CGROUPS, CHECKOUT, Places

_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
_ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SYSTEMD_PAGER": "",
    "TERM": "dumb",
}
_BOOT_TIME = 150.0
Seen = TypeVar("Seen")


def wait_until(what: str, condition: Callable[[], bool], timeout: float = 30.0, every: float = 0.05) -> None:
    """Wait until something holds; a LabError that says what it was when it does not come true in time."""
    until = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > until:
            raise LabError(f"Waited {timeout:g} s in vain until {what}.")
        time.sleep(every)


def wait_for(
    what: str,
    look: Callable[[], Seen],
    met: Callable[[Seen], object],
    *,
    timeout: float = 30.0,
    every: float = 0.05,
) -> Seen:
    """Wait until what is seen meets a condition, and return it; a LabError that says what was seen last."""
    until = time.monotonic() + timeout
    while not met(seen := look()):
        if time.monotonic() > until:
            raise LabError(f"Waited {timeout:g} s in vain until {what}; it is {seen!r}.")
        time.sleep(every)
    return seen


def wait_equal(
    what: str, look: Callable[[], Seen], expected: Seen, *, timeout: float = 30.0, every: float = 0.05
) -> None:
    """Wait until exactly this is seen; a LabError that says what was seen last."""
    wait_for(f"{what}, {expected!r}", look, lambda seen: bool(seen == expected), timeout=timeout, every=every)


class Host:
    """A host of the lab. All methods work from outside; only what they run is inside."""

    def __init__(self, places: Places, name: str) -> None:
        self.places = places
        self.name = name
        self.environment = dict(_ENVIRONMENT)
        self._init: int | None = None

    def __repr__(self) -> str:
        return f"Host({self.name!r})"

    @property
    def address(self) -> str:
        """The address for migration and control."""
        return network.address(self.name)

    @property
    def storage_address(self) -> str:
        """The address in the storage network."""
        return network.address(self.name, Network.STORAGE)

    # -- power

    def init(self) -> int | None:
        """Return the process number, outside, of the host's init; None while it is off."""
        if self._init is not None and holder.pid_inside(self._init) == 1 and self._is_mine(self._init):
            return self._init
        self._init = self._find_init()
        return self._init

    def _cgroup(self) -> str:
        return f"/{self.places.cgroup}/{self.name}/"

    def _is_mine(self, pid: int) -> bool:
        # a number can be used again, by the init of another host even
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="utf-8") as lines:
            return any(line.startswith("0::") and self._cgroup() in line for line in lines)
        return False

    def _find_init(self) -> int | None:
        lab = holder.find(self.places)
        if lab is None:
            return None
        payload = f"/proc/{lab}/root{CGROUPS}{self._cgroup()}payload"
        for folder in (f"{payload}/init.scope", payload):
            with contextlib.suppress(OSError), open(f"{folder}/cgroup.procs", encoding="ascii") as lines:
                # the kernel numbers them as the reader sees them
                for pid in map(int, lines.read().split()):
                    if holder.pid_inside(pid) == 1:
                        return pid
        return None

    @property
    def is_on(self) -> bool:
        """Whether the host runs, booted or still booting."""
        return self.init() is not None

    def boot(self) -> None:
        """Switch the host on, without waiting until it is up."""
        if self.is_on:
            return
        lab = holder.find(self.places)
        if lab is None:
            raise LabError(f"Lab {self.places.name} is not up.")
        self.wait_off()
        # the loop becomes a child of the holder, not of this process, and runs as long as the host does
        loop = ("setsid", "--fork", "sh", "-c", 'cd "$0" && exec "$@" > "$LOG" 2>&1 < /dev/null', str(CHECKOUT))
        python = (sys.executable, "-m", "tests.lab.boot", self.places.name, self.name)
        log = {"LOG": str(self.places.state / f"{self.name}.log")}
        run(*holder.enter(lab), *loop, *python, env=log)

    def is_up(self) -> bool:
        """Whether systemd has started all it was to start."""
        init = self.init()
        if init is None or not os.path.exists(f"/proc/{init}/root/run/systemd/private"):
            return False
        with contextlib.suppress(LabError):
            state = self.run("systemctl", "is-system-running", check=False, timeout=20).stdout.strip()
            return state in ("running", "degraded")
        return False

    def wait_up(self, timeout: float = _BOOT_TIME, *, after: str = "") -> None:
        """Wait until the host is up; `after` is the boot ID that must be gone, when it is to be another boot."""
        what = f"{self.name} is up (its console: {self.places.console(self.name)})"
        wait_until(what, lambda: self.is_up() and (not after or self.boot_id() != after), timeout)

    def wait_off(self, timeout: float = _BOOT_TIME) -> None:
        """Wait until the host is off and the loop that booted it has ended."""
        lab = holder.find(self.places)
        cgroup = f"/proc/{lab}/root{CGROUPS}{self._cgroup()}"
        wait_until(f"{self.name} is off", lambda: not os.path.exists(cgroup), timeout)

    def boot_id(self) -> str:
        """Return the ID of this boot, "" while the host is off."""
        with contextlib.suppress(LabError):
            return self.read("/proc/sys/kernel/random/boot_id").strip()
        return ""

    def reboot(self, timeout: float = _BOOT_TIME) -> None:
        """Reboot in the regular way, and wait until the host is up again."""
        before = self.boot_id()
        self.run("systemctl", "reboot", "--no-block")
        self.wait_up(timeout, after=before)

    def power_cut(self) -> None:
        """Pull the plug: nobody gets a last packet from this host, and then all of it is gone. It stays off."""
        init = self.init()
        if init is None:
            return
        # closing sockets would tell the peers; a host without power tells nobody
        for each in network.networks(self.name):
            holder.run_inside(self.places, "ip", "link", "set", network.outer(self.name, each), "down")
        os.kill(init, signal.SIGKILL)
        self.wait_off()

    # -- commands

    def words(self, argv: Sequence[str]) -> list[str]:
        """Return the words that run a command on the host, as root; to be run with `environment`."""
        init = self.init()
        if init is None:
            raise LabError(f"{self.name} is off; cannot run `{shlex.join(argv)}`.")
        # nsenter stands between us and the command and passes no signals on: the command shall die with it
        return ["nsenter", f"--target={init}", *_NAMESPACES, "--", "setpriv", "--pdeathsig", "KILL", "--", *argv]

    def run(
        self,
        *argv: str,
        check: bool = True,
        timeout: float = 60,
        input: str | bytes | None = None,  # noqa: A002 - as subprocess calls it
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a command on the host, as root; a failure is a LabError unless `check` is off."""
        data = input.encode() if isinstance(input, str) else input
        try:
            completed = subprocess.run(
                self.words(argv),
                input=data,
                stdin=subprocess.DEVNULL if data is None else None,
                capture_output=True,
                timeout=timeout,
                env={**self.environment, **(env or {})},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.name}: `{shlex.join(argv)}` did not end within {timeout:g} s.") from error
        output, errors = (stream.decode(errors="replace") for stream in (completed.stdout, completed.stderr))
        result = subprocess.CompletedProcess(argv, completed.returncode, output, errors)
        if check and result.returncode != 0:
            raise LabError(f"{self.name}: `{shlex.join(argv)}` ended with status {result.returncode}: {said(result)}")
        return result

    def sh(self, script: str, *argv: str, check: bool = True, timeout: float = 60) -> str:
        """Run a shell script on the host (`$1` … are `argv`) and return what it printed, without the last newline."""
        return self.run("sh", "-ec", script, "sh", *argv, check=check, timeout=timeout).stdout.removesuffix("\n")

    def spawn(
        self, *argv: str, stdout: int | IO[str] = subprocess.PIPE, stderr: int | IO[str] = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Start a command on the host; it dies when the returned process is killed."""
        return subprocess.Popen(
            self.words(argv), stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, text=True, env=self.environment
        )

    # -- files

    def read(self, path: str) -> str:
        """Return the text of a file on the host."""
        return self.run("cat", path).stdout

    def write(self, path: str, content: str | bytes, *, mode: str = "") -> None:
        """Write a file on the host at once, as rename(2) does, so that watchers never see half of it."""
        script = 'mkdir -p "${1%/*}"; t="$1.lab-$$"; cat > "$t"; [ -z "$2" ] || chmod "$2" "$t"; mv -f "$t" "$1"'
        self.run("sh", "-ec", script, "sh", path, mode, input=content)

    def exists(self, path: str) -> bool:
        """Whether there is such a file on the host."""
        return self.run("test", "-e", path, check=False).returncode == 0

    # -- services

    def journal(self, unit: str = "", since: str = "", *, boot: int = 0) -> str:
        """Return the journal of this boot (or of the one before, -1): of one unit, since a time, where given."""
        options = [f"--unit={unit}"] if unit else []
        options += [f"--since={since}"] if since else []
        return self.run(
            "journalctl", f"--boot={boot}", "--no-pager", "--quiet", "--output=short-precise", *options
        ).stdout

    def is_active(self, unit: str) -> bool:
        """Whether a unit is active."""
        return self.run("systemctl", "is-active", "--quiet", unit, check=False).returncode == 0

    def main_pid(self, unit: str) -> int:
        """Return the main process of a unit, as the host numbers it; 0 when it has none."""
        return int(self.run("systemctl", "show", "--property=MainPID", "--value", unit).stdout or 0)
