"""What guests boot: the kernel of Debian's cloud image, an initramfs of busybox, and a boot sector of our own."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from pathlib import Path

from tests.lab.caches import digest, obtain
from tests.lab.command import LabError, run
from tests.lab.outer import APT, update_lists

_HERE = Path(__file__).parent
_COMMANDS = ("sh", "mount", "insmod", "ip", "sleep", "cat", "cut", "echo", "dd")
_MODULES = (
    # in the order of insmod, which knows no dependencies
    *("failover", "net_failover", "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev"),
    *("virtio_pci", "virtio_blk", "virtio_net", "virtio_balloon", "button"),
)
_PACKAGE = "linux-image-cloud-amd64"


def guest_files() -> Path:
    """Return the folder with `vmlinuz`, `initrd.gz` and `boot-sector`."""
    parts = [(_HERE / name).read_bytes() for name in ("guestfiles.py", "guest-init", "boot-sector.S")]
    return obtain("guest", digest(*parts), _make)


def _make(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kvmigd-lab-") as scratch:
        _assemble(Path(scratch), folder / "boot-sector")
        modules = _kernel(Path(scratch), folder / "vmlinuz")
        _initramfs(Path(scratch) / "initramfs", modules, folder / "initrd.gz")


def _assemble(scratch: Path, target: Path) -> None:
    run("as", "--32", "-o", scratch / "boot-sector.o", _HERE / "boot-sector.S")
    flat = ("-m", "elf_i386", "--oformat", "binary", "-Ttext", "0x7c00")
    run("ld", *flat, "-o", target, scratch / "boot-sector.o")


def _kernel(scratch: Path, target: Path) -> Path:
    def depends() -> str:
        words = run("apt-cache", "depends", _PACKAGE, check=False).stdout.split()
        return next((word for word in words if word.startswith("linux-image-") and word != _PACKAGE), "")

    def download() -> bool:
        # apt's own user may not write into our folder, and is not needed for one signed package
        fetch = f"cd '{scratch}' && apt-get {' '.join(APT)} -o APT::Sandbox::User=root download {depends()}"
        return bool(depends()) and run("sh", "-c", fetch, check=False, timeout=300).returncode == 0

    if not download():
        update_lists()  # the lists may be missing, or name a kernel that the mirror has replaced since
        if not download():
            raise LabError(f"Could not download the package {_PACKAGE} for guests.")
    run("dpkg-deb", "--extract", next(scratch.glob("*.deb")), scratch / "kernel")
    shutil.copy(next((scratch / "kernel/boot").glob("vmlinuz-*")), target)
    return next((scratch / "kernel/lib/modules").iterdir())


def _initramfs(root: Path, modules: Path, target: Path) -> None:
    for name in ("bin", "dev", "proc", "sys", "lib/modules"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in _COMMANDS:
        (root / "bin" / name).symlink_to("busybox")
    for name in _MODULES:
        shutil.copy(next(modules.rglob(f"{name}.ko")), root / "lib/modules")
    (root / "lib/modules/order").write_text("\n".join(_MODULES) + "\n", encoding="utf-8")
    shutil.copy(_HERE / "guest-init", root / "init")
    (root / "init").chmod(0o755)
    archive = root.with_suffix(".cpio")
    run("sh", "-c", f"cd '{root}' && find . | busybox cpio -o -H newc > '{archive}'")
    target.write_bytes(gzip.compress(archive.read_bytes(), compresslevel=6))
