"""Running commands on the machine that carries the lab, and the one error of the lab."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path


class LabError(Exception):
    """The lab could not do what it was asked for; the message is a whole sentence."""


Completed = subprocess.CompletedProcess[str]


CONTAINED = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Before a command that starts others: all of them die, and their mounts go, when we are killed."""


def said(completed: Completed) -> str:
    """Return what a command printed, shortened to its end, for a message."""
    return "\n".join(part.strip() for part in (completed.stdout, completed.stderr) if part and part.strip())[-4000:]


def run(
    *argv: str | Path,
    check: bool = True,
    input: str | None = None,  # noqa: A002 - as subprocess calls it
    timeout: float = 120,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run a command to its end and return what it said; a failure is a LabError unless `check` is off."""
    words = [str(word) for word in argv]
    try:
        completed = subprocess.run(
            words,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=None if env is None else {**os.environ, **env},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{shlex.join(words)}` did not end within {timeout:g} s.") from error
    except FileNotFoundError as error:
        raise LabError(f"`{words[0]}` is not installed on this machine.") from error
    if check and completed.returncode != 0:
        raise LabError(f"`{shlex.join(words)}` ended with status {completed.returncode}: {said(completed)}")
    return completed
