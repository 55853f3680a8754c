"""kvmigctl host: how the picture is shown."""

from __future__ import annotations

import json

import msgspec
import pytest

from kvmigd.cli.host import chosen, show
from kvmigd.cli.picture import clock, decode, speed, words
from kvmigd.errors import InternalError
from kvmigd.model.firewall import Answer, Duration, Firewall, FirewallBackend, PortHint, PortUse
from kvmigd.model.guest import Guest, GuestState
from kvmigd.model.hypervisor import HypervisorState, NetworkFact, PoolFact
from kvmigd.model.links import BondFact, BridgeFact, BridgePort, Links, RouteFact
from kvmigd.model.mounts import MountFact, MountKind, Mounts, Persistence, Space
from kvmigd.model.state import HostState
from kvmigd.model.storage import FcPort, FileSystemIdentity, IscsiSession, Lockspace, Multipath, Storage, VolumeGroup
from kvmigd.model.system import Clock, Cpu, HugePages, Kvm, Package, Release, System

GUEST = Guest(
    name="web1",
    uuid="u1",
    state=GuestState.RUNNING,
    memory=1 << 30,
    vcpus=1,
    arch="x86_64",
    machine="q35",
    domain_type="kvm",
    emulator="/usr/bin/qemu-system-x86_64",
)
NFS = MountFact(
    point="/srv/images",
    fs_type="nfs4",
    source="nas:/images",
    id=40,
    kind=MountKind.NETWORK,
    shared=True,
    persistence=Persistence.FSTAB,
    space=Space(total=4 << 40, free=1 << 40),
)
GLUSTER = MountFact(
    point="/srv/\x1b[31mgfs",
    fs_type="fuse.glusterfs",
    source="gfs1:/vol",
    id=41,
    kind=MountKind.CLUSTER,
    shared=True,
    persistence=Persistence.HAND,
    problem="it does not answer",
    problem_since_usec=1_700_000_000_000_000,
)
STATE = HostState(
    generation=7,
    mounts=Mounts(
        problem="",
        mounts=(MountFact(point="/proc", fs_type="proc", source="proc", kind=MountKind.KERNEL), NFS, GLUSTER),
    ),
    storage=Storage(
        problem="",
        multipaths=(Multipath(name="mpatha", wwid="3600", device="dm-3", paths=("sda", "sdb"), active=("sda",)),),
        iscsi=(IscsiSession(name="session1", target="iqn.2024-01.org:a", portal="192.0.2.9:3260,1", state="FAILED"),),
        fibre_channel=(FcPort(name="host5", wwpn="0x5001", state="Online", speed="16 Gbit"),),
        volume_groups=(VolumeGroup(name="vg0", uuid="u", lock_type="dlm"),),
        lockspaces=(Lockspace(name="lvm_global"),),
        filesystems=(FileSystemIdentity(point="/srv/x", fs_type="gfs2", problem="its superblock cannot be read"),),
        quorate=False,
    ),
    links=Links(
        problem="",
        bridges=(
            BridgeFact(
                name="br0",
                exists=True,
                is_bridge=True,
                kind="linux",
                up=True,
                carrier=True,
                mtu=9000,
                uplinks=("bond0",),
                vlan_filtering=True,
                ports=(
                    BridgePort(name="bond0", uplink=True, vlans=("1*", "100-200")),
                    BridgePort(name="vnet0", uplink=False),
                ),
            ),
            BridgeFact(name="br1", exists=True, is_bridge=True, kind="linux", mtu=1500),
        ),
        bonds=(BondFact(name="bond0", mode="802.3ad", members=("eth0", "eth1"), active=("eth0",)),),
        routes=(RouteFact(peer="hostb", address="192.0.2.2", link="bond0", mtu=9000, speed=25000),),
        openvswitch="ovsdb-server does not answer",
    ),
    firewall=Firewall(
        problem="",
        ports=(PortUse(purpose="stream", first=49152, last=49215, origin="qemu.conf: migration_port_min"),),
        backends=(
            FirewallBackend(name="nftables", active=True),
            FirewallBackend(name="firewalld", active=False, problem="it does not answer"),
        ),
        hints=(
            PortHint(
                peer="hostb",
                address="192.0.2.2",
                purpose="stream",
                answer=Answer.CLOSED,
                duration=Duration.PERMANENT,
                by="inet filter input",
            ),
        ),
    ),
    system=System(
        problem="",
        release=Release(id="debian", version_id="12", pretty_name="Debian GNU/Linux 12 (bookworm)"),
        kernel="6.1.0-18-amd64",
        packages=(Package(name="qemu-system-x86", version="1:7.2+dfsg-7"),),
        cpu=Cpu(model_name="EPYC 7543", threads=64, tsc_khz=2_794_748, microcode="0xa001"),
        kvm=Kvm(device=False),
        clock=Clock(synchronised=False),
        security="apparmor",
        memory_total=256 << 30,
        hugepages=(HugePages(node=0, size=2 << 20, total=512, free=10),),
        userfaultfd=True,
    ),
    hypervisor=HypervisorState(
        problem="",
        uri="qemu:///system",
        daemon="libvirtd",
        libvirt=9_000_000,
        qemu=7_002_000,
        guests=(GUEST,),
        networks=(NetworkFact(name="default", exists=True, bridge="virbr0"),),
        pools=(PoolFact(name="images", uuid="p", active=True),),
    ),
)

SHOWN = """\
hosta: Debian GNU/Linux 12 (bookworm)
Kernel:        6.1.0-18-amd64
CPU:           EPYC 7543, 64 threads, TSC 2795 MHz, microcode 0xa001
Memory:        256 GiB, 10 of 512 pages of 2.0 MiB free on node 0
KVM:           there is no /dev/kvm
Clock:         not synchronised
Security:      apparmor, post-copy allowed: yes
Packages:      qemu-system-x86 1:7.2+dfsg-7
Hypervisor:    libvirt 9.0.0, QEMU 7.2.0, libvirtd, qemu:///system
Guests:        1, 1 of them active
Networks:      default (virbr0, not started)
Pools:         images

Storage that is mounted (1 other mounts)
MOUNT POINT    TYPE            SOURCE       SHARED  AFTER BOOT   FREE                PROBLEM
/srv/images    nfs4            nas:/images  yes     yes (fstab)  1.0 TiB of 4.0 TiB  -
/srv/\ufffd[31mgfs  fuse.glusterfs  gfs1:/vol    yes     no           -                   it does not answer since

Storage below
Multipath:     mpatha (dm-3): 1 of 2 paths work
iSCSI:         iqn.2024-01.org:a at 192.0.2.9:3260,1, FAILED
Fibre Channel: host5 0x5001, Online, 16 Gbit, 0 targets
Volume group:  vg0, locks: dlm
Lockspace:     lvm_global
Cluster:       has no quorum
File system:   /srv/x: its superblock cannot be read

Bridges
BRIDGE  KIND   STATE  UPLINKS  MTU   VLANS       PORTS
br0     linux  up     bond0    9000  1* 100-200  2
br1     linux  down   -        1500  -           0
Open vSwitch:  not known: ovsdb-server does not answer
Bond:          bond0: 802.3ad, 1 of 2 members active

Routes to peers
PEER   ADDRESS    LINK   GATEWAY  MTU   SPEED      PROBLEM
hostb  192.0.2.2  bond0  -        9000  25 Gbit/s  -

Ports that migrations need
PURPOSE  PORTS        FROM
stream   49152-49215  qemu.conf: migration_port_min
Firewall:      nftables
Firewall:      firewalld is not known: it does not answer

What its rules say of them (hints: only a connection proves a port, see kvmigctl check)
PEER   ADDRESS    PURPOSE  HINT    LASTS      BY
hostb  192.0.2.2  stream   closed  permanent  inet filter input
"""


def test_a_host_at_a_glance(capsys: pytest.CaptureFixture[str]) -> None:
    show(STATE, (), name="hosta")
    out = capsys.readouterr().out
    print(out)
    shown = SHOWN.splitlines()
    for line, expected in zip(out.splitlines(), shown, strict=True):
        assert line.startswith(expected)
    assert "\x1b" not in out


def test_one_subject(capsys: pytest.CaptureFixture[str]) -> None:
    show(HostState(firewall=STATE.firewall), ("firewall",), name="hosta")
    assert capsys.readouterr().out.splitlines()[:3] == ["hosta", "", "Ports that migrations need"]


def test_what_is_not_known_says_since_when_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    now = msgspec.structs.replace(STATE, links=Links(problem="netlink is silent", since_usec=1_700_000_000_000_000))
    show(now, (), name="hosta")
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last[0] == "Not known"
    assert last[1].startswith("  links since 2023-11-14 ")
    assert last[1].endswith(": netlink is silent")
    show(HostState(), (), name="hosta")
    assert capsys.readouterr().out.splitlines()[-1] == "  hypervisor: it has not been read yet"


def test_problems_are_red_and_the_unknown_is_yellow(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, str | None]] = []
    monkeypatch.setattr("click.secho", lambda text, *, fg=None, **_: said.append((text, fg)))
    show(msgspec.structs.replace(STATE, storage=Storage(problem="udev is silent")), (), name="hosta")

    def colour(text: str) -> str | None:
        return next(fg for line, fg in said if text in line)

    assert [colour(text) for text in ("gfs1:/vol", "br1", "closed", "no /dev/kvm")] == ["red"] * 4
    assert [colour(text) for text in ("udev is silent", "firewalld is not known")] == ["yellow"] * 2
    assert [colour(text) for text in ("nas:/images", "br0", "6.1.0-18-amd64")] == [None] * 3


def test_some_subjects_as_json_are_as_they_came() -> None:
    text = '{"generation":3,"mounts":{"new":1.50},"links":{},"system":{}}'
    assert chosen(text, ("mounts", "system")) == '{"generation":3,"mounts":{"new":1.50},"system":{}}'


def test_picture_is_read_back_as_it_was() -> None:
    assert decode(msgspec.json.encode(STATE).decode()) == STATE


def test_what_a_newer_daemon_adds_is_passed_over_and_what_it_changes_is_said() -> None:
    assert decode('{"generation":3,"weather":{"sun":true}}').generation == 3
    with pytest.raises(InternalError, match="same version"):
        decode(json.dumps({"mounts": {"mounts": 5}}))


def test_words() -> None:
    assert words([{"a": "x", "b": ""}, 5]) == "(a x) 5"
    assert [words(value) for value in (None, True, False, "", [], "x", 5)] == [
        "unknown",
        "yes",
        "no",
        "none",
        "none",
        "x",
        "5",
    ]
    assert (speed(100), speed(2500), speed(0)) == ("100 Mbit/s", "2.5 Gbit/s", "")
    assert clock(0) == ""
