"""The reports of `validate` and `dry-run`: files for CI systems, and annotations and a summary in GitHub Actions.

`junit` has a test case for each step, `codequality` is GitLab's format for findings in a merge request. Sources:
https://docs.gitlab.com/ci/testing/code_quality/ (which requires description, check_name, fingerprint, severity and
location) and the JUnit XML of pytest, whose test cases have `file` and `line`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO
from xml.etree import ElementTree as ET

from runner._version import installed_version
from runner.codes import with_slug
from runner.errors import Position, Problem, Severity
from runner.phrases import counted
from runner.plan.groups import written_steps
from runner.reference.rule_pages import explanations
from runner.reports.junit import xml_document
from runner.reports.messages import xml_text
from runner.reports.plan_graph import drawing
from runner.reports.plan_problems import (
    MARKDOWN_HEAD,
    PlanVerdict,
    distinct,
    fitting,
    markdown_rows,
    plain_markdown,
    repository_path,
    sarif_text,
)
from runner.reports.workflow_commands import annotate, append_summary, workflow_command

if TYPE_CHECKING:
    from runner.plan.model import Plan

#: Characters of the Markdown, and of the graphs in it.
_LIMIT: Final = 60_000
_GRAPHS: Final = 40_000
#: Problems that the Markdown lists.
_MOST_PROBLEMS: Final = 200


def findings_text(kind: str, verdicts: Sequence[PlanVerdict], *, strict: bool) -> str:
    """Return the report `codequality`, `junit` or `sarif`. Files in it are relative to the folder of the CI job."""
    root = os.environ.get("CI_PROJECT_DIR", os.environ.get("GITHUB_WORKSPACE", ""))
    if kind == "codequality":
        return codequality_json(distinct(verdicts), root)
    if kind == "junit":
        return findings_junit(verdicts, strict=strict, root=root)
    return sarif_text(distinct(verdicts), explanations(), installed_version())


def codequality_json(problems: Iterable[Problem], root: str = "") -> str:
    """Return GitLab's Code Quality report: errors are critical, warnings minor. `root` is CI_PROJECT_DIR."""
    seen: Counter[str] = Counter()
    issues = []
    for problem in _everywhere(problems):
        path = repository_path(problem.position.file, root)
        # The line is no part of the fingerprint: GitLab must find the same problem after lines were added above it.
        same = "\0".join((problem.code, path, problem.step or "", problem.message))
        seen[same] += 1
        digest = hashlib.sha256(f"{same}\0{seen[same]}".encode(errors="backslashreplace")).hexdigest()
        issues.append(
            {
                "type": "issue",
                "description": f"{problem.message} ({problem.hint})" if problem.hint else problem.message,
                "check_name": with_slug(problem.code),
                "fingerprint": digest,
                "severity": "critical" if problem.severity is Severity.ERROR else "minor",
                "location": {
                    "path": path,
                    "lines": {"begin": problem.position.line},
                },
            }
        )
    return json.dumps(issues, indent=2, ensure_ascii=False)


def _everywhere(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield a problem at each of its places: one of several steps marks all of them."""
    for problem in problems:
        yield problem
        yield from (replace(problem, position=place, step=step, also=()) for place, step in problem.also)


def findings_junit(verdicts: Sequence[PlanVerdict], *, strict: bool = False, root: str = "") -> str:
    """Return JUnit XML with a suite for each plan, and a case for each step with its file and line.

    A case `plan` has the problems that belong to no step. Errors are failures, with `strict` also warnings; other
    warnings are the output of their case. `root` is the folder to which files are relative.
    """
    suites = [_suite(verdict, strict=strict, root=root) for verdict in verdicts]
    totals = {name: str(sum(int(suite.get(name, "0")) for suite in suites)) for name in ("tests", "failures", "errors")}
    tree = ET.Element("testsuites", {"name": "jobplan", **totals})
    tree.extend(suites)
    return xml_document(tree)


def _suite(verdict: PlanVerdict, *, strict: bool, root: str) -> ET.Element:
    places = _places(verdict)
    found: dict[str | None, list[Problem]] = defaultdict(list)
    for problem in _everywhere(verdict.problems):
        found[problem.step if problem.step in places else None].append(problem)
    name = repository_path(verdict.file, root)
    cases = [
        _case(step or "plan", name, place, found[step], strict=strict, root=root) for step, place in places.items()
    ]
    failures = sum(case.find("failure") is not None for case in cases)
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "skipped": "0"}
    suite = ET.Element("testsuite", {"name": xml_text(name), **counts, "file": xml_text(name)})
    suite.extend(cases)
    return suite


def _places(verdict: PlanVerdict) -> Mapping[str | None, Position]:
    """Return the place of the plan, by None, and that of each step."""
    steps = written_steps(verdict.plan) if verdict.plan is not None else ()
    return {None: Position(file=verdict.file, line=1, column=1), **{step.id: step.position for step in steps}}


def _case(name: str, plan: str, place: Position, problems: Sequence[Problem], *, strict: bool, root: str) -> ET.Element:
    failed = [one for one in problems if strict or one.severity is Severity.ERROR]
    first = failed[0].position if failed else place
    attributes = {
        "name": xml_text(name),
        "classname": xml_text(plan),
        "file": xml_text(repository_path(first.file or plan, root)),
        "line": str(first.line),
        "time": "0",
    }
    case = ET.Element("testcase", attributes)
    if failed:
        more = f" (and {len(failed) - 1:,} more)" if len(failed) > 1 else ""
        message = xml_text(f"{failed[0].code}: {failed[0].message}{more}")
        ET.SubElement(case, "failure", {"message": message, "type": with_slug(failed[0].code)}).text = xml_text(
            "\n".join(map(str, failed))
        )
    rest = [str(one) for one in problems if one not in failed]
    if rest:
        ET.SubElement(case, "system-out").text = xml_text("\n".join(rest))
    return case


def verdicts_markdown(verdicts: Sequence[PlanVerdict], *, strict: bool = False) -> str:
    """Return the result of `validate` as Markdown: the verdict on each plan, every problem, and the plans' graphs."""
    parts = [f"### {validated_words(verdicts, strict=strict)}", "", "| | plan | steps | errors | warnings |"]
    parts += ["|---|---|--:|--:|--:|", *(_verdict_row(one, strict=strict) for one in verdicts[:_MOST_PROBLEMS])]
    if len(verdicts) > _MOST_PROBLEMS:
        parts += ["", f"_{counted(len(verdicts) - _MOST_PROBLEMS, 'more plan')}._"]
    problems = sorted(distinct(verdicts), key=lambda one: one.severity is not Severity.ERROR)
    if problems:
        rows = fitting(markdown_rows(problems[:_MOST_PROBLEMS]), _LIMIT - sum(map(len, parts)))
        parts += ["", *MARKDOWN_HEAD, *rows]
        if len(rows) < len(problems):
            parts += ["", f"_{counted(len(problems) - len(rows), 'more problem')}: see the log of the step._"]
    parts += _graphs(verdict.plan for verdict in verdicts if verdict.plan is not None and not verdict.errors)
    return "\n".join(parts) + "\n"


def validated_words(verdicts: Sequence[PlanVerdict], *, strict: bool) -> str:
    """Return the verdict on all plans in a line of Markdown."""
    bad = sum(_is_bad(verdict, strict=strict) for verdict in verdicts)
    if not bad:
        return f"✅ {counted(len(verdicts), 'plan')} valid" if verdicts else "jobplan validate found no plan"
    why = "not accepted" if strict else "invalid"
    return f"❌ {bad:,} of {counted(len(verdicts), 'plan')} {why}"


def _is_bad(verdict: PlanVerdict, *, strict: bool) -> bool:
    return bool(verdict.errors or (strict and verdict.warnings))


def _verdict_row(verdict: PlanVerdict, *, strict: bool) -> str:
    mark = "❌" if _is_bad(verdict, strict=strict) else "⚠️" if verdict.warnings else "✅"
    steps = "" if verdict.steps is None else f"{verdict.steps:,}"
    name = f"<code>{plain_markdown(verdict.file)}</code>"
    errors, warnings = (f"{number:,}" if number else "" for number in (verdict.errors, verdict.warnings))
    return f"| {mark} | {name} | {steps} | {errors} | {warnings} |"


def _graphs(plans: Iterable[Plan]) -> Iterator[str]:
    room, left_out = _GRAPHS, 0
    for plan in plans:
        graph = drawing(plan, title=f"Graph of {plain_markdown(plan.name)}")
        room -= len(graph)
        if room < 0:
            left_out += 1
        else:
            yield f"\n{graph}"
    if left_out:
        yield f"\n_The graphs of {counted(left_out, 'more plan')} are left out._"


def show_in_github(
    environment: Mapping[str, str],
    stream: TextIO,
    problems: Iterable[Problem],
    *,
    summary: Callable[[], str],
    short: str,
) -> None:
    """In a job of GitHub Actions, write annotations to a stream, and append the summary to that of the step."""
    if environment.get("GITHUB_ACTIONS") != "true":
        return

    def write(line: str) -> None:
        stream.write(f"{line}\n")

    annotate(problems, write, environment.get("GITHUB_WORKSPACE", ""))
    file = environment.get("GITHUB_STEP_SUMMARY")
    missing = append_summary(Path(file), summary(), short) if file else None
    if missing is not None:
        write(workflow_command("warning", {}, missing))
    stream.flush()
