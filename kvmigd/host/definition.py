"""Domain XML (libvirt.org/formatdomain.html) into a Guest."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from kvmigd.errors import HypervisorFailed
from kvmigd.model.guest import Disk, Guest, GuestState, Nic

LIMIT_BYTES = 4 << 20
_UNITS = {
    "b": 1,
    "bytes": 1,
    "kb": 1000,
    "k": 1 << 10,
    "kib": 1 << 10,
    "mb": 1000**2,
    "m": 1 << 20,
    "mib": 1 << 20,
    "gb": 1000**3,
    "g": 1 << 30,
    "gib": 1 << 30,
    "tb": 1000**4,
    "t": 1 << 40,
    "tib": 1 << 40,
}


def parse_xml(text: str) -> ET.Element:
    """Parse XML from libvirt or a peer; documents with a DOCTYPE or above 4 MiB are refused before they are parsed.

    Raises HypervisorFailed.
    """
    if len(text) > LIMIT_BYTES or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise HypervisorFailed("A domain definition is too large or carries a document type; it was not read.")
    try:
        return ET.fromstring(text)
    except ET.ParseError as error:
        raise HypervisorFailed(f"A domain definition is not well-formed XML: {error}.") from error


def guest_of(
    xml: str, *, state: GuestState, persistent: bool, autostart: bool, migratable_xml: str | None = None
) -> Guest:
    """The guest behind a live domain definition. `migratable_xml` is the same with VIR_DOMAIN_XML_MIGRATABLE.

    Elements and attributes that are unknown here are passed over. Raises HypervisorFailed on what is no definition.
    """
    root = parse_xml(xml)
    type_element = root.find("os/type")
    devices = root.find("devices")
    if root.tag != "domain" or type_element is None or devices is None:
        raise HypervisorFailed("A domain definition lacks <os><type> or <devices>.")
    return Guest(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", ""),
        state=state,
        persistent=persistent,
        autostart=autostart,
        memory=_size(root.find("memory")),
        vcpus=int(root.findtext("vcpu", "1").strip() or 1),
        arch=type_element.get("arch", ""),
        machine=type_element.get("machine", ""),
        domain_type=root.get("type", ""),
        emulator=devices.findtext("emulator", ""),
        disks=tuple(_disk(element) for element in devices.findall("disk")),
        nics=tuple(_nic(element) for element in devices.findall("interface")),
        files=tuple(
            text.strip() for tag in ("kernel", "initrd", "dtb", "loader") if (text := root.findtext(f"os/{tag}", ""))
        ),
        cpu_xml=_cpu(parse_xml(migratable_xml) if migratable_xml else root),
    )


def _size(element: ET.Element | None) -> int:
    """A libvirt size; the unit's default is KiB. Returns bytes."""
    if element is None or not (element.text or "").strip().isdigit():
        return 0
    return int((element.text or "").strip()) * _UNITS.get(element.get("unit", "KiB").lower(), 1 << 10)


def _source_path(element: ET.Element | None) -> str:
    if element is None:
        return ""
    return element.get("file") or element.get("dev") or element.get("dir") or ""


def _disk(element: ET.Element) -> Disk:
    paths: list[str] = []
    layer: ET.Element | None = element
    while layer is not None:
        if path := _source_path(layer.find("source")):
            paths.append(path)
        layer = layer.find("backingStore")
    driver = element.find("driver")
    target = element.find("target")
    return Disk(
        target=target.get("dev", "") if target is not None else "",
        device=element.get("device", "disk"),
        kind=element.get("type", "file"),
        paths=tuple(paths),
        format=driver.get("type", "") if driver is not None else "",
        cache=driver.get("cache", "") if driver is not None else "",
        readonly=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
    )


def _nic(element: ET.Element) -> Nic:
    kind = element.get("type", "")
    source, mac, model, mtu = (element.find(tag) for tag in ("source", "mac", "model", "mtu"))
    name = ""
    if source is not None:
        # A running guest's interface of a libvirt network also names the bridge behind it.
        name = source.get("network") or source.get("bridge") or source.get("dev") or ""
    return Nic(
        mac=mac.get("address", "") if mac is not None else "",
        kind=kind,
        source=name,
        model=model.get("type", "") if model is not None else "",
        mtu=int(mtu.get("size", "0")) if mtu is not None and mtu.get("size", "0").isdigit() else 0,
    )


def _cpu(root: ET.Element) -> str:
    cpu = root.find("cpu")
    # libvirt compares named models and features; what host-passthrough and maximum contain it cannot say beforehand.
    if cpu is None or cpu.get("mode") in ("host-passthrough", "maximum") or cpu.find("model") is None:
        return ""
    return ET.tostring(cpu, encoding="unicode").strip()
