"""The statements that jobplan asks of a server: each has a name of its own."""

from __future__ import annotations

import re
from pathlib import Path

import runner
from runner.gateway.queries import query

FILES = sorted((Path(runner.__file__).parent / "gateway").glob("*.sql"))
NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def test_no_name_is_given_twice() -> None:
    names = [name for file in FILES for name in NAME.findall(file.read_text(encoding="utf-8"))]
    assert len(names) > 30
    assert sorted(names) == sorted(set(names))


def test_every_statement_says_what_it_is_for() -> None:
    for file in FILES:
        for name, body in re.findall(r"^-- name: (\w+)\n(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE):
            assert body.startswith("-- "), f"{file.name}: {name}"
            assert query(name) or name == "nothing"
