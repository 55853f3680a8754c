"""Imports point one way: model <- host, checks <- peer, migrate <- evacuate <- bus <- daemon."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kvmigd

PACKAGE = Path(kvmigd.__file__).parent

LAYERS: dict[str, int] = {
    "__init__": 0,
    "model": 1,
    "errors": 2,
    "config": 3,
    "log": 3,
    "jobs": 3,
    "store": 3,
    "pki": 5,
    "bundle": 4,
    "host": 4,
    "checks": 5,
    "peer": 6,
    "prove": 7,
    "readiness": 8,
    "migrate": 9,
    "evacuate": 10,
    "operations": 11,
    "service": 12,
    "bus": 12,
    "cli": 13,
    "daemon": 14,
    "__main__": 15,
}
"""A module may import from its own part and from parts with a lower number."""


def part_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kvmigd":
            names = node.module.split(".")[1:]
            if names:
                found.add(names[0])
            else:
                found.update(alias.name for alias in node.names if (PACKAGE / f"{alias.name}.py").exists())
        elif isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("kvmigd."))
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    for other in imports_of(path):
        if other != part:
            assert LAYERS[other] < LAYERS[part], f"{path.name}: {part} may not import {other}"


def test_model_imports_nothing_of_kvmigd_but_itself() -> None:
    for path in (PACKAGE / "model").glob("*.py"):
        assert imports_of(path) <= {"model"}, path
