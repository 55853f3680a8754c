"""Links, bridges, bonds, addresses and the ways to the peers: rtnetlink(7), OVSDB (RFC 7047) and sysfs."""

from kvmigd.host.links.monitor import LinkMonitor

__all__ = ["LinkMonitor"]
