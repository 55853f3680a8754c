"""Domain XML into guests."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.errors import HypervisorFailed
from kvmigd.host.definition import guest_of, parse_xml
from kvmigd.model.guest import Guest, GuestState

XML = """
<domain type='kvm' id='3'>
  <name>web1</name>
  <uuid>11111111-1111-4111-8111-111111111111</uuid>
  <memory unit='MiB'>512</memory>
  <vcpu placement='static'>2</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader><kernel>/srv/vm/vmlinuz</kernel></os>
  <cpu mode='custom' match='exact'><model>Skylake-Server</model><feature policy='require' name='avx'/></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>
      <source file='/srv/vm/web1.qcow2'><privateData/></source>
      <backingStore type='file'><format type='raw'/><source file='/srv/vm/base.img'/><backingStore/></backingStore>
      <target dev='vda' bus='virtio'/></disk>
    <disk type='block' device='disk'><source dev='/dev/vg/lv'/><target dev='vdb'/><shareable/></disk>
    <disk type='network' device='disk'><source protocol='rbd' name='pool/image'/><target dev='vdc'/></disk>
    <disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>
    <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><model type='virtio'/>
      <mtu size='9000'/></interface>
    <interface type='network'><mac address='52:54:00:00:00:02'/><source network='default' bridge='virbr0'/></interface>
    <strange attribute='never seen'/>
  </devices>
</domain>
"""


def parsed(xml: str = XML) -> Guest:
    return guest_of(xml, state=GuestState.RUNNING, persistent=True, autostart=True)


def test_sizes_and_machine() -> None:
    guest = parsed()
    assert (guest.name, guest.memory, guest.vcpus) == ("web1", 512 << 20, 2)
    assert (guest.arch, guest.machine, guest.domain_type) == ("x86_64", "pc-q35-7.2", "kvm")
    assert guest.files == ("/srv/vm/vmlinuz", "/usr/share/OVMF/OVMF_CODE.fd")
    assert guest.autostart


def test_disks_with_their_backing_chains() -> None:
    vda, vdb, vdc, sda = parsed().disks
    assert vda.paths == ("/srv/vm/web1.qcow2", "/srv/vm/base.img")
    assert (vda.format, vda.cache) == ("qcow2", "none")
    assert vdb.paths == ("/dev/vg/lv",)
    assert vdb.shareable
    assert not vdc.is_local_path
    assert sda.readonly
    assert not sda.is_local_path, "an empty CD-ROM needs no file"
    assert [disk.target for disk in parsed().local_disks] == ["vda", "vdb"]


def test_interfaces() -> None:
    bridge, network = parsed().nics
    assert (bridge.kind, bridge.source, bridge.mtu) == ("bridge", "br0", 9000)
    assert (network.kind, network.source) == ("network", "default")


def test_cpu_comes_from_the_migratable_definition() -> None:
    migratable = XML.replace("name='avx'", "name='sse4.2'")
    guest = guest_of(XML, state=GuestState.RUNNING, persistent=True, autostart=False, migratable_xml=migratable)
    assert "sse4.2" in guest.cpu_xml
    assert "avx" in parsed().cpu_xml


@pytest.mark.parametrize("mode", ["host-passthrough", "maximum"])
def test_a_cpu_that_libvirt_cannot_compare_is_left_out(mode: str) -> None:
    assert parsed(XML.replace("mode='custom'", f"mode='{mode}'")).cpu_xml == ""


@pytest.mark.parametrize(
    ("unit", "expected"), [("b", 512), ("KiB", 512 << 10), ("GiB", 512 << 30), ("MB", 512_000_000), ("odd", 512 << 10)]
)
def test_memory_units(unit: str, expected: int) -> None:
    assert parsed(XML.replace("unit='MiB'", f"unit='{unit}'")).memory == expected


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<domain",
        "<network><name>x</name></network>",
        "<domain><devices/></domain>",
        '<!DOCTYPE d [<!ENTITY a "b">]><domain/>',
        "<domain>" + " " * (4 << 20) + "</domain>",
    ],
)
def test_what_is_no_definition_is_refused(xml: str) -> None:
    with pytest.raises(HypervisorFailed):
        parsed(xml)


@given(st.text(max_size=300))
def test_odd_text_raises_nothing_else(text: str) -> None:
    with contextlib.suppress(HypervisorFailed):
        parse_xml(text)
