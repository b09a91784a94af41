"""Each command that a page, a rule, a schema or a decision names exists, and so do its options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from runner.cli import cli

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "schemas/*.json", ".github/**/*.md", "integrations/airflow/README.md")
    for path in ROOT.glob(pattern)
)
#: What ends a command: a comment, another command, a redirection, or a bracket around optional parts.
_END = re.compile(r"\s#|[|;&>)]|\s…|\.\.\.")


def commands(text: str) -> Iterator[str]:
    """Yield the commands in code: between backticks, and the lines of blocks."""
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        yield from re.findall(r"^[^#\n]*(?<![\w./-])jobplan( [a-z][^\n]*)", block, re.MULTILINE)
    yield from (" ".join(found.split()) for found in re.findall(r"`jobplan( [a-z][^`]+)`", text))


def unknown_words(command: str) -> list[str]:
    """Return the words of a command that no command or option of jobplan has."""
    text = _END.split(command, maxsplit=1)[0].replace("[", " ").replace("]", " ").replace("'", '"')
    try:
        words = shlex.split(text)
    except ValueError:  # the end was cut within a quotation
        words = text.split()
    found: click.Command = cli
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        following = found.get_command(click.Context(found), name)
        if following is None:
            return [name]
        found = following
    options = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
    own = words[: words.index("--")] if "--" in words else words
    given = [word.split("=")[0] for word in own if word.startswith("-")]
    return [word for word in given if word not in {*options, "--help"}]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_command_of_a_page_exists(page: Path) -> None:
    found = list(commands(page.read_text(encoding="utf-8")))
    assert {command: unknown for command in found if (unknown := unknown_words(command))} == {}


def test_the_pages_have_commands() -> None:
    assert sum(len(list(commands(page.read_text(encoding="utf-8")))) for page in PAGES) > 250


@pytest.mark.parametrize(
    ("command", "unknown"),
    [(" runn plan.yaml", ["runn"]), (" run plan.yaml --slot 2", ["--slot"]), (" ledger instal", ["instal"])],
)
def test_a_wrong_command_is_found(command: str, unknown: list[str]) -> None:
    assert unknown_words(command) == unknown
