"""A whole lab: brought up, used, put back between tests, taken down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from tests.lab import holder, outer, pki, reset, roots, software, storage
from tests.lab.base import base
from tests.lab.caches import lock
from tests.lab.command import Completed, LabError
from tests.lab.guestfiles import guest_files
from tests.lab.host import Host
from tests.lab.network import HOSTS, STORE
from tests.lab.places import Places, default_name

UNITS = ("kvmigd.service", "kvmigd-evacuate.service")
Log = Callable[[str], None]
T = TypeVar("T")

_STORE_NEEDS_NO = (
    *("libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd-tcp.socket"),
    *("virtlogd.socket", "virtlockd.socket", "dbus-org.freedesktop.machine1.service"),
)


def silent(_line: str) -> None:
    """Tell nobody."""


def at_once(work: Callable[[Host], T], hosts: Iterable[Host]) -> list[T]:
    """Do the same on several hosts at the same time."""
    hosts = list(hosts)
    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        return list(pool.map(work, hosts))


class Lab:
    """A lab that is up. `with Lab.up("name") as lab:` takes it down at the end."""

    def __init__(self, name: str) -> None:
        self.places = Places(name)
        self.hosts = [Host(self.places, host) for host in self.places.described("hosts")]
        self.store = Host(self.places, STORE)

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.places.name

    def host(self, name: str) -> Host:
        """Return a host (or the storage server) by its name."""
        for host in (*self.hosts, self.store):
            if host.name == name:
                return host
        raise LabError(f"Lab {self.name} has no host {name!r}.")

    @property
    def has_kvmigd(self) -> bool:
        """Whether kvmigd is installed on the hosts."""
        return len(self.places.described("layers")) > 1

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        down(self.name)

    @staticmethod
    def up(name: str = "", *, hosts: int = 2, bare: bool = False, log: Log = silent) -> Lab:
        """Bring a lab up from nothing; what there is of an older one by that name is removed first.

        A `bare` lab has no kvmigd on its hosts.
        """
        return _up(name or default_name(), hosts=hosts, bare=bare, log=log)

    @staticmethod
    def attach(name: str = "") -> Lab:
        """Return a lab that somebody has brought up."""
        places = Places(name or default_name())
        if not (places.state / "up").exists() or holder.find(places) is None:
            raise LabError(f"Lab {places.name} is not up.")
        return Lab(places.name)

    def is_current(self, *, hosts: int, bare: bool) -> bool:
        """Whether an `up` now would make the same lab: as many hosts, and this checkout's kvmigd on them."""
        layers = [base()]
        if not bare:
            layers = [layer for layer in (software.kvmigd(layers[0]), *layers) if layer is not None]
        return len(self.hosts) == hosts and self.places.described("layers") == [str(layer) for layer in layers]

    def outside(self, *argv: str, check: bool = True) -> Completed:
        """Run a command of this machine in the lab's namespaces, outside of all hosts."""
        return holder.run_inside(self.places, *argv, check=check)

    def install_pki(self) -> None:
        """Give the hosts certificates, and switch on libvirt's TLS socket and the daemons that need them."""
        pki.install(self.hosts)
        at_once(self._start_services, self.hosts)

    def reset(self, *, restart: bool = False) -> None:
        """Put everything back as it was after `up`: no faults, no guests, all hosts and services up.

        With `restart` libvirt and kvmigd are started anew, whatever they look like.
        """
        reset.wire(self.places)
        at_once(Host.boot, (self.store, *self.hosts))
        if restart:
            at_once(reset.stop, self.hosts)
        at_once(lambda host: reset.host(host, UNITS if self.has_kvmigd else ()), self.hosts)
        # a guest may be on its way from one host to another: until none of them has had one
        while any(at_once(reset.guests, self.hosts)):
            pass
        reset.disks(self.hosts[0])
        if self.has_kvmigd:
            at_once(reset.maintenance_off, self.hosts)

    def _start_services(self, host: Host) -> None:
        # libvirtd takes its sockets from systemd: a new one only when it starts
        host.sh(
            "systemctl --quiet enable libvirtd-tls.socket; systemctl stop libvirtd.service\n"
            "systemctl start libvirtd-tls.socket libvirtd.service"
        )
        if self.has_kvmigd:
            host.run("systemctl", "--quiet", "enable", "--now", *UNITS)


def down(name: str = "") -> None:
    """Take a lab down, whatever state it is in, at once; nothing of it stays."""
    places = Places(name or default_name())
    with lock(f"lab-{places.name}"):
        _down(places)


def _down(places: Places) -> None:
    holder.stop(places)
    with lock("places"):
        roots.remove(places)


@contextmanager
def _lap(log: Log, what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    log(f"{time.monotonic() - start:6.1f} s  {what}")


def _up(name: str, *, hosts: int, bare: bool, log: Log) -> Lab:
    if not 1 <= hosts <= len(HOSTS):
        raise LabError(f"A lab has one to {len(HOSTS)} hosts, not {hosts}.")
    places = Places(name)
    with lock(f"lab-{name}"), _lap(log, f"lab {name} is up"):
        _down(places)
        with _lap(log, "this machine's packages"):
            outer.prepare()
        with _lap(log, "root file system"):
            layers = [base()]
        with _lap(log, "guests' kernel"):
            uses = [guest_files()]
        if not bare:
            with _lap(log, "kvmigd"):
                layers = [layer for layer in (software.kvmigd(layers[0]), *layers) if layer is not None]
        try:
            with _lap(log, "namespaces and overlays"):
                with lock("places"):
                    for folder in (places.state, places.brick):
                        folder.mkdir(parents=True)
                places.describe(hosts=list(HOSTS[:hosts]), layers=layers, uses=uses + layers)
                roots.write(places, STORE, enable=["glusterd.service"], mask=_STORE_NEEDS_NO)
                for host in HOSTS[:hosts]:
                    roots.write(places, host)
                holder.start(places)
            lab = Lab(name)
            _boot(lab, log)
        except BaseException:
            _down(places)
            raise
        (places.state / "up").touch()
    return lab


def _boot(lab: Lab, log: Log) -> None:
    def serve(store: Host) -> None:
        with _lap(log, "storage booted"):
            store.wait_up()
        with _lap(log, "volume"):
            storage.serve(store)

    def use(host: Host) -> None:
        with _lap(log, f"{host.name} booted"):
            host.wait_up()

    every = [lab.store, *lab.hosts]
    for host in every:
        host.boot()
    at_once(lambda host: serve(host) if host is lab.store else use(host), every)
    storage.fill(lab.hosts[0])
    with _lap(log, "certificates and services"):
        lab.install_pki()
