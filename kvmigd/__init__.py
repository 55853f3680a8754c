"""kvmigd: the host service that knows, proves and carries out live migration between libvirt hosts."""

__version__ = "0.1.0"
