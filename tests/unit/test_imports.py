"""The house has floors: a module may import from below, and heavy libraries stay in their rooms.

The table is the architecture's. Every import counts: at the top, under TYPE_CHECKING, and inside functions.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: What everybody may use: errors, time, durations, names.
GROUND = ("runner.errors", "runner.slugs", "runner.clock", "runner.durations", "runner.identity", "runner.structure")
#: Facts and state of a run, which those who keep or show them read.
FACTS = (
    "runner.engine.events",
    "runner.engine.state",
    "runner.engine.fold",
    "runner.engine.sink",
    "runner.engine.encoding",
    "runner.engine.decoding",
    "runner.engine.activity",
    "runner.engine.past",
    "runner.engine.leftovers",
    "runner.engine.place",
)
#: A plan as data, and SQL.
BASIS = (*GROUND, "runner.sql", "runner.plan.model", "runner.plan.graph")

#: Who may import what. The first prefix that fits a module is its room; a room may always import itself.
ROOMS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("runner.slugs", (), "names of codes are a table"),
    ("runner.errors", ("runner.slugs",), "a problem knows the readable name of its code"),
    ("runner.clock", (), "the ground stands on nothing of ours"),
    ("runner.durations", (), "the ground stands on nothing of ours"),
    ("runner.structure", (), "reading dataclasses from JSON knows none of them"),
    ("runner.identity", GROUND, "names of workers need nothing but the ground"),
    ("runner.sql", GROUND, "SQL is understood without knowing what a plan is"),
    ("runner.plan.model", GROUND, "the model is data that everybody shares"),
    ("runner.plan.graph", (*GROUND, "runner.plan.model"), "the graph is an algorithm on the model"),
    ("runner.plan", BASIS, "reading a plan knows neither server nor run"),
    ("runner.lint", (*BASIS, "runner.plan"), "rules judge plans, not runs"),
    (
        "runner.engine.loop",
        (*BASIS, *FACTS, "runner.engine", "runner.gateway.base", "runner.preflight.requirements"),
        "the loop knows protocols only",
    ),
    (
        "runner.engine.performing",
        (*BASIS, *FACTS, "runner.engine", "runner.gateway.base"),
        "orders are performed on a protocol",
    ),
    (
        "runner.engine.conditions",
        (*BASIS, *FACTS, "runner.engine", "runner.gateway.base"),
        "conditions are asked of a protocol",
    ),
    (
        "runner.engine.beginning",
        (*BASIS, *FACTS, "runner.engine", "runner.gateway.base"),
        "a run begins on a protocol",
    ),
    (
        "runner.engine.takeover",
        (*BASIS, *FACTS, "runner.engine", "runner.gateway.base"),
        "what was left behind is asked of a protocol",
    ),
    (
        "runner.engine.chronicle",
        (*BASIS, *FACTS, "runner.engine", "runner.gateway.base"),
        "what the journal knows is compared with what a protocol tells",
    ),
    (
        "runner.engine.outcome",
        (*GROUND, "runner.sql", "runner.engine.events", "runner.gateway.base"),
        "what a worker's end means is judged from the gateway's own words",
    ),
    ("runner.engine", (*BASIS, "runner.plan"), "the scheduler is pure: it knows neither server nor record"),
    (
        "runner.gateway",
        (
            *(*BASIS, "runner.engine.events", "runner.engine.commands", "runner.engine.activity", "runner.engine.past"),
            "runner.engine.leftovers",
            "runner.engine.limits",
            "runner.engine.place",
        ),
        "the gateway speaks to the server, and in events",
    ),
    (
        "runner.records",
        (*BASIS, *FACTS, "runner.plan.canonical", "runner.plan.resolved"),
        "the record is made of events, and of the plan that they are about",
    ),
    (
        "runner.reports.preflight",
        (*BASIS, "runner.preflight", "runner.gateway.facts", "runner.reports"),
        "what checks have found is shown by those who know its form",
    ),
    (
        "runner.reports.records",
        (*BASIS, *FACTS, "runner.records", "runner.reports"),
        "records are shown by those who know their form",
    ),
    (
        "runner.reports",
        (*BASIS, *FACTS, "runner.engine.scheduler", "runner.engine.queueing", "runner.engine.places"),
        "reports are sinks for events",
    ),
    (
        "runner.preflight",
        (
            *(*BASIS, "runner.plan", "runner.lint", "runner.gateway", "runner.engine.events", "runner.engine.items"),
            *("runner.engine.simulate", "runner.engine.scripts", "runner.engine.session", "runner.engine.past"),
        ),
        "looks at a server, runs nothing but the scheduler on a virtual clock",
    ),
    (
        "runner.reference",
        (*BASIS, "runner.plan", "runner.lint", "runner.preflight.codes"),
        "explains what plans are made of and what is found in them",
    ),
    ("runner.embedded", GROUND, "a throwaway server needs to know nothing of plans"),
    ("runner.cli", ("runner",), "the command line wires everything together"),
    ("runner.__main__", ("runner.cli",), "it is the command line"),
    ("runner.api", ("runner",), "the public functions wire everything together"),
)

#: Libraries that cost start-up time or tie us to a driver, and the only rooms that may import them.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "psycopg": ("runner.gateway",),
    "postgast": ("runner.sql",),
    "yaml": ("runner.plan",),
    "jsonschema": ("runner.plan",),
    "rich": ("runner.reports", "runner.cli"),
    "click": ("runner.cli",),
    "cattrs": ("runner.structure",),
}
#: Libraries that no pure module needs: the scheduler and what it stands on take the time as a parameter.
IMPURE = frozenset({"asyncio", "time", "os", "socket", "subprocess", "threading", "random"})
PURE = tuple(
    f"runner.engine.{name}"
    for name in (
        "activity",
        "past",
        "events",
        "commands",
        "state",
        "fold",
        "transitions",
        "scheduler",
        "queueing",
        "settling",
        "simulate",
    )
)


@cache
def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    found = {}
    for path in sorted((ROOT / "runner").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """Return the dotted names that a module imports, resolved to modules of ours where they are."""
    return frozenset(_imports(ast.parse(modules()[module].read_text(encoding="utf-8")), module))


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


def within(module: str, rooms: tuple[str, ...]) -> bool:
    """Say whether a module is one of the rooms or lies in one."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def test_the_package_is_found() -> None:
    assert {"runner", "runner.errors", "runner.engine.scheduler"} <= modules().keys()


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_from_below(module: str) -> None:
    found = next((entry for entry in ROOMS if within(module, entry[:1])), None)
    if module == "runner":
        found = ("runner", ("runner.api",), "the package itself shows the public functions")
    assert found is not None, f"{module} has no room; give it one in ROOMS, with the reason"
    room, allowed, reason = found
    ours = {name for name in imports(module) if within(name, ("runner",)) and name != "runner"}
    own = () if room == "runner" else (room,)
    wrong = sorted(name for name in ours if not within(name, (*own, *allowed)))
    assert not wrong, f"{module} imports {wrong}, but {reason}"


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_stays_in_its_rooms(library: str) -> None:
    users = {module for module in modules() if any(within(name, (library,)) for name in imports(module))}
    strangers = sorted(module for module in users if not within(module, LIBRARIES[library]))
    assert not strangers, f"only {LIBRARIES[library]} may import {library}, not {strangers}"


@pytest.mark.parametrize("module", PURE)
def test_the_scheduler_is_pure(module: str) -> None:
    assert not {name.partition(".")[0] for name in imports(module)} & IMPURE


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
def test_the_heavy_libraries_are_loaded_by_those_who_need_them(module: str) -> None:
    """`jobplan --help` answers at once: nothing heavy is loaded before a command needs it."""
    heavy = sorted(LIBRARIES.keys() - {"click"})
    code = f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_run_only_writes_and_loads_nothing_for_reading() -> None:
    code = "import sys, runner.cli.run; print('cattrs' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_help_loads_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "runner.cli", "--help"]
    if "runner.cli.__main__" not in modules():
        command[-2] = "runner"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "click" in loaded
    assert not loaded & (LIBRARIES.keys() - {"click"})
