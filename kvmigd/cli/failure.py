"""The one place where errors become sentences and exit statuses."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

from kvmigd.bus.connection import BusUnavailable, CallFailed
from kvmigd.cli.output import print_json, say
from kvmigd.errors import DaemonUnreachable, Exit, KvmigdError, exit_status, from_dbus, row_of

INTERRUPTED = 130
"""What shells expect of a program that ended because of Ctrl-C."""

_STANDARD = "org.freedesktop.DBus.Error."
_UNREACHABLE = ("ServiceUnknown", "NameHasNoOwner", "NoReply", "Timeout", "TimedOut", "NoServer", "Disconnected")


def translate(error: BaseException) -> tuple[str, str, Exit]:
    """The D-Bus name of an error, the sentence for it, and the exit status."""
    if isinstance(error, CallFailed):
        last = error.name.removeprefix(_STANDARD)
        if last in _UNREACHABLE or last.startswith("Spawn.") or error.name.startswith("org.freedesktop.systemd1."):
            return translate(unreachable(error.text))
        if last in ("InteractiveAuthorizationRequired", "AccessDenied"):  # the bus itself says so, by its own policy
            return error.name, error.text, Exit.NOT_AUTHORISED
        if last in ("UnknownMethod", "UnknownInterface", "UnknownProperty"):
            text = f"The daemon does not know this: {error.text} Are kvmigctl and kvmigd of the same version?"
            return error.name, text, Exit.FAILED
        return error.name, str(from_dbus(error.name, error.text)), exit_status(error.name)
    if isinstance(error, BusUnavailable | TimeoutError):
        return translate(unreachable(str(error)))
    if isinstance(error, KvmigdError):
        return row_of(error).dbus, str(error), row_of(error).exit
    raise error


def unreachable(why: str) -> DaemonUnreachable:
    """The daemon does not answer."""
    reason = f" ({why.rstrip('.')})" if why else ""
    return DaemonUnreachable(
        f"kvmigd does not answer on the system bus{reason}.", hint="See: systemctl status kvmigd.service"
    )


def finish(work: Coroutine[Any, Any, int], *, as_json: bool = False) -> NoReturn:
    """Do the work of a command, and end the program with its exit status or with what its error means."""
    try:
        status = asyncio.run(work)
    except KeyboardInterrupt:
        say("Interrupted. What had been started goes on; see: kvmigctl jobs", err=True)
        status = INTERRUPTED
    except (CallFailed, KvmigdError, TimeoutError) as error:
        name, sentence, status = translate(error)
        if as_json:
            print_json({"error": {"name": name, "message": sentence}})
        say(f"kvmigctl: {sentence}", err=True)
    sys.exit(int(status))
