"""Puts the parts together: one task group, sd_notify, watchdog, signals."""

from __future__ import annotations

from kvmigd import log as logging  # first of all, because it decides how structlog is loaded

# isort: split
import argparse
import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import structlog
from systemd import daemon as systemd

from kvmigd import __version__, config
from kvmigd.bus.connection import Connection
from kvmigd.bus.face import BusFace
from kvmigd.checks.catalogue import SETTABLE
from kvmigd.config import Config
from kvmigd.errors import KvmigdError
from kvmigd.host.files import Files
from kvmigd.host.hypervisor import Hypervisor
from kvmigd.host.libvirt import LibvirtHypervisor
from kvmigd.host.local import Host
from kvmigd.host.monitors import Monitors
from kvmigd.host.qemuuser import QEMU_CONF
from kvmigd.jobs import Jobs
from kvmigd.peer.admission import AdmissionDesk
from kvmigd.peer.certificates import certificate_facts
from kvmigd.peer.peers import Peers
from kvmigd.peer.server import PeerServer
from kvmigd.prove.prover import Prover
from kvmigd.readiness.readiness import Readiness
from kvmigd.service import Service
from kvmigd.store import Store

log = structlog.get_logger(__name__)

SWITCH_SECONDS = 0.0005
"""A thread that computes gives way to the event loop after so long. Python's 5 ms would be waited for after each system
call of the loop's, a dozen times for one answer."""
FIRST_LOOK_SECONDS = 3.0
"""So long the start waits for monitors that have seen nothing yet."""


class Stopped(Exception):
    """The daemon was asked to stop."""


class Daemon:
    """The whole daemon. `run` returns when a signal asks for the end and raises when a part dies."""

    def __init__(
        self, settings: Config, *, state: Path, hypervisor: Callable[[Config], Hypervisor] | None = None
    ) -> None:
        self._config = settings
        self._state = state
        self._make_hypervisor = hypervisor
        self._stop = asyncio.Event()
        self._reloading = asyncio.Lock()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        try:
            await self._run()
        except* Stopped:
            log.info("daemon stopped")

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            store = stack.enter_context(Store(self._state))
            group = await stack.enter_async_context(asyncio.TaskGroup())
            files = await stack.enter_async_context(Files())
            hypervisor: Hypervisor
            if self._make_hypervisor is not None:
                hypervisor = self._make_hypervisor(self._config)
            else:
                hypervisor = LibvirtHypervisor(self._config.hypervisor, host_name=self._config.name, files=files)
            desk = AdmissionDesk(self._config.migration)
            host = Host(
                self._config,
                hypervisor,
                certificates=lambda settings: certificate_facts(settings.pki, name=settings.name),
                promised=lambda: desk.reserved_memory,
            )
            desk.on_change(host.refresh)
            group.create_task(hypervisor.run(), name="hypervisor")
            group.create_task(host.run(), name="host")
            monitors = Monitors(host.picture, files, self._config, hypervisor, bus=Connection.open)
            group.create_task(monitors.run(), name="monitors")
            host.before_look(monitors.read_for)
            server = await stack.enter_async_context(PeerServer(self._config, host, group=group, desk=desk))
            peers = await stack.enter_async_context(Peers(self._config, group))
            readiness = Readiness(host, peers, prover=lambda link: Prover(host, link, desk=desk, bursts=server.bursts))
            group.create_task(readiness.run(), name="readiness")

            def certificates_changed() -> None:
                for part in (server, peers, host):
                    part.certificates_changed()

            watch = files.watch((*self._config.pki.files, QEMU_CONF), certificates_changed)

            async def reload() -> None:
                nonlocal watch
                async with self._reloading:
                    before = self._config.pki
                    await self._reload(host, server, peers, readiness)
                    monitors.apply(self._config)
                    if before != self._config.pki:
                        watch.close()
                        watch = files.watch((*self._config.pki.files, QEMU_CONF), certificates_changed)

            wanted = asyncio.Event()

            async def keep_reloading() -> None:
                """Reload for signals and changed files, one after the other."""
                while True:
                    await wanted.wait()
                    wanted.clear()
                    await _logged(reload)

            group.create_task(keep_reloading(), name="reload")
            service = Service(host, peers, Jobs(group), store, readiness=readiness, reload=reload)
            # Who is answered from now on is answered from what was seen, not from nothing.
            await monitors.first_look(FIRST_LOOK_SECONDS)
            readiness.catch_up()
            face = await stack.enter_async_context(BusFace(service))
            group.create_task(face.run(), name="bus")
            group.create_task(_watchdog(), name="watchdog")
            self._listen_to_signals(wanted.set)
            files.watch(config.files(self._config.directory), wanted.set)
            hypervisor.on_change(lambda: _tell_status(hypervisor))
            _tell_status(hypervisor)
            # What is there now stays: looking through it for garbage again and again would hold the loop for 20 ms.
            gc.collect()
            gc.freeze()
            systemd.notify("READY=1")
            log.info("daemon ready", version=__version__, host=self._config.name, peers=len(self._config.peers))
            await self._stop.wait()
            systemd.notify("STOPPING=1")
            raise Stopped

    async def _reload(self, host: Host, server: PeerServer, peers: Peers, readiness: Readiness) -> None:
        """Take the configuration that the files say now; one that is wrong changes nothing and is raised."""
        settings = await asyncio.to_thread(config.load, self._config.directory, settable=SETTABLE)
        if settings.hypervisor != self._config.hypervisor or settings.name != self._config.name:
            log.warning("restart needed", reason="name and hypervisor are only read at the start")
            settings = msgspec.structs.replace(settings, name=self._config.name, hypervisor=self._config.hypervisor)
        self._config = settings
        logging.set_up(settings.log_level)
        host.apply(settings)
        await server.reload(settings)
        await peers.apply(settings)
        readiness.apply(settings)
        log.info("configuration reloaded", peers=len(settings.peers))

    def _listen_to_signals(self, reload: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload)


async def _logged(reload: Callable[[], Awaitable[None]]) -> None:
    """Reload for a signal or a changed file, which have nobody to tell an error to."""
    try:
        await reload()
    except KvmigdError as error:
        log.error("configuration not reloaded", error=str(error))


async def _watchdog() -> None:
    """Tell systemd that the event loop turns, twice in the time that it grants (sd_watchdog_enabled(3))."""
    usec = int(os.environ.get("WATCHDOG_USEC", "0"))
    while usec:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(usec / 2e6)


def _tell_status(hypervisor: Hypervisor) -> None:
    systemd.notify(f"STATUS={'Ready' if hypervisor.alive else f'Waiting for libvirt: {hypervisor.problem}'}")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


def main() -> None:
    """Entry point of `kvmigd`."""
    parser = argparse.ArgumentParser(prog="kvmigd", description="Live migration between libvirt hosts.")
    parser.add_argument("--config", type=Path, default=Path("/etc/kvmigd"), metavar="DIR", help="configuration folder")
    parser.add_argument("--state", type=Path, default=Path("/var/lib/kvmigd"), metavar="DIR", help="state folder")
    parser.add_argument("--version", action="version", version=f"kvmigd {__version__}")
    arguments = parser.parse_args()
    sys.exit(start(arguments.config, arguments.state))


def start(directory: Path, state: Path, *, hypervisor: Callable[[Config], Hypervisor] | None = None) -> int:
    """Run the daemon and return its exit status."""
    logging.set_up("info")
    try:
        settings = config.load(directory, settable=SETTABLE)
    except KvmigdError as error:
        log.error("configuration invalid", error=str(error))
        systemd.notify(f"STATUS={error}")
        return 1
    logging.set_up(settings.log_level)
    status = 0
    sys.setswitchinterval(SWITCH_SECONDS)

    async def run() -> None:
        await Daemon(settings, state=state, hypervisor=hypervisor).run()

    try:
        asyncio.run(run())
    except BaseException as error:
        status = 1
        for leaf in _leaves(error):
            if isinstance(leaf, KvmigdError):
                log.error("daemon failed", error=str(leaf))
            else:
                log.error("daemon broke", error=repr(leaf), exc_info=leaf)
    if any(
        thread.name.startswith("libvirt") and thread is not threading.main_thread() for thread in threading.enumerate()
    ):
        # The interpreter would wait for threads that are in a call of libvirt's, which can take as long as a migration.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
