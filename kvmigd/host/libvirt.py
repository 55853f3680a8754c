"""The real hypervisor: libvirt.

Streams, statistics with abort, and everything else use separate connections, because libvirtd serves only a few
requests of one connection at a time (`max_client_requests`, 5) and a migration holds one of them until it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import libvirt
import msgspec

from kvmigd.errors import HypervisorFailed, NoSuchGuest
from kvmigd.host import domains, qemuconf, resources, stock
from kvmigd.host.capabilities import daemon_of
from kvmigd.host.files import Files
from kvmigd.host.hypervisor import ALL, GuestEvent, HypervisorFacts, Stream
from kvmigd.host.libvirtconnection import QUERY_SECONDS, STREAM_KEEPALIVE, LibvirtConnection, said
from kvmigd.host.libvirtjobs import GuestJobs
from kvmigd.host.libvirtlines import close
from kvmigd.model.guest import Guest, Whereabouts
from kvmigd.model.host import CpuFact, NameFact
from kvmigd.model.hypervisor import HypervisorState, NetworkFact
from kvmigd.model.job import Progress

INVENTORY_SECONDS = 60.0
"""Some hundred guests on a host that is busy."""
ABORT_SECONDS = 40.0
"""abortJob on a guest whose stream cannot connect answers only after 30 s."""

T = TypeVar("T")


class LibvirtHypervisor:
    """libvirt on this host, kept connected. Implements host.hypervisor.Hypervisor.

    With `files`, libvirt's sockets are watched while it is away; without, it is tried again every few seconds.
    """

    def __init__(self, uri: str, *, host_name: str, files: Files | None = None) -> None:
        self._uri = uri
        self._host_name = host_name
        self._connection = LibvirtConnection(uri, host_name=host_name, files=files)
        self._ask = self._connection.ask
        self._streams = ThreadPoolExecutor(32, thread_name_prefix="libvirt-stream")
        self._on_inventory: list[Callable[[str], None]] = []
        self._jobs = GuestJobs(self._connection, lambda uuid: self._tell_inventory(f"guest:{uuid}"))
        self._connection.on_event.append(self._on_event)

    @property
    def alive(self) -> bool:
        """A connection is up."""
        return self._connection.alive

    @property
    def problem(self) -> str:
        """Why there is no connection; empty when there is one."""
        return self._connection.problem

    @property
    def facts(self) -> HypervisorFacts | None:
        """What libvirt said when the connection came up."""
        return self._connection.facts

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the connection comes or goes."""
        self._connection.on_change.append(listener)

    def on_guest(self, listener: Callable[[str, str, GuestEvent], None]) -> None:
        """Call `listener(name, uuid, event)` on lifecycle events."""
        self._connection.on_guest.append(listener)

    def on_inventory(self, listener: Callable[[str], None]) -> None:
        """Call `listener(what)` when something may have changed."""
        self._on_inventory.append(listener)

    def _on_event(self, what: str) -> None:
        kind, _, uuid = what.partition(":")
        if kind == "job":
            uuid, _, job = uuid.partition(":")
            self._jobs.heard(uuid, job)
        else:
            self._tell_inventory(what)

    def _tell_inventory(self, what: str) -> None:
        for listener in tuple(self._on_inventory):
            listener(what)

    async def run(self) -> None:
        """Keep the connection up, and know what jobs run, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._connection.run(), name="libvirt-connection")
            group.create_task(self._jobs.run(), name="libvirt-jobs")

    async def _control_job(self, uuid: str, action: Callable[[Any], T], seconds: float) -> T | None:
        """Do something with the running job of a guest; None where the guest is gone."""

        def do(connection: Any) -> T | None:
            domain = domains.by_uuid(connection, uuid)
            return None if domain is None else action(domain)

        return await self._connection.control(do, seconds)

    async def inventory(self, before: HypervisorState | None, changed: frozenset[str]) -> HypervisorState:
        """Everything that libvirt says, or only what has changed since `before`."""
        jobs, facts = dict(self._jobs.known), self._connection.facts
        known = before if before is not None and ALL not in changed else None
        state = await self._ask(lambda connection: stock.take(connection, known, changed, jobs), INVENTORY_SECONDS)
        if known is not None:
            return state
        settings = await asyncio.to_thread(qemuconf.read)
        # Whoever starts a job tells nobody; what runs already is asked for, once.
        self._jobs.look([guest.uuid for guest in state.guests if guest.state.is_active])
        return msgspec.structs.replace(
            state,
            **msgspec.structs.asdict(self._connection.capabilities),
            settings=settings,
            uri=self._uri,
            daemon=daemon_of(self._uri),
            host_name=facts.hostname if facts else "",
            libvirt=facts.libvirt if facts else 0,
            qemu=facts.qemu if facts else 0,
        )

    async def guests(self) -> list[Guest]:
        """All guests, running or not; one that vanishes meanwhile is left out."""

        def ask(connection: Any) -> list[Guest]:
            found = []
            for domain in connection.listAllDomains():
                try:
                    found.append(domains.guest(domain))
                except libvirt.libvirtError as error:
                    if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                        raise
            return found

        return await self._ask(ask)

    async def guest(self, key: str) -> Guest:
        """The guest of that name or UUID; a name wins over a UUID. Raises NoSuchGuest."""

        def ask(connection: Any) -> Guest | None:
            domain = domains.lookup(connection, key)
            return None if domain is None else domains.guest(domain)

        guest = await self._ask(ask)
        if guest is None:
            raise NoSuchGuest(
                f"No guest {key!r} is defined on {self._host_name}.", hint="`virsh list --all` shows those that are."
            )
        return guest

    async def whereabouts(self, uuid: str) -> Whereabouts:
        """Where the guest stands on this host."""
        return await self._ask(lambda connection: domains.whereabouts(connection, uuid, host=self._host_name))

    async def names(self, name: str, uuid: str) -> NameFact:
        """Who holds this name and this UUID here."""
        return await self._ask(lambda connection: domains.names(connection, name, uuid))

    async def machine_problem(self, guest: Guest) -> str:
        """Why emulator, machine type and domain type cannot be had here, in libvirt's words; empty if they can."""
        try:
            await self._ask(
                lambda connection: connection.getDomainCapabilities(
                    guest.emulator or None, guest.arch, guest.machine, guest.domain_type, 0
                )
            )
        except HypervisorFailed as error:
            return error.message
        return ""

    async def compare_cpu(self, guest: Guest) -> CpuFact:
        """Ask libvirt whether the guest's CPU can run here; the answer names the features that are missing."""
        if not guest.cpu_xml:
            return CpuFact(compatible=True)
        flags = libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
        try:
            await self._ask(
                lambda connection: connection.compareHypervisorCPU(
                    guest.emulator or None, guest.arch, guest.machine, guest.domain_type, guest.cpu_xml, flags
                )
            )
        except HypervisorFailed as error:
            return CpuFact(compatible=False, problem=error.message)
        return CpuFact(compatible=True)

    async def network(self, name: str) -> NetworkFact:
        """The libvirt network of that name."""
        return await self._ask(lambda connection: resources.network(connection, name))

    async def migrate(self, uuid: str, stream: Stream) -> None:
        """Migrate live and peer-to-peer; blocks a thread and a connection of its own until libvirt is done."""
        flags = (
            libvirt.VIR_MIGRATE_LIVE
            | libvirt.VIR_MIGRATE_PEER2PEER
            | libvirt.VIR_MIGRATE_PERSIST_DEST
            | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        )
        parameters: dict[str, Any] = {libvirt.VIR_MIGRATE_PARAM_URI: stream.stream_uri}
        if stream.tls:
            flags |= libvirt.VIR_MIGRATE_TLS
            if stream.tls_name:
                parameters[libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION] = stream.tls_name
        if stream.bandwidth:
            parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = max(1, stream.bandwidth >> 20)  # libvirt counts in MiB/s

        def do() -> None:
            connection = libvirt.open(self._uri)
            try:
                connection.setKeepAlive(*STREAM_KEEPALIVE)
                connection.lookupByUUIDString(uuid).migrateToURI3(stream.libvirt_uri, parameters, flags)
            except libvirt.libvirtError as error:
                if connection.isAlive():  # then even an error of a connection is about the other host's
                    text, number = said(error)
                    raise HypervisorFailed(text, number=number) from error
                raise
            finally:
                close(connection)

        await self._connection.in_thread(self._streams, do, None)

    async def progress(self, uuid: str) -> Progress | None:
        """Statistics of the guest's running migration."""

        def ask(domain: Any) -> Progress | None:
            stats = domain.jobStats()
            return None if stats.get("type", 0) == libvirt.VIR_DOMAIN_JOB_NONE else domains.progress(stats)

        return await self._control_job(uuid, ask, QUERY_SECONDS)

    async def completed(self, uuid: str) -> Progress | None:
        """Statistics of the guest's last completed migration, with the real pause; asked on the destination."""

        def ask(domain: Any) -> Progress | None:
            stats = domain.jobStats(
                libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
            )
            return None if stats.get("type", 0) == libvirt.VIR_DOMAIN_JOB_NONE else domains.progress(stats)

        return await self._control_job(uuid, ask, QUERY_SECONDS)

    async def abort(self, uuid: str) -> None:
        """Abort the guest's running job; a job that has ended meanwhile is no error."""

        def do(domain: Any) -> None:
            try:
                domain.abortJob()
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                    raise

        await self._control_job(uuid, do, ABORT_SECONDS)

    async def set_autostart(self, uuid: str, *, on: bool) -> None:
        """Start the guest with the host, or not."""
        await self._ask(lambda connection: connection.lookupByUUIDString(uuid).setAutostart(int(on)))

    async def remove_remainder(self, uuid: str) -> None:
        """Destroy and undefine what is left here of a guest that runs elsewhere; its NVRAM and TPM state stay."""

        await self._ask(lambda connection: domains.remove_remainder(connection, uuid), ABORT_SECONDS)
