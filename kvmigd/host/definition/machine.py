"""The machine itself: CPU, memory, firmware, clock, features, pinning."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from kvmigd.host.definition.devices import memory_device_of
from kvmigd.host.definition.xmltext import attribute, children, number, size, sized, text
from kvmigd.model.devices import Cpu, Firmware, Label, Memory, Pages, Pinning, Timer


def cpu_of(element: ET.Element | None) -> Cpu:
    """The <cpu>."""
    topology = element.find("topology") if element is not None else None
    sockets, dies, cores, threads = (
        number(attribute(topology, name)) for name in ("sockets", "dies", "cores", "threads")
    )
    return Cpu(
        mode=attribute(element, "mode"),
        match=attribute(element, "match"),
        check=attribute(element, "check"),
        migratable=attribute(element, "migratable"),
        model=text(element, "model"),
        vendor=text(element, "vendor"),
        features=tuple(f"{one.get('name', '')}={one.get('policy', 'require')}" for one in children(element, "feature")),
        sockets=sockets,
        dies=dies,
        cores=cores,
        threads=threads,
        cells=sum(1 for _ in children(element, "numa/cell")),
    )


def memory_of(root: ET.Element) -> Memory:
    """Everything about memory but its size, which is the guest's."""
    backing = root.find("memoryBacking")
    numa = root.find("numatune/memory")
    return Memory(
        current=size(root.find("currentMemory")),
        maximum=size(root.find("maxMemory")),
        hugepages=tuple(_hugepages(backing)),
        source=attribute(backing, "type", "source"),
        access=attribute(backing, "mode", "access"),
        locked=backing is not None and backing.find("locked") is not None,
        hard_limit=size(root.find("memtune/hard_limit")),
        numa_mode=attribute(numa, "mode"),
        numa_nodes=attribute(numa, "nodeset")
        or ",".join(dict.fromkeys(one.get("nodeset", "") for one in children(root, "numatune/memnode"))),
        modules=tuple(memory_device_of(one) for one in children(root, "devices/memory")),
    )


def _hugepages(backing: ET.Element | None) -> Iterator[Pages]:
    for element in children(backing, "hugepages"):
        pages = element.findall("page")
        for page in pages:
            yield Pages(size=sized(page.get("size", ""), page.get("unit", "KiB")), nodes=page.get("nodeset", ""))
        if not pages:
            yield Pages()


def pinning_of(root: ET.Element) -> Pinning:
    """Where its threads may run."""
    tune = root.find("cputune")
    return Pinning(
        cpus=attribute(root, "cpuset", "vcpu"),
        vcpus=tuple(f"{one.get('vcpu', '')}={one.get('cpuset', '')}" for one in children(tune, "vcpupin")),
        emulator=attribute(tune, "cpuset", "emulatorpin"),
        iothreads=tuple(f"{one.get('iothread', '')}={one.get('cpuset', '')}" for one in children(tune, "iothreadpin")),
    )


def firmware_of(element: ET.Element | None) -> Firmware:
    """The <os>."""
    loader = element.find("loader") if element is not None else None
    nvram = element.find("nvram") if element is not None else None
    return Firmware(
        kind=attribute(element, "firmware"),
        loader=text(loader),
        loader_type=attribute(loader, "type"),
        secure=attribute(loader, "secure") == "yes",
        nvram=text(nvram) or attribute(nvram, "file", "source") or attribute(nvram, "dev", "source"),
        nvram_kind=attribute(nvram, "type") or ("file" if nvram is not None else ""),
        nvram_template=attribute(nvram, "template"),
        nvram_format=attribute(nvram, "format"),
        kernel=text(element, "kernel"),
        initrd=text(element, "initrd"),
        dtb=text(element, "dtb"),
        command_line=text(element, "cmdline"),
        acpi_tables=tuple(text(one) for one in children(element, "acpi/table")),
    )


def features_of(element: ET.Element | None) -> tuple[str, ...]:
    """What is on of <features>, those of a group behind a point."""
    found = set()
    for feature in element if element is not None else ():
        if feature.get("state", "on") != "on":
            continue
        found.add(feature.tag)
        found |= {f"{feature.tag}.{one.tag}" for one in feature if one.get("state") == "on"}
    return tuple(sorted(found))


def timers_of(element: ET.Element | None) -> tuple[Timer, ...]:
    """The timers of the <clock>."""
    return tuple(
        Timer(
            name=one.get("name", ""),
            present=one.get("present", ""),
            frequency=number(one.get("frequency", "")),
            mode=one.get("mode", ""),
        )
        for one in children(element, "timer")
    )


def labels_of(root: ET.Element) -> tuple[Label, ...]:
    """How security drivers label it."""
    return tuple(
        Label(
            model=one.get("model", ""),
            kind=one.get("type", ""),
            label=text(one, "label"),
            relabel=one.get("relabel", ""),
        )
        for one in children(root, "seclabel")
    )


_UNMOVABLE = (
    ("devices/video/model/acceleration", "accel3d", "yes"),
    ("devices/crypto", "model", "virtio"),
    ("devices/input", "type", "passthrough"),
    ("devices/sound", "model", "usb"),
    ("devices/channel", "type", "qemu-vdagent"),
    ("devices/disk/target", "bus", "nvme"),
    ("features/hyperv", "mode", "passthrough"),
)
"""Where QEMU says `.unmigratable` or adds a blocker, whatever the host: virgl (hw/display/virtio-gpu-base.c),
virtio-crypto, virtio-input-host, usb-audio, the vdagent character device, nvme, hv-passthrough."""


def unmovable_of(root: ET.Element) -> tuple[str, ...]:
    """What of it QEMU has never learnt to move: the element with the attribute that tells."""
    return tuple(
        sorted(
            f"{path.rpartition('/')[2]} {name}='{value}'"
            for path, name, value in _UNMOVABLE
            if any(one.get(name) == value for one in children(root, path))
        )
    )
