"""What the daemon can be asked to do, whoever asks: the one face that D-Bus publishes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from kvmigd.host.picture import Picture
from kvmigd.jobs import Job, Jobs
from kvmigd.model.finding import Finding, Verdict
from kvmigd.model.job import CheckOptions, EvacuateOptions, MigrateOptions
from kvmigd.model.peer import PeerView


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of Check, and for which peer it was given (where the caller left the choice to kvmigd)."""

    peer: str
    verdict: Verdict
    findings: tuple[Finding, ...]


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

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when one of the properties above may have changed."""

    def on_peer(self, listener: Callable[[str], None]) -> None:
        """Call `listener(name)` when a peer's view changed, or the peer came or went with a reload."""

    async def check(self, guest: str, destination: str, options: CheckOptions) -> CheckResult:
        """Could this guest move to that peer now? `destination` "" chooses the best peer."""

    async def migrate(self, guest: str, destination: str, options: MigrateOptions) -> Job:
        """Start a migration; what is known to be impossible is raised at once."""

    async def evacuate(self, options: EvacuateOptions) -> Job:
        """Start to empty the host."""

    async def set_maintenance(self, *, on: bool) -> None:
        """Switch maintenance on or off; it survives restarts and reboots."""

    async def reload(self) -> None:
        """Read the configuration and certificates again; raises ConfigurationInvalid and keeps the old ones."""
