"""Lets polkit ask the person at the terminal, as systemctl(1) does: by pkttyagent(1)."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_START_SECONDS = 5.0


def is_interactive() -> bool:
    """Somebody can be asked: root need not be."""
    return os.geteuid() != 0 and sys.stdin.isatty() and sys.stderr.isatty()


@contextmanager
def agent() -> Iterator[None]:
    """An authentication agent on this terminal, if somebody is there; it gives way to one that is there already."""
    program = shutil.which("pkttyagent")
    if not is_interactive() or program is None:
        yield
        return
    ready, told = os.pipe()
    with os.fdopen(ready, "rb"):
        try:
            process = subprocess.Popen([program, "--fallback", "--notify-fd", str(told)], pass_fds=(told,))
        finally:
            os.close(told)
        try:
            # It closes its end when it can answer; a call made earlier would be refused.
            select.select([ready], [], [], _START_SECONDS)
            yield
        finally:
            process.terminate()
            process.wait()
