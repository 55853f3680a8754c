"""kvmigd in the hosts: a layer between the base and each host's own files, made by the project's `make install`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.lab.caches import digest, lock, obtain
from tests.lab.command import CONTAINED, run
from tests.lab.places import CACHE, CHECKOUT

_SOURCES = ("kvmigd", "data", "pyproject.toml", "Makefile")


def has_install() -> bool:
    """Whether this checkout can be installed already."""
    makefile = CHECKOUT / "Makefile"
    return (
        makefile.exists()
        and re.search(r"^install\b.*:", makefile.read_text(encoding="utf-8"), re.MULTILINE) is not None
    )


def _files() -> list[Path]:
    listed = run("git", "-C", CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *_SOURCES)
    paths = (CHECKOUT / name for name in listed.stdout.split("\0") if name)
    return sorted(path for path in set(paths) if path.is_file())


def kvmigd(base: Path) -> Path | None:
    """Return the layer with kvmigd, for hosts on that base; None while there is nothing to install."""
    if not has_install():
        return None
    parts = [part for path in _files() for part in (str(path.relative_to(CHECKOUT)), path.read_bytes())]
    return obtain("kvmigd", digest(base.name, *parts), _make)


def _make(folder: Path) -> None:
    # pip keeps what it has built there, so that a changed line of ours does not compile its dependencies again
    environment = {"PIP_CACHE_DIR": str(CACHE / "pip")}
    install = ("make", "-C", CHECKOUT, "install", f"DESTDIR={folder}", "PREFIX=/usr")
    # one at a time: it builds in the checkout, and a purge must leave pip's cache alone meanwhile
    with lock("pip"):
        run(*CONTAINED, *install, env=environment, timeout=900)
