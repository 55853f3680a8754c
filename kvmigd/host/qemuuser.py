"""The user as whom libvirt runs QEMU: who must be able to reach keys and disks."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kvmigd.errors import CertificateInvalid

QEMU_CONF = Path("/etc/libvirt/qemu.conf")
_USUAL = ("libvirt-qemu", "qemu")
"""What distributions set when libvirt is built: Debian's, and everybody else's."""


class QemuUser(NamedTuple):
    """The user as whom libvirt runs QEMU, which reads its certificates and keys itself."""

    name: str
    uid: int
    groups: frozenset[int]
    """All groups of the process, `gid` among them."""
    gid: int = 0
    """The group that new files get."""

    @classmethod
    def find(cls, qemu_conf: Path = QEMU_CONF) -> QemuUser | None:
        """From qemu.conf, else the distribution's usual one; None if neither exists."""
        text = ""
        with suppress(OSError, UnicodeDecodeError):
            text = qemu_conf.read_text("utf-8")
        users, groups = _set_in(text, "user"), _set_in(text, "group")
        for name in users or _USUAL:
            with suppress(KeyError):
                entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
                gid = _group(groups or _USUAL, entry.pw_gid)
                # As virGetGroupList does it: the groups that the user is a member of, and the one that is set.
                return cls(entry.pw_name, entry.pw_uid, frozenset(os.getgrouplist(entry.pw_name, gid)), gid)
        return None

    def __str__(self) -> str:
        return f"{self.name} ({self.uid}:{self.gid})"

    def can_read(self, path: Path) -> None:
        """Raises CertificateInvalid if the user cannot get at the file."""
        if self.uid == 0:
            return
        for place in (*reversed(path.parents), path):
            status = place.stat()
            need = stat.S_IROTH if place == path else stat.S_IXOTH
            if status.st_uid == self.uid:
                need <<= 6
            elif status.st_gid in self.groups:
                need <<= 3
            if not status.st_mode & need:
                group = next((g.gr_name for g in map(grp.getgrgid, sorted(self.groups)) if g.gr_name), self.name)
                raise CertificateInvalid(
                    f"{place} is not readable for user {self.name}, as whom QEMU runs.",
                    hint=f"chgrp {group} {place} && chmod g+r {place}",
                )


def _set_in(text: str, key: str) -> tuple[str, ...]:
    """What qemu.conf sets; a number may have a plus sign, so that it is not taken for a name."""
    found = re.search(rf'^\s*{key}\s*=\s*"\+?([^"]+)"', text, re.MULTILINE)
    return (found[1],) if found else ()


def _group(names: tuple[str, ...], default: int) -> int:
    for name in names:
        with suppress(KeyError):
            return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    return default
