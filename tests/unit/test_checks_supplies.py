"""Secrets, storage pools and servers on the destination."""

from __future__ import annotations

from typing import Any

from kvmigd.model.devices import DiskLayer, SecretRef, Tpm
from kvmigd.model.finding import Basis, Severity
from kvmigd.model.guest import Disk
from kvmigd.model.hypervisor import PoolFact, SecretFact
from tests.unit.cases import DISK, changed, only, told

UUID = "6dd3e4a5-1d1d-4d3e-8f4a-9a2b6a0f7c11"
SECRET = SecretFact(uuid=UUID, usage_type="ceph", usage="client.libvirt secret")
RBD = Disk(
    target="vdb",
    kind="network",
    layers=(DiskLayer(kind="network", protocol="rbd", name="vm/web", auth=SecretRef(kind="ceph", uuid=UUID)),),
)


def secrets(*there: SecretFact, disk: Disk = RBD, here: tuple[SecretFact, ...] = (SECRET,)) -> dict[str, Any]:
    return {
        "guest__disks": (DISK, disk),
        "source__state__hypervisor__secrets": here,
        "destination__state__hypervisor__secrets": there,
    }


def test_the_secret_is_there() -> None:
    assert told(**secrets(SECRET)) == ()


def test_the_secret_is_missing() -> None:
    finding = only(**secrets())
    assert (finding.check, finding.severity, finding.host) == ("storage.secret", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found) == (UUID, "none with that UUID")
    assert f"virsh secret-dumpxml {UUID} > secret.xml" in finding.remedy
    assert "on hostb: virsh secret-define secret.xml" in finding.remedy


def test_the_secret_has_another_uuid() -> None:
    finding = only(**secrets(changed(SECRET, uuid="other")))
    assert finding.found == "one for client.libvirt secret, with UUID other"


def test_a_secret_by_its_usage() -> None:
    layer = changed(RBD.layers[0], auth=SecretRef(kind="ceph", usage="client.libvirt secret"))
    disk = changed(RBD, layers=(layer,))
    assert told(**secrets(changed(SECRET, uuid="other"), disk=disk)) == ()
    finding = only(**secrets(changed(SECRET, usage_type="iscsi"), disk=disk))
    assert (finding.check, finding.subject) == ("storage.secret", "client.libvirt secret")


def test_secrets_of_encrypted_disks_and_tpms() -> None:
    luks = DiskLayer(path="/srv/a", encryption="luks", encryption_secret=SecretRef(kind="passphrase", uuid=UUID))
    disk = Disk(target="vdb", kind="network", layers=(luks, luks))
    volume = changed(SECRET, usage_type="volume", usage="/srv/a")
    assert told(**secrets(volume, disk=disk)) == ()
    assert only(**secrets(disk=disk)).check == "storage.secret", "once"
    finding = only(guest__tpms=(Tpm(backend="emulator", secret=UUID),))
    assert "the TPM" in finding.summary


def test_secrets_that_libvirt_could_not_tell() -> None:
    finding = only(**secrets(), destination__state__hypervisor__missing=("secrets: no socket",))
    assert (finding.severity, finding.found) == (Severity.UNKNOWN, "secrets: no socket")


POOL = PoolFact(name="guests", uuid="1", active=True, kind="dir", path="/srv/guests")
VOLUME = Disk(target="vdb", kind="volume", layers=(DiskLayer(kind="volume", pool="guests", volume="web.raw"),))


def pools(*there: PoolFact) -> dict[str, Any]:
    return {
        "guest__disks": (DISK, VOLUME),
        "source__state__hypervisor__pools": (POOL,),
        "destination__state__hypervisor__pools": there,
    }


def test_the_pool_is_there() -> None:
    assert told(**pools(changed(POOL, uuid="2", autostart=True))) == ()


def test_the_pool_is_missing() -> None:
    finding = only(**pools())
    assert (finding.check, finding.severity, finding.host) == ("storage.pool", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.found) == ("guests", "none")
    assert "on hostb: virsh pool-define pool.xml && virsh pool-start guests" in finding.remedy
    unknown = only(**pools(), destination__state__hypervisor__missing=("pools: no socket",))
    assert unknown.severity is Severity.UNKNOWN


def test_the_pool_is_not_active() -> None:
    finding = only(**pools(changed(POOL, active=False)))
    assert (finding.severity, finding.found) == (Severity.BLOCK, "inactive")
    assert finding.remedy.startswith("On hostb: virsh pool-start guests")


def test_the_pool_is_another_one() -> None:
    finding = only(**pools(changed(POOL, kind="netfs", source="nas:/guests")))
    assert (finding.severity, finding.expected) == (Severity.BLOCK, "dir /srv/guests")
    assert finding.found == "netfs nas:/guests /srv/guests"


MONITORS = ("mon1:6789", "mon2:6789")
CEPH = Disk(target="vdb", kind="network", layers=(changed(RBD.layers[0], auth=None, hosts=("mon1", "mon2:6789")),))


def test_servers_are_reached() -> None:
    assert told(guest__disks=(DISK, CEPH)) == ()
    assert told(guest__disks=(DISK, CEPH), there__unreached=("other:1",)) == ()
    assert told(guest__disks=(DISK, CEPH), here__unreached=MONITORS) == (), "the guest leaves"


def test_no_server_is_reached() -> None:
    finding = only(guest__disks=(DISK, CEPH), there__unreached=MONITORS)
    assert (finding.check, finding.severity, finding.host) == ("storage.devices", Severity.BLOCK, "hostb")
    assert (finding.subject, finding.basis) == ("mon1:6789", Basis.PROVED)
    assert "mon1:6789, mon2:6789, which have the disk vdb (rbd), cannot be reached from hostb." in finding.summary


def test_some_servers_are_reached() -> None:
    finding = only(guest__disks=(DISK, CEPH), there__unreached=MONITORS[1:])
    assert (finding.severity, finding.found) == (
        Severity.WARN,
        "none within two seconds; 1 of 2 servers answer",
    )
    nowhere = only(guest__disks=(DISK, CEPH), there__unreached=MONITORS, here__unreached=MONITORS)
    assert (nowhere.severity, "nor from hosta" in nowhere.summary) == (Severity.WARN, True), "and the guest runs"
