"""Rules about SQL that PostgreSQL's grammar refuses; everything else that rules say is about SQL that parses."""

from __future__ import annotations

from collections.abc import Iterable

from runner.errors import Severity
from runner.lint.rule import Finding, Rule, Subject, Unparsed


def _syntax_error(subject: Subject) -> Iterable[Finding]:
    return (_finding(text) for text in subject.unparsed if not text.meta_command)


def _meta_command(subject: Subject) -> Iterable[Finding]:
    return (_finding(text) for text in subject.unparsed if text.meta_command)


def _finding(text: Unparsed) -> Finding:
    return Finding(position=text.position, message=text.message, hint=text.hint, step=text.step)


RULES = (
    Rule(
        code="JP300",
        severity=Severity.ERROR,
        title="A syntax error in SQL",
        why=(
            "PostgreSQL would refuse the text when the step's turn comes, perhaps hours into the run. Every text is "
            "read with PostgreSQL's own grammar, so what passes here is refused by no server for its form."
        ),
        wrong="sql: DELETE FORM audit",
        right="sql: DELETE FROM audit",
        check=_syntax_error,
    ),
    Rule(
        code="JP301",
        severity=Severity.ERROR,
        title="A command of psql in SQL",
        why=(
            "Commands that begin with a backslash are psql's own and never reach the server. A worker runs its text "
            "without psql."
        ),
        wrong="sql: |\n  \\set days 90\n  DELETE FROM audit WHERE age > :days",
        right="params:\n  days: {type: integer, default: 90}\n…\nsql: DELETE FROM audit WHERE age > :days",
        check=_meta_command,
    ),
)
