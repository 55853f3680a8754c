"""The commands: all there, documented, and fast to start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from kvmigd import config
from kvmigd.cli import agent
from kvmigd.cli.program import program

MAN = Path(__file__).parents[2] / "data/man/kvmigctl.1"


def test_help_lists_the_commands_and_hides_the_units_own() -> None:
    result = CliRunner().invoke(program, ["--help"])
    assert result.exit_code == 0
    for name in ("status", "check", "migrate", "jobs", "cancel", "evacuate", "maintenance", "reload", "peers"):
        assert f"  {name} " in result.output
    assert "shutdown-evacuate" not in result.output


def test_every_command_and_option_is_in_the_manual() -> None:
    text = MAN.read_text(encoding="utf-8").replace("\\-", "-")
    context = program.make_context("kvmigctl", ["status"])
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        assert command is not None
        if command.hidden or name == "pki":
            continue
        section = text.split(f".SS {name}")[1].split(".S")[0]
        for parameter in command.params:
            if not getattr(parameter, "hidden", False):
                assert max(parameter.opts, key=len).lower() in section.lower(), f"{name}: {parameter.opts}"


def test_start_imports_nothing_slow() -> None:
    code = "import sys; import kvmigd.cli.program, kvmigd.cli.migrate, kvmigd.cli.status; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"rich", "structlog", "aiohttp", "libvirt", "cryptography", "sqlite3"} & set(modules)


def test_agent_is_started_for_a_person_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "pkttyagent"
    # As the real one: closes the descriptor when it is ready, and stays until it is ended.
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\neval "exec $3>&-"\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(agent, "is_interactive", lambda: True)
    with agent.agent():
        assert (tmp_path / "arguments").read_text().startswith("--fallback --notify-fd ")


def test_no_agent_where_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "is_interactive", lambda: False)
    monkeypatch.setattr("subprocess.Popen", None)
    with agent.agent():
        pass


def _keys(shape: type[msgspec.Struct]) -> set[str]:
    fields = msgspec.structs.fields(shape)
    inner = [field.type for field in fields if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)]
    return {field.name for field in fields}.union(*(_keys(part) for part in inner))


def test_every_key_of_the_configuration_is_in_the_manual() -> None:
    text = (MAN.parent / "kvmigd.8").read_text(encoding="utf-8")
    for key in _keys(config.File) | _keys(config.Peer):
        assert key in text, key
