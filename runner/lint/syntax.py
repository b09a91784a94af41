"""Rules about SQL that PostgreSQL's grammar refuses; everything else that rules say is about SQL that parses."""

from __future__ import annotations

from collections.abc import Iterable

from runner.errors import Severity
from runner.lint.rule import Finding, Rule, Subject, Unparsed
from runner.plan.versions import SUPPORTED, allowed_versions
from runner.sql.parse import GRAMMAR

#: Versions of PostgreSQL whose grammar the parser has, or had already.
_KNOWN = frozenset(range(SUPPORTED[0], GRAMMAR + 1))


def _syntax_error(subject: Subject) -> Iterable[Finding]:
    may_be_newer = _is_for_newer_servers(subject)
    for text in subject.unparsed:
        if text.refused and not text.meta_command and not may_be_newer:
            yield _finding(text)


def _not_checked(subject: Subject) -> Iterable[Finding]:
    may_be_newer = _is_for_newer_servers(subject)
    for text in subject.unparsed:
        if text.meta_command:
            continue
        if not text.refused:
            message, hint = f"not checked: {text.message}", "the server runs it; a dry run asks the server"
            yield Finding(position=text.position, message=message, hint=hint, step=text.step)
        elif may_be_newer:
            message = (
                f"not checked: {text.message} in the syntax of PostgreSQL {GRAMMAR}, and the plan needs a newer one"
            )
            yield Finding(position=text.position, message=message, hint="a dry run asks the server", step=text.step)


def _is_for_newer_servers(subject: Subject) -> bool:
    """Return whether the plan runs only on servers that are newer than the grammar."""
    return _KNOWN.isdisjoint(allowed_versions(subject.plan.requires.server_version))


def _meta_command(subject: Subject) -> Iterable[Finding]:
    return (_finding(text) for text in subject.unparsed if text.meta_command)


def _invisible(subject: Subject) -> Iterable[Finding]:
    return subject.invisible


def _finding(text: Unparsed) -> Finding:
    return Finding(position=text.position, message=text.message, hint=text.hint, step=text.step)


RULES = (
    Rule(
        code="JP300",
        severity=Severity.ERROR,
        title="A syntax error in SQL",
        why=(
            "PostgreSQL would refuse the text when the step's turn comes, perhaps hours into the run. Every text is "
            f"read with PostgreSQL's own grammar, that of version {GRAMMAR}. An older server refuses some of what "
            "passes here, which a dry run finds; a plan whose `requires.server_version` admits newer versions only is "
            "not checked (JP302)."
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
    Rule(
        code="JP302",
        severity=Severity.WARNING,
        title="SQL that is not checked",
        why=(
            "jobplan cannot read the text, and a server may well run it: it has more than 100,000 tokens, it is nested "
            "very deeply, or the plan runs only on servers whose syntax is newer than the parser's. No other rule "
            "looks at it. A dry run lets the server read it."
        ),
        wrong='requires: {server_version: ">=19"}\n…\nsql: SOME NEW COMMAND audit',
        right='requires: {server_version: ">=19"}\n…\nsql: DELETE FROM audit WHERE old',
        check=_not_checked,
    ),
    Rule(
        code="JP305",
        severity=Severity.ERROR,
        title="An invisible character in SQL",
        why=(
            "A no-break space, a zero-width space and their like look like a space or like nothing, and to PostgreSQL "
            "they are letters of a name: `DELETE FROM audit` and a WHERE behind a no-break space can be one name and "
            "an alias, without any condition. They come from web pages and word processors. In strings, quoted names "
            "and comments they are allowed."
        ),
        wrong='sql: "DELETE FROM\\u00a0audit"',
        right="sql: DELETE FROM audit",
        check=_invisible,
    ),
)
