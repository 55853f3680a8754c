"""Domain XML into guests."""

from __future__ import annotations

import contextlib
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.errors import HypervisorFailed
from kvmigd.host.definition import guest_of, parse_xml
from kvmigd.model.devices import Pages, SecretRef
from kvmigd.model.guest import METADATA, Guest, GuestState
from tests.unit import definitions

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


def test_a_guest_with_firmware_tpm_and_pinning() -> None:
    guest = parsed(definitions.FEDORA)
    assert (guest.firmware.secure, guest.firmware.nvram_format, guest.firmware.nvram_kind) == (True, "qcow2", "file")
    assert guest.firmware.nvram == "/var/lib/libvirt/qemu/nvram/f.qcow2"
    assert guest.files == ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd",), "NVRAM is taken along by libvirt"
    (tpm,) = guest.tpms
    assert (tpm.backend, tpm.version, tpm.persistent_state, tpm.secret[:4]) == ("emulator", "2.0", True, "2222")
    assert (guest.ram.maximum, guest.ram.current) == (8 << 30, 256 << 20)
    assert (guest.ram.source, guest.ram.access, guest.ram.locked, guest.ram.numa_nodes) == (
        "memfd",
        "shared",
        True,
        "0",
    )
    assert guest.ram.hugepages == (Pages(size=1 << 30, nodes="0"),)
    assert (guest.pinning.vcpus, guest.pinning.emulator, guest.pinning.iothreads) == (("0=2-3",), "0", ("1=1",))
    assert (guest.cpu.mode, guest.cpu.migratable, guest.cpu.cores) == ("host-passthrough", "on", 2)
    assert guest.cpu.features == ("invtsc=require",)
    assert guest.features == ("acpi", "apic", "hyperv", "hyperv.relaxed", "smm")
    assert {timer.name: timer.frequency for timer in guest.timers} == {"tsc": 2445406000, "hpet": 0}
    assert [(label.model, label.kind) for label in guest.labels] == [("selinux", "dynamic")]
    assert {one.element: one.path for one in guest.characters} == {
        "channel": "/run/libvirt/agent.sock",
        "rng": "/dev/urandom",
    }
    (graphics,) = guest.graphics
    assert (graphics.listen, graphics.device) == (("127.0.0.1",), "/dev/dri/renderD128")
    assert (guest.vsock, guest.vsock_auto, guest.watchdogs, guest.iothreads) == (3, True, ("itco=reset",), 2)


def test_metadata_by_namespace() -> None:
    guest = parsed(definitions.FEDORA)
    texts = {one.namespace: one.text for one in guest.metadata}
    assert "offline" in texts[METADATA]
    assert len(texts) == 2
    filled = "<a>" + "x" * 5000 + "</a>"
    (large,) = parsed(definitions.domain(more=f"<metadata><o xmlns='urn:o'>{filled}</o></metadata>")).metadata
    assert (large.namespace, large.text, large.size > 5000) == ("urn:o", "", True)


def test_a_chain_layer_by_layer() -> None:
    (disk,) = parsed(definitions.FEDORA).disks
    assert [(layer.kind, layer.path, layer.format) for layer in disk.layers] == [
        ("file", "/srv/vm/f.qcow2", "qcow2"),
        ("file", "/srv/vm/middle.qcow2", "qcow2"),
        ("block", "/dev/vg/base", "raw"),
    ]
    assert (disk.job, disk.io, disk.bus, disk.serial) == ("copy", "native", "virtio", "S1")


def test_a_ceph_disk_and_its_secrets() -> None:
    (disk,) = parsed(definitions.CEPH).disks
    (layer,) = disk.layers
    assert (layer.protocol, layer.name, layer.snapshot, layer.config) == (
        "rbd",
        "vms/web1",
        "s1",
        "/etc/ceph/ceph.conf",
    )
    assert layer.hosts == ("mon1:6789", "[2001:db8::2]:6789")
    assert layer.auth == SecretRef(kind="ceph", uuid="33333333-1111-4111-8111-111111111111")
    assert (layer.encryption, layer.encryption_secret) == ("luks2", SecretRef(kind="passphrase", usage="web1"))
    assert not disk.paths


def test_disks_by_scsi_and_of_other_kinds() -> None:
    lun, iscsi, volume, nvme, vhost = (disk.layers[0] for disk in parsed(definitions.ISCSI).disks)
    assert lun.reservations == "managed"
    assert (iscsi.name, iscsi.initiator) == ("iqn.2024-01.org.example:t1/1", "iqn.2024-01.org.example:me")
    assert iscsi.auth == SecretRef(kind="iscsi", usage="libvirtiscsi")
    assert (volume.pool, volume.volume) == ("iscsi", "unit:0:0:1")
    assert nvme.address == "0000:01:00.0/2"
    assert vhost.path == "/run/spdk.sock"
    assert [disk.target for disk in parsed(definitions.ISCSI).local_disks] == ["sda"]


def test_interfaces_of_all_kinds() -> None:
    vf, ovs, macvtap, network, vhost = parsed(definitions.DEVICES).nics
    assert (vf.address, vf.managed, vf.vlans, vf.teaming, vf.partner) == (
        *("0000:03:10.1", True, (42,), "transient"),
        "ua-backup",
    )
    assert (ovs.port, ovs.interface_id, ovs.profile, ovs.vlans, ovs.trunk) == (
        "openvswitch",
        "i-1",
        "web",
        (1, 2),
        True,
    )
    assert (ovs.filter, ovs.link, ovs.target, ovs.alias) == ("clean-traffic", "down", "vnet3", "ua-backup")
    assert (macvtap.source, macvtap.mode) == ("eth0", "passthrough")
    assert (network.kind, network.source) == ("network", "lan"), "by whatever type libvirt tells it while it runs"
    assert (network.port_group, network.bridge) == ("office", "virbr1")
    assert vhost.path == "/run/dpdk.sock"


def test_devices_of_the_host() -> None:
    guest = parsed(definitions.DEVICES)
    assert [one.key for one in guest.host_devices] == [
        *("pci:0000:41:00.0", "usb:0x1234:0xbeef", "mdev:c2177883-f1bb-47f0-914d-32a22e3a8804"),
        "scsi:scsi_host0:0:0:1",
    ]
    assert [(share.target, share.driver, share.readonly) for share in guest.shares] == [
        ("share", "virtiofs", False),
        ("nine", "path", True),
    ]
    assert [(one.name, one.size, one.role) for one in guest.shared_memory] == [("ring", 4 << 20, "master")]
    assert [(one.model, one.path, one.size) for one in guest.ram.modules] == [("nvdimm", "/srv/nv.img", 128 << 20)]
    assert [one.path for one in guest.characters] == ["/srv/log/web1"]
    assert (guest.inputs, guest.leases, guest.launch_security) == (("/dev/input/event1",), ("vm/web1",), "sev")


@pytest.mark.parametrize("word", ["", "x", "-1", "1e3", "\u0661", "9" * 5000, "0x10", "0x", " 7 "])
def test_odd_numbers(word: str) -> None:
    xml = definitions.domain().replace(">2</vcpu>", f">{word}</vcpu>")
    assert parsed(xml).vcpus == {"0x10": 16, " 7 ": 7}.get(word, 1)


def test_what_qemu_cannot_move() -> None:
    devices = """<video><model type='virtio'><acceleration accel3d='yes'/></model></video><crypto model='virtio'/>
      <video><model type='virtio'><acceleration accel3d='no'/></model></video><sound model='ich9'/>
      <input type='tablet' bus='usb'/><input type='passthrough'><source evdev='/dev/input/event3'/></input>"""
    guest = parsed(definitions.domain(devices, more="<features><hyperv mode='passthrough'/></features>"))
    assert guest.unmovable == (
        "acceleration accel3d='yes'",
        "crypto model='virtio'",
        "hyperv mode='passthrough'",
        "input type='passthrough'",
    )
    assert parsed(definitions.domain("<sound model='ich9'/><input type='mouse' bus='ps2'/>")).unmovable == ()


def test_a_deep_document_is_read_as_far_as_it_goes() -> None:
    deep = "<backingStore><source file='/a'/>" * 5000 + "</backingStore>" * 5000
    guest = parsed(definitions.domain(f"<disk><source file='/b'/>{deep}<target dev='vda'/></disk>"))
    assert len(guest.disks[0].layers) == 200
    nested = "<a>" * 5000 + "</a>" * 5000
    (metadata,) = parsed(definitions.domain(more=f"<metadata><x>{nested}</x></metadata>")).metadata
    assert metadata.text == ""


@pytest.mark.parametrize("xml", definitions.ALL)
def test_a_guest_survives_the_wire(xml: str) -> None:
    guest = parsed(xml)
    assert msgspec.json.decode(msgspec.json.encode(guest), type=Guest) == guest


_WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="<>&'\""), max_size=12)


@given(st.sampled_from(definitions.ALL), st.lists(st.tuples(st.integers(0, 500), _WORDS), max_size=8))
def test_other_values_raise_nothing(xml: str, changes: list[tuple[int, str]]) -> None:
    """Any attribute may have any value, and is still told on the wire."""
    for number, word in changes:
        found = list(re.finditer("='([^']*)'|>([^<>]+)<", xml))
        match = found[number % len(found)]
        start, end = match.span(1) if match.group(1) is not None else match.span(2)
        xml = xml[:start] + word + xml[end:]
    with contextlib.suppress(HypervisorFailed):
        msgspec.json.encode(parsed(xml))


@given(st.sampled_from(definitions.ALL), st.lists(st.integers(0, 500), min_size=1, max_size=8))
def test_missing_elements_and_attributes_raise_nothing(xml: str, numbers: list[int]) -> None:
    for number in numbers:
        found = list(re.finditer(r" [\w:]+='[^']*'|<[\w:]+[^<>]*/>", xml))
        start, end = found[number % len(found)].span()
        xml = xml[:start] + xml[end:]
    with contextlib.suppress(HypervisorFailed):
        parsed(xml)


@given(st.sampled_from(definitions.ALL), st.integers(0, 5000), st.text(max_size=5))
def test_damaged_definitions_raise_one_kind_of_error(xml: str, at: int, noise: str) -> None:
    for damaged in (xml[:at], xml[:at] + noise + xml[at:]):
        with contextlib.suppress(HypervisorFailed):
            parsed(damaged)
