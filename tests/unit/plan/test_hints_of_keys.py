"""Applying the hint of a finding about the file, its keys and values removes it and raises no other one.

The rules about SQL and about the whole plan have their rows in `tests/unit/lint/test_hints.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.lint import check_plan

_HEAD = "version: 1\nname: example\nbudget: {slots: 1}\ndefaults: {timeout: 10m, lock_timeout: 5s, on_finish: wait}\n"
_SQL = "sql: VACUUM t"
_STEPS = f"steps:\n  - id: a\n    {_SQL}\n"


def _keys(*keys: str, sql: str = _SQL) -> str:
    return "".join((_HEAD, "steps:\n  - id: a\n", *(f"    {key}\n" for key in keys), f"    {sql}\n"))


def _items(sql: str, *keys: str, items: str = "[x, y]") -> str:
    return _keys(f"for_each: {{items: {items}, as: q, max_parallel: 1}}", *keys, sql=f"sql: {sql}")


def _param(declared: str, sql: str = "DELETE FROM t WHERE v = :p") -> str:
    return f"{_HEAD}params: {{p: {declared}}}\nsteps:\n  - id: a\n    sql: {sql}\n"


#: Code, what raises it, words of its hint, and the same after the hint was followed to the letter.
ROWS: list[tuple[str, str, str, str]] = [
    ("JP004", _HEAD + f"# \u202e\n{_STEPS}", "remove it", _HEAD + _STEPS),
    ("JP005", _HEAD + "steps:\n\t- id: a\n", "use spaces", _HEAD + _STEPS),
    ("JP005", f'{_HEAD}description: "C:\\dir"\n{_STEPS}', "double it", f'{_HEAD}description: "C:\\\\dir"\n{_STEPS}'),
    ("JP005", f'{_HEAD}description: "C:\\dir"\n{_STEPS}', "single quotes", f"{_HEAD}description: 'C:\\dir'\n{_STEPS}"),
    ("JP005", f"{_HEAD}description: @x\n{_STEPS}", "put it in quotes", f"{_HEAD}description: '@x'\n{_STEPS}"),
    ("JP005", f"{_HEAD}description: a: b\n{_STEPS}", "needs quotes", f"{_HEAD}description: 'a: b'\n{_STEPS}"),
    (
        "JP005",
        f'{_HEAD}description: "\\ud83d"\n{_STEPS}',
        "both halves",
        f'{_HEAD}description: "\\ud83d\\ude00"\n{_STEPS}',
    ),
    ("JP014", _keys("timeout: !x 5m"), "leave the tag out", _keys("timeout: 5m")),
    ("JP101", _keys("timeuot: 5m"), "`timeout`", _keys("timeout: 5m")),
    ("JP101", _keys("depends_on: []"), "`needs`", _keys("needs: []")),
    ("JP103", _keys("slots: one"), "", _keys("slots: 1")),
    ("JP104", _keys("on_finish: wiat"), "`wait`", _keys("on_finish: wait")),
    ("JP106", _keys("timeout: 5 minutes"), "`5m`", _keys("timeout: 5m")),
    ("JP103", _keys("timeout: 90"), "`90s`", _keys("timeout: 90s")),
    ("JP106", _keys("output_buffer: 64 kb"), "`64kB`", _keys("output_buffer: 64kB")),
    (
        "JP106",
        _HEAD + f"steps:\n  - id: My Step\n    {_SQL}\n",
        "`my_step`",
        _HEAD + f"steps:\n  - id: my_step\n    {_SQL}\n",
    ),
    ("JP204", _HEAD.replace("timeout: 10m, ", "") + _STEPS, "`timeout: 10m`", _HEAD + _STEPS),
    ("JP205", _HEAD.replace(", on_finish: wait", "") + _STEPS, "`on_finish: wait`", _HEAD + _STEPS),
    (
        "JP206",
        _HEAD + f"steps:\n  - id: b\n    on_finish: detach\n    {_SQL}\n  - id: a\n    needs: [b]\n    {_SQL}\n",
        "`on_finish: wait`",
        _HEAD + f"steps:\n  - id: b\n    on_finish: wait\n    {_SQL}\n  - id: a\n    needs: [b]\n    {_SQL}\n",
    ),
    (
        "JP211",
        _keys("retry: {max_attempts: 2, delay: 1s, on: [deadlock_detectd]}"),
        "`deadlock_detected`",
        _keys("retry: {max_attempts: 2, delay: 1s, on: [deadlock_detected]}"),
    ),
    (
        "JP220",
        _param("{type: integer, default: 1}", "DELETE FROM t WHERE v = :pp"),
        "`p`",
        _param("{type: integer, default: 1}"),
    ),
    (
        "JP221",
        _param("{type: string, default: x}"),
        ":'p'",
        _param("{type: string, default: x}", "DELETE FROM t WHERE v = :'p'"),
    ),
    (
        "JP221",
        _param("{type: identifier, default: t}", "VACUUM :p"),
        ':"p"',
        _param("{type: identifier, default: t}", 'VACUUM :"p"'),
    ),
    ("JP225", _param("{type: integer, default: x}"), "integer", _param("{type: integer, default: 1}")),
    (
        "JP225",
        _items("DELETE FROM t WHERE v = :q", items="[1.10]"),
        "write 1.1",
        _items("DELETE FROM t WHERE v = :q", items="[1.1]"),
    ),
    (
        "JP231",
        _param("{type: integer, default: 1}", "DELETE FROM t WHERE v = :p AND w = :p").replace(
            "    sql:", "    for_each: {items: [3], as: p, max_parallel: 1}\n    sql:"
        ),
        "set `as`",
        _param("{type: integer, default: 1}", "DELETE FROM t WHERE v = :p AND w = :r").replace(
            "    sql:", "    for_each: {items: [3], as: r, max_parallel: 1}\n    sql:"
        ),
    ),
]
_IDS = [f"{row[0]}-{number}" for number, row in enumerate(ROWS)]


@pytest.mark.parametrize(("code", "bad", "words", "good"), ROWS, ids=_IDS)
def test_a_hint_that_is_followed_removes_the_finding_and_raises_none(
    tmp_path: Path, code: str, bad: str, words: str, good: str
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(bad, encoding="utf-8")
    found = check_plan(path).problems
    assert [problem.code for problem in found] == [code]
    assert words in (found[0].hint or "")
    path.write_text(good, encoding="utf-8")
    assert [problem.code for problem in check_plan(path).problems] == []
