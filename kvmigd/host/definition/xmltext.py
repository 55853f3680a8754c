"""Text, numbers and sizes out of libvirt's XML. Nothing here raises but `parse_xml`, and that only HypervisorFailed."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from kvmigd.errors import HypervisorFailed

LIMIT_BYTES = 4 << 20
NUMBER_LIMIT = (1 << 63) - 1
"""What is greater is no number that libvirt knows, and JSON's readers could not take it."""

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
        raise HypervisorFailed("A definition of libvirt's is too large or carries a document type; it was not read.")
    try:
        return ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:  # ValueError: text that is no Unicode, a lone surrogate
        raise HypervisorFailed(f"A definition of libvirt's is not well-formed XML: {error}.") from error


def text(element: ET.Element | None, path: str = "") -> str:
    """The text of the element, or of the one below it; empty if there is none."""
    found = element.find(path) if element is not None and path else element
    return (found.text or "").strip() if found is not None else ""


def attribute(element: ET.Element | None, name: str, path: str = "") -> str:
    """An attribute of the element, or of the one below it; empty if there is none."""
    found = element.find(path) if element is not None and path else element
    return found.get(name, "") if found is not None else ""


def number(word: str) -> int:
    """A number in decimal, or in hexadecimal behind `0x`; 0 for everything else."""
    word = word.strip()
    if len(word) > 20 or not word.isascii():
        return 0
    try:
        value = int(word, 16) if word[:2].lower() == "0x" else int(word)
    except ValueError:
        return 0
    return value if 0 <= value <= NUMBER_LIMIT else 0


def size(element: ET.Element | None) -> int:
    """A libvirt size in bytes; the unit's default is KiB."""
    return sized(text(element), attribute(element, "unit"))


def sized(word: str, unit: str) -> int:
    """A number with its unit, in bytes; KiB where the unit is none."""
    return min(NUMBER_LIMIT, number(word) * _UNITS.get(unit.lower(), 1 << 10))


def children(element: ET.Element | None, path: str) -> Iterator[ET.Element]:
    """The elements at the path, none if the element is not there."""
    if element is not None:
        yield from element.findall(path)


def endpoint(element: ET.Element | None) -> str:
    """A `host:port`, or the path of a socket, out of name= or host=, port= or service=, and socket=."""
    if element is None:
        return ""
    host = element.get("name") or element.get("host") or element.get("address") or ""
    port = element.get("port") or element.get("service") or ""
    if ":" in host:
        host = f"[{host}]"
    return (f"{host}:{port}" if port else host) or element.get("socket", "")


def pci_address(element: ET.Element | None) -> str:
    """An <address> as the kernel writes it: 0000:03:00.1; empty without a bus."""
    if element is None or not element.get("bus"):
        return ""
    domain, bus, slot, function = (number(element.get(name, "0")) for name in ("domain", "bus", "slot", "function"))
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"


def written(element: ET.Element) -> str:
    """The element as XML; empty where it is nested too deeply to be written (the library recurses)."""
    try:
        return ET.tostring(element, encoding="unicode").strip()
    except RecursionError:
        return ""
