"""Faults of a host's firewall."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.lab.faults.fault import fault, undo
from tests.lab.host import Host


@contextmanager
def firewall_rule(
    host: Host, rule: str, *, hook: str = "input", family: str = "inet", priority: int = -10
) -> Iterator[None]:
    """Add a rule to a host's firewall, in a table of its own."""
    table = fault()
    text = f"table {family} {table} {{\nchain {hook} {{\ntype filter hook {hook} priority {priority}\n{rule}\n}}\n}}\n"
    host.run("nft", "-f", "-", input=text)
    try:
        yield
    finally:
        undo(host, "nft", "delete", "table", family, table)


def block_port(host: Host, port: int | str) -> AbstractContextManager[None]:
    """Drop what comes to a TCP port of a host, or to a range (`49152-49215`)."""
    return firewall_rule(host, f"tcp dport {port} drop")


def reject_port(host: Host, port: int | str) -> AbstractContextManager[None]:
    """Refuse what comes to a TCP port of a host, or to a range."""
    return firewall_rule(host, f"tcp dport {port} reject with tcp reset")
