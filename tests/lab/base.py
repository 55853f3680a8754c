"""The root file system that all hosts share, read-only: Debian with libvirt, QEMU and GlusterFS, made by mmdebstrap."""

from __future__ import annotations

import re
from pathlib import Path

from tests.lab.caches import digest, obtain
from tests.lab.command import CONTAINED, LabError, run

PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "polkitd", "python3", "procps", "kmod", "less"),
    *("libvirt-daemon-system", "libvirt-daemon-driver-qemu", "libvirt-clients", "qemu-system-x86", "qemu-utils"),
    *("nftables", "iproute2", "iputils-ping", "openssh-client", "openssh-server", "gnutls-bin", "curl"),
    *("glusterfs-server", "glusterfs-client", "sshfs", "xfsprogs", "firewalld", "iptables"),
    *("qemu-block-extra", "tgt"),
)

LIBVIRTD_CONF = """\
auth_tcp = "none"
# containers of one machine share its SMBIOS; hosts with equal UUIDs refuse to migrate to each other
host_uuid_source = "machine-id"
log_outputs = "3:journald"
"""

QEMU_CONF = """\
user = "libvirt-qemu"
group = "libvirt-qemu"
remember_owner = 0
stdio_handler = "file"
"""

_MASKED = (
    # no hardware, no time, no terminals and no updates of their own in a container
    *("systemd-timesyncd.service", "getty@tty1.service", "console-getty.service", "apt-daily.timer"),
    *("apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer"),
    *("systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket", "modprobe@.service"),
    # libvirt's own answer to a shutdown would compete with evacuation; tests that want it unmask it
    "libvirt-guests.service",
)
_ENABLED = (
    *("libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd-tcp.socket"),
    *("virtlogd.socket", "virtlockd.socket", "systemd-networkd.service", "systemd-networkd-wait-online.service"),
)
_DISABLED = (
    *(
        "glusterd.service",
        "ssh.service",
        "libvirt-guests.service",
        "nftables.service",
        "firewalld.service",
        "tgt.service",
    ),
)

_WAIT_ONLINE = """\
[Service]
ExecStart=
ExecStart=/lib/systemd/systemd-networkd-wait-online --timeout=20
"""


def codename() -> str:
    """Return the Debian release of this machine, which is also the hosts'."""
    found = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise LabError("/etc/os-release names no VERSION_CODENAME: the lab needs a Debian machine.")
    return found[1]


def _is_debian(suites: list[str], components: list[str]) -> bool:
    # other vendors call their suites like Debian's too, but none of them has a component `main`
    release = codename()
    return "main" in components and all(suite == release or suite.startswith(f"{release}-") for suite in suites)


def _stanza_is_debian(stanza: str) -> bool:
    fields = dict(re.findall(r"^(Suites|Components|Enabled):\s*(.*)$", stanza, re.MULTILINE))
    suites = fields.get("Suites", "").split()
    return fields.get("Enabled") != "no" and bool(suites) and _is_debian(suites, fields.get("Components", "").split())


def _line_is_debian(line: str) -> bool:
    words = re.sub(r"\[[^]]*\]", "", line).split()
    return len(words) >= 4 and words[0] == "deb" and _is_debian([words[2]], words[3:])


def sources() -> dict[str, str]:
    """Return what of this machine's apt sources is Debian's own, as files named for mmdebstrap."""
    stanzas, lines = [], []
    folder = Path("/etc/apt/sources.list.d")
    for path in sorted(folder.glob("*.sources")):
        text = path.read_text(encoding="utf-8")
        stanzas += [stanza for stanza in re.split(r"\n\s*\n", text) if _stanza_is_debian(stanza)]
    for path in (Path("/etc/apt/sources.list"), *sorted(folder.glob("*.list"))):
        if path.exists():
            lines += [line for line in path.read_text(encoding="utf-8").splitlines() if _line_is_debian(line)]
    files = {"debian.sources": "\n\n".join(stanzas) + "\n" if stanzas else "", "debian.list": "\n".join(lines) + "\n"}
    return {name: text for name, text in files.items() if text.strip()}


def base() -> Path:
    """Return the root file system's folder, making it (most of a minute) when there is none yet."""
    recipe = Path(__file__).read_bytes()
    return obtain("base", digest(recipe, codename(), *sources().values()), _make)


def _make(folder: Path) -> None:
    files = sources()
    if not files:
        raise LabError(f"No apt source of this machine offers Debian {codename()}: the lab cannot be built.")
    scratch = folder.with_suffix(".sources")
    scratch.mkdir(exist_ok=True)
    for name, text in files.items():
        (scratch / name).write_text(text, encoding="utf-8")
    try:
        run(
            *CONTAINED,
            *("mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", f"--include={','.join(PACKAGES)}"),
            '--aptopt=Acquire::Check-Valid-Until "false"',
            '--aptopt=Acquire::Check-Date "false"',
            '--aptopt=APT::Install-Recommends "false"',
            "--dpkgopt=force-unsafe-io",
            *(f"--dpkgopt=path-exclude=/usr/share/{kind}/*" for kind in ("doc", "man", "locale", "info")),
            codename(),
            folder,
            *(scratch / name for name in files),
            timeout=1200,
        )
    finally:
        run("rm", "-r", scratch)
    _configure(folder)


def _configure(root: Path) -> None:
    for name in ("var/lib/dbus/machine-id", "var/lib/glusterd/glusterd.info", "etc/resolv.conf"):
        (root / name).unlink(missing_ok=True)
    for path in root.glob("etc/ssh/ssh_host_*"):
        path.unlink()
    texts = {
        "etc/machine-id": "",
        "etc/libvirt/libvirtd.conf": LIBVIRTD_CONF,
        "etc/libvirt/qemu.conf": QEMU_CONF,
        "etc/systemd/system/systemd-networkd-wait-online.service.d/lab.conf": _WAIT_ONLINE,
        # what a host said while it went down is read after it has come up again
        "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=persistent\nRateLimitBurst=0\n",
    }
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    system = root / "etc/systemd/system"
    for unit in _MASKED:
        (system / unit).unlink(missing_ok=True)
        (system / unit).symlink_to("/dev/null")
    # the default network of libvirt would want dnsmasq and iptables on every host
    for path in (root / "etc/libvirt/qemu/networks/autostart").glob("*"):
        path.unlink()
    (root / "srv/vm").mkdir(parents=True, exist_ok=True)
    run("chroot", root, "systemctl", "--quiet", "disable", *_DISABLED, check=False)
    run("chroot", root, "systemctl", "--quiet", "enable", *_ENABLED)
