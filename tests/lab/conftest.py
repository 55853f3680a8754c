"""Fixtures: a lab for the whole session, put back after every test, and guests for a test.

KVMIGD_LAB_KEEP=1 leaves the lab up at the end, and uses one that is up already; KVMIGD_LAB_BARE=1 is without kvmigd.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import NamedTuple

import pytest

from tests.lab import daemon, guests
from tests.lab.command import LabError
from tests.lab.guests import Guest
from tests.lab.host import Host
from tests.lab.lab import Lab, down
from tests.lab.places import default_name

MakeGuest = Callable[..., Guest]
_FAILED = pytest.StashKey[bool]()
_UNITS = ("kvmigd.service", "kvmigd-evacuate.service", "libvirtd.service")


class Hosts(NamedTuple):
    """The hosts of the lab, clean, for one test."""

    a: Host
    b: Host


def _set(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")


def _session(name: str, count: int) -> Iterator[Lab]:
    keep, bare = _set("KVMIGD_LAB_KEEP"), _set("KVMIGD_LAB_BARE")
    lab = None
    if keep:
        with suppress(LabError):
            lab = Lab.attach(name)
    if lab is not None and lab.is_current(hosts=count, bare=bare):
        lab.reset()
    else:
        lab = Lab.up(name, hosts=count, bare=bare, log=print)
    yield lab
    if not keep:
        down(name)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Two hosts and their storage; use `hosts` where the test is about them."""
    yield from _session(default_name(), 2)


@pytest.fixture(scope="session")
def lab3() -> Iterator[Lab]:
    """A lab of its own with three hosts. Reset it in the test that uses it."""
    yield from _session(f"{default_name()}-3", 3)


@pytest.fixture
def hosts(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """Two hosts, up, without guests and faults; whatever the test does to them is put back after it.

    After a test that failed also all daemons are started anew: what it undid in files they may not have read again.
    """
    if lab.has_kvmigd:
        daemon.wait_in_order(*lab.hosts)
    yield Hosts(*lab.hosts)
    lab.reset(restart=request.node.stash.get(_FAILED, False))


@pytest.fixture
def a(hosts: Hosts) -> Host:
    """The first host, clean."""
    return hosts.a


@pytest.fixture
def b(hosts: Hosts) -> Host:
    """The second host, clean."""
    return hosts.b


@pytest.fixture
def linux_guest() -> MakeGuest:
    """Make Linux guests: `linux_guest(host, "name", number=…, memory=…)`; they are removed with the reset."""

    def make(host: Host, name: str = "linux1", *, number: int = 1, memory: int = 128) -> Guest:
        return guests.create(host, guests.linux(name, number=number, memory=memory))

    return make


@pytest.fixture
def boot_sector_guest() -> MakeGuest:
    """Make boot-sector guests: `boot_sector_guest(host, "name", memory=…, filled=…, working_set=…, dirty_rate=…)`."""

    def make(host: Host, name: str = "sector1", **sizes: float) -> Guest:
        whole = {key: value if key == "dirty_rate" else int(value) for key, value in sizes.items()}
        return guests.create(host, guests.boot_sector(name, **whole))  # type: ignore[arg-type]

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note that a test failed, and show what the hosts' journals say of it before they are put back."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    if report.when == "call" and report.failed and isinstance(item, pytest.Function):
        for fixture in ("lab", "lab3"):
            found = item.funcargs.get(fixture)
            if isinstance(found, Lab):
                report.sections += _journals(found, since=f"@{int(call.start)}")
    return report


def _journals(lab: Lab, *, since: str) -> list[tuple[str, str]]:
    sections = []
    for host in lab.hosts:
        for unit in _UNITS:
            with suppress(LabError):
                if text := host.journal(unit, since).strip():
                    sections.append((f"{unit} on {host.name}", "\n".join(text.splitlines()[-60:])))
    return sections
