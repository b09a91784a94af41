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
    return (_finding(text) for text in subject.unparsed if not text.meta_command and _is_wrong(text, subject))


def _not_checked(subject: Subject) -> Iterable[Finding]:
    for text in subject.unparsed:
        if text.meta_command or _is_wrong(text, subject):
            continue
        message, hint = f"not checked: {text.message}", "a dry run asks the server"
        if text.refused:
            message += f", read as PostgreSQL {GRAMMAR} syntax"
        if text.refused and text.newer is not None:
            message += f"; {text.newer.what} came with version {text.newer.since}"
        yield Finding(position=text.position, message=message, hint=hint, step=text.step)


def _is_wrong(text: Unparsed, subject: Subject) -> bool:
    """Return whether every version that the plan may run on refuses a text, as far as that is known.

    A plan that does not name its versions may run on newer ones than the grammar's, if that is what its syntax is.
    """
    if not text.refused:
        return False
    wanted = subject.plan.requires.server_version
    allowed = allowed_versions(wanted)
    if text.newer is not None and (wanted is None or max(allowed, default=0) >= text.newer.since):
        return False
    return not _KNOWN.isdisjoint(allowed) or not allowed


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
            "passes here, which a dry run finds. What looks like newer syntax, and a plan whose "
            "`requires.server_version` admits newer versions only, is not checked (JP302)."
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
            "very deeply, it looks like syntax of a version newer than the parser's, or the plan runs only on such "
            "versions. No other rule looks at it. A dry run lets the server read it."
        ),
        wrong="sql: REPACK audit",
        right="sql: VACUUM audit",
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
