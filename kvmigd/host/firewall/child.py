"""Programs that print rules: started, read and given up in a thread, because a start alone can hold the event loop."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
GIVE_UP_SECONDS = 0.5
_READ_BYTES = 1 << 18
_ERROR_BYTES = 4096
_HINTS = {"nft": " (install nftables)", "iptables-legacy-save": " (install iptables)"}


class ChildFailed(Exception):
    """A program has not told what it was asked; the text says why."""


class TooLarge(Exception):
    """It prints more than shall be read."""


class Child:
    """A program that runs, from its start to `close`. All of it blocks, but `kill`, which any thread may call."""

    def __init__(self, command: Sequence[str], *, name: str = "", stdin: bytes = b"") -> None:
        """Start it; raises ChildFailed."""
        self._name = name or command[0]
        try:
            with _readable(stdin) as source:
                self._process = subprocess.Popen(
                    command,
                    env=ENVIRONMENT,
                    stdin=source,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                )
        except OSError as error:
            hint = _HINTS.get(self._name, "") if isinstance(error, FileNotFoundError) else ""
            raise ChildFailed(f"{self._name} cannot be run: {error.strerror}{hint}") from error

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self) -> None:
        """End it; whoever reads from it gets an end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def close(self) -> None:
        """End it if it still runs. In the kernel it may be unkillable, so it is not waited for for long."""
        if self._process.poll() is None:
            self.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GIVE_UP_SECONDS)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def output(self, *, limit: int, seconds: float) -> bytes:
        """All that it prints; raises TooLarge if that is more than `limit` bytes, or ChildFailed."""
        deadline = time.monotonic() + seconds
        output, errors = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(_file(self._process.stdout), selectors.EVENT_READ, output)
            selector.register(_file(self._process.stderr), selectors.EVENT_READ, errors)
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise self._late(seconds)
                for key, _ in ready:
                    part = os.read(key.fd, _READ_BYTES)
                    if not part:
                        selector.unregister(key.fileobj)
                    elif key.data is output or len(errors) < _ERROR_BYTES:
                        key.data.extend(part)
                if len(output) > limit:
                    raise TooLarge
        try:
            status = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise self._late(seconds) from error
        if status != 0:
            lines = errors.decode(errors="replace").split("\n")
            said = next((line.strip() for line in lines if line.strip()), f"exit status {status}")
            raise ChildFailed(f"{self._name} has failed: {said}")
        return bytes(output)

    def _late(self, seconds: float) -> ChildFailed:
        return ChildFailed(f"{self._name} has not answered within {seconds:g} s")


def _file(stream: Any) -> Any:
    assert stream is not None
    return stream


@contextlib.contextmanager
def _readable(content: bytes) -> Iterator[int]:
    """A descriptor with that content. A pipe would have to be written while its reader may hang."""
    if not content:
        yield subprocess.DEVNULL
        return
    descriptor = os.memfd_create("stdin")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


class Children:
    """The programs of one task: they end when it is cancelled, whatever they hang in."""

    def __init__(self) -> None:
        self._running: set[Child] = set()
        self._cancelled = False

    def cancel(self) -> None:
        """End all of them, and those that are yet to be started."""
        self._cancelled = True
        for child in tuple(self._running):
            child.kill()

    def outputs(self, commands: Sequence[Sequence[str]], *, limit: int, seconds: float) -> list[bytes]:
        """What they print, run side by side; raises TooLarge or ChildFailed for the first that fails."""
        with contextlib.ExitStack() as stack:
            children = [self._start(stack, command) for command in commands]
            return [child.output(limit=limit, seconds=seconds) for child in children]

    def output(
        self, command: Sequence[str], *, limit: int, seconds: float, name: str = "", stdin: bytes = b""
    ) -> bytes:
        """What one prints."""
        with contextlib.ExitStack() as stack:
            child = self._start(stack, command, name=name, stdin=stdin)
            return child.output(limit=limit, seconds=seconds)

    def _start(
        self, stack: contextlib.ExitStack, command: Sequence[str], *, name: str = "", stdin: bytes = b""
    ) -> Child:
        child = stack.enter_context(Child(command, name=name, stdin=stdin))
        self._running.add(child)
        stack.callback(self._running.discard, child)
        if self._cancelled:
            child.kill()
        return child
