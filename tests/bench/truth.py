"""Whether Check tells the truth: situations made for real, its verdict beside what a plain `virsh migrate` then does.

One lab stays up. Each situation is made, kvmigd is asked over the bus until its verdict is right or SETTLE seconds have
passed, then virsh tries it, and the guest is looked at; then all of it is undone. Nothing of Check is known to the part
that judges virsh.

Judged: `missed` where virsh fails or breaks the guest and Check does not say `blocked`; `false alarm` where virsh works
and Check says `blocked`; `not named` where no finding is of a check that knows the cause; `needless` where Check warns
of nothing. Where kvmigd itself stands in the way (maintenance, its own reserve) the success of virsh is no objection.

The time of virsh is that of one `virsh migrate`, that of kvmigd one `busctl call … Check` with proofs: both pay for a
process. A connection that nobody answers ends after 8 s here (net.ipv4.tcp_syn_retries=2); on a host as it comes, virsh
then waits 135 s.

ONLY=name,name runs some; SHARD=2/4 runs the second quarter, and the figures of all quarters add up. With
KVMIGD_LAB_KEEP=1 it uses a lab that is up, kvmigd as it is there, and leaves it up. DETAILS=file writes down all that
was seen, as lines of JSON.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from tests.bench import truth_virsh
from tests.bench.report import Figure, median, percentile, tell
from tests.bench.situations import SITUATIONS, Situation, Truth
from tests.bench.situations.ground import PATIENCE, Ground
from tests.bench.truth_row import Answer, Row
from tests.lab import daemon
from tests.lab.command import LabError
from tests.lab.daemon import Finding
from tests.lab.lab import Lab

SETTLE = float(os.environ.get("SETTLE", "6"))
"""Seconds that Check gets to see what has happened; storage that hangs is noticed after up to 5."""
LIMIT = 100
"""Seconds for one situation with all of its parts; virsh and the waits have their own."""


def ask(ground: Ground, *, prove: bool) -> Answer:
    """Ask Check once."""
    begin = time.monotonic()
    try:
        verdict, findings = ground.check(ground.guest, prove=prove)
    except daemon.CallFailed as error:
        failed = Finding("call.failed", "unknown", str(error), {})
        return Answer("failed", (failed,), (time.monotonic() - begin) * 1000)
    return Answer(verdict, tuple(findings), (time.monotonic() - begin) * 1000)


def observe(ground: Ground, row: Row) -> None:
    """In the situation: ask until the answer is right, or long enough; then let virsh try."""
    begin = time.monotonic()
    row.proved = ask(ground, prove=True)
    while not row.right and time.monotonic() - begin < SETTLE:
        time.sleep(0.2)
        row.proved = ask(ground, prove=True)
    row.settled_ms = (time.monotonic() - begin) * 1000
    if row.proved.ms < PATIENCE * 500:
        # once more, for its time: what was new is known by now
        row.proved = ask(ground, prove=True)
    row.compared = ask(ground, prove=False)
    row.outcome = truth_virsh.migrate(ground, tls=row.situation.tls, back=row.situation.back)


@contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """Raise a LabError in what takes too long."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise LabError(f"The situation took more than {seconds} s.")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(ground: Ground, situation: Situation) -> Row:
    """Make one situation, and undo it."""
    row = Row(situation)
    if situation.make is None:
        return row
    try:
        row.lingering = ground.wait_clear()
        with bounded(LIMIT), situation.make(ground):
            observe(ground, row)
    except Exception as error:  # whatever it is, the others shall be made
        row.error = f"{type(error).__name__}: {' '.join(str(error).split())}"
    try:
        with bounded(LIMIT):
            if row.error:
                raise LabError(row.error)
            ground.clean()
    except LabError:
        ground.reset()
    return row


def chosen() -> list[Situation]:
    """The situations of this run."""
    only = [name for name in os.environ.get("ONLY", "").split(",") if name]
    if unknown := set(only) - {situation.name for situation in SITUATIONS}:
        raise SystemExit(f"There is no situation called {', '.join(sorted(unknown))}.")
    if only:
        return [situation for situation in SITUATIONS if situation.name in only]
    number, _, parts = os.environ.get("SHARD", "1/1").partition("/")
    return list(SITUATIONS[int(number) - 1 :: int(parts)])


def _expected(situation: Situation) -> str:
    if situation.left_out:
        return ""
    return f"{situation.truth}" + (f"; {' or '.join(sorted(situation.names))}" if situation.names else "")


def _line(row: Row) -> list[str]:
    situation, outcome = row.situation, row.outcome
    if situation.left_out or row.error:
        return [situation.name, _expected(situation), "", situation.left_out or row.error, row.judged(), "", ""]
    said = "" if outcome is None else f"{outcome.truth}{': ' if outcome.words else ''}{outcome.words}"
    if outcome and outcome.stuck:
        said += f"; cannot come back: {outcome.stuck}"
    also = sorted(row.proved.checks - ({row.proved.findings[0].check} if row.proved.findings else set()))
    check = row.proved.verdict + (f"; {row.proved.first}" if row.proved.first else "")
    check += f" (also {', '.join(also)})" if also else ""
    if row.compared.verdict != row.proved.verdict:
        check += f" [without proofs: {row.compared.verdict}]"
    virsh_ms = f"{outcome.ms:.0f}" if outcome else ""
    return [situation.name, _expected(situation), check, said[:240], row.judged(), f"{row.proved.ms:.0f}", virsh_ms]


def details(row: Row) -> str:
    """Everything that was seen, as a line of JSON."""
    said = {
        "situation": row.situation.name,
        "about": row.situation.about,
        "left_out": row.situation.left_out,
        "error": row.error,
        "lingering": row.lingering,
        "judged": row.judged(),
        "expected": _expected(row.situation),
        "verdict": row.proved.verdict,
        "verdict_without_proofs": row.compared.verdict,
        "findings": [dataclasses.asdict(finding) for finding in row.proved.findings],
        "virsh": dataclasses.asdict(row.outcome) if row.outcome else None,
        "check_ms": round(row.proved.ms, 1),
        "settled_ms": round(row.settled_ms, 1),
    }
    return json.dumps(said) + "\n"


def show(rows: Iterable[Row], *, console: Console) -> None:
    """Print the table."""
    table = Table(title="Check and virsh", title_justify="left")
    for heading, ratio in (("situation", 3), ("expected", 3), ("Check", 6), ("virsh", 6), ("judged", 2)):
        table.add_column(heading, ratio=ratio, overflow="fold")
    for heading in ("Check ms", "virsh ms"):
        table.add_column(heading, justify="right", min_width=5)
    for row in rows:
        table.add_row(*_line(row))
    console.print(table, markup=False)


def figures(rows: Sequence[Row]) -> tuple[dict[str, Figure], dict[str, Figure]]:
    """The figures, and those of plain virsh."""
    made = [row for row in rows if row.outcome is not None]
    lists: dict[str, list[Row]] = {
        "missed": [row for row in made if row.missed],
        "false_alarms": [row for row in made if row.false_alarm],
        "not_named": [row for row in made if not row.named],
        "needless_warnings": [row for row in made if row.needless and not row.false_alarm],
        "other_verdicts": [row for row in made if row.judged() == "other verdict"],
        "virsh_differs": [row for row in made if row.truth is not row.situation.truth],
        "not_made": [row for row in rows if row.error],
        "lingering": [before for before, row in itertools.pairwise(rows) if row.lingering],
    }
    found: dict[str, Figure] = {"situations": len(made), "named_right": sum(row.named for row in made)}
    found |= {name: len(those) for name, those in lists.items()}
    found["left_out"] = sum(bool(row.situation.left_out) for row in rows)
    found["found_without_proofs"] = sum(
        row.truth is not Truth.WORKS and row.compared.verdict in row.right_verdicts for row in made
    )
    virsh = {kind: [row.outcome.ms for row in made if row.outcome and row.truth is kind] for kind in Truth}
    if made:
        found["check_ms_p50"] = median([row.proved.ms for row in made])
        found["check_ms_p95"] = percentile([row.proved.ms for row in made], 95)
        found["check_unproved_ms_p50"] = median([row.compared.ms for row in made])
        found["noticed_ms_p95"] = percentile([row.settled_ms for row in made], 95)
    found |= {f"{name}_names": ", ".join(row.situation.name for row in those) for name, those in lists.items()}
    every = [ms for times in virsh.values() for ms in times]
    baseline: dict[str, Figure] = {f"virsh_{kind}": len(times) for kind, times in virsh.items()}
    if every:
        baseline |= {"virsh_ms_p50": median(every), "virsh_ms_p95": percentile(every, 95)}
    if virsh[Truth.FAILS]:
        baseline["virsh_fails_ms_p50"] = median(virsh[Truth.FAILS])
    return found, baseline


@contextmanager
def held() -> Iterator[Lab]:
    """A lab; with KVMIGD_LAB_KEEP=1 the one that is up, which stays."""
    name = os.environ.get("KVMIGD_LAB", "bench")
    if os.environ.get("KVMIGD_LAB_KEEP", "0") not in ("", "0"):
        yield Lab.attach(name)
    else:
        with Lab.up(name) as lab:
            yield lab


def main() -> None:
    """Make them all, and tell."""
    console = Console(width=200)
    rows: list[Row] = []
    with held() as lab, Path(os.environ.get("DETAILS") or os.devnull).open("w", encoding="utf-8") as file:
        ground = Ground(lab)
        ground.reset()
        for situation in chosen():
            rows.append(run(ground, situation))
            file.write(details(rows[-1]))
            file.flush()
            line = _line(rows[-1])
            console.print(f"{line[0]}: {line[4]}" + (f" ({line[3]})" if rows[-1].error else ""), markup=False)
    show(rows, console=console)
    found, baseline = figures(rows)
    tell(
        "truth",
        figures=found,
        baseline=baseline,
        aims={"situations": "≥ 36", "missed": "0", "false_alarms": "0", "named_right": f"{found['situations']}"},
    )


if __name__ == "__main__":
    main()
