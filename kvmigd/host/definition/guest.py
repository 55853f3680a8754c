"""A whole <domain> into a Guest."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

from kvmigd.errors import HypervisorFailed
from kvmigd.host.definition.devices import (
    characters_of,
    graphics_of,
    host_device_of,
    nic_of,
    share_of,
    shared_memory_of,
    tpm_of,
)
from kvmigd.host.definition.disks import disk_of
from kvmigd.host.definition.machine import (
    cpu_of,
    features_of,
    firmware_of,
    labels_of,
    memory_of,
    pinning_of,
    timers_of,
    unmovable_of,
)
from kvmigd.host.definition.xmltext import attribute, children, number, parse_xml, size, text, written
from kvmigd.model.devices import Metadata
from kvmigd.model.guest import METADATA, Guest, GuestState

METADATA_LIMIT = 4096
"""Characters of others' metadata that are kept an element, 64 Ki of ours; whoever wants it all asks libvirt."""
OWN_METADATA_LIMIT = 1 << 16
_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def guest_of(
    xml: str,
    *,
    state: GuestState,
    persistent: bool,
    autostart: bool,
    migratable_xml: str | None = None,
    **known: Any,
) -> Guest:
    """The guest behind a live domain definition. `migratable_xml` is the same with VIR_DOMAIN_XML_MIGRATABLE.

    `known` are fields of the guest that are in no definition: reason, job, snapshots …
    Elements and attributes that are unknown here are passed over. Raises HypervisorFailed on what is no definition.
    """
    root = parse_xml(xml)
    type_element = root.find("os/type")
    devices = root.find("devices")
    if root.tag != "domain" or type_element is None or devices is None:
        raise HypervisorFailed("A domain definition lacks <os><type> or <devices>.")
    vsock = devices.find("vsock/cid")
    firmware = firmware_of(root.find("os"))
    return Guest(
        name=root.findtext("name", ""),
        uuid=text(root, "uuid"),
        state=state,
        persistent=persistent,
        autostart=autostart,
        memory=size(root.find("memory")),
        vcpus=number(text(root, "vcpu")) or 1,
        arch=type_element.get("arch", ""),
        machine=type_element.get("machine", ""),
        domain_type=root.get("type", ""),
        emulator=text(devices, "emulator"),
        disks=tuple(disk_of(element) for element in devices.findall("disk")),
        nics=tuple(nic_of(element) for element in devices.findall("interface")),
        files=tuple(path for path in (firmware.kernel, firmware.initrd, firmware.dtb, firmware.loader) if path),
        cpu_xml=_cpu_xml(parse_xml(migratable_xml) if migratable_xml else root),
        title=text(root, "title"),
        description=text(root, "description")[:METADATA_LIMIT],
        cpu=cpu_of(root.find("cpu")),
        ram=memory_of(root),
        pinning=pinning_of(root),
        iothreads=number(text(root, "iothreads")),
        firmware=firmware,
        features=features_of(root.find("features")),
        timers=timers_of(root.find("clock")),
        clock=attribute(root, "offset", "clock"),
        launch_security=attribute(root, "type", "launchSecurity"),
        tpms=tuple(tpm_of(element) for element in devices.findall("tpm")),
        host_devices=tuple(host_device_of(element) for element in devices.findall("hostdev")),
        shares=tuple(share_of(element) for element in devices.findall("filesystem")),
        shared_memory=tuple(shared_memory_of(element) for element in devices.findall("shmem")),
        characters=tuple(characters_of(devices)),
        graphics=tuple(graphics_of(element) for element in devices.findall("graphics")),
        unmovable=unmovable_of(root),
        vsock=number(attribute(vsock, "address")),
        vsock_auto=attribute(vsock, "auto") == "yes",
        watchdogs=tuple(f"{it.get('model', '')}={it.get('action', '')}" for it in devices.findall("watchdog")),
        inputs=tuple(
            path
            for it in devices.findall("input")
            if (path := attribute(it, "evdev", "source") or attribute(it, "dev", "source"))
        ),
        leases=tuple(f"{text(it, 'lockspace')}/{text(it, 'key')}" for it in devices.findall("lease")),
        labels=labels_of(root),
        arguments=tuple(it.get("value", "") for it in children(root, f"{_QEMU}commandline/{_QEMU}arg")),
        metadata=tuple(_metadata(root.find("metadata"))),
        **known,
    )


def _cpu_xml(root: ET.Element) -> str:
    cpu = root.find("cpu")
    # libvirt compares named models and features; what host-passthrough and maximum contain it cannot say beforehand.
    if cpu is None or cpu.get("mode") in ("host-passthrough", "maximum") or cpu.find("model") is None:
        return ""
    return written(cpu)


def _metadata(element: ET.Element | None) -> Iterator[Metadata]:
    """One element a namespace, as libvirt allows it; the first where there are more."""
    found: dict[str, ET.Element] = {}
    for one in element if element is not None else ():
        found.setdefault(one.tag[1:].partition("}")[0] if one.tag.startswith("{") else "", one)
    for namespace, one in found.items():
        xml = written(one)
        limit = OWN_METADATA_LIMIT if namespace == METADATA else METADATA_LIMIT
        yield Metadata(namespace=namespace, text=xml if len(xml) <= limit else "", size=len(xml))
