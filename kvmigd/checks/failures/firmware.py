"""Firmware, its variables, and the TPM."""

from __future__ import annotations

from kvmigd.checks.failures.entry import HERE, entry

_OVMF = (
    "On {there}: install {here}'s version of the firmware: ovmf and seabios (Debian), edk2-ovmf and seabios-bin "
    "(Fedora, RHEL)"
)

FIRMWARE = (
    # Before the disks: QEMU's words are the same, but its command line says which image it is.
    entry(
        "firmware.nvram",
        "libvirt-pflash1-{...}Could not open '{path}'",
        origin="qemu block/file-posix.c",
        summary="The firmware's variables {path} cannot be opened on {there}.",
        remedy="On {there}: ls -ln {path}; mkdir -p /var/lib/libvirt/qemu/nvram, owned by QEMU's user",
        subject="{path}",
    ),
    entry(
        "firmware.loader",
        "libvirt-pflash0-{...}Could not open '{path}'",
        ",if=pflash{...}Could not open '{path}'",
        "Could not open '{path:[^'\n]{0,300}(?:OVMF|ovmf|edk2|AAVMF)[^'\n]{0,100}CODE[^'\n]{0,60}}'",
        "qemu: could not load PC BIOS '{path}'",
        "could not load PC BIOS '{path}'",
        origin="qemu block/file-posix.c, hw/i386/x86.c",
        summary="The firmware {path} is missing on {there}, or cannot be read.",
        remedy=_OVMF,
        subject="{path}",
    ),
    entry(
        "firmware.loader",
        "Unable to find any firmware to satisfy '{firmware}'",
        "Unable to find '{firmware}' firmware that is compatible with the current configuration",
        "Firmware '{firmware}' does not support",
        origin="libvirt src/qemu/qemu_firmware.c",
        summary="{there} has no firmware of the kind {firmware} that the guest needs.",
        remedy=_OVMF + "; ls /usr/share/qemu/firmware",
        subject="{firmware}",
    ),
    entry(
        "firmware.nvram",
        "unable to find any master var store for loader: {path}",
        "Failed to open file '{path:[^'\n]{0,300}VARS[^'\n]{0,60}}'",
        "unable to find NVRAM template for {path}",
        origin="libvirt src/qemu/qemu_process.c, qemu_nvram.c",
        summary="{there} has no template for the firmware's variables ({path}).",
        remedy=_OVMF,
        subject="{path}",
    ),
    entry(
        "firmware.nvram",
        "device requires {wanted:[0-9]{1,20}} bytes, block backend provides {has:[0-9]{1,20}} bytes",
        "requires {wanted:[0-9]{1,20}} bytes, block backend provides {has:[0-9]{1,20}} bytes",
        origin="qemu hw/block/block.c",
        summary="The firmware on {there} is of another size ({has} bytes) than the guest's ({wanted} bytes).",
        remedy=_OVMF,
        subject="firmware image",
    ),
    entry(
        "firmware.loader",
        "combined size of system firmware exceeds",
        "system firmware block device {path:[^ \n]{1,200}} has invalid size",
        "pflash with kvm requires KVM readonly memory support",
        origin="qemu hw/i386/pc_sysfw.c",
        summary="QEMU on {there} does not take the firmware of the guest.",
        remedy=_OVMF,
        subject="firmware image",
    ),
    entry(
        "firmware.roms",
        'failed to find romfile "{rom}"',
        'failed to load romfile "{rom}"',
        'romfile "{rom}"',
        "Could not open option rom '{rom}'",
        origin="qemu hw/pci/pci.c, hw/core/loader.c",
        summary="The boot ROM {rom} of a device is missing on {there}.",
        remedy="On {there}: install QEMU's ROMs in {here}'s version: ipxe-qemu and seabios (Debian), ipxe-roms-qemu "
        "and seavgabios-bin (Fedora, RHEL)",
        subject="{rom}",
    ),
    entry(
        "firmware.roms",
        "Size mismatch: {rom:[^\n ]{1,200}rom}: ",
        "Size too large: {rom:[^\n ]{1,200}rom}: ",
        "Length mismatch: {rom:[^\n ]{1,200}rom}: ",
        'Unknown ramblock "{rom:[^"\n]{1,200}rom}"',
        origin="qemu softmmu/physmem.c (system/physmem.c), migration/ram.c",
        summary="The boot ROM {rom} has another size on {there}, or is not there: QEMU's ROMs are of another version.",
        remedy="On {there}: install QEMU's ROMs in {here}'s version: ipxe-qemu and seabios (Debian), ipxe-roms-qemu "
        "and seavgabios-bin (Fedora, RHEL)",
        subject="{rom}",
    ),
    entry(
        "tpm.state",
        "the running swtpm does not support migration with shared storage",
        "Migration disabled: TPM emulator does not support migration",
        origin="libvirt src/qemu/qemu_migration.c; qemu backends/tpm/tpm_emulator.c",
        summary="The guest's TPM was started by an swtpm that cannot hand its state over.",
        remedy="On {here}: install swtpm 0.8 or later, then shut the guest down and start it once",
        at=HERE,
        subject="TPM",
    ),
    entry(
        "tpm.state",
        "(on destination side) does not support the --migration option",
        origin="libvirt src/qemu/qemu_tpm.c",
        summary="swtpm on {there} is too old to take over the state of a TPM on shared storage.",
        remedy="On {there}: install swtpm 0.8 or later: swtpm --version",
        subject="TPM",
    ),
    entry(
        "tpm.state",
        "tpm-emulator: Setting the stateblob",
        "tpm-emulator: {...}failed with a TPM error",
        "tpm-emulator: TPM result for CMD_",
        "error while loading state for instance {instance:0x[0-9a-f]{1,8}} of device 'tpm-emulator'",
        "swtpm died and reported: ",
        "swtpm died unexpectedly",
        "swtpm socket did not show up",
        "swtpm didn't show up",
        "Could not start 'swtpm'",
        "Unable to find swtpm",
        "Could not create TPM directory",
        origin="qemu backends/tpm/tpm_emulator.c; libvirt src/qemu/qemu_tpm.c",
        summary="swtpm on {there} did not take over the state of the guest's TPM.",
        remedy="On {there}: swtpm --version, as on {here}; tail /var/log/swtpm/libvirt/qemu/{guest}-swtpm.log; where "
        "its folder /var/lib/libvirt/swtpm is shared, both need swtpm 0.8 or later",
        subject="TPM",
    ),
    entry(
        "tpm.state",
        "does not support TPM backend type {kind}",
        "does not support TPM model {kind}",
        "TPM version '{kind}' is not supported",
        origin="libvirt src/qemu/qemu_validate.c",
        summary="{there} has no TPM of the guest's kind ({kind}).",
        remedy="On {there}: install swtpm and swtpm-tools",
        subject="TPM",
    ),
)
