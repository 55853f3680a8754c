"""Jobs as kvmigctl shows them: as JSON, as a progress bar on a terminal, as plain lines everywhere else."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from kvmigd.bus import path
from kvmigd.bus.interface import snake
from kvmigd.cli import findings
from kvmigd.cli.client import Client, Properties, number_of
from kvmigd.cli.failure import INTERRUPTED
from kvmigd.cli.output import clean, duration, print_json, say, size
from kvmigd.errors import Exit, exit_status

Parts = dict[str, Properties]


def as_object(place: str, parts: Parts) -> dict[str, Any]:
    """A job for JSON: keys are the properties' names in snake_case, jobs are numbers, 0 for none."""
    job = {snake(key): value for key, value in parts[path.JOB].items()}
    job["parent"] = number_of(job["parent"])
    job["findings"] = findings.parse(job["findings"])
    found = {"job": number_of(place), **job}
    if path.MIGRATION in parts:
        found["migration"] = {snake(key): value for key, value in parts[path.MIGRATION].items()}
    if path.EVACUATION in parts:
        found["guests"] = [
            {"guest": guest, "peer": peer, "state": state, "message": message, "job": number_of(child)}
            for guest, peer, state, message, child in parts[path.EVACUATION]["Guests"]
        ]
    return found


def title(parts: Parts) -> str:
    """What a job does."""
    job = parts[path.JOB]
    if job["Kind"] == "evacuate":
        return "evacuating this host"
    return f"migrating {job['Guest']} to {job['Peer'] or 'a peer'}"


class Display(Protocol):
    """How a job that runs is shown."""

    def show(self, parts: Parts) -> None:
        """The job has changed."""


class JsonLines:
    """One object a line."""

    def __init__(self, place: str) -> None:
        self._place = place

    def show(self, parts: Parts) -> None:
        print_json(as_object(self._place, parts))


class PlainLines:
    """A line a phase, and one each tenth of the way: short enough for a journal."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def show(self, parts: Parts) -> None:
        job = parts[path.JOB]
        if job["Result"]:
            return
        if job["Kind"] == "evacuate":
            for guest, peer, state, message, _ in parts[path.EVACUATION]["Guests"]:
                self._once(f"{guest}{f' -> {peer}' if peer else ''}: {state}{f': {message}' if message else ''}")
        elif job["Phase"] == "streaming":
            tenth = int(job["Progress"] * 10)
            if self._is_new(f"streaming {tenth}"):
                say(f"streaming: {job['Progress']:.0%}{_rates(parts)}")
        elif job["Phase"] != "new":
            self._once(job["Phase"])

    def _is_new(self, line: str) -> bool:
        new = line not in self._told
        self._told.add(line)
        return new

    def _once(self, line: str) -> None:
        if self._is_new(line):
            say(line)


class Bar:
    """A progress bar."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._task: Any = None

    def show(self, parts: Parts) -> None:
        job = parts[path.JOB]
        done, total = job["Progress"], 1.0
        what = job["Phase"] + _rates(parts)
        if job["Kind"] == "evacuate":
            rows = parts[path.EVACUATION]["Guests"]
            done = sum(row[2] not in ("waiting", "running", "cancelling") for row in rows)
            total, what = len(rows) or 1, ", ".join(row[0] for row in rows if row[2] == "running")
        if self._task is None:
            self._task = self._progress.add_task("", total=total, what="")
        self._progress.update(self._task, completed=done, total=total, what=clean(what))


def _rates(parts: Parts) -> str:
    stream = parts.get(path.MIGRATION, {})
    if not stream.get("Rate"):
        return ""
    return f", {size(stream['BytesRemaining'])} left at {size(stream['Rate'])}/s"


@contextmanager
def display(place: str, *, as_json: bool) -> Iterator[Display]:
    """What suits where the output goes."""
    if as_json:
        yield JsonLines(place)
    elif sys.stdout.isatty():
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns = (
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[what]}", markup=False),
        )
        with Progress(*columns, transient=True) as progress:
            yield Bar(progress)
    else:
        yield PlainLines()


async def follow(client: Client, place: str, *, as_json: bool) -> int:
    """Show a job until it ends; returns the exit status. Ctrl-C leaves the job running."""
    number = number_of(place)
    parts: Parts = {}
    try:
        with display(place, as_json=as_json) as screen:
            async for parts in client.follow(place):
                if not as_json and number:
                    say(f"Job {number}: {title(parts)}.")
                    number = 0
                screen.show(parts)
    except asyncio.CancelledError:
        say(f"Job {number_of(place)} goes on. To cancel it: kvmigctl cancel {number_of(place)}", err=True)
        return INTERRUPTED
    if not as_json:
        _show_end(place, parts)
    return _status(parts[path.JOB])


def _status(job: Properties) -> int:
    if job["Result"] == "done":
        return Exit.OK
    return exit_status(job["ErrorName"]) if job["ErrorName"] else Exit.FAILED


def _show_end(place: str, parts: Parts) -> None:
    job = parts[path.JOB]
    took = duration(job["FinishedUSec"] - job["CreatedUSec"])
    good = job["Result"] == "done"
    if job["Kind"] == "evacuate":
        for guest, peer, state, message, _ in parts[path.EVACUATION]["Guests"]:
            where = f"now on {peer}" if state == "done" else f"{state}: {message}".rstrip(": ")
            say(f"{guest}: {where}", fg=None if state == "done" else "red")
        say(f"Evacuation {job['Result']} after {took}.", fg="green" if good else "red", err=not good)
    elif good:
        pause = parts[path.MIGRATION]["PauseUSec"]
        paused = f", paused for {duration(pause)}" if pause else ""
        say(f"{job['Guest']} runs on {job['Peer']} now; it took {took}{paused}.", fg="green")
    else:
        findings.show(findings.parse(job["Findings"]))
    if not good and job["ErrorMessage"]:
        say(f"kvmigctl: job {number_of(place)} {job['Result']}: {job['ErrorMessage']}", err=True)
