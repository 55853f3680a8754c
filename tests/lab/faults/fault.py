"""What all faults have in common: a name that `reset` finds them by, and how they are undone."""

from __future__ import annotations

import itertools
import os

from tests.lab.host import Host
from tests.lab.reset import FAULT

_numbers = itertools.count(1)


def fault() -> str:
    """Return a name for a fault that nothing else has."""
    return f"{FAULT}_{os.getpid()}_{next(_numbers)}"


def undo(host: Host, *argv: str) -> None:
    """Undo what a reboot undoes as well; a host that is off has nothing to undo."""
    if host.is_on:
        host.run(*argv, check=False)
