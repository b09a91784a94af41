"""Every code has a page in docs/rules that agrees with the table of codes, and whose examples are true.

An example in YAML is a whole plan if it has `version`, otherwise steps, keys of one step, or keys of a plan; the other
keys of a plan are added here. A line `# file: NAME` begins another file beside the plan.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.codes import CODES, Code
from runner.errors import Problem, UsageError
from runner.lint import RULES, check_plan
from runner.reference.pages import rules_markdown
from runner.reference.rule_pages import explain, explanations, pages_folder, read_page

PAGES = Path(__file__).parents[3] / "docs" / "rules"
HEADER = {
    "version": "1",
    "name": "example",
    "budget": "{slots: 1}",
    "defaults": "{timeout: 10m, on_finish: wait}",
}
#: Codes below JP500 whose examples are no plans: too large for a page, not text, about the command line, or about
#: targets files (tests/unit/fleet/test_targets.py) and settings (tests/unit/project/test_settings.py).
IN_WORDS = {
    *("JP001", "JP002", "JP003", "JP012", "JP013", "JP016", "JP226", "JP227", "JP228"),
    *("JP270", "JP271", "JP272", "JP273", "JP274"),
    *("JP275", "JP276", "JP277"),
}
OFFLINE = [code for code in CODES if code not in IN_WORDS and (code < "JP500" or code >= "JP900")]
SUPPRESSIBLE = [rule.code for rule in RULES if rule.code < "JP900"]


def plan_text(piece: str) -> str:
    """Return a whole plan: the piece, and the keys that every plan has."""
    if re.search(r"^version:", piece, re.MULTILINE):
        return piece
    if re.match(r"sql:", piece):
        piece = "- id: a\n" + "".join(f"  {line}\n" for line in piece.splitlines())
    if not re.search(r"^[a-z-]+:", piece, re.MULTILINE):
        piece = "steps:\n" + "".join(f"  {line}\n" for line in piece.splitlines())
    if not re.search(r"^steps:", piece, re.MULTILINE):
        piece = f"{piece.rstrip()}\nsteps:\n  - id: vacuum\n    sql: VACUUM orders\n"
    rest = (f"{key}: {value}\n" for key, value in HEADER.items() if not re.search(rf"^{key}:", piece, re.MULTILINE))
    return f"{piece.rstrip()}\n{''.join(rest)}"


def problems(code: str, example: str, folder: Path) -> list[Problem]:
    """Return what `jobplan validate` finds in an example."""
    first, *files = re.split(r"^# file: (.+)\n", example, flags=re.MULTILINE)
    for name, text in zip(files[::2], files[1::2], strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    plan = folder / "plan.yaml"
    plan.write_text(first if code < "JP100" else plan_text(first), encoding="utf-8")
    return list(check_plan(plan).problems)


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    assert sorted(path.stem for path in PAGES.iterdir()) == list(CODES)
    assert str(pages_folder()) == str(PAGES)
    assert list(explanations()) == list(CODES)


@pytest.mark.parametrize("entry", CODES.values(), ids=lambda entry: entry.code)
def test_a_page_agrees_with_the_table_and_has_every_part(entry: Code) -> None:
    page = explain(entry.code.lower())
    assert page.code is entry
    assert not entry.title.endswith(".")
    assert page.why.endswith(".")
    assert page.remedy.endswith(".")
    assert page.wrong != page.right
    assert f'<a id="{entry.code.lower()}"></a>[{entry.code}](rules/{entry.code}.md)' in rules_markdown()


def test_each_title_is_different() -> None:
    titles = [entry.title for entry in CODES.values()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("code", OFFLINE)
def test_the_wrong_example_raises_the_code_alone_and_the_right_one_nothing(code: str, tmp_path: Path) -> None:
    page = explain(code)
    wrong = problems(code, page.wrong, tmp_path)
    assert {(problem.code, problem.severity) for problem in wrong} == {(code, page.code.severity)}
    (tmp_path / "right").mkdir()
    assert [str(problem) for problem in problems(code, page.right, tmp_path / "right")] == []


@pytest.mark.parametrize("code", SUPPRESSIBLE)
def test_the_comment_of_a_page_suppresses_its_own_example(code: str, tmp_path: Path) -> None:
    page = explain(code)
    comment = page.suppression[page.suppression.index("#") :]
    text = plan_text(page.wrong)
    found = problems(code, page.wrong, tmp_path)
    assert {problem.code for problem in found} == {code}
    for step in {problem.step for problem in found}:
        place = "budget:.*" if page.suppression.startswith("budget:") else f"- id: {step}\n"
        text, count = re.subn(rf"({place.rstrip()})", rf"\1  {comment}", text)
        assert count == 1
    assert problems(code, text, tmp_path) == []


@pytest.mark.parametrize("code", [code for code in CODES if code not in SUPPRESSIBLE])
def test_a_page_offers_no_comment_where_none_works(code: str) -> None:
    assert explain(code).suppression == ""


def test_a_page_says_whether_its_rule_is_optional() -> None:
    stated = {path.stem for path in PAGES.iterdir() if ", optional.**" in path.read_text(encoding="utf-8")}
    assert stated == {rule.code for rule in RULES if rule.optional}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("# JP341: index", "# JP341 index"), "does not begin with"),
        (("index-blocks-writes\n\n", "index-blocks\n\n"), "the table"),
        (("**Warning.**", "**Error.**"), "the table"),
        (("An index build", "An index"), "the table"),
        (("## Right", "## Good"), "has the sections"),
        (("```yaml", "    "), "no example"),
    ],
)
def test_a_page_that_differs_from_the_table_is_refused(change: tuple[str, str], message: str) -> None:
    text = (PAGES / "JP341.md").read_text(encoding="utf-8")
    assert change[0] in text
    assert read_page(text).code.code == "JP341"
    with pytest.raises(ValueError, match=message):
        read_page(text.replace(*change))


def test_an_unknown_code_gets_a_hint_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"There is no code 'JP30O'\. Did you mean JP3"):
        explain("JP30O")
    with pytest.raises(UsageError, match=r"^There is no code 'x'\.$"):
        explain("x")
