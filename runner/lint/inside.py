"""Rules about what stands inside the bodies of DO and of functions."""

from __future__ import annotations

from collections.abc import Iterator

from runner.errors import Severity
from runner.lint.parameters import STOPS_AT_A_COLON, in_body
from runner.lint.places import statements
from runner.lint.rule import Finding, Rule, Subject
from runner.sql.bodies import body_syntax_error, refused_in_body
from runner.sql.kinds import StatementKind as Kind


def _syntax_error(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.DO, Kind.CREATE_FUNCTION):
        problem = body_syntax_error(place.statement, place.text)
        if problem is not None:
            offset, hint = problem.offset, None
            if STOPS_AT_A_COLON in problem.message:
                offset, hint = in_body(subject, place.step, place.statement) or (offset, None)
            yield place.finding(f"{problem.message}, in the body", offset=offset, hint=hint)


def _refused(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.DO, Kind.CREATE_FUNCTION):
        for problem in refused_in_body(place.statement, place.text):
            severity = Severity.ERROR if problem.certain else None
            hint = "make it a step of its own; `for_each` runs it once for each item"
            yield place.finding(problem.message, hint=hint, offset=problem.offset, severity=severity)


RULES = (
    Rule(
        code="JP306",
        severity=Severity.ERROR,
        title="A syntax error in a body",
        why=(
            "The server reads the whole body of a DO block before it runs any of it, and that of a function in SQL or "
            "PL/pgSQL when the function is created: a syntax error fails the step (42601), also in a branch that is "
            "never taken. Bodies in other languages, and texts that EXECUTE puts together, are not read."
        ),
        wrong="- id: purge\n  sql: DO $$ BEGIN DELETE FORM audit; END $$",
        right="- id: purge\n  sql: DO $$ BEGIN DELETE FROM audit; END $$",
        check=_syntax_error,
    ),
    Rule(
        code="JP323",
        severity=Severity.WARNING,
        title="A command that cannot run in a body",
        why=(
            "VACUUM, everything CONCURRENTLY, ALTER SYSTEM and the other commands that must stand alone fail inside "
            "of DO and functions (25001), and so does COMMIT in a function or in a block that has an EXCEPTION clause "
            "(2D000). It is an error where a DO block surely reaches it, and a warning where a condition or a handler "
            "decides, or where the step only creates the function."
        ),
        wrong=(
            "- id: tidy\n  sql: |\n    DO $$ BEGIN\n"
            "      IF to_regclass('audit') IS NOT NULL THEN VACUUM audit; END IF;\n    END $$"
        ),
        right="- id: tidy\n  if: SELECT to_regclass('audit') IS NOT NULL\n  sql: VACUUM audit",
        check=_refused,
    ),
)
