"""Which guests' snapshots have changed: libvirt keeps them in files, and tells nobody when one is made or removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kvmigd.host.files import Files, Watch
from kvmigd.host.picture import Picture

FOLDERS = ("var/lib/libvirt/qemu/snapshot", "var/lib/libvirt/qemu/checkpoint")
"""A folder for each guest by its name, with a file for each snapshot or checkpoint (qemu_conf.c)."""


class SnapshotFiles:
    """Calls `tell("guest:UUID")` when a guest's snapshots or checkpoints may have changed. `start` begins to watch."""

    def __init__(self, picture: Picture, files: Files, tell: Callable[[str], None], *, root: Path = Path("/")) -> None:
        self._picture = picture
        self._files = files
        self._tell = tell
        self._tops = [root / folder for folder in FOLDERS]
        self._seen: dict[Path, frozenset[str]] = {}
        self._watch: Watch | None = None

    def start(self) -> None:
        """Watch what is there now."""
        self._seen = self._look()
        self._arm()

    def _arm(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self._watch = self._files.watch([*self._tops, *self._seen], self._on_change)

    def _look(self) -> dict[Path, frozenset[str]]:
        seen = {}
        for top in self._tops:
            for folder in _listed(top):
                seen[folder] = frozenset(path.name for path in _listed(folder) if path.suffix == ".xml")
        return seen

    def _on_change(self) -> None:
        before, self._seen = self._seen, self._look()
        if before.keys() != self._seen.keys():
            self._arm()
            self._seen = self._look()  # a file may have been made in a new folder before it was watched
        folders = before.keys() | self._seen.keys()
        names = {it.name for it in folders if before.get(it, frozenset()) != self._seen.get(it, frozenset())}
        for guest in self._picture.state.hypervisor.guests:
            if guest.name in names:
                self._tell(f"guest:{guest.uuid}")


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # it is not there, or is no folder
        return []
