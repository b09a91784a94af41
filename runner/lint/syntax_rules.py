"""Rules about SQL that PostgreSQL's grammar refuses, or that not every version of PostgreSQL has.

Every other rule is about SQL that parses.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence

from runner.errors import Severity
from runner.lint.rule import Finding, Rule, StatementPlace, statements, step_finding
from runner.plan.parsed_sql import Invisible, Subject, Unparsed
from runner.plan.version_ranges import SUPPORTED, allowed_versions
from runner.sql.statements import GRAMMAR
from runner.sql.statements import StatementKind as Kind
from runner.sql.version_needs import OPTIONS, VersionNeed, setting_need, version_needs
from runner.structs import replace

#: Versions of PostgreSQL whose grammar the parser has, or had already.
_KNOWN = frozenset(range(SUPPORTED[0], GRAMMAR + 1))


def _syntax_error(subject: Subject) -> Iterable[Finding]:
    return (_finding(text) for text in subject.unparsed if not text.meta_command and _is_wrong(text, subject))


def _not_checked(subject: Subject) -> Iterable[Finding]:
    for text in subject.unparsed:
        if text.meta_command or _is_wrong(text, subject):
            continue
        message, hint = f"not checked: {text.message}", "check it with `jobplan dry-run`, in which the server parses it"
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


def _finding(text: Unparsed | Invisible) -> Finding:
    return Finding(position=text.position, message=text.message, hint=text.hint, step=text.step)


GRAMMAR_RULES = (
    Rule(code="JP300", check=_syntax_error),
    Rule(code="JP301", check=lambda subject: [_finding(text) for text in subject.unparsed if text.meta_command]),
    Rule(code="JP302", check=_not_checked),
    Rule(code="JP305", check=lambda subject: map(_finding, subject.invisible)),
)


# The bulk of most plans. What they can have that is new stands in a word that is looked for first.
_ROWS = frozenset({Kind.SELECT, Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.DO, Kind.CALL})


def _unknown_option(subject: Subject) -> Iterator[Finding]:
    for place, need in subject.once("version needs", _needs):
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
        return  # the plan does not say where it runs; check it with `jobplan dry-run`, in which the server parses it
    wanted = subject.plan.requires.server_version
    for step in subject.steps:
        for name in step.step.settings:
            what, since = setting_need(name)
            if since > allowed[0]:
                message, hint, severity = _lacking(what, since, wanted, allowed)
                found = step_finding(step, message, hint=hint)
                yield replace(found, severity=severity)
    for place, need in subject.once("version needs", _needs):
        if need.since is None or need.met_by(allowed[0]):
            continue
        message, hint, severity = _lacking(need.what, need.since, wanted, allowed)
        yield place.finding(message, hint=hint, offset=need.offset, severity=severity)


def _lacking(what: str, since: int, wanted: str, allowed: Sequence[int]) -> tuple[str, str, Severity | None]:
    """Return message, hint and severity for what some of the allowed versions lack."""
    never = since > allowed[-1]
    which = "no server" if never else f"not every server (version {allowed[0]})"
    needed = f"{what} needs PostgreSQL {since} or later"
    message = f'{needed}, and {which} that `requires.server_version: "{wanted}"` admits has it'
    hint = f'require `server_version: ">={since}"`, or leave it out'
    return message, hint, Severity.ERROR if never else None


def _needs(subject: Subject) -> list[tuple[StatementPlace, VersionNeed]]:
    return [
        (place, need)
        for place in statements(subject)
        if place.statement.kind not in _ROWS or subject.plan.requires.server_version is not None
        for need in version_needs(place.statement)
    ]


OPTION_RULES = (
    Rule(code="JP303", check=_unknown_option),
    Rule(code="JP304", check=_newer_option),
)


RULES = (*GRAMMAR_RULES, *OPTION_RULES)
