"""libvirt's networks, storage pools, secrets and network filters. What asks libvirt blocks: it belongs in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import libvirt

from kvmigd.host.definition.xmltext import attribute, children, endpoint, parse_xml, text
from kvmigd.model.hypervisor import NetworkFact, PoolFact, SecretFact

# virSecretUsageType, by number.
_USAGE = ("", "volume", "ceph", "iscsi", "tls", "vtpm")
_GONE = (
    libvirt.VIR_ERR_NO_NETWORK,
    libvirt.VIR_ERR_NO_STORAGE_POOL,
    libvirt.VIR_ERR_NO_SECRET,
    libvirt.VIR_ERR_NO_NWFILTER,
)

T = TypeVar("T")


def network_of(xml: str, *, active: bool, autostart: bool) -> NetworkFact:
    """A <network>. Raises HypervisorFailed on what is no XML."""
    root = parse_xml(xml)
    forward = root.find("forward")
    return NetworkFact(
        name=root.findtext("name", ""),
        exists=True,
        active=active,
        bridge=attribute(root, "name", "bridge"),
        uuid=text(root, "uuid"),
        autostart=autostart,
        forward=forward.get("mode", "nat") if forward is not None else "",
        port_groups=tuple(sorted(one.get("name", "") for one in children(root, "portgroup"))),
    )


def pool_of(xml: str, *, active: bool, autostart: bool) -> PoolFact:
    """A <pool>. Raises HypervisorFailed on what is no XML."""
    root = parse_xml(xml)
    source = root.find("source")
    host = endpoint(source.find("host")) if source is not None else ""
    names = (attribute(source, "path", "dir"), attribute(source, "path", "device"), text(source, "name"))
    return PoolFact(
        name=root.findtext("name", ""),
        uuid=text(root, "uuid"),
        active=active,
        autostart=autostart,
        kind=root.get("type", ""),
        path=text(root, "target/path"),
        source=":".join(part for part in (host, next((name for name in names if name), "")) if part),
    )


def network(connection: Any, name: str) -> NetworkFact:
    """The network of that name, which may not exist."""
    try:
        return _network(connection.networkLookupByName(name))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
            return NetworkFact(name=name, exists=False)
        raise


def networks(connection: Any) -> tuple[NetworkFact, ...]:
    """All networks, by name."""
    return _sorted(_each(connection.listAllNetworks(), _network))


def pools(connection: Any) -> tuple[PoolFact, ...]:
    """All storage pools, by name."""
    return _sorted(_each(connection.listAllStoragePools(), _pool))


def secrets(connection: Any) -> tuple[SecretFact, ...]:
    """All secrets, by UUID; their values are not asked for."""
    return _sorted(_each(connection.listAllSecrets(), _secret))


def filters(connection: Any) -> tuple[str, ...]:
    """Names of all network filters, sorted."""
    return tuple(sorted(one.name() for one in connection.listAllNWFilters()))


def _network(network: Any) -> NetworkFact:
    persistent = bool(network.isPersistent())  # a transient one has no autostart to ask for
    return network_of(
        network.XMLDesc(), active=bool(network.isActive()), autostart=persistent and bool(network.autostart())
    )


def _pool(pool: Any) -> PoolFact:
    persistent = bool(pool.isPersistent())
    return pool_of(pool.XMLDesc(), active=bool(pool.isActive()), autostart=persistent and bool(pool.autostart()))


def _secret(secret: Any) -> SecretFact:
    kind = secret.usageType()
    return SecretFact(
        uuid=secret.UUIDString(),
        usage_type=_USAGE[kind] if 0 <= kind < len(_USAGE) else str(kind),
        usage=secret.usageID() or "",
    )


def _each(found: Iterable[Any], fact: Callable[[Any], T]) -> list[T]:
    """The facts of all that are still there."""
    facts = []
    for one in found:
        try:
            facts.append(fact(one))
        except libvirt.libvirtError as error:
            if error.get_error_code() not in _GONE:
                raise
    return facts


def _sorted(facts: list[T]) -> tuple[T, ...]:
    return tuple(sorted(facts, key=lambda fact: fact.key))  # type: ignore[attr-defined]
