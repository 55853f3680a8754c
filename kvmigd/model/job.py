"""Jobs: everything long is one. The whole state machine of a job is the two tables below."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class JobKind(StrEnum):
    """What a job does."""

    MIGRATE = "migrate"
    EVACUATE = "evacuate"


class JobState(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """The job has ended."""
        return not JOB_STEPS[self]


JOB_STEPS: dict[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset({JobState.RUNNING, JobState.CANCELLING, JobState.FAILED}),
    JobState.RUNNING: frozenset(
        {JobState.CANCELLING, JobState.DONE, JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED}
    ),
    # A cancel can come too late, and what it interrupts can fail: all ends are open.
    JobState.CANCELLING: frozenset({JobState.DONE, JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED}),
    JobState.DONE: frozenset(),
    JobState.PARTIAL: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class Phase(StrEnum):
    """What a migration is doing."""

    NEW = "new"
    CHECKING = "checking"
    ADMISSION = "admission"
    PROVING = "proving"
    STARTING = "starting"
    STREAMING = "streaming"
    SWITCHING = "switching"
    CONFIRMING = "confirming"
    CLEANING = "cleaning"
    FINISHED = "finished"


PHASE_STEPS: dict[Phase, frozenset[Phase]] = {
    Phase.NEW: frozenset({Phase.CHECKING, Phase.FINISHED}),
    Phase.CHECKING: frozenset({Phase.ADMISSION, Phase.FINISHED}),
    Phase.ADMISSION: frozenset({Phase.PROVING, Phase.CLEANING, Phase.FINISHED}),
    Phase.PROVING: frozenset({Phase.STARTING, Phase.CLEANING}),
    Phase.STARTING: frozenset({Phase.STREAMING, Phase.CONFIRMING}),
    Phase.STREAMING: frozenset({Phase.SWITCHING, Phase.CONFIRMING}),
    Phase.SWITCHING: frozenset({Phase.CONFIRMING}),
    Phase.CONFIRMING: frozenset({Phase.CLEANING, Phase.FINISHED}),
    Phase.CLEANING: frozenset({Phase.FINISHED}),
    Phase.FINISHED: frozenset(),
}


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of a migration's stream, from virDomainGetJobStats. Sizes are bytes, rates bytes a second."""

    total: int = 0
    processed: int = 0
    remaining: int = 0
    rate: int = 0
    dirty_rate: int = 0
    iteration: int = 0
    elapsed_usec: int = 0
    expected_end_usec: int = 0
    """Wall clock, microseconds since 1970; 0 while unknown or when it would never end at the present rates."""
    pause_usec: int = 0
    """The guest's pause: libvirt's expectation while it streams, the real one afterwards."""

    @property
    def fraction(self) -> float:
        """How much of the present total is done, 0 to 1; a busy guest can make it fall."""
        return 0.0 if self.total <= 0 else max(0.0, min(1.0, 1.0 - self.remaining / self.total))


class GuestLine(msgspec.Struct, frozen=True, kw_only=True):
    """One guest of an evacuation: where it went or why it did not."""

    guest: str
    peer: str = ""
    state: JobState = JobState.WAITING
    message: str = ""
    job: int = 0
    """Number of the child job, 0 while there is none."""


BANDWIDTH_LEAST = 1 << 20
"""libvirt counts in MiB a second (virDomainMigrateSetMaxSpeed), and takes its 0 for no limit at all."""
BANDWIDTH_MOST = 1 << 53


def bandwidth_problem(bandwidth: int) -> str:
    """What is wrong with a limit in bytes a second; empty if nothing is."""
    if bandwidth == 0 or BANDWIDTH_LEAST <= bandwidth <= BANDWIDTH_MOST:
        return ""
    return (
        f"bandwidth is {bandwidth} bytes a second; expected 0 for no limit, or {BANDWIDTH_LEAST} (1 MiB/s) "
        f"to {BANDWIDTH_MOST}"
    )


class MigrateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of Migrate. `bandwidth` is bytes a second, 0 for no limit, None for the configured one."""

    bandwidth: int | None = None

    def __post_init__(self) -> None:
        if self.bandwidth is not None and (problem := bandwidth_problem(self.bandwidth)):
            raise ValueError(problem)


class CheckOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of Check.

    `prove` tries what can be tried: both hosts look at the guest anew, write to its storage, connect to ports and send
    frames; without it the answer is what is known already. `strict` lets warnings block. `copy_disks` is about a
    migration that takes local disks along, `offline` about one for which the guest may be paused or shut off.
    """

    prove: bool = True
    strict: bool = False
    copy_disks: bool = False
    offline: bool = False


class EvacuateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of Evacuate.

    `shutdown` says that the host is going down: it refuses guests from now on, but maintenance is not switched on
    for the time after the boot. `deadline_usec` is from now, 0 for none: what has not left by then stays.
    """

    shutdown: bool = False
    deadline_usec: int = 0


class NoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """For verbs that take no option yet; any key is an error."""
