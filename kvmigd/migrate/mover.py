"""Moving one guest: check, admission, proof, stream, and both hosts' word on where the guest runs."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncIterator

import msgspec
import structlog

from kvmigd.checks.guest import memory_needed
from kvmigd.checks.ports import port_open
from kvmigd.errors import (
    AdmissionBusy,
    AdmissionRefused,
    Blocked,
    Cancelled,
    GuestBusy,
    GuestLost,
    HypervisorFailed,
    HypervisorUnavailable,
    KvmigdError,
    PeerFailed,
    PeerNotTrusted,
    PeerUnreachable,
    Unresolved,
)
from kvmigd.host.hypervisor import GuestEvent, Stream
from kvmigd.host.local import Host
from kvmigd.jobs import Job, Jobs
from kvmigd.migrate.outcome import Outcome, decide, has_remainder
from kvmigd.model.finding import Finding, Severity
from kvmigd.model.guest import Guest, Whereabouts
from kvmigd.model.job import CheckOptions, JobKind, MigrateOptions, Phase
from kvmigd.peer.link import PeerLink
from kvmigd.peer.wire import Granted
from kvmigd.readiness.check import Checked, check, prove_port
from kvmigd.readiness.readiness import Readiness

log = structlog.get_logger(__name__)

BUSY_SECONDS = 60.0
"""So long a busy destination is asked again."""
RESOLVE_SECONDS = 60.0
"""libvirt gives up on a silent peer after 30 s (keepalive 5 s x 5) and then cleans up; twice that."""
POLL_SECONDS = 0.5


class Mover:
    """Moves guests of this host to peers. Its one method `migrate` is the work of a migration job."""

    def __init__(self, host: Host, jobs: Jobs, readiness: Readiness) -> None:
        self._host = host
        self._jobs = jobs
        self._readiness = readiness
        host.hypervisor.on_guest(self._guest_event)

    def _guest_event(self, _name: str, uuid: str, event: GuestEvent) -> None:
        """The source pauses for the last part of the stream."""
        job = self._jobs.moving(uuid)
        if event is GuestEvent.SUSPENDED and job is not None and job.phase in (Phase.STARTING, Phase.STREAMING):
            job.enter(Phase.STREAMING)
            job.enter(Phase.SWITCHING)

    def start(self, guest: Guest, link: PeerLink, options: MigrateOptions, *, parent: int = 0) -> Job:
        """Start the job; raises GuestBusy if the guest is being migrated already."""
        running = self._jobs.moving(guest.uuid)
        if running is not None:
            raise GuestBusy(
                f"{guest.name} is already being migrated, to {running.peer} by job {running.number}.",
                hint=f"kvmigctl cancel {running.number} stops that.",
            )
        return self._jobs.start(
            lambda job: self.migrate(job, guest, link, options),
            kind=JobKind.MIGRATE,
            guest=guest.name,
            guest_uuid=guest.uuid,
            peer=link.name,
            parent=parent,
        )

    async def migrate(self, job: Job, guest: Guest, link: PeerLink, options: MigrateOptions) -> None:
        """Move `guest` to the peer; returns when both hosts agree that it runs there.

        Raises Blocked, AdmissionRefused or AdmissionBusy before libvirt was asked; HypervisorFailed or Cancelled when
        the guest stayed; GuestLost or Unresolved when neither is true.
        """
        job.enter(Phase.CHECKING)
        checked = await job.unless_cancelled(self._check(guest, link))
        job.findings = checked.findings
        _raise_if_blocked(guest, link.name, checked.findings)
        job.enter(Phase.ADMISSION)
        async with self._admission(job, guest, link) as granted:
            job.enter(Phase.PROVING)
            await job.unless_cancelled(self._prove(job, guest, link))
            job.enter(Phase.STARTING)
            configured = self._host.config.migration.bandwidth
            job.bandwidth = options.bandwidth if options.bandwidth is not None else configured
            stream = Stream(
                libvirt_uri=link.peer.uri,
                stream_uri=f"tcp://{_bracketed(granted.address)}:{granted.port}",
                tls=checked.tls,
                tls_name=link.name,
                bandwidth=job.bandwidth,
            )
            log.info("migration starting", job=job.number, guest=guest.name, peer=link.name, uri=stream.stream_uri)
            failure = await self._stream(job, guest, stream)
            if failure is not None:
                self._host.remotes.forget(stream.libvirt_uri)
            job.enter(Phase.CONFIRMING)
            await self._confirm(job, guest, link, failure)

    async def _check(self, guest: Guest, link: PeerLink) -> Checked:
        """Both hosts look anew; what can be tried is believed as it was last tried, unless it stands in the way."""
        proofs = self._readiness.proofs(link.name)
        checked = await check(self._host, link, guest, CheckOptions(prove=False), proofs=proofs)
        if any(finding.severity is Severity.BLOCK and finding.proved_usec for finding in checked.findings):
            again = await self._readiness.check(guest, link, CheckOptions())
            return msgspec.structs.replace(checked, findings=again.findings, verdict=again.verdict)
        return checked

    @contextlib.asynccontextmanager
    async def _admission(self, job: Job, guest: Guest, link: PeerLink) -> AsyncIterator[Granted]:
        """The destination's promise of memory and a port, renewed until the block ends.

        A block that ends well has settled the job, which ends the lease too; one that is given up because the daemon
        stops leaves it to end by itself, for the guest may be on its way.
        """
        renewing: asyncio.Future[None] | None = None
        try:
            granted = await job.unless_cancelled(self._admit(job, guest, link))
            renewing = asyncio.ensure_future(self._renew(job, link, granted.lease_seconds))
            yield granted
        except AdmissionRefused:
            raise
        except Exception:
            if job.phase not in (Phase.ADMISSION, Phase.PROVING, Phase.CONFIRMING):
                raise  # a defect while the guest may be on its way: the lease ends by itself
            job.enter(Phase.CLEANING)
            try:
                await link.release(job.uuid)
            except KvmigdError as error:
                log.warning("admission not released", job=job.number, peer=link.name, error=str(error))
            raise
        finally:
            if renewing is not None:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)

    async def _admit(self, job: Job, guest: Guest, link: PeerLink) -> Granted:
        memory = memory_needed(guest.memory, guest.vcpus)
        give_up = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return await link.admit(job.uuid, guest, memory=memory)
            except AdmissionBusy as busy:
                if time.monotonic() + busy.retry_after > give_up:
                    raise
                log.info("destination busy", job=job.number, guest=guest.name, peer=link.name, reason=busy.message)
                await asyncio.sleep(busy.retry_after)

    async def _renew(self, job: Job, link: PeerLink, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds / 3)
            try:
                await link.renew(job.uuid)
            except KvmigdError as error:
                # The stream is libvirt's; a control connection that is away for a while must not end it.
                log.warning("admission not renewed", job=job.number, peer=link.name, error=str(error))

    async def _prove(self, job: Job, guest: Guest, link: PeerLink) -> None:
        """The very port that QEMU will listen on, through every firewall between the hosts."""
        proof = await prove_port(link, job.uuid)
        findings = tuple(port_open(proof, here=self._host.config.name, there=link.name))
        if findings:
            # What was only read in the firewall's rules is no news beside what was tried.
            job.findings = (*findings, *(it for it in job.findings if it.check != findings[0].check))
            _raise_if_blocked(guest, link.name, job.findings)

    async def _stream(self, job: Job, guest: Guest, stream: Stream) -> KvmigdError | None:
        """Let libvirt migrate; returns what it complained of. Cancelling aborts libvirt's job and waits for its end."""
        hypervisor = self._host.hypervisor
        if job.cancel_requested:
            return Cancelled(f"Job {job.number} was cancelled.")
        migrating = asyncio.ensure_future(hypervisor.migrate(guest.uuid, stream))
        watching = asyncio.ensure_future(self._watch(job, guest))
        aborting = asyncio.ensure_future(self._abort_on_cancel(job, guest))
        try:
            await migrating
        except (HypervisorFailed, HypervisorUnavailable) as error:
            if job.cancel_requested:
                return Cancelled(f"Job {job.number} was cancelled.")
            return error
        finally:
            for task in (watching, aborting):
                task.cancel()
            await asyncio.gather(watching, aborting, return_exceptions=True)
        return None

    async def _watch(self, job: Job, guest: Guest) -> None:
        """Follow the statistics while libvirt has any."""
        while True:
            try:
                progress = await self._host.hypervisor.progress(guest.uuid)
            except KvmigdError as error:
                log.debug("no statistics", job=job.number, error=str(error))
                progress = None
            if progress is not None and progress.total:  # libvirt's job begins before the stream does
                if job.phase is Phase.STARTING:
                    job.enter(Phase.STREAMING)
                job.report(progress)
            await asyncio.sleep(POLL_SECONDS)

    async def _abort_on_cancel(self, job: Job, guest: Guest) -> None:
        await job.wait_cancel()
        while True:  # a cancel that comes before libvirt's job has begun finds nothing to abort
            try:
                await self._host.hypervisor.abort(guest.uuid)
            except KvmigdError as error:
                log.warning("migration not aborted", job=job.number, guest=guest.name, error=str(error))
            await asyncio.sleep(POLL_SECONDS)

    async def _confirm(self, job: Job, guest: Guest, link: PeerLink, failure: KvmigdError | None) -> None:
        """Ask both hosts where the guest runs, tidy up what the answer allows, and raise what went wrong."""
        source, destination, outcome = await self._resolve(guest, link)
        fields = {"job": job.number, "guest": guest.name, "peer": link.name, "outcome": str(outcome)}
        if outcome is Outcome.ARRIVED:
            if has_remainder(source):
                # libvirt's Finish was answered but not heard: the guest is there, and this is its shell.
                log.warning("remainder removed", **fields, remainder=source.describe())
                await self._host.hypervisor.remove_remainder(guest.uuid)
            settled = await link.settle(job.uuid, guest.uuid, outcome="arrived", autostart=guest.autostart)
            if settled.statistics is not None:
                job.report(msgspec.structs.replace(settled.statistics, remaining=0, expected_end_usec=0))
            log.info("guest arrived", **fields, complaint=failure.message if failure else "")
            return
        both = "; ".join(side.describe() for side in (source, destination) if side is not None)
        log.warning("guest did not arrive", **fields, hosts=both, complaint=failure.message if failure else "")
        failure = await self._explained(job, guest, link, failure)
        if outcome is Outcome.STAYED:
            with contextlib.suppress(PeerUnreachable):
                await link.settle(job.uuid, guest.uuid, outcome="stayed", autostart=False)
            raise failure or HypervisorFailed(
                f"libvirt said that {guest.name} was migrated, but it runs on {source.host}."
            )
        if outcome is Outcome.LOST:
            raise GuestLost(
                f"{guest.name} runs on neither host ({both}). {failure.message if failure else ''}".strip(),
                hint=f"virsh start {guest.name}, on the host where it is defined.",
            )
        raise Unresolved(
            f"It is not known where {guest.name} runs ({both or 'no answer'}); nothing was touched. "
            f"{failure.message if failure else ''}".strip(),
            hint=f"On both hosts: virsh domstate --reason {guest.name}. Where it is paused and runs nowhere else: "
            f"virsh resume {guest.name}",
        )

    async def _explained(
        self, job: Job, guest: Guest, link: PeerLink, failure: KvmigdError | None
    ) -> KvmigdError | None:
        """The failure with libvirt's own words and what they mean, which becomes the job's first finding.

        Words that nobody has entered in the dictionary stay as they are.
        """
        if not isinstance(failure, HypervisorFailed):
            return failure
        # Hundreds of patterns, which most daemons never need: they are loaded, in a thread, when something fails.
        dictionary = await asyncio.to_thread(importlib.import_module, "kvmigd.checks.failures")
        meaning = dictionary.understood(failure.message, failure.number)
        if meaning is None:
            return failure
        here = self._host.config.name
        finding: Finding = dictionary.finding_of(
            meaning, here=here, there=link.name, raw=failure.message, guest=guest.name
        )
        job.findings = (finding, *job.findings)
        return HypervisorFailed(f"{failure.message}. {finding.summary}", hint=finding.remedy, number=failure.number)

    async def _resolve(self, guest: Guest, link: PeerLink) -> tuple[Whereabouts, Whereabouts | None, Outcome]:
        give_up = time.monotonic() + RESOLVE_SECONDS
        pause = 0.05
        while True:
            source, destination = await asyncio.gather(self._here(guest), self._there(guest, link))
            outcome = Outcome.PENDING if source is None else decide(source, destination)
            if outcome is not Outcome.PENDING or time.monotonic() > give_up:
                unknown = Whereabouts(host=self._host.config.name, known=False, reason="libvirt does not answer")
                return source or unknown, destination, outcome
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)

    async def _here(self, guest: Guest) -> Whereabouts | None:
        try:
            return await self._host.whereabouts(guest.uuid)
        except (HypervisorUnavailable, HypervisorFailed) as error:
            log.warning("source does not answer", guest=guest.name, error=str(error))
            return None

    async def _there(self, guest: Guest, link: PeerLink) -> Whereabouts | None:
        try:
            return await link.whereabouts(guest.uuid)
        except (PeerUnreachable, PeerFailed, PeerNotTrusted, HypervisorUnavailable, HypervisorFailed) as error:
            log.warning("destination does not answer", guest=guest.name, peer=link.name, error=str(error))
            return None


def _raise_if_blocked(guest: Guest, peer: str, findings: tuple[Finding, ...]) -> None:
    standing = [finding for finding in findings if finding.severity in (Severity.BLOCK, Severity.UNKNOWN)]
    if standing:
        more = f" (and {len(standing) - 1} more)" if len(standing) > 1 else ""
        raise Blocked(
            f"{guest.name} cannot move to {peer}: {standing[0].summary}{more}",
            hint=standing[0].remedy,
            findings=findings,
        )


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
