"""Rules about SQL that PostgreSQL's grammar refuses, or that not every version of PostgreSQL has.

Every other rule is about SQL that parses.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from runner.errors import Severity
from runner.lint.rule import Finding, Rule, StatementPlace, statements
from runner.plan.parsed_sql import Invisible, Subject, Unparsed
from runner.plan.version_ranges import SUPPORTED, allowed_versions
from runner.sql.statements import GRAMMAR
from runner.sql.statements import StatementKind as Kind
from runner.sql.version_needs import OPTIONS, VersionNeed, version_needs

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
    return (_finding(text) for text in subject.invisible)


def _finding(text: Unparsed | Invisible) -> Finding:
    return Finding(position=text.position, message=text.message, hint=text.hint, step=text.step)


GRAMMAR_RULES = (
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


# The bulk of most plans. What they can have that is new stands in a word that is looked for first.
_ROWS = frozenset({Kind.SELECT, Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.DO, Kind.CALL})
_NEEDS = "version needs"


def _unknown_option(subject: Subject) -> Iterator[Finding]:
    for place, need in _needs(subject):
        if need.since is None:
            near = difflib.get_close_matches(_option(need), OPTIONS.get(place.statement.kind, ()), n=1)
            hint = f"did you mean {near[0].upper()}?" if near else "remove it"
            yield place.finding(f"no version of PostgreSQL has {need.what}", hint=hint, offset=need.offset)


def _option(need: VersionNeed) -> str:
    """Return the word in parentheses: `VACUUM (ANALYSE)` is about `analyse`."""
    return need.what.partition("(")[2].partition(" ")[0].rstrip(")").lower()


def _newer_option(subject: Subject) -> Iterator[Finding]:
    allowed = allowed_versions(subject.plan.requires.server_version)
    if subject.plan.requires.server_version is None or not allowed:
        return  # the plan does not say where it runs; a dry run asks the server
    for place, need in _needs(subject):
        if need.since is None or need.met_by(allowed[0]):
            continue
        never = not need.met_by(allowed[-1])
        wanted = subject.plan.requires.server_version
        which = "no server" if never else f"not every server (version {allowed[0]})"
        message = f'{need.reason}, and {which} that `requires.server_version: "{wanted}"` admits has it'
        hint = f'require `server_version: ">={need.since}"`, or leave it out'
        yield place.finding(message, hint=hint, offset=need.offset, severity=Severity.ERROR if never else None)


def _needs(subject: Subject) -> Iterator[tuple[StatementPlace, VersionNeed]]:
    known: list[tuple[StatementPlace, VersionNeed]] | None = subject.shared.get(_NEEDS)
    if known is None:
        known = [
            (place, need)
            for place in statements(subject)
            if place.statement.kind not in _ROWS or subject.plan.requires.server_version is not None
            for need in version_needs(place.statement)
        ]
        subject.shared[_NEEDS] = known
    return iter(known)


OPTION_RULES = (
    Rule(
        code="JP303",
        severity=Severity.ERROR,
        title="An option that no version knows",
        why=(
            "The grammar takes any word as an option, and the command refuses it when it runs (42601). The known "
            f"options are those of PostgreSQL {SUPPORTED[0]} to {SUPPORTED[-1]}."
        ),
        wrong="- id: tidy\n  sql: VACUUM (ANALIZE) audit",
        right="- id: tidy\n  sql: VACUUM (ANALYZE) audit",
        check=_unknown_option,
    ),
    Rule(
        code="JP304",
        severity=Severity.WARNING,
        title="An option that older servers do not have",
        why=(
            "`requires.server_version` admits servers on which the statement fails, because they do not know an "
            "option, a setting, a privilege or a clause. If every admitted server lacks it, that is an error. "
            "Without `requires.server_version` only a dry run knows the version."
        ),
        wrong=(
            'requires: {server_version: ">=14"}\nsteps:\n  - id: tidy\n'
            "    sql: VACUUM (BUFFER_USAGE_LIMIT '1MB') audit"
        ),
        right=(
            'requires: {server_version: ">=16"}\nsteps:\n  - id: tidy\n'
            "    sql: VACUUM (BUFFER_USAGE_LIMIT '1MB') audit"
        ),
        check=_newer_option,
    ),
)


RULES = (*GRAMMAR_RULES, *OPTION_RULES)
