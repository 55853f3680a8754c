"""Keeps the subject System true: software and machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from kvmigd.host import cpu, machine, packages, system
from kvmigd.host.clock import ClockWatch
from kvmigd.host.files import Files
from kvmigd.host.picture import Picture
from kvmigd.host.uevents import KOBJECT_UEVENT, SELINUX, KernelEvents, matters, parse
from kvmigd.model.hypervisor import HypervisorState
from kvmigd.model.state import StateChange
from kvmigd.model.system import System

QUIET_SECONDS = 0.5
"""apt and dnf change the package database many times in a row; it is read when they have paused for so long …"""
PATIENCE_SECONDS = 5.0
"""… or go on for longer than this."""
BATCH_SECONDS = 0.005
"""A CPU, a memory block or a guest seldom comes alone."""


class Settling:
    """Says when it has been quiet for a while after a change, or when changes have gone on for long."""

    def __init__(self, *, quiet: float, patience: float) -> None:
        self._quiet = quiet
        self._patience = patience
        self._changed = asyncio.Event()

    def touch(self) -> None:
        """Something has changed."""
        self._changed.set()

    async def wait(self) -> None:
        """Wait for a change, and for it to settle."""
        await self._changed.wait()
        loop = asyncio.get_running_loop()
        latest = loop.time() + self._patience
        while self._changed.is_set() and loop.time() < latest:
            self._changed.clear()
            await asyncio.sleep(min(self._quiet, latest - loop.time()))
        self._changed.clear()


class SystemMonitor:
    """The subject System, from files, the kernel's events and the comings and goings of guests."""

    def __init__(self, picture: Picture, files: Files, *, root: Path = Path("/")) -> None:
        self._picture = picture
        self._files = files
        self._root = root
        self._known: System | None = None
        self._looking = asyncio.Lock()
        self._begun = self._ended = 0
        self._installed = packages.Installed(problem="they have not been read yet")
        self._facts = Settling(quiet=BATCH_SECONDS, patience=1.0)
        self._packages = Settling(quiet=QUIET_SECONDS, patience=PATIENCE_SECONDS)
        self._clock = ClockWatch(files, changed=self._publish, root=root)
        picture.subscribe(self._on_change)

    def on_jump(self, listener: Callable[[float], None]) -> None:
        """Call `listener` with the seconds by which the wall clock was set forward (or, negative, back)."""
        self._clock.on_jump(listener)

    def refresh(self) -> None:
        """Look again: for what has no event, like a microcode that was loaded late."""
        self._facts.touch()

    async def run(self) -> None:
        """Keep it true, for ever."""
        root = self._root
        async with AsyncExitStack() as stack:
            events = KernelEvents(KOBJECT_UEVENT, self.refresh, wanted=lambda message: matters(parse(message)))
            await stack.enter_async_context(events)
            if (root / machine.SELINUX).exists():
                await stack.enter_async_context(KernelEvents(SELINUX, self.refresh))
            self._watch(stack, [root / "etc/os-release", root / "usr/lib/os-release"], self.refresh)
            self._watch(stack, [*machine.hugepage_files(root), root / machine.USERFAULTFD], self.refresh)
            self._watch(stack, [root / name for name in (packages.DPKG, *packages.RPM)], self._packages.touch)
            self._pin(stack, root / "proc/sys/vm")
            await self.look()
            await stack.enter_async_context(self._clock)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            group.create_task(self._repeat(self._facts, self.look), name="system-facts")
            group.create_task(self._keep_packages(), name="system-packages")
            group.create_task(self._clock.run(), name="system-clock")

    def _watch(self, stack: AsyncExitStack, paths: list[Path], listener: Callable[[], None]) -> None:
        stack.callback(self._files.watch(paths, listener).close)

    def _pin(self, stack: AsyncExitStack, folder: Path) -> None:
        """Hold a folder of procfs open: else the kernel may forget it, makes it anew, and inotify has the old one."""
        try:
            stack.callback(os.close, os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError:
            return

    async def _repeat(self, settling: Settling, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            await settling.wait()
            await look()

    async def look(self) -> None:
        """Read all but the packages and the clock now, and publish; who asks together is answered by one look."""
        begun = self._begun
        async with self._looking:
            if self._ended > begun:
                return  # another one has looked since this was asked
            self._begun += 1
            number = self._begun
            self._known = await asyncio.to_thread(facts, self._root)
            self._ended = number
            self._publish()

    async def _keep_packages(self) -> None:
        mark = await self._read_packages()
        while True:
            await self._packages.wait()
            if await asyncio.to_thread(packages.fingerprint, self._root) != mark or self._installed.problem:
                mark = await self._read_packages()

    async def _read_packages(self) -> tuple[str, int, int, int] | None:
        """Read them; returns the fingerprint that the database had then."""
        mark = await asyncio.to_thread(packages.fingerprint, self._root)
        self._installed = await packages.installed(self._root, kernel=system.kernel())
        self._publish()
        return mark

    def _publish(self) -> None:
        if self._known is not None:
            self._picture.publish(
                msgspec.structs.replace(
                    self._known,
                    problem="",
                    clock=self._clock.clock,
                    package_manager=self._installed.manager,
                    packages=self._installed.packages,
                    packages_problem=self._installed.problem,
                )
            )

    def _on_change(self, change: StateChange) -> None:
        """A guest that starts or ends takes or leaves huge pages, which is no event of its own."""
        if "hypervisor" in change.subjects and _active(change.before.hypervisor) != _active(change.now.hypervisor):
            self.refresh()


def _active(hypervisor: HypervisorState) -> set[str]:
    return {guest.uuid for guest in hypervisor.guests if guest.state.is_active}


def facts(root: Path = Path("/")) -> System:
    """Everything but the packages and the clock, read now; some milliseconds."""
    return System(
        release=system.release(root),
        kernel=system.kernel(),
        machine=machine.machine(root),
        cpu=cpu.cpu(root),
        kvm=cpu.kvm(root),
        security=machine.security(root),
        memory_total=machine.memory_total(root),
        hugepages=machine.hugepages(root),
        numa=machine.numa(root),
        userfaultfd=machine.userfaultfd(root),
    )
