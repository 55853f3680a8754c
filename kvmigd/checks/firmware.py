"""Firmware, its variables, and the TPM."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from kvmigd.checks.check import Check, Way
from kvmigd.checks.needs import quoted, version_of
from kvmigd.checks.places import containing, is_common
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, HostView, Local
from kvmigd.model.devices import Firmware, Tpm
from kvmigd.model.finding import Basis, Finding, Severity

LOADER = Check(
    id="firmware.loader",
    severity=Severity.BLOCK,
    title="The guest's firmware is there on the destination, and as large.",
    why="QEMU there does not start without it; with one of another size it does not take the guest's state.",
    known="Both hosts look at the file; the versions of the packages are compared.",
    remedy="Install the firmware's package in the same version: ovmf (Debian), edk2-ovmf (Fedora, RHEL).",
    ways=(Way.SHUTDOWN,),
)
NVRAM = Check(
    id="firmware.nvram",
    severity=Severity.BLOCK,
    title="The destination can make the file of the firmware's variables, now and at later starts.",
    why="Their content travels with the guest, but where there is no file libvirt makes one first, of a template.",
    known="Both hosts look at the file, its folder and the template.",
    remedy="Install the package that has the template: ovmf (Debian), edk2-ovmf (Fedora, RHEL).",
    ways=(Way.SHUTDOWN,),
)
TPM = Check(
    id="tpm.state",
    severity=Severity.BLOCK,
    title="The state of the guest's TPM can come along.",
    why="It is held by swtpm, which must be there; on shared storage only swtpm 0.8 and later lets go of it. A TPM of "
    "the host's cannot be moved.",
    known="The definition, the packages of both hosts, and where the state lies.",
    remedy="Install swtpm 0.8 or later on both hosts.",
    ways=(Way.SHUTDOWN,),
)

PACKAGES = ("ovmf", "edk2-ovmf", "qemu-efi-aarch64", "edk2-aarch64", "qemu-ovmf-x86_64", "qemu-uefi-aarch64")
SWTPM = "/usr/bin/swtpm"
SWTPM_STATE = "/var/lib/libvirt/swtpm"
HANDS_OVER = (0, 8)
"""The first swtpm with --migration."""


@rule(Scope.PAIR, reads="guest look system", tells=(LOADER,))
def firmware_there(case: Case) -> Iterator[Finding]:
    """The guest's firmware is there on the destination, and of the same size."""
    path = case.guest.firmware.loader
    if not path or case.look is None:
        return
    mine, theirs = case.paths_here.get(path), case.paths_there.get(path)
    name, version, other = _package(case)
    install = f"On {case.there}: install {name or 'the package of the firmware'} {version}".rstrip()
    if theirs is None or not theirs.exists:
        if theirs is not None and theirs.hangs:
            return
        yield LOADER.finding(
            f"The guest's firmware {path} is not there on {case.there}.",
            host=case.there,
            subject=path,
            expected=f"the file that {case.here} has",
            found=(theirs.problem if theirs is not None else "") or "missing",
            remedy=f"{install}, which has {path}",
        )
    elif mine is not None and mine.exists and mine.size and theirs.size and mine.size != theirs.size:
        flash = not path.endswith(".qcow2")
        yield LOADER.finding(
            f"The guest's firmware {path} is of another size on {case.there}.",
            host=case.there,
            subject=path,
            expected=f"{mine.size} bytes",
            found=f"{theirs.size} bytes",
            remedy=install,
            severity=Severity.BLOCK if flash else Severity.WARN,
        )
    elif version != other and mine is not None and mine.changed_usec != theirs.changed_usec:
        yield LOADER.finding(
            f"The guest's firmware is of another version on {case.there}; it counts from the guest's next start on.",
            host=case.there,
            subject=name,
            expected=version,
            found=other,
            remedy=install,
            severity=Severity.WARN,
        )


def _package(case: Case) -> tuple[str, str, str]:
    """The package of the firmware on the source, with the versions of both hosts; equal where one is not known."""
    for name in PACKAGES:
        mine, theirs = case.source.packages.get(name), case.destination.packages.get(name)
        if mine is not None:
            return name, mine.version, theirs.version if theirs is not None else mine.version
    return "", "", ""


@rule(Scope.PAIR, reads="guest look mounts", tells=(NVRAM,))
def variables_there(case: Case) -> Iterator[Finding]:
    """The destination can make the file of the firmware's variables, now and later."""
    firmware = case.guest.firmware
    if not firmware.nvram or case.look is None or firmware.nvram_kind not in ("", "file"):
        return
    there = case.paths_there
    folder = there.get(posixpath.dirname(firmware.nvram))
    template, nvram = there.get(firmware.nvram_template), there.get(firmware.nvram)
    is_there = nvram is not None and nvram.exists
    if not is_there and folder is not None and not folder.exists and not folder.hangs:
        yield NVRAM.finding(
            f"There is no folder {folder.path} for the firmware's variables on {case.there}.",
            host=case.there,
            subject=folder.path,
            expected=f"the folder, as on {case.here}",
            found=folder.problem or "missing",
            remedy=_folder_remedy(case, firmware, folder.path),
        )
    elif template is not None and not template.exists and not template.hangs:
        yield NVRAM.finding(
            f"The template of the firmware's variables is not there on {case.there}"
            + ("; they are, until the guest starts anew." if is_there else "."),
            host=case.there,
            subject=template.path,
            expected=f"the file that {case.here} has",
            found=template.problem or "missing",
            remedy=f"On {case.there}: install the package that has {template.path}: ovmf (Debian), edk2-ovmf (Fedora, "
            "RHEL)",
            severity=Severity.WARN if is_there else Severity.BLOCK,
        )


def _folder_remedy(case: Case, firmware: Firmware, folder: str) -> str:
    mount = containing(case.source, firmware.nvram)
    if mount is not None and is_common(mount):
        return f"On {case.there}: mount {mount.source} on {mount.point}, as on {case.here}"
    return f"On {case.there}: install -d -o libvirt-qemu -g libvirt-qemu {folder} (the user that QEMU runs as)"


@rule(Scope.GUEST, reads="guest system mounts", tells=(TPM,))
def tpm_here(local: Local) -> Iterator[Finding]:
    """The guest's TPM is one that can leave."""
    for tpm in local.guest.tpms:
        if tpm.backend == "passthrough":
            yield TPM.finding(
                f"{local.guest.name} has the TPM of {local.here} itself.",
                host=local.here,
                subject=tpm.path or "TPM",
                expected="a TPM of swtpm's (<backend type='emulator'/>)",
                found="passthrough",
                remedy=f"On {local.here}: virsh shutdown {quoted(local.guest)}; then move its definition; what the TPM "
                "has sealed stays behind",
            )
        elif tpm.backend == "emulator" and _is_old(local.source):
            yield from _old(local.source, local.source, local.guest.uuid, tpm)


@rule(Scope.PAIR, reads="guest look system mounts", tells=(TPM,))
def tpm_there(case: Case) -> Iterator[Finding]:
    """The destination has an swtpm that can take over."""
    for tpm in case.guest.tpms:
        if tpm.backend != "emulator":
            continue
        system = case.destination.state.system
        program = case.paths_there.get(SWTPM)
        is_known = bool(system.packages) and not system.packages_problem
        if (program is None or not program.exists) and is_known and "swtpm" not in case.destination.packages:
            yield TPM.finding(
                f"There is no swtpm on {case.there} for the guest's TPM.",
                host=case.there,
                subject="swtpm",
                expected="swtpm 0.8 or later",
                found="not installed",
                remedy=f"On {case.there}: apt install swtpm swtpm-tools"
                if system.package_manager == "dpkg"
                else f"On {case.there}: dnf install swtpm swtpm-tools",
            )
        elif _is_old(case.destination):
            yield from _old(case.destination, case.source, case.guest.uuid, tpm)


def _is_old(host: HostView) -> bool:
    package = host.packages.get("swtpm")
    version = version_of(package.version) if package is not None else ()
    return bool(version) and version < HANDS_OVER


def _old(host: HostView, source: HostView, uuid: str, tpm: Tpm) -> Iterator[Finding]:
    """An swtpm that cannot let go of a state that both hosts have, or take it over."""
    place = tpm.path or f"{SWTPM_STATE}/{uuid}"
    mount = containing(source, place)
    if mount is None or not mount.shared:
        return  # then the state travels in the stream
    yield TPM.finding(
        f"swtpm on {host.name} is too old to hand over a TPM whose state is on shared storage ({mount.point}).",
        host=host.name,
        subject="swtpm",
        expected="swtpm 0.8 or later",
        found=host.packages["swtpm"].version,
        remedy=f"On {host.name}: install swtpm 0.8 or later, then shut the guest down and start it once",
        basis=Basis.COMPARED,
    )
