"""Cases for the checks: one in which nothing is wrong, and changes to it."""

from __future__ import annotations

from typing import Any

import msgspec

from kvmigd.checks.catalogue import judge
from kvmigd.checks.view import Case, Hosts, HostView, Local
from kvmigd.model.finding import Finding
from kvmigd.model.firewall import Firewall
from kvmigd.model.guest import Disk, Guest, GuestState, Nic
from kvmigd.model.host import CertificateFact, CpuFact, HostFacts, Look, NameFact, RemoteFact, ResolvedName
from kvmigd.model.hypervisor import HypervisorState, NetworkFact
from kvmigd.model.links import BridgeFact, LinkFact, Links
from kvmigd.model.mounts import MountFact, Mounts
from kvmigd.model.proof import PortProof, Proofs
from kvmigd.model.state import HostState
from kvmigd.model.storage import PathFact, Storage
from kvmigd.model.system import Release, Software, System

GIB = 1 << 30
UUID = "aaaaaaaa-1111-4111-8111-111111111111"
OTHER_UUID = "bbbbbbbb-1111-4111-8111-111111111111"
NFS = MountFact(id=36, point="/srv/guests", fs_type="nfs4", source="nas:/guests", shared=True)
LOCAL = MountFact(id=25, point="/", fs_type="ext4", source="/dev/vda1")
FIRMWARE = "/usr/share/OVMF/OVMF_CODE.fd"
DISK = Disk(target="vda", paths=("/srv/guests/web.qcow2", "/srv/guests/base.qcow2"), format="qcow2")
GUEST = Guest(
    name="web",
    uuid=UUID,
    state=GuestState.RUNNING,
    memory=GIB,
    vcpus=2,
    arch="x86_64",
    machine="pc-q35-7.2",
    domain_type="kvm",
    emulator="/usr/bin/qemu-system-x86_64",
    disks=(DISK,),
    nics=(Nic(mac="52:54:00:00:00:01", kind="bridge", source="br0"), Nic(mac="", kind="network", source="lan")),
    files=(FIRMWARE,),
)
PATHS = (
    PathFact(path="/srv/guests/web.qcow2", exists=True, inode=11, size=GIB, mount=NFS),
    PathFact(path="/srv/guests/base.qcow2", exists=True, inode=12, size=GIB, mount=NFS),
    PathFact(path=FIRMWARE, exists=True, inode=13, size=1, mount=LOCAL),
)
BRIDGE = BridgeFact(name="br0", exists=True, is_bridge=True, up=True, carrier=True, mtu=1500, uplinks=("eth0",))
LAN = NetworkFact(name="lan", exists=True, active=True, bridge="virbr1")
VIRBR = BridgeFact(name="virbr1", exists=True, is_bridge=True, up=True, mtu=1500)
DEBIAN = Release(id="debian", version_id="12", pretty_name="Debian GNU/Linux 12")
SOFTWARE = Software(kvmigd="0.1.0", kernel="6.1.0", release=DEBIAN, libvirt=9_000_000, qemu=7_002_000)
CERTIFICATE = CertificateFact(path="/etc/pki/libvirt/servercert.pem", purpose="server certificate")
STREAM_CERTIFICATE = CertificateFact(path="/etc/pki/qemu/server-cert.pem", purpose="migration stream server")


def facts(name: str, number: int) -> HostFacts:
    """A host with which nothing is wrong."""
    return HostFacts(
        name=name,
        host_id=f"{number:08d}-0000-4000-8000-000000000000",
        hypervisor_alive=True,
        accepting=True,
        memory_total=16 * GIB,
        memory_free=8 * GIB,
        software=SOFTWARE,
        addresses=(f"192.0.2.{number}",),
        certificates=(CERTIFICATE, STREAM_CERTIFICATE),
        stream_tls=True,
    )


def state(name: str) -> HostState:
    """The picture of a host with which nothing is wrong."""
    return HostState(
        generation=1,
        mounts=Mounts(problem="", mounts=(LOCAL, NFS)),
        storage=Storage(problem=""),
        links=Links(
            problem="", links=(LinkFact(index=1, name="eth0", up=True, carrier=True),), bridges=(BRIDGE, VIRBR)
        ),
        firewall=Firewall(problem=""),
        system=System(problem="", release=DEBIAN, kernel="6.1.0"),
        hypervisor=HypervisorState(
            problem="", host_name=name, libvirt=9_000_000, qemu=7_002_000, networks=(LAN,), guests=()
        ),
    )


SOURCE = HostView(
    facts=facts("hosta", 1),
    state=state("hosta"),
    other=ResolvedName(name="hostb", addresses=("192.0.2.2",)),
    remote=RemoteFact(uri="qemu+tls://hostb/system"),
)
DESTINATION = HostView(
    facts=facts("hostb", 2),
    state=state("hostb"),
    other=ResolvedName(name="hosta", addresses=("192.0.2.1",)),
)
GOOD = Case(
    local=Local(
        guest=GUEST,
        source=SOURCE,
        look=Look(
            guest=UUID,
            paths=PATHS,
            cpu=CpuFact(compatible=True),
            names=NameFact(uuid_of_name=UUID, name_of_uuid="web", uuid_is_active=True),
        ),
    ),
    hosts=Hosts(
        source=SOURCE,
        destination=DESTINATION,
        proofs=Proofs(ports=(PortProof(to="hostb", address="192.0.2.2", port=49152),)),
    ),
    look=Look(guest=UUID, paths=PATHS, cpu=CpuFact(compatible=True)),
)

_PLACES = {
    "guest": ("local__guest",),
    "options": ("local__options",),
    "source": ("local__source", "hosts__source"),
    "destination": ("hosts__destination",),
    "proofs": ("hosts__proofs",),
    "here": ("local__look",),
    "there": ("look",),
}
"""Where the parts of a case are, by the names that tests call them; the source is in it twice."""
_SUBJECTS = {"bridges": "state__links__bridges", "networks": "state__hypervisor__networks"}


def changed(struct: Any, **changes: Any) -> Any:
    """The same with some fields changed, also inner ones: `facts__name` is the name in the facts."""
    inner: dict[str, dict[str, Any]] = {}
    outer: dict[str, Any] = {}
    for key, value in changes.items():
        field, deeper, rest = key.partition("__")
        if deeper:
            inner.setdefault(field, {})[rest] = value
        else:
            outer[field] = value
    outer |= {field: changed(getattr(struct, field), **more) for field, more in inner.items()}
    return msgspec.structs.replace(struct, **outer)


def case(**changes: Any) -> Case:
    """The good case with changes: `guest__…`, `source__…`, `destination__…` (with `bridges` and `networks` for those of
    the picture), `here__…` and `there__…` (what the hosts say of the guest), `proofs__…`.
    """
    placed: dict[str, Any] = {}
    for key, value in changes.items():
        part, _, rest = key.partition("__")
        for short, long in _SUBJECTS.items():
            if rest == short or rest.startswith(f"{short}__"):
                rest = rest.replace(short, long, 1)
        placed |= {f"{place}__{rest}" if rest else place: value for place in _PLACES[part]}
    return changed(GOOD, **placed)  # type: ignore[no-any-return]


def told(**changes: Any) -> tuple[Finding, ...]:
    """What is found when the good case is changed like this."""
    return judge(case(**changes))


def only(**changes: Any) -> Finding:
    """The one thing that is found."""
    findings = told(**changes)
    assert len(findings) == 1, findings
    return findings[0]
