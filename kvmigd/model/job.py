"""Jobs: everything long is one. The whole state machine of a job is the two tables below."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, get_args

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
    NEEDS_DECISION = "needs-decision"
    """A migration whose end only a person can decide: `kvmigctl recover` shows what is known of both sides."""

    @property
    def is_final(self) -> bool:
        """The job has ended."""
        return not JOB_STEPS[self]


JOB_STEPS: dict[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset({JobState.RUNNING, JobState.CANCELLING, JobState.FAILED}),
    JobState.RUNNING: frozenset(
        {
            *(JobState.CANCELLING, JobState.DONE, JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED),
            JobState.NEEDS_DECISION,
        }
    ),
    # A cancel can come too late, and what it interrupts can fail: all ends are open.
    JobState.CANCELLING: frozenset(
        {JobState.DONE, JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED, JobState.NEEDS_DECISION}
    ),
    JobState.DONE: frozenset(),
    JobState.PARTIAL: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
    JobState.NEEDS_DECISION: frozenset(),
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
    """The guest stands still, and the last of its memory is on its way."""
    FENCING = "fencing"
    """The destination has all of the guest; the source's QEMU is waited for until it is seen gone."""
    WAKING = "waking"
    """The guest exists only on the destination, which shall let it run."""
    CONFIRMING = "confirming"
    CLEANING = "cleaning"
    FINISHED = "finished"


PHASE_STEPS: dict[Phase, frozenset[Phase]] = {
    # A daemon that was restarted takes a job up where it finds it.
    Phase.NEW: frozenset({Phase.CHECKING, Phase.STREAMING, Phase.CONFIRMING, Phase.FINISHED}),
    Phase.CHECKING: frozenset({Phase.ADMISSION, Phase.FINISHED}),
    Phase.ADMISSION: frozenset({Phase.PROVING, Phase.CLEANING, Phase.FINISHED}),
    Phase.PROVING: frozenset({Phase.STARTING, Phase.CLEANING}),
    Phase.STARTING: frozenset({Phase.STREAMING, Phase.FENCING, Phase.CONFIRMING, Phase.CLEANING}),
    Phase.STREAMING: frozenset({Phase.SWITCHING, Phase.FENCING, Phase.CONFIRMING}),
    # A person may let a guest go on that stands still for another reason.
    Phase.SWITCHING: frozenset({Phase.STREAMING, Phase.FENCING, Phase.CONFIRMING}),
    Phase.FENCING: frozenset({Phase.WAKING, Phase.CONFIRMING}),
    Phase.WAKING: frozenset({Phase.CONFIRMING}),
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
    throttle_percent: int = 0
    """How much of its CPUs' time auto-converge takes from the guest."""
    post_copy: bool = False
    """The guest runs on the destination, and its memory follows."""

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


PAUSE_LEAST_USEC = 1000
"""libvirt counts pauses in milliseconds (virDomainMigrateSetMaxDowntime)."""
PAUSE_MOST_USEC = 2_000_000 * 1000
"""QEMU's own limit of downtime-limit, 2000 s."""
DEADLINE_LEAST_USEC = 1_000_000
STREAMS_MOST = 16

Mode = Literal["", "live", "offline"]
Handover = Literal["", "fenced", "direct"]


class MigrateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of Migrate: goals rather than knobs. Everything that is None or "" is as configured.

    `bandwidth` is bytes a second, 0 for no limit. `mode`: "live"; "offline" suspends the guest first and resumes it on
    the destination; "" is live for a guest that runs, and moves the definition of one that is shut off.

    `max_pause_usec` is the longest pause that is wanted, `deadline_usec` the time from the first byte by which the
    guest shall have left. With `must_finish` it leaves whatever it takes; without it, a guest that does not converge
    may stay. `suspend` allows to suspend a guest that is too busy and to finish offline, `post_copy` allows post-copy.
    `ladder` names the steps by which a migration is helped.

    `copy_disks` takes along disks that are not shared. `streams` is the number of parallel streams, 0 for automatic.
    `handover` is "fenced" (the destination wakes after the source's QEMU was seen gone) or "direct" (libvirt's own).
    """

    bandwidth: int | None = None
    mode: str = ""
    ladder: str = ""
    max_pause_usec: int | None = None
    deadline_usec: int | None = None
    must_finish: bool = False
    suspend: bool = True
    post_copy: bool = False
    copy_disks: bool = False
    streams: int = 0
    handover: str = ""

    def __post_init__(self) -> None:
        problem = ""
        if self.bandwidth is not None:
            problem = bandwidth_problem(self.bandwidth)
        if not problem and self.mode not in get_args(Mode):
            problem = f"mode is {self.mode!r}; expected live, offline or nothing"
        if not problem and self.handover not in get_args(Handover):
            problem = f"handover is {self.handover!r}; expected fenced, direct or nothing"
        if not problem and self.handover == "fenced" and self.post_copy:
            problem = "handover is fenced; expected direct with post-copy, where the guest runs on before all has come"
        if not problem and self.max_pause_usec is not None:
            problem = _range_problem("maxPauseUSec", self.max_pause_usec, PAUSE_LEAST_USEC, PAUSE_MOST_USEC)
        if not problem and self.deadline_usec is not None:
            problem = _range_problem("deadlineUSec", self.deadline_usec, DEADLINE_LEAST_USEC, 1 << 53)
        if not problem:
            problem = _range_problem("streams", self.streams, 0, STREAMS_MOST)
        if problem:
            raise ValueError(problem)


def _range_problem(name: str, value: int, least: int, most: int) -> str:
    return "" if least <= value <= most else f"{name} is {value}; expected {least} to {most}"


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
