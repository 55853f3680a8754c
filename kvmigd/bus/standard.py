"""The standard interfaces of the D-Bus specification, published like our own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbus_next.signature import Variant

from kvmigd.bus import interface as xml
from kvmigd.bus.body import Body, Typed
from kvmigd.bus.pace import Pace
from kvmigd.bus.path import ROOT
from kvmigd.bus.publisher import STANDARD, Call, Implementation, Large, Lazy, Refusal

if TYPE_CHECKING:
    from kvmigd.bus.interface import Interface
    from kvmigd.bus.publisher import Publisher

_DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    '"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)

_DESCRIPTIONS = xml.parse("""<node>
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect"><arg name="xml" type="s" direction="out"/></method>
  </interface>
  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId"><arg name="machine_id" type="s" direction="out"/></method>
  </interface>
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface" type="s" direction="in"/>
      <arg name="property" type="s" direction="in"/>
      <arg name="value" type="v" direction="out"/>
    </method>
    <method name="GetAll">
      <arg name="interface" type="s" direction="in"/>
      <arg name="properties" type="a{sv}" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface" type="s" direction="in"/>
      <arg name="property" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface" type="s"/>
      <arg name="changed" type="a{sv}"/>
      <arg name="invalidated" type="as"/>
    </signal>
  </interface>
  <interface name="org.freedesktop.DBus.ObjectManager">
    <method name="GetManagedObjects"><arg name="objects" type="a{oa{sa{sv}}}" direction="out"/></method>
    <signal name="InterfacesAdded">
      <arg name="object" type="o"/>
      <arg name="interfaces" type="a{sa{sv}}"/>
    </signal>
    <signal name="InterfacesRemoved">
      <arg name="object" type="o"/>
      <arg name="interfaces" type="as"/>
    </signal>
  </interface>
</node>""")


class Standard(Implementation):
    """One of the standard interfaces; their XML is above."""

    def documented(self) -> Interface:
        return _DESCRIPTIONS[self.interface]


class Introspectable(Standard):
    """Tells what is at a path and which paths are below it."""

    interface: ClassVar[str] = STANDARD + "Introspectable"

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def introspect(self, call: Call) -> str:
        """The path's interfaces and children as XML."""
        below = call.path.rstrip("/") + "/"
        children = {path.removeprefix(below).split("/")[0] for path in self._publisher.paths if path.startswith(below)}
        parts = [description.xml for description in self._publisher.interfaces(call.path)]
        parts += [f'  <node name="{child}"/>' for child in sorted(children)]
        return _DOCTYPE + "\n".join(["<node>", *parts, "</node>"]) + "\n"


class Peer(Standard):
    """Answers pings; by the specification at every path."""

    interface: ClassVar[str] = STANDARD + "Peer"

    async def ping(self, call: Call) -> None:
        """Answer."""

    async def get_machine_id(self, call: Call) -> str:
        """The machine's id."""
        return Path("/etc/machine-id").read_text(encoding="ascii").strip()


class Properties(Standard):
    """Reads properties. None can be written."""

    interface: ClassVar[str] = STANDARD + "Properties"

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def _values(self, path: str, interface: str) -> dict[str, Typed]:
        part, description = self._publisher.part(path, interface)
        return {key: Typed(description.properties[key].signature, value) for key, value in part.properties().items()}

    def _value(self, path: str, interface: str, name: str) -> Typed:
        values = self._values(path, interface)
        if name not in values:
            raise Refusal("UnknownProperty", f"Interface {interface} has no property {name}.")
        return values[name]

    async def get(self, call: Call, interface: str, name: str) -> Variant | Large:
        """One property."""
        found = self._value(call.path, interface, name)
        if not isinstance(found.value, Lazy):
            return Variant(*found)

        async def body(pace: Pace) -> Body:
            body = Body("v")
            await _add(body, found, pace)
            return body

        return Large(body)

    async def get_all(self, call: Call, interface: str) -> dict[str, Variant] | Large:
        """All properties of one interface."""
        found = self._values(call.path, interface)
        if not any(isinstance(item.value, Lazy) for item in found.values()):
            return {name: Variant(*item) for name, item in found.items()}

        async def body(pace: Pace) -> Body:
            body = Body("a{sv}")
            with body.array("{sv}"):
                for name, item in found.items():
                    body.align(8)
                    body.add("s", name)
                    await _add(body, item, pace)
            return body

        return Large(body)

    async def set(self, call: Call, interface: str, name: str, value: Any) -> None:
        """Refuse: what can be changed has a method, and each method its own polkit action."""
        self._value(call.path, interface, name)
        raise Refusal("PropertyReadOnly", f"Property {interface}.{name} cannot be written.")


async def _add(body: Body, item: Typed, pace: Pace) -> None:
    """Add a property's value as a variant."""
    if isinstance(item.value, Lazy):
        body.add("g", item.signature)
        await body.add_paced(item.signature, item.value.make(), pace)
    else:
        body.add("v", item)


class ObjectManager(Standard):
    """Tells all objects at once."""

    interface: ClassVar[str] = STANDARD + "ObjectManager"

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def get_managed_objects(self, call: Call) -> dict[str, dict[str, dict[str, Variant]]]:
        """All objects below our root with their interfaces and properties."""
        return {path: self._publisher.managed(path) for path in self._publisher.paths if path != ROOT}
