"""Rules about options, settings and clauses that not every version of PostgreSQL has."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from runner.errors import Severity
from runner.lint.places import Place, statements
from runner.lint.rule import Finding, Rule, Subject
from runner.plan.versions import SUPPORTED, allowed_versions
from runner.sql.kinds import StatementKind as Kind
from runner.sql.versions import OPTIONS, VersionNeed, version_needs

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


def _needs(subject: Subject) -> Iterator[tuple[Place, VersionNeed]]:
    known: list[tuple[Place, VersionNeed]] | None = subject.shared.get(_NEEDS)
    if known is None:
        known = [
            (place, need)
            for place in statements(subject)
            if place.statement.kind not in _ROWS or subject.plan.requires.server_version is not None
            for need in version_needs(place.statement)
        ]
        subject.shared[_NEEDS] = known
    return iter(known)


RULES = (
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
