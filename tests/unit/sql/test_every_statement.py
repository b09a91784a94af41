"""No statement of the gate's corpus makes a function of the package fail, whatever command it is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator

import pytest

import runner.sql
from runner.sql.statements import SqlSyntaxError, parse_statements
from tests.gate.corpus import every_case

MORE = (
    "SET search_path = ''",
    "SET search_path = '', \"a b\"",
    "SELECT set_config('search_path', '', true)",
    "SET temp_tablespaces = ''",
    "ALTER SEQUENCE s OWNER TO r",
    "ALTER SEQUENCE s SET LOGGED",
    "ALTER SEQUENCE IF EXISTS s SET SCHEMA x",
    "ALTER FOREIGN TABLE f OWNER TO r",
    "ALTER TYPE c ADD ATTRIBUTE a int",
    "ALTER VIEW v OWNER TO r",
    "ALTER MATERIALIZED VIEW m SET TABLESPACE x",
    "ALTER INDEX i ALTER COLUMN 1 SET STATISTICS 3",
    "TABLE t",
    "VALUES (1)",
    "SELECT",
)


def functions() -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield the public functions of the package that need nothing but a statement."""
    for module in pkgutil.iter_modules(runner.sql.__path__):
        loaded = importlib.import_module(f"runner.sql.{module.name}")
        for name, function in vars(loaded).items():
            if not inspect.isfunction(function) or function.__module__ != loaded.__name__ or name.startswith("_"):
                continue
            needed = [one for one in inspect.signature(function).parameters.values() if one.default is one.empty]
            if [str(one.annotation) for one in needed] == ["Statement"]:
                yield f"{module.name}.{name}", function


FUNCTIONS = dict(functions())
TEXTS = sorted({text for case in every_case() for text in (case.first, case.then) if text} | set(MORE))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_every_statement(name: str) -> None:
    assert len(FUNCTIONS) > 80
    taken = 0
    for text in TEXTS:
        try:
            statements = parse_statements(text)
        except SqlSyntaxError:
            continue
        for statement in statements:
            result = FUNCTIONS[name](statement)
            if inspect.isgenerator(result):
                list(result)
            taken += 1
    assert taken > 900
