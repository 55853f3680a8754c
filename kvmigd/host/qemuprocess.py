"""A guest's QEMU as a process, held by a pidfd: what is waited for or ended is that process and never another.

libvirt tells a domain's state, but not that its process has gone: a domain is shut off in its eyes before the process
is, and stays running while libvirtd is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
from pathlib import Path

PID_FOLDER = Path("/run/libvirt/qemu")
"""libvirt's pid files, NAME.pid (virPidFileBuildPath with the driver's stateDir)."""


class QemuProcess:
    """Implements host.hypervisor.Process. The descriptor is closed by `close`, or with the object."""

    def __init__(self, pid: int, started: int, descriptor: int) -> None:
        self._identity = (pid, started)
        self._descriptor = descriptor

    @property
    def identity(self) -> tuple[int, int]:
        """pid, and start time in clock ticks since the boot."""
        return self._identity

    async def gone(self, seconds: float) -> bool:
        """Whether it has ended, waiting so long at most. A zombie has ended: its memory and its files are let go."""
        if self._ended():
            return True
        if seconds <= 0:
            return False
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        # One descriptor can be watched once; each wait has its own.
        watched = os.dup(self._descriptor)
        loop.add_reader(watched, ended.set)
        try:
            async with asyncio.timeout(seconds):
                await ended.wait()
            return True
        except TimeoutError:
            return self._ended()
        finally:
            loop.remove_reader(watched)
            os.close(watched)

    def _ended(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)  # pidfd_open(2): readable when the process has ended
        return bool(poll.poll(0))

    def kill(self) -> None:
        """End it with SIGKILL. Raises PermissionError without CAP_KILL, for QEMU runs as another user."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def close(self) -> None:
        """Hold it no longer. Closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def of_guest(name: str, uuid: str, *, folder: Path = PID_FOLDER, proc: Path = Path("/proc")) -> QemuProcess | None:
    """The guest's QEMU; None if it has none.

    A pid file can be from before a crash, and its pid another process' by now: the command must carry the guest's UUID.
    """
    try:
        pid = int((folder / f"{name}.pid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    held = _held(pid, proc)
    if held is None:
        return None
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        words = []
    if uuid.encode() in words:
        return held
    held.close()
    return None


def of_identity(identity: tuple[int, int], *, proc: Path = Path("/proc")) -> QemuProcess | None:
    """The process of that pid that began then; None if it has ended."""
    pid, started = identity
    if pid <= 0:
        return None
    held = _held(pid, proc)
    if held is None or held.identity == (pid, started):
        return held
    held.close()
    return None


def _held(pid: int, proc: Path) -> QemuProcess | None:
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, OverflowError):
        return None
    started = start_time(pid, proc=proc)
    if started is None:
        os.close(descriptor)
        return None
    return QemuProcess(pid, started, descriptor)


def start_time(pid: int, *, proc: Path = Path("/proc")) -> int | None:
    """Field 22 of /proc/PID/stat (proc_pid_stat(5)); None if the process is gone. The name, field 2, may hold anything."""
    try:
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
