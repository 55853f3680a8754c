"""The real hypervisor: libvirt.

Calls of libvirt's library block, so each runs in a thread with a deadline. Its events come from the library's own
event loop in a thread of its own: `libvirtaio` changes asyncio's selector and timers from whatever thread a call
runs in, which asyncio does not allow. Streams, statistics with abort, and everything else use separate connections,
because libvirtd serves only a few requests of one connection at a time (`max_client_requests`, 5) and a migration
holds one of them until it has ended.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import libvirt
import msgspec
import structlog

from kvmigd.errors import HypervisorFailed, HypervisorUnavailable, NoSuchGuest
from kvmigd.host import domains, libvirtevents, resources, stock
from kvmigd.host.capabilities import Capabilities, capabilities_of, daemon_of
from kvmigd.host.hypervisor import ALL, GuestEvent, HypervisorFacts, Stream
from kvmigd.model.guest import Guest, Whereabouts
from kvmigd.model.host import CpuFact, NameFact
from kvmigd.model.hypervisor import HypervisorState, NetworkFact
from kvmigd.model.job import Progress

log = structlog.get_logger(__name__)

QUERY_SECONDS = 10.0
INVENTORY_SECONDS = 60.0
"""Some hundred guests on a host that is busy."""
ABORT_SECONDS = 40.0
"""abortJob on a guest whose stream cannot connect answers only after 30 s."""
RETRY_SECONDS = 1.0
KEEPALIVE_SECONDS, KEEPALIVE_COUNT = 5, 3

_EVENTS = {
    libvirt.VIR_DOMAIN_EVENT_DEFINED: GuestEvent.DEFINED,
    libvirt.VIR_DOMAIN_EVENT_UNDEFINED: GuestEvent.UNDEFINED,
    libvirt.VIR_DOMAIN_EVENT_STARTED: GuestEvent.STARTED,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: GuestEvent.SUSPENDED,
    libvirt.VIR_DOMAIN_EVENT_RESUMED: GuestEvent.RESUMED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED: GuestEvent.STOPPED,
}

T = TypeVar("T")
_event_thread_started = threading.Event()


def _start_event_thread() -> None:
    """libvirt has one event implementation a process; it must be there before the first connection."""
    if _event_thread_started.is_set():
        return
    _event_thread_started.set()
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors come as exceptions, not on stderr
    libvirt.virEventRegisterDefaultImpl()

    def forever() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=forever, name="libvirt-events", daemon=True).start()


class LibvirtHypervisor:
    """libvirt on this host, kept connected. Implements host.hypervisor.Hypervisor."""

    def __init__(self, uri: str, *, host_name: str) -> None:
        self._uri = uri
        self._host_name = host_name
        self._loop = asyncio.get_running_loop()
        self._queries = ThreadPoolExecutor(8, thread_name_prefix="libvirt")
        self._control = ThreadPoolExecutor(8, thread_name_prefix="libvirt-job")
        self._streams = ThreadPoolExecutor(32, thread_name_prefix="libvirt-stream")
        self._main: Any = None
        self._job: Any = None
        self._facts: HypervisorFacts | None = None
        self._problem = f"libvirt on {host_name} has not been connected yet."
        self._lost = asyncio.Event()
        self._on_change: list[Callable[[], None]] = []
        self._on_guest: list[Callable[[str, str, GuestEvent], None]] = []
        self._on_inventory: list[Callable[[str], None]] = []
        self._capabilities = Capabilities()
        self._jobs: dict[str, str] = {}
        """Migrations by UUID, as far as events have told of them, whoever started them."""

    @property
    def alive(self) -> bool:
        """A connection is up."""
        return self._main is not None

    @property
    def problem(self) -> str:
        """Why there is no connection; empty when there is one."""
        return "" if self._main is not None else self._problem

    @property
    def facts(self) -> HypervisorFacts | None:
        """What libvirt said when the connection came up."""
        return self._facts

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the connection comes or goes."""
        self._on_change.append(listener)

    def on_guest(self, listener: Callable[[str, str, GuestEvent], None]) -> None:
        """Call `listener(name, uuid, event)` on lifecycle events."""
        self._on_guest.append(listener)

    def on_inventory(self, listener: Callable[[str], None]) -> None:
        """Call `listener(what)` when something may have changed."""
        self._on_inventory.append(listener)

    async def run(self) -> None:
        """Keep the connections up: connect, wait for the loss, connect again."""
        _start_event_thread()
        while True:
            self._lost.clear()
            try:
                main, job, facts = await self._in_thread(self._queries, self._connect, QUERY_SECONDS)
            except (HypervisorFailed, HypervisorUnavailable) as error:
                if self._problem != error.message:
                    log.warning("hypervisor unavailable", uri=self._uri, problem=error.message)
                    self._problem = error.message
                    self._tell_change()
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._main, self._job, self._facts = main, job, facts
            self._jobs.clear()
            log.info("hypervisor connected", uri=self._uri, libvirt=facts.libvirt, qemu=facts.qemu)
            self._tell_change()
            try:
                await self._lost.wait()
            finally:
                self._main = self._job = None
                self._queries.submit(_close, main)
                self._queries.submit(_close, job)
            self._problem = f"The connection to libvirt on {self._host_name} was lost."
            log.warning("hypervisor lost", uri=self._uri)
            self._tell_change()

    def _connect(self) -> tuple[Any, Any, HypervisorFacts]:
        main = libvirt.open(self._uri)
        job = libvirt.open(self._uri)
        for connection in (main, job):
            connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
            connection.registerCloseCallback(self._closed, None)
        main.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
        libvirtevents.register(main, self._changed)
        self._capabilities = capabilities_of(main.getCapabilities())
        return (
            main,
            job,
            HypervisorFacts(
                host_id=self._capabilities.host_id,
                hostname=main.getHostname(),
                libvirt=main.getLibVersion(),
                qemu=main.getVersion(),
            ),
        )

    def _closed(self, _connection: Any, _reason: int, _opaque: Any) -> None:
        self._loop.call_soon_threadsafe(self._lost.set)

    def _lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        kind, uuid = _EVENTS.get(event, GuestEvent.OTHER), domain.UUIDString()
        self._loop.call_soon_threadsafe(self._tell_guest, domain.name(), uuid, kind)
        if job := libvirtevents.job_after(event, detail):
            self._changed(f"job:{uuid}:{job}")
        self._changed(f"guest:{uuid}")

    def _tell_change(self) -> None:
        for listener in tuple(self._on_change):
            listener()

    def _tell_guest(self, name: str, uuid: str, event: GuestEvent) -> None:
        for listener in tuple(self._on_guest):
            listener(name, uuid, event)

    def _changed(self, what: str) -> None:
        """Called in libvirt's thread."""
        self._loop.call_soon_threadsafe(self._tell_inventory, what)

    def _tell_inventory(self, what: str) -> None:
        kind, _, uuid = what.partition(":")
        if kind == "job":
            uuid, _, job = uuid.partition(":")
            if job == "none":
                self._jobs.pop(uuid, None)
            else:
                self._jobs[uuid] = job
            what = f"guest:{uuid}"
        for listener in tuple(self._on_inventory):
            listener(what)

    async def _in_thread(self, pool: ThreadPoolExecutor, call: Callable[[], T], seconds: float | None) -> T:
        try:
            async with asyncio.timeout(seconds):
                return await self._loop.run_in_executor(pool, call)
        except TimeoutError as error:
            raise HypervisorUnavailable(
                f"libvirt on {self._host_name} has not answered for {seconds:.0f} s.", hint=_HINT
            ) from error
        except libvirt.libvirtError as error:
            raise self._translated(error) from error

    def _translated(self, error: libvirt.libvirtError) -> HypervisorFailed | HypervisorUnavailable:
        text, number = _said(error)
        if number in (libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_CONN) or (
            error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
        ):
            return HypervisorUnavailable(f"libvirt on {self._host_name} does not answer: {text}.", hint=_HINT)
        return HypervisorFailed(text, number=number)

    async def _ask(self, question: Callable[[Any], T], seconds: float = QUERY_SECONDS) -> T:
        """Ask something on the main connection."""
        connection = self._main
        if connection is None:
            raise HypervisorUnavailable(self._problem, hint=_HINT)
        return await self._in_thread(self._queries, lambda: question(connection), seconds)

    async def _control_job(self, uuid: str, action: Callable[[Any], T], seconds: float) -> T | None:
        """Do something with the running job of a guest; None where the guest is gone."""
        connection = self._job
        if connection is None:
            raise HypervisorUnavailable(self._problem, hint=_HINT)

        def do() -> T | None:
            domain = domains.by_uuid(connection, uuid)
            return None if domain is None else action(domain)

        return await self._in_thread(self._control, do, seconds)

    async def inventory(self, before: HypervisorState | None, changed: frozenset[str]) -> HypervisorState:
        """Everything that libvirt says, or only what has changed since `before`."""
        jobs, facts = dict(self._jobs), self._facts
        known = before if before is not None and ALL not in changed else None
        state = await self._ask(lambda connection: stock.take(connection, known, changed, jobs), INVENTORY_SECONDS)
        if known is not None:
            return state
        return msgspec.structs.replace(
            state,
            **msgspec.structs.asdict(self._capabilities),
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

        def ask(connection: Any) -> NameFact:
            by_name = domains.by_name(connection, name)
            by_uuid = domains.by_uuid(connection, uuid)
            return NameFact(
                uuid_of_name=by_name.UUIDString() if by_name is not None else "",
                name_of_uuid=by_uuid.name() if by_uuid is not None else "",
                uuid_is_active=bool(by_uuid is not None and by_uuid.isActive()),
            )

        return await self._ask(ask)

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
                connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
                connection.lookupByUUIDString(uuid).migrateToURI3(stream.libvirt_uri, parameters, flags)
            except libvirt.libvirtError as error:
                if connection.isAlive():  # then even an error of a connection is about the other host's
                    text, number = _said(error)
                    raise HypervisorFailed(text, number=number) from error
                raise
            finally:
                _close(connection)

        await self._in_thread(self._streams, do, None)

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


_HINT = "`systemctl status libvirtd virtqemud` shows why."


def _said(error: libvirt.libvirtError) -> tuple[str, int]:
    """libvirt's words without their full stop, and its number for them."""
    return str(error.get_error_message() or error).rstrip("."), error.get_error_code() or 0


def _close(connection: Any) -> None:
    try:
        connection.close()
    except libvirt.libvirtError as error:
        log.debug("connection not closed", error=str(error))
