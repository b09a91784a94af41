"""The checked plan, which all other packages use: frozen and independent of YAML.

Every `Plan` satisfies this: every name resolves, every step has a timeout and an on-finish policy, there is
no cycle, and no step is wider than the budget. Durations are seconds as float, `None` means "no limit".
"""

from __future__ import annotations

import enum
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, final

from runner.errors import Position
from runner.sql.placeholders import Listed
from runner.structs import Struct, field

#: The value of a parameter or an item: a JSON scalar. Numbers keep their written form.
Value = str | int | float | bool

#: The values of an item by the names in SQL: of a query it can be NULL, of a chunk it is a list.
ItemValues = Mapping[str, Value | Listed | None]

_EMPTY: Mapping[str, Any] = MappingProxyType({})


class ParamType(enum.StrEnum):
    """The types a parameter can have; only integer, number and boolean may be written bare in SQL."""

    STRING = "string"
    IDENTIFIER = "identifier"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DURATION = "duration"
    TIMESTAMP = "timestamp"
    RELATION = "relation"


class OnFinish(enum.StrEnum):
    """Whether the run waits for the step (wait), or may end while its worker continues (detach)."""

    WAIT = "wait"
    DETACH = "detach"


class OnRunnerExit(enum.StrEnum):
    """What happens to a step's worker when the runner is interrupted."""

    CANCEL = "cancel"
    DETACH = "detach"


class OnFailure(enum.StrEnum):
    """What a failed step causes: continue, start no more steps, or also cancel running steps."""

    CONTINUE = "continue"
    DRAIN = "drain"
    CANCEL = "cancel"


class Otherwise(enum.StrEnum):
    """What an unmet requirement causes: the run fails, or is skipped."""

    FAIL = "fail"
    SKIP = "skip"


class OnConflict(enum.StrEnum):
    """What a run does when another one holds its concurrency group."""

    FAIL = "fail"
    WAIT = "wait"


class Day(enum.StrEnum):
    """A day of the week, in the order of `datetime.date.weekday`."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


class Outside(enum.StrEnum):
    """What a run does that is begun while its window is closed."""

    REFUSE = "refuse"
    WAIT = "wait"


class AtEnd(enum.StrEnum):
    """What happens to running steps when the window closes: the run waits for them, or cancels them."""

    DRAIN = "drain"
    CANCEL = "cancel"


class Fit(enum.StrEnum):
    """Which usual duration of a step must fit into the rest of the window before the step starts."""

    OFF = "off"
    P50 = "p50"
    P95 = "p95"


class StepWindow(enum.StrEnum):
    """What the plan's window means for a step."""

    IGNORE = "ignore"


class OnLeftovers(enum.StrEnum):
    """What happens to objects that a failed CONCURRENTLY command leaves behind: listed, or also removed."""

    LIST = "list"
    DROP = "drop"


class NeedOn(enum.StrEnum):
    """Which outcome of the needed step allows the dependent step to start."""

    SUCCESS = "success"
    FAILURE = "failure"
    DONE = "done"


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what a plan consists of. A plan that is read from a record has no unknown fields (`plan.plan_json`)."""


@final
class Sql:
    """SQL text of a plan and where each of its lines begins in the file that it came from. A value: never changed.

    `line_starts` has one position for each line of `text`; none means that only `start` is known (a folded or escaped
    YAML scalar, whose characters do not correspond to the file's). In JSON it is its text alone.
    """

    __slots__ = ("line_starts", "start", "text")

    def __init__(self, *, text: str, start: Position, line_starts: Sequence[Position] = ()) -> None:
        self.text: Final = text
        self.start: Final = start
        self.line_starts: Final = line_starts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sql) and (self.text, self.start, self.line_starts) == (
            other.text,
            other.start,
            other.line_starts,
        )

    def __hash__(self) -> int:
        return hash((self.text, self.start))

    def __repr__(self) -> str:
        return f"Sql({self.text!r}, {self.start})"

    def position(self, offset: int) -> Position:
        """Return the place in the file of the character at `offset` (counted in characters from 0)."""
        ends = _line_ends(self.text)
        line = bisect_left(ends, offset)
        if line >= len(self.line_starts):
            return self.start
        start = self.line_starts[line]
        column = start.column + offset - (ends[line - 1] + 1 if line else 0)
        return Position(file=start.file, line=start.line, column=column)


@lru_cache(maxsize=16)
def _line_ends(text: str) -> list[int]:
    """Return where the line breaks are; cached, because a long text with many problems is searched once for each."""
    return [found.start() for found in re.finditer("\n", text)]


class Param(Part, frozen=True, kw_only=True):
    """A declared parameter. Without a default it is required; minimum and maximum of a duration are seconds."""

    name: str
    type: ParamType
    default: Value | None = None
    enum: tuple[Value, ...] = ()
    pattern: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""
    position: Position = Position(file="", line=1, column=1)


class Check(Part, frozen=True, kw_only=True):
    """A SQL condition, and the message if it does not hold."""

    sql: Sql
    message: str


class Requires(Part, frozen=True, kw_only=True):
    """What must be true of the server before anything starts.

    `otherwise` is what an unmet requirement causes; None means that the run fails. (The default is None so that the
    hash of a plan without the key does not change.)
    """

    databases: tuple[str, ...] = ()
    server_version: str | None = None
    extension_version: str | None = None
    standby: bool | None = None
    role: str | None = None
    preconditions: tuple[Check, ...] = ()
    otherwise: Otherwise | None = None


class Budget(Part, frozen=True, kw_only=True):
    """How much of the server a run may use: concurrent workers, workers that it leaves free, and named pools."""

    slots: int
    reserve: int = 0
    pools: Mapping[str, int] = field(default_factory=lambda: _EMPTY)
    position: Position = Position(file="", line=1, column=1)


class Concurrency(Part, frozen=True, kw_only=True):
    """One run at a time for each group and database."""

    group: str
    on_conflict: OnConflict = OnConflict.FAIL


class Window(Part, frozen=True, kw_only=True):
    """When steps may start, by the server's clock. No days means every day.

    `from_` and `to` are seconds after midnight in `timezone`. Unless `to` is later than `from_`, it is on the next day.
    """

    timezone: str
    from_: int = field(name="from")
    to: int
    days: tuple[Day, ...] = ()
    outside: Outside = Outside.REFUSE
    at_end: AtEnd = AtEnd.DRAIN
    fit: Fit = Fit.OFF
    position: Position = Position(file="", line=1, column=1)


class Need(Part, frozen=True, kw_only=True):
    """One edge of the graph: the step that must have ended, and with which outcome."""

    step: str
    on: NeedOn = NeedOn.SUCCESS


class RetryPolicy(Part, frozen=True, kw_only=True):
    """When a step is tried again. `max_attempts` counts the first; delays are seconds.

    `on` holds SQLSTATEs, and the words `timeout` and `yielded`; empty means every error but a cancel.
    """

    max_attempts: int = 1
    delay: float = 0.0
    backoff: float = 1.0
    max_delay: float | None = None
    on: frozenset[str] = frozenset()

    def delay_before(self, attempt: int) -> float:
        """Return the seconds to wait before attempt number `attempt` (2 or more)."""
        seconds = self.delay
        for _ in range(min(attempt - 2, 200)):
            seconds *= self.backoff
            if self.max_delay is not None and seconds >= self.max_delay:
                break
        return seconds if self.max_delay is None else min(seconds, self.max_delay)


class AllowFailure(Part, frozen=True, kw_only=True):
    """Failures that do not count: all of them, or those with one of these SQLSTATEs."""

    sqlstates: frozenset[str] | None = None

    def allows(self, sqlstate: str | None) -> bool:
        """Return whether a failure with this SQLSTATE is allowed."""
        return self.sqlstates is None or sqlstate in self.sqlstates


class Expect(Part, frozen=True, kw_only=True):
    """What a step must produce: rows or one value of its last statement, a SQL condition that holds, WARNINGs."""

    rows_min: int | None = None
    rows_max: int | None = None
    warnings_min: int | None = None
    warnings_max: int | None = None
    value: Value | None = None
    has_value: bool = False
    sql: Sql | None = None

    @property
    def judges_warnings(self) -> bool:
        """Return whether it limits the number of WARNINGs from the server."""
        return self.warnings_min is not None or self.warnings_max is not None


class ForEach(Part, frozen=True, kw_only=True):
    """One instance of the step for each item: literal items, or the rows of a query. `as_` names the item in SQL.

    With `type` relation each item is the name of a relation, and each part of it is quoted separately in SQL. With
    `chunk` an instance gets up to that many items.
    """

    as_: str = field(name="as")
    type: ParamType | None = None
    items: tuple[Value | Mapping[str, Value], ...] = ()
    sql: Sql | None = None
    max_parallel: int | None = None
    chunk: int | None = None


class Carried(Part, frozen=True, kw_only=True):
    """A value that one iteration of a repeat passes to the next: its type, and its value in the first iteration."""

    type: ParamType
    start: Value


class Adapt(Part, frozen=True, kw_only=True):
    """Change the integer parameter `param` between `min` and `max`, so that an iteration takes `target` seconds."""

    param: str
    target: float
    min: int
    max: int


class Bound(Part, frozen=True, kw_only=True):
    """A parameter of a group's steps and its value: without one, it is the item's value with the name `source`.

    `source` can also be a parameter of the plan, whose value is then `value` as soon as it is known.
    """

    param: Param
    value: Value | None = None
    source: str | None = None


class Repeat(Part, frozen=True, kw_only=True):
    """Run the step again until it returns no rows (`until_sql` is None) or a SQL condition holds.

    `carry` has the values that one iteration passes to the next, by name: with them "no rows" means that the last row
    is missing or has only NULLs for them.
    """

    max_iterations: int
    until_sql: Sql | None = None
    pause: float = 0.0
    carry: Mapping[str, Carried] = field(default_factory=lambda: _EMPTY)
    adapt: Adapt | None = None


class Hold(Part, frozen=True, kw_only=True):
    """A condition of the server under which the run starts nothing new; exactly one of the five conditions is set.

    `replication_lag` is seconds, `wal_to_archive` bytes, `active_sessions` a number: the hold is on above them.
    `autovacuum_on` are tables; `while_` is SQL that returns one boolean. It is evaluated `every` so many seconds, and
    released when it was false for `release_after` seconds. Steps that wait for `at_most` seconds fail.
    """

    name: str
    replication_lag: float | None = None
    wal_to_archive: int | None = None
    active_sessions: int | None = None
    autovacuum_on: tuple[str, ...] = ()
    while_: Sql | None = field(default=None, name="while")
    every: float = 5.0
    release_after: float = 30.0
    at_most: float | None = None
    position: Position = Position(file="", line=1, column=1)


#: The key of the query for the items of a step: the only text that is not executed for each of them.
FOR_EACH_SQL: Final = "for_each.sql"


class Step(Part, frozen=True, kw_only=True):
    """One SQL text of the plan, with its limits and everything that decides how it runs.

    `leftovers` is None for the default, so that the hash of a plan without the key does not change.

    A group has `steps` instead, a chain for each item of `for_each`, with `bound` parameters, and its SQL is empty.
    `group` is the id of a step's group, in a plan whose groups are written out (`plan.groups`).
    """

    id: str
    sql: Sql
    timeout: float | None = None
    on_finish: OnFinish
    on_runner_exit: OnRunnerExit
    needs: tuple[Need, ...] = ()
    lock_timeout: float | None = None
    queue_timeout: float | None = None
    window: StepWindow | None = None
    slots: int = 1
    pools: Mapping[str, int] = field(default_factory=lambda: _EMPTY)
    exclusive: frozenset[str] = frozenset()
    priority: int = 0
    retry: RetryPolicy = RetryPolicy()
    on_retry: Sql | None = None
    leftovers: OnLeftovers | None = None
    idempotent: bool = False
    allow_failure: AllowFailure | None = None
    if_: Sql | None = field(default=None, name="if")
    preconditions: tuple[Check, ...] = ()
    verify: Sql | None = None
    expect: Expect | None = None
    capture_rows: int = 0
    for_each: ForEach | None = None
    repeat: Repeat | None = None
    settings: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    role: str | None = None
    search_path: str | None = None
    output_buffer: int = 65_536
    touches: tuple[str, ...] = ()
    #: The names of the plan's holds that concern the step.
    holds: tuple[str, ...] = ()
    #: Seconds for which its worker may block sessions outside the run before it is cancelled.
    yield_after: float | None = None
    tags: frozenset[str] = frozenset()
    description: str = ""
    position: Position = Position(file="", line=1, column=1)
    steps: tuple[Step, ...] = ()
    bound: tuple[Bound, ...] = field(default=(), name="with")
    group: str | None = None

    @property
    def waits(self) -> bool:
        """Return whether the run waits for this step."""
        return self.on_finish is OnFinish.WAIT

    def texts(self) -> Iterator[tuple[str, Sql]]:
        """Yield each SQL text with its key, in the order in which they are executed."""
        found = (
            (FOR_EACH_SQL, None if self.for_each is None else self.for_each.sql),
            ("if", self.if_),
            *(("preconditions", check.sql) for check in self.preconditions),
            ("sql", self.sql),
            ("on_retry", self.on_retry),
            ("repeat.until", None if self.repeat is None else self.repeat.until_sql),
            ("expect.sql", None if self.expect is None else self.expect.sql),
            ("verify", self.verify),
        )
        return ((key, sql) for key, sql in found if sql is not None)


class Plan(Part, frozen=True, kw_only=True):
    """A whole plan. `values` are the parameters' values for this run, by name; `params` what was declared."""

    name: str
    budget: Budget
    steps: tuple[Step, ...] = ()
    finally_: tuple[Step, ...] = field(default=(), name="finally")
    description: str = ""
    owner: str = ""
    tags: frozenset[str] = frozenset()
    params: Mapping[str, Param] = field(default_factory=lambda: _EMPTY)
    values: Mapping[str, Value] = field(default_factory=lambda: _EMPTY)
    requires: Requires = Requires()
    concurrency: Concurrency | None = None
    window: Window | None = None
    holds: tuple[Hold, ...] = ()
    run_timeout: float | None = None
    on_failure: OnFailure = OnFailure.CONTINUE
    file: str = ""

    def step(self, step_id: str) -> Step:
        """Return the step with this id; KeyError if there is none."""
        for step in self.all_steps:
            if step.id == step_id:
                return step
        raise KeyError(step_id)

    @property
    def all_steps(self) -> tuple[Step, ...]:
        """All steps, those of `finally` last."""
        return (*self.steps, *self.finally_)
