"""Everything in <devices> but disks."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from kvmigd.host.definition.xmltext import attribute, children, endpoint, number, pci_address, size, text
from kvmigd.model.devices import Character, Graphics, HostDevice, MemoryDevice, Nic, Share, SharedMemory, Tpm

_CHARACTERS = ("serial", "parallel", "console", "channel", "redirdev", "smartcard", "rng")


def nic_of(element: ET.Element) -> Nic:
    """An <interface>."""
    source = element.find("source")
    tags = list(children(element, "vlan/tag"))
    port = element.find("virtualport")
    parameters = port.find("parameters") if port is not None else None
    name = ""
    if source is not None:
        # A running guest's interface of a libvirt network also names the bridge behind it.
        name = source.get("network") or source.get("bridge") or source.get("dev") or ""
    network = attribute(source, "network")
    return Nic(
        mac=attribute(element, "address", "mac"),
        # While the guest runs, libvirt tells the type by what is behind the network, a bridge or a device.
        kind="network" if network else element.get("type", ""),
        source=name,
        model=attribute(element, "type", "model"),
        mtu=number(attribute(element, "size", "mtu")),
        bridge=attribute(source, "bridge") if network else "",
        port_group=attribute(source, "portgroup"),
        mode=attribute(source, "mode") if element.get("type") == "direct" else "",
        target=attribute(element, "dev", "target"),
        port=attribute(port, "type"),
        profile=attribute(parameters, "profileid"),
        interface_id=attribute(parameters, "interfaceid") or attribute(parameters, "instanceid"),
        vlans=tuple(dict.fromkeys(number(tag.get("id", "")) for tag in tags)),
        trunk=attribute(element, "trunk", "vlan") == "yes" or len(tags) > 1,
        filter=attribute(element, "filter", "filterref"),
        link=attribute(element, "state", "link"),
        address=pci_address(source.find("address")) if source is not None else "",
        managed=element.get("managed") == "yes",
        path=attribute(source, "path"),
        teaming=attribute(element, "type", "teaming"),
        partner=attribute(element, "persistent", "teaming"),
        alias=attribute(element, "name", "alias"),
    )


def host_device_of(element: ET.Element) -> HostDevice:
    """A <hostdev>."""
    source = element.find("source")
    kind = element.get("type", "")
    return HostDevice(
        kind=kind,
        address=_host_address(kind, source) if source is not None else "",
        managed=element.get("managed") == "yes",
        model=element.get("model", "") or attribute(element, "name", "driver"),
        teaming=attribute(element, "type", "teaming"),
        partner=attribute(element, "persistent", "teaming"),
        startup=attribute(source, "startupPolicy"),
        alias=attribute(element, "name", "alias"),
    )


def _host_address(kind: str, source: ET.Element) -> str:
    address = source.find("address")
    if kind == "pci":
        return pci_address(address)
    if kind == "mdev":
        return attribute(address, "uuid")
    if kind == "usb":
        vendor, product = attribute(source, "id", "vendor"), attribute(source, "id", "product")
        # A running guest's device has both; the address alone is one of this host and of this hour.
        return f"{vendor}:{product}" if vendor else f"{attribute(address, 'bus')}.{attribute(address, 'device')}"
    if kind == "scsi" and source.get("protocol"):
        return f"{source.get('protocol')}:{source.get('name', '')}"
    if kind == "scsi":
        parts = (attribute(source, "name", "adapter"), *(attribute(address, it) for it in ("bus", "target", "unit")))
        return ":".join(parts)
    return source.get("wwpn") or text(source, "block") or text(source, "char") or text(source, "interface")


def share_of(element: ET.Element) -> Share:
    """A <filesystem>."""
    source = element.find("source")
    return Share(
        target=attribute(element, "dir", "target"),
        source=next((source.get(name, "") for name in ("dir", "file", "dev") if source.get(name)), "")
        if source is not None
        else "",
        driver=attribute(element, "type", "driver") or "path",
        readonly=element.find("readonly") is not None,
        socket=attribute(source, "socket"),
    )


def shared_memory_of(element: ET.Element) -> SharedMemory:
    """A <shmem>."""
    return SharedMemory(
        name=element.get("name", ""),
        model=attribute(element, "type", "model"),
        size=size(element.find("size")),
        role=element.get("role", ""),
        server=attribute(element, "path", "server"),
    )


def characters_of(devices: ET.Element) -> Iterator[Character]:
    """Everything that is a stream of characters, and the sources of random numbers."""
    for tag in _CHARACTERS:
        for element in devices.findall(tag):
            yield _character(tag, element)


def _character(tag: str, element: ET.Element) -> Character:
    holder = element.find("backend") if tag == "rng" else element
    sources = list(children(holder, "source"))
    source = sources[0] if sources else None
    kind = attribute(holder, "model") if tag == "rng" else element.get("type", "")
    path = text(holder) if kind == "random" else attribute(source, "path")
    hosts = [endpoint(one) for one in sources if one.get("host")]
    return Character(
        element=tag,
        kind=kind,
        path=path if path.startswith("/") else "",
        mode=attribute(source, "mode"),
        name=attribute(element, "name", "target"),
        host=hosts[0] if hosts else "",
        log=attribute(element, "file", "log"),
        alias=attribute(element, "name", "alias"),
    )


def graphics_of(element: ET.Element) -> Graphics:
    """A <graphics>."""
    listen = []
    for one in element.findall("listen"):
        if one.get("type") == "network":
            listen.append(f"network:{one.get('network', '')}")
        elif address := one.get("address") or one.get("socket"):
            listen.append(address)
    if not listen and (address := element.get("listen") or element.get("socket")):
        listen.append(address)
    return Graphics(
        kind=element.get("type", ""),
        port=number(element.get("port", "")),
        autoport=element.get("autoport") == "yes",
        listen=tuple(listen),
        device=attribute(element, "rendernode", "gl"),
    )


def tpm_of(element: ET.Element) -> Tpm:
    """A <tpm>."""
    backend = element.find("backend")
    return Tpm(
        model=element.get("model", ""),
        backend=attribute(backend, "type"),
        version=attribute(backend, "version"),
        persistent_state=attribute(backend, "persistent_state") == "yes",
        secret=attribute(backend, "secret", "encryption"),
        path=attribute(backend, "path", "device") or attribute(backend, "path", "source"),
    )


def memory_device_of(element: ET.Element) -> MemoryDevice:
    """A <memory> module."""
    return MemoryDevice(
        model=element.get("model", ""),
        size=size(element.find("target/size")),
        path=text(element, "source/path"),
        nodes=text(element, "source/nodemask"),
        alias=attribute(element, "name", "alias"),
    )
