"""The log: fields for the journal, sentences for people, and nothing below its level."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from systemd import journal

from kvmigd import log


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave structlog as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


Sent = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What the journal is sent, if standard error goes there."""
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    monkeypatch.setattr("sys.stderr", open(2, "w", closefd=False))  # noqa: SIM115  # pytest's has no number of its own
    heard: Sent = []
    monkeypatch.setattr(journal, "send", lambda message, **fields: heard.append((message, fields)))
    return heard


def test_an_event_is_a_sentence_with_its_fields_beside_it(sent: Sent) -> None:
    log.set_up("info")
    structlog.get_logger("kvmigd.jobs").info("job started", job=3, guest="web", peer="", error=None, usec=0)
    assert sent == [
        (
            "job started job=3 guest=web usec=0",
            {
                "KVMIGD_JOB": "3",
                "KVMIGD_GUEST": "web",
                "KVMIGD_USEC": "0",
                "PRIORITY": "6",
                "SYSLOG_IDENTIFIER": "kvmigd",
            },
        )
    ]


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")]
)
def test_priorities_are_those_of_syslog(sent: Sent, level: str, priority: str) -> None:
    log.set_up("debug")
    getattr(structlog.get_logger(), level)("something")
    assert [fields["PRIORITY"] for _, fields in sent] == [priority]


def test_a_message_id_is_the_journals_own_field(sent: Sent) -> None:
    log.set_up("info")
    structlog.get_logger().info("guest arrived", message_id="0123", guest="web")
    ((text, fields),) = sent
    assert text == "guest arrived guest=web"
    assert fields["MESSAGE_ID"] == "0123"


@pytest.mark.parametrize("how", ["exception", "exc_info"])
def test_an_exception_is_in_the_text(sent: Sent, how: str) -> None:
    log.set_up("info")
    try:
        raise ValueError("äöü")
    except ValueError as error:
        if how == "exception":
            structlog.get_logger().exception("job broke", job=3)
        else:
            structlog.get_logger().error("job broke", job=3, exc_info=error)
    ((text, fields),) = sent
    assert text.startswith("job broke job=3\nTraceback (most recent call last):")
    assert text.endswith("ValueError: äöü")
    assert fields["PRIORITY"] == "3"
    assert fields.keys() == {"KVMIGD_JOB", "PRIORITY", "SYSLOG_IDENTIFIER"}


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_filters_and_can_be_changed(sent: Sent, level: str, heard: list[str]) -> None:
    logger = structlog.get_logger()
    for before in ("error", "debug"):
        log.set_up(before)
        log.set_up(level)
        sent.clear()
        for method in ("debug", "info", "warning", "error"):
            getattr(logger, method)(method)
        assert [text for text, _ in sent] == heard


def test_a_hostile_name_stays_in_its_field(sent: Sent) -> None:
    log.set_up("info")
    structlog.get_logger().info("guest admitted", guest="web\nPRIORITY=0")
    ((_, fields),) = sent
    assert fields["KVMIGD_GUEST"] == "web\nPRIORITY=0"
    assert fields["PRIORITY"] == "6"


@pytest.mark.parametrize("stream", [None, "", "1:1", "nonsense"])
def test_elsewhere_it_is_a_line_on_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stream: str | None
) -> None:
    monkeypatch.setattr(journal, "send", None)
    if stream is None:
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    else:
        monkeypatch.setenv("JOURNAL_STREAM", stream)
    log.set_up("info")
    structlog.get_logger().debug("not told")
    structlog.get_logger().warning("peer changed", peer="hostb")
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert "[warning" in line
    assert "peer changed" in line
    assert "peer=hostb" in line
