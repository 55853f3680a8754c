"""What rules look at: a host with its picture, two hosts, a guest on one, and a guest between two."""

from __future__ import annotations

from functools import cached_property

import msgspec

from kvmigd.model.finding import Finding
from kvmigd.model.guest import Guest
from kvmigd.model.host import HostFacts, Look, RemoteFact, ResolvedName
from kvmigd.model.hypervisor import NetworkFact, SecretFact
from kvmigd.model.job import CheckOptions
from kvmigd.model.links import BondFact, BridgeFact, BridgePort, LinkFact
from kvmigd.model.mounts import MountFact
from kvmigd.model.proof import FrameProof, PortProof, Proofs, StorageProof
from kvmigd.model.state import HostState
from kvmigd.model.storage import FileSystemIdentity, PathFact
from kvmigd.model.system import Package


class HostView(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One host. What is looked up in its picture by name is put in order once, however many guests are judged."""

    facts: HostFacts
    state: HostState
    other: ResolvedName | None = None
    """What the name of the other host resolves to here; None where it was not asked."""
    remote: RemoteFact | None = None
    """Whether libvirt on the other host is reached from here; None where it was not asked."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.facts.name

    @cached_property
    def unknown(self) -> frozenset[str]:
        """Names of the subjects of its picture that are not known."""
        return frozenset(self.state.unknown)

    @cached_property
    def mounts(self) -> dict[str, MountFact]:
        """Mounts by key; a peer tells of those that are storage."""
        return {mount.key: mount for mount in self.state.mounts.mounts}

    @cached_property
    def filesystems(self) -> dict[str, FileSystemIdentity]:
        """Identities of file systems by mount point."""
        return {system.point: system for system in self.state.storage.filesystems}

    @cached_property
    def links(self) -> dict[str, LinkFact]:
        """Links by name."""
        return {link.name: link for link in self.state.links.links}

    @cached_property
    def bridges(self) -> dict[str, BridgeFact]:
        """Bridges by name."""
        return {bridge.name: bridge for bridge in self.state.links.bridges}

    @cached_property
    def uplinks(self) -> dict[str, tuple[BridgePort, ...]]:
        """Ports that lead out of the host, by bridge."""
        return {bridge.name: tuple(port for port in bridge.ports if port.uplink) for bridge in self.state.links.bridges}

    @cached_property
    def bonds(self) -> dict[str, BondFact]:
        """Bonds by name."""
        return {bond.name: bond for bond in self.state.links.bonds}

    @cached_property
    def addresses(self) -> frozenset[str]:
        """Addresses of all its links, without their prefixes."""
        return frozenset(address.partition("/")[0] for link in self.state.links.links for address in link.addresses)

    @cached_property
    def networks(self) -> dict[str, NetworkFact]:
        """libvirt networks by name."""
        return {network.name: network for network in self.state.hypervisor.networks}

    @cached_property
    def secrets(self) -> dict[str, SecretFact]:
        """libvirt secrets by UUID."""
        return {secret.uuid: secret for secret in self.state.hypervisor.secrets}

    @cached_property
    def packages(self) -> dict[str, Package]:
        """Packages that matter, by name."""
        return {package.name: package for package in self.state.system.packages}

    @cached_property
    def guests(self) -> dict[str, Guest]:
        """Guests by UUID; of a peer's, only who they are and how much they take is known."""
        return {guest.uuid: guest for guest in self.state.hypervisor.guests}

    @cached_property
    def guests_by_name(self) -> dict[str, Guest]:
        """Guests by name."""
        return {guest.name: guest for guest in self.state.hypervisor.guests}


class Hosts(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Two hosts, and what their daemons have tried together."""

    source: HostView
    destination: HostView
    proofs: Proofs = Proofs()

    @property
    def here(self) -> str:
        """Name of the source."""
        return self.source.facts.name

    @property
    def there(self) -> str:
        """Name of the destination."""
        return self.destination.facts.name

    @cached_property
    def ports(self) -> dict[str, PortProof]:
        """Proofs of the destination's ports, by purpose: stream, disks."""
        return {proof.purpose: proof for proof in self.proofs.ports if proof.to == self.there}

    @cached_property
    def storage(self) -> dict[str, StorageProof]:
        """Proofs of storage by folder."""
        return {proof.folder: proof for proof in self.proofs.storage}

    @cached_property
    def frames(self) -> dict[tuple[str, int], FrameProof]:
        """Proofs of network segments by bridge and VLAN."""
        return {(proof.bridge, proof.vlan): proof for proof in self.proofs.frames}

    @cached_property
    def remembered(self) -> dict[tuple[object, ...], tuple[Finding, ...]]:
        """What rules have told of things that many guests share, by the rule and the thing."""
        return {}

    @cached_property
    def reversed(self) -> Hosts:
        """The way back."""
        return Hosts(source=self.destination, destination=self.source, proofs=self.proofs)


class Local(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A guest on its host."""

    guest: Guest
    source: HostView
    look: Look | None = None
    """What its host says of it; None where it has not been asked yet."""
    options: CheckOptions = CheckOptions()

    @property
    def here(self) -> str:
        """Name of the source."""
        return self.source.facts.name

    @cached_property
    def paths_here(self) -> dict[str, PathFact]:
        """Paths that the guest needs, as its host sees them."""
        return {fact.path: fact for fact in self.look.paths} if self.look else {}


class Case(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A guest, the host it runs on and the host it shall run on."""

    local: Local
    hosts: Hosts
    look: Look | None = None
    """What the destination says of the guest; None where it has not been asked yet."""

    @property
    def guest(self) -> Guest:
        """The guest."""
        return self.local.guest

    @property
    def options(self) -> CheckOptions:
        """What was asked for."""
        return self.local.options

    @property
    def source(self) -> HostView:
        """The host it runs on."""
        return self.hosts.source

    @property
    def destination(self) -> HostView:
        """The host it shall run on."""
        return self.hosts.destination

    @property
    def here(self) -> str:
        """Name of the source."""
        return self.hosts.source.facts.name

    @property
    def there(self) -> str:
        """Name of the destination."""
        return self.hosts.destination.facts.name

    @property
    def paths_here(self) -> dict[str, PathFact]:
        """Paths that the guest needs, as its host sees them."""
        return self.local.paths_here

    @cached_property
    def paths_there(self) -> dict[str, PathFact]:
        """The same paths, as the destination sees them."""
        return {fact.path: fact for fact in self.look.paths} if self.look else {}

    @cached_property
    def reversed(self) -> Case:
        """The way back: the guest runs there, and shall come here."""
        back = self.hosts.reversed
        local = Local(guest=self.guest, source=back.source, look=self.look, options=self.options)
        return Case(local=local, hosts=back, look=self.local.look)
