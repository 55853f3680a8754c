"""kvmigctl explain, and the document that is made of the same."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from kvmigd.checks.catalogue import CHECKS
from kvmigd.cli.explain import catalogue_as_markdown, explain
from kvmigd.errors import Exit

DOCUMENT = Path(__file__).parents[2] / "docs" / "checks.md"


def test_the_document_is_made_of_the_rules() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == catalogue_as_markdown(), "make docs"


def test_one_check_is_explained() -> None:
    told = CliRunner().invoke(explain, ["storage.path"])
    assert told.exit_code == Exit.OK
    check = CHECKS["storage.path"]
    for text in (check.title, check.why, check.known, check.remedy, "other ways:"):
        assert text in told.output


def test_all_checks_are_listed() -> None:
    told = CliRunner().invoke(explain, [])
    assert told.exit_code == Exit.OK
    for name, check in CHECKS.items():
        assert any(line.startswith(f"{name} ") and check.title in line for line in told.output.splitlines())


def test_as_json_each_check_is_a_line() -> None:
    told = CliRunner().invoke(explain, ["--json"])
    rows = [json.loads(line) for line in told.output.splitlines()]
    assert [row["id"] for row in rows] == list(CHECKS)
    assert all(row.keys() == rows[0].keys() for row in rows)


def test_a_check_that_is_not_there_has_likely_names() -> None:
    told = CliRunner().invoke(explain, ["storage"])
    assert told.exit_code == Exit.USAGE
    assert "There is no check 'storage'. Do you mean" in told.output
    assert "storage.path" in told.output
    assert "lists all" in CliRunner().invoke(explain, ["nothing.like.it"]).output
