"""Packages import only from below (contracts of import-linter), nothing imports in a circle, and `--help` is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Libraries that cost start-up time: none is loaded before a command needs it.
HEAVY = ("jsonschema", "msgspec", "postgast", "psycopg", "rich", "yaml")


@cache
def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    found = {}
    for path in sorted((ROOT / "runner").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports_when_loaded(module: str) -> frozenset[str]:
    """Return what a module imports as soon as it is loaded: not what functions or type checkers import."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    return frozenset(_imports(_AtOnce().visit(tree), module))


class _AtOnce(ast.NodeTransformer):
    def visit_FunctionDef(self, _: ast.FunctionDef) -> None:
        return None

    def visit_AsyncFunctionDef(self, _: ast.AsyncFunctionDef) -> None:
        return None

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)


def _imports(tree: ast.AST, module: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; the table is about full names"
            base = node.module or ""
            yield from (full if (full := f"{base}.{alias.name}") in modules() else base for alias in node.names)


def test_the_package_is_found() -> None:
    assert {"runner", "runner.errors", "runner.engine.scheduler"} <= modules().keys()


def test_the_contracts_between_packages_are_kept() -> None:
    """`[tool.importlinter]` in pyproject.toml has the floors, and which package may import which library."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_nothing_imports_in_a_circle() -> None:
    """Follow what is loaded at once; a package's own __init__ is part of whatever lies in it."""
    done: set[str] = set()

    def follow(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        if module not in done:
            for name in sorted(imports_when_loaded(module) & modules().keys()):
                follow(name, (*path, module))
            done.add(module)

    for module in modules():
        follow(module, ())
    assert done == modules().keys()


@pytest.mark.parametrize("module", ["runner", "runner.cli"])
def test_the_heavy_libraries_are_loaded_only_where_they_are_needed(module: str) -> None:
    """`jobplan --help` answers at once: nothing heavy is loaded before a command needs it."""
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_loads_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "runner.cli", "--help"]
    if "runner.cli.__main__" not in modules():
        command[-2] = "runner"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "click" in loaded
    assert not loaded & set(HEAVY)


def test_no_two_classes_have_one_name() -> None:
    """A name in an error message, a stack trace or a search leads to one place."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for module, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)
    assert len(places) > 400
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
