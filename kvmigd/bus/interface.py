"""The interfaces as their XML describes them: the XML is the documented API and what the publisher obeys."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path
from typing import NamedTuple

EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"


class Argument(NamedTuple):
    """One argument of a method or signal."""

    name: str
    signature: str


class Method(NamedTuple):
    """One method."""

    name: str
    arguments: tuple[Argument, ...]
    results: tuple[Argument, ...]

    @property
    def signature(self) -> str:
        """The signature of its arguments."""
        return "".join(argument.signature for argument in self.arguments)

    @property
    def result_signature(self) -> str:
        """The signature of its answer."""
        return "".join(result.signature for result in self.results)

    @property
    def handler(self) -> str:
        """The name of the Python method that does it: SetMaintenance is done by set_maintenance."""
        return snake(self.name)

    def describe(self) -> str:
        """Its arguments for a message: `(s guest, s destination, a{sv} options)`."""
        return "(" + ", ".join(f"{argument.signature} {argument.name}" for argument in self.arguments) + ")"


class Property(NamedTuple):
    """One property; all are read-only."""

    name: str
    signature: str
    emits: bool
    """Changes are told by PropertiesChanged, with the value."""
    invalidates: bool = False
    """Changes are told by PropertiesChanged, by name alone: the value is large, and made for who asks for it."""


class Interface(NamedTuple):
    """One interface."""

    name: str
    methods: dict[str, Method]
    properties: dict[str, Property]
    signals: dict[str, str]
    """Signature by name."""
    xml: str
    """Its <interface> element, for Introspect."""


def snake(name: str) -> str:
    """CamelCase as Python writes it."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _arguments(element: ET.Element, direction: str) -> tuple[Argument, ...]:
    return tuple(
        Argument(arg.get("name", ""), arg.attrib["type"])
        for arg in element.iter("arg")
        if arg.get("direction", "in") == direction
    )


def _emits(element: ET.Element) -> str:
    """What its annotation says: true (which is the default), invalidates, const or false."""
    return next((note.get("value", "") for note in element.iter("annotation") if note.get("name") == EMITS), "true")


def parse(text: str) -> dict[str, Interface]:
    """The interfaces in an introspection document, by name."""
    found: dict[str, Interface] = {}
    for element in ET.fromstring(text).iter("interface"):
        name = element.attrib["name"]
        ET.indent(element, level=1)
        found[name] = Interface(
            name=name,
            methods={
                method.attrib["name"]: Method(
                    method.attrib["name"], _arguments(method, "in"), _arguments(method, "out")
                )
                for method in element.iter("method")
            },
            properties={
                item.attrib["name"]: Property(
                    item.attrib["name"], item.attrib["type"], _emits(item) == "true", _emits(item) == "invalidates"
                )
                for item in element.iter("property")
            },
            signals={
                signal.attrib["name"]: "".join(arg.attrib["type"] for arg in signal.iter("arg"))
                for signal in element.iter("signal")
            },
            xml="  " + ET.tostring(element, encoding="unicode").strip(),
        )
    return found


def path_of(name: str) -> Path:
    """Where an interface's XML is: the nearest data/dbus (a checkout) or share/dbus-1/interfaces above the package.

    From /usr/lib/kvmigd/kvmigd that is /usr/share/dbus-1/interfaces, where the D-Bus specification wants it anyway.
    """
    for folder in Path(__file__).resolve().parents:
        for place in ("data/dbus", "share/dbus-1/interfaces"):
            path = folder / place / f"{name}.xml"
            if path.is_file():
                return path
    raise FileNotFoundError(f"{name}.xml is neither in share/dbus-1/interfaces nor in data/dbus above {__file__}")


@cache
def load(name: str) -> Interface:
    """One of our own interfaces."""
    return parse(path_of(name).read_text(encoding="utf-8"))[name]
