"""The commands by name. Each is imported when it is used: kvmigctl starts faster than one notices."""

from __future__ import annotations

import importlib
import importlib.util

import click

from kvmigd import __version__

_COMMANDS = {
    "status": "kvmigd.cli.status",
    "readiness": "kvmigd.cli.readiness",
    "check": "kvmigd.cli.check",
    "explain": "kvmigd.cli.explain",
    "migrate": "kvmigd.cli.migrate",
    "jobs": "kvmigd.cli.jobs",
    "cancel": "kvmigd.cli.jobs",
    "evacuate": "kvmigd.cli.evacuate",
    "shutdown-evacuate": "kvmigd.cli.evacuate",
    "maintenance": "kvmigd.cli.maintenance",
    "reload": "kvmigd.cli.maintenance",
    "peers": "kvmigd.cli.status",
    "host": "kvmigd.cli.host",
    "watch": "kvmigd.cli.watch",
    "pki": "kvmigd.cli.pki",
}


class Program(click.Group):
    """A group whose commands are in modules of their own."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return [name for name, module in _COMMANDS.items() if importlib.util.find_spec(module)]

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS or not importlib.util.find_spec(_COMMANDS[name]):
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[name]), name.replace("-", "_"))
        return command


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="kvmigctl", message="%(prog)s %(version)s")
def program() -> None:
    """Live migration of guests between libvirt hosts.

    Exit status: 0 ok, 1 failed, 2 usage, 3 blocked by checks, 4 not authorised, 5 daemon not reachable.
    """
