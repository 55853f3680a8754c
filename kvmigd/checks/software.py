"""Software: the same release, versions that go together."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Hosts, HostView
from kvmigd.model.finding import Finding, Severity
from kvmigd.model.system import Package, Release

RELEASE = Check(
    id="software.release",
    severity=Severity.WARN,
    title="Both hosts run the same release of the same distribution.",
    why="Other releases bring other QEMUs and libvirts; the way to the newer one is mostly open, the way back not.",
    known="os-release(5) of both hosts is compared.",
    remedy="Bring both hosts to the same release.",
)
QEMU = Check(
    id="software.qemu",
    severity=Severity.WARN,
    title="QEMU is of the same version on both hosts.",
    why="An older QEMU may not understand what a newer one sends; then the guest stays, or it cannot come back.",
    known="The versions that libvirt tells are compared.",
    remedy="Update QEMU on the host with the older one: apt-get install --only-upgrade 'qemu-system-*', or dnf upgrade "
    "'qemu-kvm*'.",
)
LIBVIRT = Check(
    id="software.libvirt",
    severity=Severity.WARN,
    title="libvirt is of the same version on both hosts.",
    why="An older libvirt may refuse definitions and options of a newer one.",
    known="The versions that libvirt tells are compared.",
    remedy="Update libvirt on the host with the older one: apt-get install --only-upgrade 'libvirt*', or dnf upgrade "
    "'libvirt*'.",
)
KERNEL = Check(
    id="software.kernel",
    severity=Severity.WARN,
    title="Both hosts run a kernel of the same series.",
    why="Another kernel may offer guests other features of tap, vhost and KVM; one that a guest has seen and that is "
    "missing where it comes to, or back to, ends the migration.",
    known="The first two numbers of `uname -r` on both hosts are compared.",
    remedy="Update the older host's kernel and boot it.",
)
PACKAGES = Check(
    id="software.packages",
    severity=Severity.WARN,
    title="Both hosts have the same updates of QEMU, libvirt, firmware, swtpm and microcode.",
    why="Two builds of one version can differ in devices and machine types, and a guest takes its firmware along.",
    known="dpkg's or rpm's database on both hosts; packages that only one of them has do not matter here.",
    remedy="apt-get install --only-upgrade PACKAGE, or dnf upgrade PACKAGE, on both hosts.",
)
KVMIGD = Check(
    id="software.kvmigd",
    severity=Severity.WARN,
    title="kvmigd is of the same version on both hosts.",
    why="The two agree on what both understand; what only one of them checks is not checked on the other.",
    known="Each daemon tells its version.",
    remedy="Update kvmigd on the host with the older one.",
)

_MATTERING = ("qemu", "libvirt", "ovmf", "edk2", "seabios", "seavgabios", "ipxe", "swtpm", "libtpms")
_MICROCODE = frozenset({"intel-microcode", "amd64-microcode", "microcode_ctl", "amd-ucode-firmware"})
_LINUX = "'linux-image-*'"
_LISTED = 8
"""So many packages are named in a finding; the rest is counted."""


def version(number: int) -> str:
    """A version as libvirt counts it (1000000a + 1000b + c) in the usual writing."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


@rule(Scope.HOSTS, reads="facts", tells=(RELEASE,))
def release(hosts: Hosts) -> Iterator[Finding]:
    """Both hosts run the same release of the same distribution."""
    here, there = hosts.source.facts.software.release, hosts.destination.facts.software.release
    if (here.id, here.version_id) != (there.id, there.version_id):
        yield RELEASE.finding(
            f"{hosts.there} runs another release than {hosts.here}.",
            host=hosts.there,
            subject="release",
            expected=_called(here),
            found=_called(there),
            remedy="Bring both hosts to the same release: cat /etc/os-release on both",
        )


def _called(release: Release) -> str:
    return (
        release.pretty_name or f"{release.id} {release.version_id}".strip() or "a release that does not tell its name"
    )


@rule(Scope.HOSTS, reads="facts system", tells=(QEMU, LIBVIRT))
def versions(hosts: Hosts) -> Iterator[Finding]:
    """QEMU and libvirt are the same; an older QEMU on the destination may not understand the newer one's stream."""
    here, there = hosts.source.facts.software, hosts.destination.facts.software
    if here.qemu == there.qemu and here.libvirt == there.libvirt:
        return
    for check, name, mine, theirs, packages in (
        (QEMU, "QEMU", here.qemu, there.qemu, ("'qemu-system-*'", "'qemu-kvm*'")),
        (LIBVIRT, "libvirt", here.libvirt, there.libvirt, ("'libvirt-daemon*' libvirt0", "'libvirt*'")),
    ):
        if not mine or not theirs or mine == theirs:
            continue
        older = theirs < mine
        side = hosts.destination if older else hosts.source
        yield check.finding(
            f"{name} on {hosts.there} is {'older' if older else 'newer'} than on {hosts.here}"
            + ("." if older else "; the way back may be closed."),
            host=side.facts.name,
            subject=name,
            expected=version(mine),
            found=version(theirs),
            remedy=f"On {side.facts.name}: {_update(side, *packages)}",
        )


def _update(host: HostView, debian: str, fedora: str) -> str:
    """The command that updates packages, by the host's package manager."""
    apt, dnf = f"apt-get update && apt-get install --only-upgrade {debian}", f"dnf upgrade {fedora}"
    return {"dpkg": apt, "rpm": dnf}.get(host.state.system.package_manager, f"{apt} (or {dnf})")


@rule(Scope.HOSTS, reads="facts system", tells=(KERNEL,))
def kernel(hosts: Hosts) -> Iterator[Finding]:
    """The kernels are of one series: their first two numbers are equal."""
    here, there = hosts.source.facts.software.kernel, hosts.destination.facts.software.kernel
    if here == there or not here or not there:
        return
    mine, theirs = _series(here), _series(there)
    if mine == theirs or not mine or not theirs:
        return
    side = hosts.destination if theirs < mine else hosts.source
    yield KERNEL.finding(
        f"{hosts.there} runs another kernel than {hosts.here}.",
        host=side.facts.name,
        subject="kernel",
        expected=here,
        found=there,
        remedy=f"On {side.facts.name}: {_update(side, _LINUX, 'kernel')}; then kvmigctl evacuate and systemctl reboot",
    )


def _series(kernel: str) -> tuple[int, ...]:
    """The first two numbers of a kernel's release; empty where it is written in another way."""
    parts = kernel.split(".", 2)
    return tuple(int(part) for part in parts[:2]) if len(parts) > 2 and all(map(_is_number, parts[:2])) else ()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


@rule(Scope.HOSTS, reads="facts system", tells=(PACKAGES,))
def packages(hosts: Hosts) -> Iterator[Finding]:
    """The same updates: packages that a migration can fail on, as far as both hosts have them."""
    here, there = hosts.source.state.system, hosts.destination.state.system
    if here.packages == there.packages or here.package_manager != there.package_manager:
        return
    mine, theirs = hosts.source.facts.software.release, hosts.destination.facts.software.release
    if (mine.id, mine.version_id) != (theirs.id, theirs.version_id):
        return  # everything differs then, and software.release says so
    other = hosts.destination.packages
    differing = [
        (package, other[package.name])
        for package in here.packages
        if package.name in other and other[package.name].version != package.version and _matters(package)
    ]
    if differing:
        names = [package.name for package, _ in differing]
        yield PACKAGES.finding(
            f"{len(names)} package{'s' if len(names) > 1 else ''} of {hosts.there} "
            f"{'have' if len(names) > 1 else 'has'} had other updates than on {hosts.here}: {_few(names)}.",
            host=hosts.there,
            subject=names[0] if len(names) == 1 else "packages",
            expected=_few([f"{package.name} {package.version}" for package, _ in differing]),
            found=_few([f"{package.name} {package.version}" for _, package in differing]),
            remedy=f"On {hosts.here} and {hosts.there}: {_update(hosts.destination, *[' '.join(names)] * 2)}",
        )


def _matters(package: Package) -> bool:
    """Whether QEMU, its firmware or what libvirt starts beside it is made of the package, or it is microcode."""
    return package.name.startswith(_MATTERING) or package.name in _MICROCODE


def _few(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


@rule(Scope.HOSTS, reads="facts", tells=(KVMIGD,))
def kvmigd(hosts: Hosts) -> Iterator[Finding]:
    """Both daemons are of the same version."""
    here, there = hosts.source.facts.software.kvmigd, hosts.destination.facts.software.kvmigd
    if here != there:
        yield KVMIGD.finding(
            f"kvmigd on {hosts.there} is of another version than on {hosts.here}.",
            host=hosts.there,
            subject="kvmigd",
            expected=here or "a version",
            found=there,
            remedy=f"Install the same version of kvmigd on {hosts.here} and {hosts.there}, and restart it there",
        )
