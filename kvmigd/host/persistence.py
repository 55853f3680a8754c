"""Whether a mount is there again after a reboot: fstab(5), systemd.mount(5), systemd.automount(5) and autofs(5).

Only files are read: asking systemd would wake it for each change, and it does not tell who pulls a unit in at boot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from kvmigd.host.mounts import unescape
from kvmigd.model.mounts import MountFact, MountKind, Persistence

FSTAB = "etc/fstab"
UNIT_FOLDERS = (
    "etc/systemd/system",
    "run/systemd/generator.early",
    "run/systemd/generator",
    "usr/local/lib/systemd/system",
    "run/systemd/generator.late",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)
"""Folders of units that are there again after a reboot, the first one counts (systemd.unit(5)). Those that are not,
/run/systemd/system and /run/systemd/transient, are left out: what lies there is gone by then."""

_LINK_FOLDERS = (".wants", ".requires", ".upholds")
_UNITS = (".mount", ".automount")
_PULLS = re.compile(r"^\s*(?:Wants|Requires|Requisite|BindsTo|Upholds)\s*=(.*)$", re.MULTILINE)
_PULLS_PATHS = re.compile(r"^\s*(?:RequiresMountsFor|WantsMountsFor)\s*=(.*)$", re.MULTILINE)
_HEX = re.compile(rb"\\x([0-9a-fA-F]{2})")
_TEXT_LIMIT = 1 << 20


class FstabEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of fstab(5), escapes undone."""

    source: str
    point: str
    fs_type: str
    options: tuple[str, ...] = ()

    @property
    def is_automount(self) -> bool:
        """systemd mounts it when it is used."""
        return "x-systemd.automount" in self.options

    @property
    def is_mounted_at_boot(self) -> bool:
        """Something mounts it without being asked. `nofail` may go wrong, but it is tried."""
        pulled = any(option.startswith(("x-systemd.wanted-by=", "x-systemd.required-by=")) for option in self.options)
        return "noauto" not in self.options or pulled

    def is_of(self, mount: MountFact) -> bool:
        """Whether it would mount the same thing. Only NFS keeps the source as it was written, so it can be told."""
        if not (mount.fs_type.startswith("nfs") and self.fs_type.startswith("nfs")):
            return True
        return nfs_export(self.source) == nfs_export(mount.source)


class Plans(msgspec.Struct, frozen=True, kw_only=True):
    """What will be mounted at boot or when it is used."""

    fstab: tuple[FstabEntry, ...] = ()
    mounts: frozenset[str] = frozenset()
    """Places of mount units that something pulls in."""
    automounts: frozenset[str] = frozenset()
    """Places of automount units that something pulls in."""

    def persistence(self, mount: MountFact, parent: MountFact | None) -> Persistence:
        """Whether a mount is there again after a reboot. `parent` is the mount that it is mounted on."""
        if mount.kind in (MountKind.KERNEL, MountKind.MEMORY) or mount.fs_type == "autofs":
            return Persistence.NATURE
        entries = [entry for entry in self.fstab if entry.point == mount.point and entry.is_of(mount)]
        on_autofs = parent is not None and parent.fs_type == "autofs"
        if any(entry.is_automount for entry in entries) or mount.point in self.automounts:
            return Persistence.AUTOFS
        if any(entry.is_mounted_at_boot for entry in entries):
            return Persistence.FSTAB
        if mount.point in self.mounts:
            return Persistence.UNIT
        if on_autofs and parent is not None and parent.source != "systemd-1":  # automount(8), from a map
            return Persistence.AUTOFS
        if mount.point == "/":
            return Persistence.NATURE  # root= of the kernel's command line
        if parent is not None and _is_submount(mount, parent):
            return parent.persistence
        return Persistence.UNKNOWN if mount.kind is MountKind.STACKED else Persistence.HAND


def _is_submount(mount: MountFact, parent: MountFact) -> bool:
    """An export inside an export, which the NFS client mounts by itself when somebody goes there."""
    if not (mount.fs_type.startswith("nfs") and parent.fs_type.startswith("nfs")) or mount.point == parent.point:
        return False
    server, export = nfs_export(mount.source)
    above, outer = nfs_export(parent.source)
    inner = mount.point[len(parent.point.rstrip("/")) :]
    return server == above and export == f"{outer.rstrip('/')}{inner}"


def nfs_export(source: str) -> tuple[str, str]:
    """Server and path of `server:/path` or `[address]:/path`."""
    server, colon, path = source.partition("]:") if source.startswith("[") else source.partition(":")
    return (server.lstrip("[").lower(), path.rstrip("/") or "/") if colon else ("", source)


def parse_fstab(text: str) -> tuple[FstabEntry, ...]:
    """The entries of fstab(5) that have a place; lines that are none are left out, as mount(8) does."""
    found = []
    for line in text.split("\n"):
        fields = line.split()
        if len(fields) < 2 or fields[0].startswith("#"):
            continue
        point = unescape(fields[1])
        if not point.startswith("/"):
            continue  # swap, none
        found.append(
            FstabEntry(
                source=unescape(fields[0]),
                point=_normal(point),
                fs_type=fields[2] if len(fields) > 2 else "auto",
                options=tuple(unescape(option) for option in fields[3].split(",")) if len(fields) > 3 else (),
            )
        )
    return tuple(found)


def _normal(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def unit_point(name: str) -> str | None:
    """The place that a mount or automount unit is named for, systemd-escape(1) --path; None for other names."""
    stem, dot, suffix = name.rpartition(".")
    if f"{dot}{suffix}" not in _UNITS or not stem:
        return None
    if stem == "-":
        return "/"
    raw = stem.replace("-", "/").encode(errors="surrogateescape")
    raw = _HEX.sub(lambda found: bytes([int(found[1], 16)]), raw)
    return "/" + raw.decode(errors="surrogateescape")


def pulled_by(text: str) -> Iterator[tuple[str, bool]]:
    """What the text of a unit or drop-in pulls in: names of mount and automount units, paths (True) to mount for."""
    for found in _PULLS.finditer(text):
        yield from ((name, False) for name in found[1].split() if name.endswith(_UNITS))
    for found in _PULLS_PATHS.finditer(text):
        yield from ((path, True) for path in found[1].split() if path.startswith("/"))


def read(root: Path = Path("/")) -> tuple[Plans, tuple[Path, ...]]:
    """The plans below that root, and the files and folders that make them: when one changes, read again."""
    folders = [folder for name in UNIT_FOLDERS if not (folder := root / name).is_symlink()]
    own = folders[0]
    units: dict[str, bool] = {}  # name of the unit -> whether it counts
    pulled: set[str] = set()
    paths: set[str] = set()
    watched = [root / FSTAB, *folders]
    for folder in folders:
        for entry in _listed(folder):
            if entry.name.endswith(_UNITS):
                units.setdefault(entry.name, _counts(entry))
            elif entry.name.endswith(_LINK_FOLDERS):
                watched.append(entry)
                pulled.update(link.name for link in _listed(entry) if link.name.endswith(_UNITS))
            elif folder == own:
                # Administrators' units and drop-ins; the distribution's do not name this host's storage.
                drop_ins = _listed(entry) if entry.name.endswith(".d") else []
                watched += [entry] if entry.name.endswith(".d") else []
                for text in map(_text, drop_ins or [entry]):
                    for what, is_path in pulled_by(text):
                        (paths if is_path else pulled).add(what)
    mounts, automounts = set[str](), set[str]()
    for name, counts in units.items():
        point = unit_point(name)
        if point is None or not counts or not (name in pulled or _leads_to(paths, point)):
            continue
        (mounts if name.endswith(".mount") else automounts).add(point)
    fstab = parse_fstab(_text(root / FSTAB))
    return Plans(fstab=fstab, mounts=frozenset(mounts), automounts=frozenset(automounts)), tuple(watched)


def _leads_to(paths: Iterable[str], point: str) -> bool:
    return any(f"{path.rstrip('/')}/".startswith(f"{point.rstrip('/')}/") for path in paths)


def _counts(unit: Path) -> bool:
    """A unit that is masked (a link to /dev/null, or empty) mounts nothing; one that is made from fstab is fstab's."""
    try:
        if unit.is_symlink() and str(unit.readlink()) == "/dev/null":
            return False
    except OSError:
        return False
    text = _text(unit)
    return bool(text) and "SourcePath=/etc/fstab" not in text


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    """Empty where it cannot be read: it mounts nothing then, for all that is known."""
    try:
        if not path.is_file():
            return ""
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            return file.read(_TEXT_LIMIT)
    except OSError:
        return ""
