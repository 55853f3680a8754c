"""What the daemon can be asked to do, whoever asks: the one face that D-Bus publishes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from kvmigd.host.picture import Picture
from kvmigd.jobs import Job, Jobs
from kvmigd.model.finding import Verdict
from kvmigd.model.job import CheckOptions, EvacuateOptions, MigrateOptions
from kvmigd.model.peer import PeerView
from kvmigd.model.readiness import CheckResult, Standing


class Operations(Protocol):
    """What the D-Bus face publishes. Every call raises the errors of kvmigd.errors; nothing else."""

    jobs: Jobs
    picture: Picture
    """What is true on this host."""

    @property
    def host_name(self) -> str:
        """This host's name, as its peers call it."""

    @property
    def host_id(self) -> str:
        """libvirt's host UUID; empty while libvirt has never answered."""

    @property
    def state(self) -> str:
        """ready, maintenance, draining (the host is going down) or no-hypervisor."""

    @property
    def maintenance(self) -> bool:
        """Maintenance is switched on."""

    @property
    def peers(self) -> tuple[PeerView, ...]:
        """All configured peers."""

    @property
    def standings(self) -> Mapping[str, Standing]:
        """How the guests of this host stand, by UUID."""

    @property
    def readiness(self) -> Verdict:
        """The worst readiness of the active guests."""

    @property
    def stuck(self) -> tuple[str, ...]:
        """Names of the active guests that can go nowhere."""

    def on_standing(self, listener: Callable[[str], None]) -> None:
        """Call `listener(uuid)` when a guest's standing changed, or the guest came or went."""

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when one of the properties above may have changed."""

    def on_peer(self, listener: Callable[[str], None]) -> None:
        """Call `listener(name)` when a peer's view changed, or the peer came or went with a reload."""

    async def check(self, guest: str, destination: str, options: CheckOptions) -> tuple[CheckResult, ...]:
        """Could this guest move to that peer now? `destination` "" asks about all peers; the best one comes first."""

    async def check_all(self, guest: str, destination: str, options: CheckOptions) -> tuple[CheckResult, ...]:
        """As check, for all active guests if `guest` is ""; by guest, the best peer first."""

    async def migrate(self, guest: str, destination: str, options: MigrateOptions) -> Job:
        """Start a migration; what is known to be impossible is raised at once."""

    async def evacuate(self, options: EvacuateOptions) -> Job:
        """Start to empty the host."""

    async def set_maintenance(self, *, on: bool) -> None:
        """Switch maintenance on or off; it survives restarts and reboots."""

    async def reload(self) -> None:
        """Read the configuration and certificates again; raises ConfigurationInvalid and keeps the old ones."""
