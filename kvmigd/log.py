"""Structured logging: short constant phrases with fields, into the journal where systemd started us."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


@contextmanager
def _without(name: str) -> Iterator[None]:
    """What is imported inside finds no module of that name, unless somebody has loaded it before."""
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[name]


with _without("rich"):
    # structlog would import rich, 4.5 MiB of resident memory, to print tracebacks in colour, which a daemon never does.
    import structlog
    from structlog.typing import EventDict, WrappedLogger

_PRIORITY = {"critical": 2, "error": 3, "exception": 3, "warning": 4, "info": 6, "debug": 7}


class _Journal:
    """A structlog logger that hands each event to journald with its fields."""

    def __init__(self) -> None:
        from systemd import journal

        self._send = journal.send

    def msg(self, message: str, **fields: Any) -> None:
        self._send(message, **fields)

    debug = info = warning = error = critical = exception = msg


def _journal_fields(_logger: WrappedLogger, method: str, event: EventDict) -> tuple[tuple[str], dict[str, Any]]:
    """`event` becomes a sentence a person can read in `journalctl`; the fields go beside it as KVMIGD_NAME=value."""
    phrase = str(event.pop("event"))
    trace = event.pop("exception", None)
    message_id = event.pop("message_id", None)
    said = {key: value for key, value in event.items() if value not in ("", None)}
    text = " ".join([phrase, *(f"{key}={value}" for key, value in said.items())])
    fields: dict[str, Any] = {f"KVMIGD_{key.upper()}": str(value) for key, value in said.items()}
    fields["PRIORITY"] = str(_PRIORITY.get(method, 6))
    fields["SYSLOG_IDENTIFIER"] = "kvmigd"
    if message_id:
        fields["MESSAGE_ID"] = message_id
    return (f"{text}\n{trace}" if trace else text,), fields


def _is_journal(stream: TextIO) -> bool:
    """What a service starts inherits JOURNAL_STREAM, also where its own output goes somewhere else."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def set_up(level: str) -> None:
    """Log to the journal if it is where our standard error goes (JOURNAL_STREAM, systemd.exec(5)), else to stderr.

    `level` is debug, info, warning or error. May be called again to change the level.
    """
    number = getattr(logging, level.upper())
    shared: list[structlog.typing.Processor] = [structlog.processors.format_exc_info]
    factory: Any
    if _is_journal(sys.stderr):
        processors = [*shared, _journal_fields]
        factory = lambda *_: _Journal()  # noqa: E731
    else:
        processors = [*shared, structlog.processors.add_log_level, structlog.dev.ConsoleRenderer(colors=False)]
        factory = structlog.PrintLoggerFactory(sys.stderr)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=factory,
        cache_logger_on_first_use=False,
    )
