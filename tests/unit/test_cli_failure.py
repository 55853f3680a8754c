"""Errors as sentences and exit statuses."""

from __future__ import annotations

import json

import pytest

from kvmigd.bus.connection import BusUnavailable, CallFailed
from kvmigd.cli.failure import finish, translate
from kvmigd.errors import TABLE, Exit, NoSuchPeer, Row

STANDARD = "org.freedesktop.DBus.Error."


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.wire)
def test_every_error_of_the_daemon_keeps_its_name_text_and_status(row: Row) -> None:
    assert translate(CallFailed(row.dbus, "What happened.")) == (row.dbus, "What happened.", row.exit)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        (STANDARD + "ServiceUnknown", Exit.NOT_REACHABLE),
        (STANDARD + "NoReply", Exit.NOT_REACHABLE),
        (STANDARD + "Spawn.ChildExited", Exit.NOT_REACHABLE),
        ("org.freedesktop.systemd1.NoSuchUnit", Exit.NOT_REACHABLE),
        (STANDARD + "AccessDenied", Exit.NOT_AUTHORISED),
        (STANDARD + "InteractiveAuthorizationRequired", Exit.NOT_AUTHORISED),
        (STANDARD + "InvalidArgs", Exit.USAGE),
        (STANDARD + "UnknownMethod", Exit.FAILED),
        (STANDARD + "LimitsExceeded", Exit.FAILED),
        ("com.example.Strange", Exit.FAILED),
    ],
)
def test_errors_of_the_bus(name: str, status: Exit) -> None:
    _, sentence, found = translate(CallFailed(name, "What happened."))
    assert found == status
    assert "What happened" in sentence


def test_lost_bus_and_silence_are_not_reachable() -> None:
    assert translate(BusUnavailable("It was lost."))[2] == Exit.NOT_REACHABLE
    assert translate(TimeoutError())[2] == Exit.NOT_REACHABLE


def test_defects_of_ours_are_not_made_up_as_errors() -> None:
    with pytest.raises(ZeroDivisionError):
        translate(ZeroDivisionError())


def test_json_has_the_error_too(capsys: pytest.CaptureFixture[str]) -> None:
    async def work() -> int:
        raise NoSuchPeer("No peer called 'x'.", hint="See: kvmigctl peers")

    with pytest.raises(SystemExit) as caught:
        finish(work(), as_json=True)
    assert caught.value.code == Exit.FAILED
    out, err = capsys.readouterr()
    assert err == "kvmigctl: No peer called 'x'. See: kvmigctl peers\n"
    assert json.loads(out) == {
        "error": {"name": "org.kvmigd1.Error.NoSuchPeer", "message": "No peer called 'x'. See: kvmigctl peers"}
    }
