"""Paths of objects."""

from __future__ import annotations

import pytest
from dbus_next.validators import is_object_path_valid
from hypothesis import given
from hypothesis import strategies as some

from kvmigd.bus import interface, path


@pytest.mark.parametrize(
    ("name", "element"),
    [
        ("hostb", "hostb"),
        ("host-b.lan", "host_2db_2elan"),
        ("2nd", "_32nd"),
        ("h_2", "h_5f2"),
        ("", "_"),
        ("ü", "_c3_bc"),
    ],
)
def test_names_are_escaped_as_systemd_does(name: str, element: str) -> None:
    assert path.escape(name) == element


@given(some.text(), some.text())
def test_every_name_has_a_path_of_its_own(one: str, other: str) -> None:
    assert is_object_path_valid(path.peer_path(one))
    assert (path.peer_path(one) == path.peer_path(other)) == (one == other)


def test_no_job_is_the_root_path() -> None:
    assert (path.job_path(0), path.job_path(12)) == ("/", "/org/kvmigd1/job/12")


@pytest.mark.parametrize(
    ("name", "handler"), [("SetMaintenance", "set_maintenance"), ("Check", "check"), ("GetAll", "get_all")]
)
def test_handlers_are_called_like_their_methods(name: str, handler: str) -> None:
    assert interface.snake(name) == handler
