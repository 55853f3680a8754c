"""Release, kernel, memory and names of this host."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import platform
import re
import socket
from pathlib import Path

from kvmigd.model.host import ResolvedName
from kvmigd.model.system import Release

RESOLVE_SECONDS = 3.0


def release(root: Path = Path("/")) -> Release:
    """The distribution, from os-release(5); empty fields where it says nothing."""
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            fields = platform_fields((root / name).read_text(errors="replace"))
        except OSError:
            continue
        return Release(
            id=fields.get("ID", ""),
            version_id=fields.get("VERSION_ID", ""),
            pretty_name=fields.get("PRETTY_NAME", ""),
        )
    return Release()


def platform_fields(text: str) -> dict[str, str]:
    """The assignments of an os-release file; quotes are removed, other lines are passed over."""
    found = re.findall(r"^\s*([A-Z0-9_]+)=(.*)$", text, re.MULTILINE)
    return {key: value.strip().strip("\"'") for key, value in found}


def kernel() -> str:
    """The running kernel, as `uname -r` prints it."""
    return platform.release()


def memory(path: Path = Path("/proc/meminfo")) -> tuple[int, int]:
    """MemTotal and MemAvailable in bytes (proc_meminfo(5))."""
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB$", path.read_text(), re.MULTILINE))
    return int(fields.get("MemTotal", 0)) * 1024, int(fields.get("MemAvailable", 0)) * 1024


def overhead(guest_memory: int, vcpus: int) -> int:
    """Bytes of memory that a guest's QEMU takes beside the guest's own.

    KubeVirt's long-used estimate: page tables 1/512 of the memory, 8 MiB a CPU, and about 200 MiB for QEMU, its
    libraries and device buffers (pkg/virt-controller/services/renderresources.go, GetMemoryOverhead).
    """
    return guest_memory // 512 + vcpus * (8 << 20) + (200 << 20)


async def resolve(name: str) -> ResolvedName:
    """What a name resolves to here, by the resolver that libvirt uses too (getaddrinfo)."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            rows = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        return ResolvedName(name=name, problem=f"no answer for {RESOLVE_SECONDS:.0f} s")
    except UnicodeError:  # an empty label, or one of more than 63 characters
        return ResolvedName(name=name, problem="it is no name of a host")
    except OSError as error:
        return ResolvedName(name=name, problem=error.strerror or os.strerror(error.errno or 0))
    return ResolvedName(name=name, addresses=tuple(dict.fromkeys(str(row[4][0]) for row in rows)))


def is_loopback(address: str) -> bool:
    """127/8 or ::1, with or without an interface's name behind it."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
