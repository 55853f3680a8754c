"""Releases, versions and packages."""

from __future__ import annotations

import pytest

from kvmigd.checks.software import version
from kvmigd.model.finding import Severity
from kvmigd.model.system import Package, Release
from tests.unit.cases import SOFTWARE, changed, only, told

OTHER_RELEASE = Release(id="debian", version_id="13", pretty_name="Debian GNU/Linux 13")


def test_another_release_is_a_warning() -> None:
    finding = only(destination__facts__software__release=OTHER_RELEASE)
    assert (finding.check, finding.severity, finding.host) == ("software.release", Severity.WARN, "hostb")
    assert (finding.expected, finding.found) == ("Debian GNU/Linux 12", "Debian GNU/Linux 13")
    assert finding.remedy
    renamed = changed(OTHER_RELEASE, version_id="12")
    assert told(destination__facts__software__release=renamed) == (), "only id and version count"
    assert only(destination__facts__software__release=Release(id="arch")).found == "arch"
    assert "does not tell" in only(destination__facts__software__release=Release()).found


@pytest.mark.parametrize(
    ("field", "check", "name"), [("qemu", "software.qemu", "QEMU"), ("libvirt", "software.libvirt", "libvirt")]
)
def test_versions_that_differ_are_a_warning_for_the_older_host(field: str, check: str, name: str) -> None:
    older = only(**{f"destination__facts__software__{field}": 6_002_001})
    assert (older.check, older.severity, older.host) == (check, Severity.WARN, "hostb")
    assert older.summary == f"{name} on hostb is older than on hosta."
    assert (older.subject, older.found) == (name, "6.2.1")
    assert older.remedy.startswith("On hostb: apt-get update")
    assert "dnf upgrade" in older.remedy
    newer = only(**{f"destination__facts__software__{field}": 11_000_000})
    assert (newer.check, newer.severity, newer.host) == (check, Severity.WARN, "hosta")
    assert newer.summary == f"{name} on hostb is newer than on hosta; the way back may be closed."
    assert newer.remedy.startswith("On hosta: ")
    assert told(**{f"destination__facts__software__{field}": 0}) == (), "not known"
    assert told(**{f"source__facts__software__{field}": 0}) == ()


@pytest.mark.parametrize(("number", "text"), [(9_000_000, "9.0.0"), (7_002_011, "7.2.11"), (0, "0.0.0")])
def test_versions_are_written_as_usual(number: int, text: str) -> None:
    assert version(number) == text


@pytest.mark.parametrize(
    ("manager", "remedy"),
    [
        ("dpkg", "On hostb: apt-get update && apt-get install --only-upgrade 'qemu-system-*'"),
        ("rpm", "On hostb: dnf upgrade 'qemu-kvm*'"),
    ],
)
def test_the_remedy_is_by_the_package_manager(manager: str, remedy: str) -> None:
    finding = only(destination__facts__software__qemu=6_002_001, destination__state__system__package_manager=manager)
    assert finding.remedy == remedy


@pytest.mark.parametrize(
    ("kernel", "host"), [("5.14.0-427.el9.x86_64", "hostb"), ("6.12.0-1-amd64", "hosta"), ("7.0.1", "hosta")]
)
def test_another_kernel(kernel: str, host: str) -> None:
    finding = only(destination__facts__software__kernel=kernel)
    assert (finding.check, finding.severity, finding.host) == ("software.kernel", Severity.WARN, host)
    assert (finding.expected, finding.found) == (SOFTWARE.kernel, kernel)
    assert finding.remedy.startswith(f"On {host}: ")


@pytest.mark.parametrize("kernel", ["6.1.0-31-amd64", "6.1.99", "", "mainline", "6.x.1"])
def test_a_kernel_of_the_same_series_or_an_unknown_one(kernel: str) -> None:
    assert told(destination__facts__software__kernel=kernel) == ()


def test_another_kvmigd() -> None:
    finding = only(destination__facts__software__kvmigd="0.2.0")
    assert (finding.check, finding.severity, finding.host) == ("software.kvmigd", Severity.WARN, "hostb")
    assert (finding.expected, finding.found) == ("0.1.0", "0.2.0")


QEMU = Package(name="qemu-system-x86", version="1:7.2+dfsg-7", arch="amd64")
LESS = Package(name="lvm2", version="2.03.16-2", arch="amd64")


def packages(here: tuple[Package, ...], there: tuple[Package, ...], manager: str = "dpkg") -> dict[str, object]:
    """Packages of both hosts."""
    return {
        "source__state__system__packages": here,
        "destination__state__system__packages": there,
        "source__state__system__package_manager": manager,
        "destination__state__system__package_manager": manager,
    }


def test_other_updates() -> None:
    newer = changed(QEMU, version="1:7.2+dfsg-8")
    finding = only(**packages((LESS, QEMU), (LESS, newer)))
    assert (finding.check, finding.severity, finding.host) == ("software.packages", Severity.WARN, "hostb")
    assert (finding.expected, finding.found) == (
        "qemu-system-x86 1:7.2+dfsg-7",
        "qemu-system-x86 1:7.2+dfsg-8",
    )
    assert finding.summary == "1 package of hostb has had other updates than on hosta: qemu-system-x86."
    assert finding.remedy == ("On hosta and hostb: apt-get update && apt-get install --only-upgrade qemu-system-x86")
    dnf = only(**packages((QEMU,), (newer,), "rpm"))
    assert dnf.remedy == "On hosta and hostb: dnf upgrade qemu-system-x86"


@pytest.mark.parametrize(
    "name", ["libvirt-daemon", "ovmf", "edk2-ovmf", "seabios", "swtpm-tools", "libtpms0", "intel-microcode"]
)
def test_packages_that_matter(name: str) -> None:
    package = changed(QEMU, name=name)
    assert only(**packages((package,), (changed(package, version="2"),))).subject == name


def test_packages_that_do_not_matter() -> None:
    assert told(**packages((LESS, QEMU), (changed(LESS, version="3"), QEMU))) == ()
    assert told(**packages((QEMU,), ())) == (), "one that only one host has is no other update"
    assert told(**packages((), (QEMU,))) == ()
    changes = packages((QEMU,), (changed(QEMU, version="2"),)) | {
        "destination__facts__software__release": OTHER_RELEASE
    }
    assert only(**changes).check == "software.release", "all packages differ then"


def test_many_packages_are_counted() -> None:
    here = tuple(changed(QEMU, name=f"qemu-{number}") for number in range(20))
    there = tuple(changed(package, version="2") for package in here)
    finding = only(**packages(here, there))
    assert finding.found.endswith("qemu-7 2 and 12 more")
    assert finding.summary.startswith("20 packages of hostb have had")
