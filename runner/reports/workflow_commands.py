"""What GitHub Actions reads from a step: workflow commands in its output, and the file of its summary.

GitHub shows at most 10 errors, 10 warnings and 10 notices of one step, and no summary that is longer than 1 MiB. What
does not fit is replaced by a line that says so.

Sources: GitHub's documentation, "Workflow commands for GitHub Actions"; `ActionCommand.cs` of GitHub's runner, which
reads a command where a line begins with `::`, and where `##[` stands anywhere in it: `runner.cli.console` and
`terminal_text` write neither in other lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from runner.errors import Problem
from runner.reports.plan_problems import repository_path
from runner.reports.terminal_text import visible_lines

#: Annotations of one kind that GitHub shows of one step.
MOST_ANNOTATIONS: Final = 10
#: Bytes of a step's summary; GitHub shows nothing of a longer one.
MOST_SUMMARY: Final = 1024 * 1024
#: Characters of an annotation's message and title, of which GitHub shows no more.
_LONGEST_MESSAGE: Final = 4_000
_LONGEST_TITLE: Final = 200


def workflow_command(name: str, properties: Mapping[str, str], message: str) -> str:
    """Write a command as GitHub reads it from the output; a long title or message is cut."""
    limits = {"title": _LONGEST_TITLE}
    pairs = ",".join(f"{key}={_property(_cut(text, limits.get(key)))}" for key, text in properties.items())
    return f"::{name}{' ' if pairs else ''}{pairs}::{_data(_cut(message, _LONGEST_MESSAGE))}"


class Annotations:
    """Passes annotations to `write`, at most ten of each kind.

    The tenth of a kind is kept until `close`: if there were more, a line with their number replaces it.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._seen: Counter[str] = Counter()
        self._last: dict[str, str] = {}

    def add(self, command: str) -> None:
        """Write an annotation, or keep it; `command` comes from `workflow_command`."""
        kind = _kind(command)
        self._seen[kind] += 1
        if self._seen[kind] < MOST_ANNOTATIONS:
            self._write(command)
        elif self._seen[kind] == MOST_ANNOTATIONS:
            self._last[kind] = command

    def close(self) -> None:
        """Write what was kept; a second call does nothing."""
        kept, self._last = self._last, {}
        for kind, line in kept.items():
            more = self._seen[kind] - MOST_ANNOTATIONS + 1
            if more == 1:
                self._write(line)
                continue
            words = (
                f"{more:,} more {kind}s have no annotation: GitHub shows {MOST_ANNOTATIONS} of a kind for each step."
            )
            self._write(workflow_command(kind, {"title": "jobplan"}, f"{words} The log of the step has all of them."))


def annotate(problems: Iterable[Problem], write: Callable[[str], None], workspace: str) -> None:
    """Write an annotation for each problem, as many as GitHub shows; `workspace` is GITHUB_WORKSPACE."""
    annotations = Annotations(write)
    for problem in problems:
        place = problem.position
        properties = {
            "file": repository_path(place.file, workspace),
            "line": str(place.line),
            "col": str(place.column),
            "title": problem.code,
        }
        message = f"{problem.message}\n{problem.hint}" if problem.hint else problem.message
        annotations.add(workflow_command(problem.severity, properties, message))
    annotations.close()


def github_lines(problems: Iterable[Problem], workspace: str = "") -> list[str]:
    """Return the annotations of problems, as many as GitHub shows."""
    lines: list[str] = []
    annotate(problems, lines.append, workspace)
    return lines


def append_summary(file: Path, text: str, short: str) -> str | None:
    """Append a text to the summary of the step, after those of earlier commands, or `short` if the text is too long.

    Returns why something is missing there; None if nothing is.
    """
    try:
        used = file.stat().st_size if file.exists() else 0
        for words in (text, f"{short}\n\n_The details are left out: the summary of a step has at most 1 MiB._\n"):
            data = f"{words}\n".encode(errors="backslashreplace")
            if used + len(data) <= MOST_SUMMARY:
                with file.open("ab") as opened:
                    opened.write(data)
                return None if words is text else "The step summary has no details: it has at most 1 MiB."
    except OSError as error:
        return f"The step summary cannot be written: {error.strerror}"
    return "The step summary is full: it has at most 1 MiB."


def _kind(command: str) -> str:
    return command[2:].split(" ", 1)[0].split(":", 1)[0]


def _cut(text: str, most: int | None) -> str:
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"


def _data(text: str) -> str:
    return visible_lines(text.replace("\r\n", "\n")).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
