"""Faults of files and packages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.command import LabError
from tests.lab.faults.fault import fault, undo
from tests.lab.host import Host


@contextmanager
def file_changed(host: Host, path: str, content: str | bytes | None) -> Iterator[None]:
    """Give a file of a host other content, or take it away (None); owner and mode stay."""
    saved = f"/var/tmp/{fault()}"
    had = host.exists(path)
    if had:
        host.run("cp", "--archive", path, saved)
    try:
        if content is None:
            host.run("rm", "-f", path)
        elif had:
            # as editors and package managers do it: a new file of the same kind takes the old one's place
            script = 'cp --archive "$1" "$1.lab-new"; cat > "$1.lab-new"; mv -f "$1.lab-new" "$1"'
            host.run("sh", "-ec", script, "sh", path, input=content)
        else:
            host.write(path, content)
        yield
    finally:
        if not host.is_on:
            host.boot()
            host.wait_up()
        restore = 'cp --archive "$2" "$1.lab-new"; mv -f "$1.lab-new" "$1"; rm "$2"' if had else 'rm -f "$1"'
        host.run("sh", "-ec", restore, "sh", path, saved)


@contextmanager
def package_version(host: Host, package: str, version: str) -> Iterator[None]:
    """Have dpkg believe that a package is installed in another version."""
    status = "/var/lib/dpkg/status"
    pattern = rf"(^Package: {re.escape(package)}\n(?:.+\n)*?Version: ).+$"
    text, count = re.subn(pattern, rf"\g<1>{version}", host.read(status), flags=re.MULTILINE)
    if count != 1:
        raise LabError(f"dpkg on {host.name} knows {count} packages called {package}.")
    with file_changed(host, status, text):
        yield


@contextmanager
def mode_changed(host: Host, path: str, mode: str) -> Iterator[None]:
    """Change who may do what with a file or folder (`0700`)."""
    before = host.sh('stat --format %a "$1"', path)
    host.run("chmod", mode, path)
    try:
        yield
    finally:
        undo(host, "chmod", before, path)


@contextmanager
def group_changed(host: Host, path: str, group: str) -> Iterator[None]:
    """Change the group that a file belongs to."""
    before = host.sh('stat --format %g "$1"', path)
    host.run("chgrp", group, path)
    try:
        yield
    finally:
        undo(host, "chgrp", before, path)


@contextmanager
def moved_away(host: Host, path: str) -> Iterator[None]:
    """Give a file or folder of a host another name; it is back at the end."""
    host.run("mv", path, f"{path}.away")
    try:
        yield
    finally:
        undo(host, "mv", f"{path}.away", path)
