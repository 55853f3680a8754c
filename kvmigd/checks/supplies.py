"""What must be ready on the destination for the guest's disks: secrets, storage pools, and servers within reach."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.needs import name_of
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, HostView
from kvmigd.host.servers import of_layer
from kvmigd.model.devices import SecretRef
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.guest import Guest
from kvmigd.model.hypervisor import SecretFact

SECRET = Check(
    id="storage.secret",
    severity=Severity.BLOCK,
    title="Every secret of the guest's disks and TPM is defined on the destination, with the same UUID or usage.",
    why="QEMU there cannot open an encrypted disk, a Ceph image or the TPM's state.",
    known="The secrets that libvirt on both hosts tells, kept by its events; their values are not compared.",
    remedy="virsh secret-dumpxml UUID here, virsh secret-define and virsh secret-set-value there.",
)
POOL = Check(
    id="storage.pool",
    severity=Severity.BLOCK,
    title="The storage pools of the guest's volumes are active on the destination, and are the same.",
    why="libvirt there cannot find the disk.",
    known="The pools that libvirt on both hosts tells, kept by its events.",
    remedy="virsh pool-dumpxml here, virsh pool-define and virsh pool-start there.",
)

DEVICES = Check(
    id="storage.devices",
    severity=Severity.BLOCK,
    title="The servers of the guest's network disks are reached from the destination.",
    why="QEMU there opens such disks itself (iSCSI, RBD, GlusterFS, NBD …), and does not start without.",
    known="Both hosts connect to the servers that the definition names.",
    remedy="Mend the network or the firewall between the destination and the server, or the server's list of clients.",
)

_USAGES = ("ceph", "iscsi", "tls", "volume", "vtpm")
"""Kinds of usage; a LUKS passphrase is named by another word in a disk than in the secret."""


@rule(Scope.PAIR, reads="guest hypervisor", tells=(SECRET,))
def secrets_there(case: Case) -> Iterator[Finding]:
    """Every secret of the guest's disks and TPM is defined on the destination."""
    told: list[SecretRef] = []
    for what, wanted in _secrets(case.guest):
        if wanted in told or _has(case.destination, wanted):
            continue
        told.append(wanted)
        yield from _secret(case, what, wanted)


def _secrets(guest: Guest) -> Iterator[tuple[str, SecretRef]]:
    for disk in guest.disks:
        for layer in disk.layers:
            if layer.auth is not None:
                yield name_of(disk), layer.auth
            if layer.encryption_secret is not None:
                yield name_of(disk), layer.encryption_secret
    for tpm in guest.tpms:
        if tpm.secret:
            yield "the TPM", SecretRef(kind="vtpm", uuid=tpm.secret)


def _has(host: HostView, wanted: SecretRef) -> bool:
    if wanted.uuid:
        return wanted.uuid.lower() in host.secrets
    return _by_usage(host, wanted) is not None


def _by_usage(host: HostView, wanted: SecretRef) -> SecretFact | None:
    for secret in host.secrets.values():
        if secret.usage == wanted.usage and (wanted.kind not in _USAGES or wanted.kind == secret.usage_type):
            return secret
    return None


def _secret(case: Case, what: str, wanted: SecretRef) -> Iterator[Finding]:
    name = wanted.uuid or wanted.usage
    unknown = next((line for line in case.destination.state.hypervisor.missing if line.startswith("secrets:")), "")
    mine = case.source.secrets.get(wanted.uuid.lower()) if wanted.uuid else _by_usage(case.source, wanted)
    found = "none with that UUID" if wanted.uuid else "none with that usage"
    if mine is not None and mine.usage:
        other = _by_usage(case.destination, SecretRef(kind=mine.usage_type, usage=mine.usage))
        if other is not None:
            found = f"one for {mine.usage}, with UUID {other.uuid}"
    uuid = mine.uuid if mine is not None else wanted.uuid or "UUID"
    define = (
        f"On {case.here}: virsh secret-dumpxml {uuid} > secret.xml; virsh secret-get-value {uuid} (or ask who made it, "
        f"if it is private); on {case.there}: virsh secret-define secret.xml && "
        f"virsh secret-set-value {uuid} --file VALUE"
    )
    yield SECRET.finding(
        f"Whether {case.there} has the secret {name} of {what} is not known."
        if unknown
        else f"{case.there} does not have the secret {name} of {what}.",
        host=case.there,
        subject=name,
        expected=f"a secret with {'UUID' if wanted.uuid else 'usage'} {name}",
        found=unknown or found,
        remedy=f"On {case.there}: systemctl status virtsecretd libvirtd" if unknown else define,
        severity=Severity.UNKNOWN if unknown else Severity.BLOCK,
    )


@rule(Scope.PAIR, reads="guest hypervisor", tells=(POOL,))
def pools_there(case: Case) -> Iterator[Finding]:
    """The storage pools of the guest's volumes are active on the destination, and are the same."""
    told: list[str] = []
    for disk in case.guest.disks:
        if disk.kind != "volume" or not disk.layers or disk.layers[0].pool in told:
            continue
        told.append(disk.layers[0].pool)
        yield from _pool(case, disk.layers[0].pool, name_of(disk))


def _pool(case: Case, name: str, what: str) -> Iterator[Finding]:
    mine, theirs = (
        next((pool for pool in host.state.hypervisor.pools if pool.name == name), None)
        for host in (case.source, case.destination)
    )
    unknown = next((line for line in case.destination.state.hypervisor.missing if line.startswith("pools:")), "")
    expected, found, severity = f"an active pool called {name}", "", Severity.BLOCK
    if theirs is None:
        found = unknown or "none"
        severity = Severity.UNKNOWN if unknown else Severity.BLOCK
        summary = f"There is no storage pool {name} on {case.there}, in which {what} is."
        remedy = (
            f"On {case.here}: virsh pool-dumpxml {name} > pool.xml; on {case.there}: virsh pool-define pool.xml && "
            f"virsh pool-start {name} && virsh pool-autostart {name}"
        )
        if unknown:
            summary = f"Whether {case.there} has the storage pool {name}, in which {what} is, is not known."
            remedy = f"On {case.there}: systemctl status virtstoraged libvirtd"
    elif not theirs.active:
        summary, found = f"The storage pool {name}, in which {what} is, is not active on {case.there}.", "inactive"
        remedy = f"On {case.there}: virsh pool-start {name} && virsh pool-autostart {name}"
    elif mine is not None and (mine.kind, mine.path, mine.source) != (theirs.kind, theirs.path, theirs.source):
        summary = f"The storage pool {name}, in which {what} is, is another one on {case.there}."
        expected, found = (" ".join(filter(None, (one.kind, one.source, one.path))) for one in (mine, theirs))
        remedy = (
            f"On {case.here}: virsh pool-dumpxml {name}; on {case.there}: virsh pool-edit {name}, then "
            f"virsh pool-destroy {name} && virsh pool-start {name}"
        )
    else:
        return
    yield POOL.finding(
        summary,
        host=case.there,
        subject=name,
        expected=expected or "a pool",
        found=found or "nothing",
        remedy=remedy,
        severity=severity,
    )


@rule(Scope.PAIR, reads="guest look", tells=(DEVICES,))
def servers_reached(case: Case) -> Iterator[Finding]:
    """The servers of the guest's network disks are reached from the destination."""
    if case.look is None or not case.look.unreached:
        return
    for disk in case.guest.disks:
        for layer in disk.layers:
            servers = tuple(of_layer(layer))
            lost = [server for server in servers if server in case.look.unreached]
            if lost:
                yield _lost(case, f"{name_of(disk)} ({layer.protocol})", servers, lost)


def _lost(case: Case, what: str, servers: tuple[str, ...], lost: list[str]) -> Finding:
    nowhere = case.local.look is not None and all(server in case.local.look.unreached for server in lost)
    some = len(lost) < len(servers) or nowhere
    also = f", nor from {case.here}" if nowhere else ""
    return DEVICES.finding(
        f"{', '.join(lost)}, which {'have' if len(lost) > 1 else 'has'} the disk {what}, cannot be reached from "
        f"{case.there}{also}.",
        host=case.there,
        subject=lost[0],
        expected="a connection",
        found=f"none within two seconds; {len(servers) - len(lost)} of {len(servers)} servers answer",
        remedy=f"On {case.there}: ip route get ADDRESS, nft list ruleset; on the server: does it listen, and may "
        f"{case.there} connect",
        basis=Basis.PROVED,
        severity=Severity.WARN if some else Severity.BLOCK,
    )
