"""Disks with their chains of images."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from kvmigd.host.definition.xmltext import attribute, children, endpoint, pci_address, text
from kvmigd.model.devices import Disk, DiskLayer, SecretRef

DEPTH_LIMIT = 200
"""libvirt follows no longer chains either (VIR_STORAGE_MAX_CHAIN in its source)."""


def disk_of(element: ET.Element) -> Disk:
    """A <disk>."""
    # What has no source is a drive without a medium; an end of the chain is an empty <backingStore/>.
    layers = tuple(_layer(one, top=one is element) for one in _chain(element) if one.find("source") is not None)
    return Disk(
        target=attribute(element, "dev", "target"),
        device=element.get("device", "disk"),
        kind=element.get("type", "file"),
        paths=tuple(
            path for layer in layers for path in (layer.path, layer.data_file) if path and _is_host_path(layer)
        ),
        format=attribute(element, "type", "driver"),
        cache=attribute(element, "cache", "driver"),
        readonly=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
        bus=attribute(element, "bus", "target"),
        io=attribute(element, "io", "driver"),
        transient=element.find("transient") is not None,
        serial=text(element, "serial"),
        wwn=text(element, "wwn"),
        startup=attribute(element, "startupPolicy", "source"),
        job=_job(element.find("mirror")),
        layers=layers,
    )


def _is_host_path(layer: DiskLayer) -> bool:
    """A path of an image, as opposed to the socket of a process that has it."""
    return layer.kind not in ("vhostuser", "vhostvdpa")


def _chain(element: ET.Element) -> Iterator[ET.Element]:
    layer: ET.Element | None = element
    for _ in range(DEPTH_LIMIT):
        if layer is None:
            return
        yield layer
        layer = layer.find("backingStore")


def _job(mirror: ET.Element | None) -> str:
    return "" if mirror is None else mirror.get("job") or "copy"


def _layer(element: ET.Element, *, top: bool) -> DiskLayer:
    source = element.find("source")
    network = source is not None and "protocol" in source.attrib
    encryption = _first(source, element, path="encryption")
    auth = _first(source, element, path="auth")
    return DiskLayer(
        kind=element.get("type", "file"),
        path=_path(source),
        format=attribute(element, "type", "driver" if top else "format"),
        protocol=attribute(source, "protocol"),
        name=attribute(source, "name") if network else "",
        hosts=tuple(dict.fromkeys(endpoint(host) for host in children(source, "host"))),
        snapshot=attribute(source, "name", "snapshot"),
        config=attribute(source, "file", "config"),
        pool=attribute(source, "pool"),
        volume=attribute(source, "volume"),
        address=_nvme(source),
        auth=secret_of(auth),
        user=attribute(auth, "username"),
        initiator=attribute(source, "name", "initiator/iqn"),
        encryption=attribute(encryption, "format"),
        encryption_secret=secret_of(encryption),
        reservations=_reservations(source),
        data_file=_path(source.find("dataStore/source")) if source is not None else "",
    )


def _first(*elements: ET.Element | None, path: str) -> ET.Element | None:
    """libvirt writes <auth> and <encryption> below <source>, and still reads them beside it."""
    found = (element.find(path) for element in elements if element is not None)
    return next((one for one in found if one is not None), None)


def secret_of(element: ET.Element | None) -> SecretRef | None:
    """The <secret> in an <auth> or <encryption>."""
    secret = element.find("secret") if element is not None else None
    if secret is None:
        return None
    return SecretRef(kind=secret.get("type", ""), uuid=secret.get("uuid", ""), usage=secret.get("usage", ""))


def _path(source: ET.Element | None) -> str:
    if source is None or "protocol" in source.attrib:
        return ""
    if source.get("type") == "unix":
        return source.get("path", "")
    return source.get("file") or source.get("dev") or source.get("dir") or ""


def _nvme(source: ET.Element | None) -> str:
    if attribute(source, "type") != "pci" or source is None:
        return ""
    return f"{pci_address(source.find('address'))}/{source.get('namespace', '1')}"


def _reservations(source: ET.Element | None) -> str:
    if source is None or (element := source.find("reservations")) is None:
        return ""
    return "managed" if element.get("managed") == "yes" else attribute(element, "path", "source")
