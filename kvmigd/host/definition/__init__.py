"""Domain XML (libvirt.org/formatdomain.html) into a Guest. Unknown elements, attributes and words are passed over."""

from kvmigd.host.definition.guest import guest_of
from kvmigd.host.definition.xmltext import LIMIT_BYTES, parse_xml

__all__ = ["LIMIT_BYTES", "guest_of", "parse_xml"]
