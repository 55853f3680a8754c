"""Installed packages that matter for migration, from dpkg's or rpm's database."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from kvmigd.host import process
from kvmigd.model.system import Package

PATTERNS: tuple[str, ...] = (
    *("qemu-system-*", "qemu-kvm*", "qemu-block-*", "qemu-device-*", "qemu-utils", "qemu-img", "qemu-common"),
    *("libvirt-daemon*", "libvirt0", "libvirt-libs", "libvirt-clients"),
    *("ovmf", "qemu-efi-*", "edk2-*", "seabios", "seabios-bin", "seavgabios-bin", "ipxe-qemu", "ipxe-roms-qemu"),
    *("swtpm*", "libtpms*", "virtiofsd", "passt", "libslirp*"),
    *("intel-microcode", "amd64-microcode", "microcode_ctl", "amd-ucode-firmware"),
    *("glusterfs-client", "glusterfs-fuse", "libglusterfs0", "librbd1", "ceph-common", "ceph-fuse", "libcephfs2"),
    *("nfs-common", "nfs-utils", "cifs-utils", "sshfs", "fuse-sshfs", "libnfs*", "libiscsi*"),
    *("open-iscsi", "iscsi-initiator-utils", "multipath-tools", "device-mapper-multipath", "lvm2", "lvm2-lockd"),
    *("gfs2-utils", "ocfs2-tools", "dlm", "dlm-controld", "corosync", "pacemaker", "sanlock"),
    *("openvswitch-switch", "openvswitch", "openvswitch3.*", "firewalld", "nftables", "iptables", "iptables-nft"),
    "kvmigd",
)
"""Names on Debian and on Fedora and its relatives, `*` as in a shell."""

KERNELS: tuple[str, ...] = ("linux-image-*", "kernel-core", "kernel", "kernel-rt-core", "kernel-default")
"""Packages of kernels; only the running one's counts."""

DPKG = "var/lib/dpkg/status"
RPM: tuple[str, ...] = tuple(
    f"{folder}/{name}"
    for folder in ("usr/lib/sysimage/rpm", "var/lib/rpm")
    for name in ("rpmdb.sqlite", "Packages.db", "Packages")
)
"""SQLite, ndb (SUSE) and Berkeley DB."""

RPM_SECONDS = 30.0
CHUNK_BYTES = 256 << 10
STANZA_BYTES = 1 << 20

_WANTED = "|".join(re.escape(name).replace(r"\*", "[^\n]*") for name in (*PATTERNS, *KERNELS)).encode()
_STANZA = re.compile(rb"^Package:[ \t]*(?:%s)[ \t\r]*$" % _WANTED, re.MULTILINE)
_FIELD = re.compile(rb"^(Package|Status|Version|Architecture):[ \t]*([^\n]*?)[ \t\r]*$", re.MULTILINE)
_INSTALLED = frozenset({"installed", "triggers-pending", "triggers-awaited"})
_FORMAT = r"%{NAME}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\t%{ARCH}\n"


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What a package database says; `problem` is why it says nothing."""

    manager: str = ""
    packages: tuple[Package, ...] = ()
    problem: str = ""


def database(root: Path = Path("/")) -> tuple[str, Path | None]:
    """dpkg or rpm, and its database; empty and None where there is neither.

    A host of one family can have the other's tools, but then their database is empty or absent.
    """
    for manager, names in (("dpkg", (DPKG,)), ("rpm", RPM)):
        for name in names:
            try:
                if (root / name).stat().st_size:
                    return manager, root / name
            except OSError:
                continue
    return "", None


def fingerprint(root: Path = Path("/")) -> tuple[str, int, int, int] | None:
    """Differs when the database has changed: rpm opens its own for writing even to read it, which is no change."""
    _, path = database(root)
    try:
        status = path.stat() if path else None
    except OSError:
        return None
    return (str(path), status.st_ino, status.st_size, status.st_mtime_ns) if status else None


async def installed(root: Path = Path("/"), *, kernel: str) -> Installed:
    """The packages that matter; of kernels the one that runs, named as `uname -r` prints it."""
    manager, path = await asyncio.to_thread(database, root)
    if path is None:
        return Installed(problem="there is neither dpkg's nor rpm's database")
    if manager == "rpm":
        return await _ask_rpm(root, kernel=kernel)
    try:
        packages = await asyncio.to_thread(read_dpkg, path, kernel=kernel)
    except OSError as error:
        return Installed(manager=manager, problem=f"{path} cannot be read: {error.strerror}")
    return Installed(manager=manager, packages=packages)


def read_dpkg(path: Path, *, kernel: str) -> tuple[Package, ...]:
    """The packages of dpkg's status file (deb822(5)), read in pieces; raises OSError."""
    found: list[Package] = []
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            whole, separator, rest = (rest + chunk).rpartition(b"\n\n")
            found += parse_dpkg(whole + separator, kernel=kernel)
            rest = rest[-STANZA_BYTES:]
    found += parse_dpkg(rest, kernel=kernel)
    return _sorted(found)


def parse_dpkg(text: bytes, *, kernel: str) -> Iterator[Package]:
    """The packages that matter in whole paragraphs of a status file. Only theirs are looked into."""
    for start in _STANZA.finditer(text):
        end = text.find(b"\n\n", start.start())
        paragraph = text[start.start() : end if end >= 0 else len(text)]
        fields = {name: value.decode(errors="replace") for name, value in _FIELD.findall(paragraph)}
        name, version = fields.get(b"Package", ""), fields.get(b"Version", "")
        # `want flag state`: a package on hold is installed, one that is being configured is not yet.
        state = fields.get(b"Status", "").split()
        if name.startswith("linux-image-") and name not in (f"linux-image-{kernel}", f"linux-image-unsigned-{kernel}"):
            continue
        if version and len(state) == 3 and state[1] == "ok" and state[2] in _INSTALLED:
            yield Package(name=name, version=version, arch=fields.get(b"Architecture", ""))


async def _ask_rpm(root: Path, *, kernel: str) -> Installed:
    # The database's format is rpm's own business and has changed three times, so rpm reads it.
    arguments = ("--root", str(root)) if root != Path("/") else ()
    kernels = (name for name in KERNELS if "*" not in name)
    command = ("rpm", *arguments, "-qa", "--queryformat", _FORMAT, *PATTERNS, *kernels)
    try:
        done = await process.run(command, seconds=RPM_SECONDS)
    except OSError as error:
        return Installed(manager="rpm", problem=f"rpm cannot be run: {error.strerror}")
    if not done.in_time:
        return Installed(manager="rpm", problem=f"rpm did not answer for {RPM_SECONDS:.0f} s")
    if done.status:
        said = done.errors.splitlines()
        return Installed(manager="rpm", problem=f"rpm failed: {said[-1] if said else f'status {done.status}'}")
    return Installed(manager="rpm", packages=parse_rpm(done.output.decode(errors="replace"), kernel=kernel))


def parse_rpm(text: str, *, kernel: str) -> tuple[Package, ...]:
    """Lines of name, version and architecture with tabs between them; others are passed over."""
    found = []
    for line in text.split("\n"):
        fields = line.split("\t")
        if len(fields) != 3 or not all(fields):
            continue
        name, version, arch = fields
        if name not in KERNELS or _runs(version.partition(":")[2] or version, arch, kernel):
            found.append(Package(name=name, version=version, arch="" if arch == "(none)" else arch))
    return _sorted(found)


def _runs(version: str, arch: str, kernel: str) -> bool:
    """Whether a kernel package is the running one's: `uname -r` is version-release.arch (SUSE: shorter, `-default`)."""
    bare = kernel.removesuffix("-default")
    return f"{version}.{arch}" == kernel or (bare != kernel and f"{version}.".startswith(f"{bare}."))


def _sorted(packages: Iterable[Package]) -> tuple[Package, ...]:
    """By key. Of several versions side by side (rpm allows it) the last one counts."""
    return tuple(package for _, package in sorted({package.key: package for package in packages}.items()))
