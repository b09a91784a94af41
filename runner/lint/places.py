"""Statements with what a finding about them needs: the step that they are in, and where in the plan they stand."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from runner.errors import Cause, Severity
from runner.lint.rule import Finding, StepSql, Subject
from runner.sql.kinds import StatementKind
from runner.sql.parse import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A statement of a step; `rank` is the step's number in the plan, counted from 0."""

    rank: int
    step: StepSql
    statement: Statement

    @property
    def text(self) -> str:
        """The whole SQL text that the statement is part of."""
        return self.step.step.sql.text

    @property
    def own_text(self) -> str:
        """The statement's own text."""
        return self.text[self.statement.start : self.statement.end]

    @property
    def lower_text(self) -> str:
        """The statement's own text in lower case, to see what cannot be in it before its tree is walked."""
        return self.own_text.lower()

    def finding(
        self,
        message: str,
        *,
        hint: str | None = None,
        offset: int | None = None,
        severity: Severity | None = None,
        cause: Cause | None = None,
    ) -> Finding:
        """Return a finding at the character at `offset` of the step's SQL, or where the statement begins."""
        position = self.step.position(self.statement.start if offset is None else offset)
        return Finding(
            position=position, message=message, hint=hint, step=self.step.step.id, severity=severity, cause=cause
        )


#: All statements, and those of each kind.
_Places = tuple[list[Place], dict[StatementKind, list[Place]]]


def statements(subject: Subject, *kinds: StatementKind) -> Iterator[Place]:
    """Yield every statement of the plan's steps, or those of some kinds only, in the order of the plan."""
    places, by_kind = _places(subject)
    if not kinds:
        return iter(places)
    return heapq.merge(
        *(by_kind[kind] for kind in kinds if kind in by_kind), key=lambda place: (place.rank, place.statement.start)
    )


def _places(subject: Subject) -> _Places:
    """Find the statements once for all rules: most look for kinds that few steps of a large plan have."""
    known: _Places | None = subject.shared.get("places")
    if known is not None:
        return known
    places: list[Place] = []
    by_kind: dict[StatementKind, list[Place]] = {}
    for rank, step in enumerate(subject.steps):
        for statement in step.statements:
            place = Place(rank=rank, step=step, statement=statement)
            places.append(place)
            by_kind.setdefault(statement.kind, []).append(place)
    subject.shared["places"] = places, by_kind
    return places, by_kind


def step_finding(step: StepSql, message: str, *, hint: str | None = None, cause: Cause | None = None) -> Finding:
    """Return a finding about a step as a whole, or about one of its keys: it stands where the step begins."""
    return Finding(position=step.step.position, message=message, hint=hint, step=step.step.id, cause=cause)
