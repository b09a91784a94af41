"""Runs a plan pair for real and dry-runs it, and compares what was said with what happened."""

from __future__ import annotations

import asyncio
import enum
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from runner.cli.dry_run import Readable, look, read_to_look
from runner.cli.options import ParameterValues
from runner.engine import events as ev
from runner.engine.state import RunState
from runner.errors import Problem, Severity
from runner.preflight.dry_run import DryRunOptions
from runner.preflight.dry_run_result import Coverage, DryRun
from runner.run.api import run_plan
from tests.gate.cases import BASE, ROLES, Case

_DEFINES = re.compile(
    r"(CREATE|ALTER|DROP|COMMENT|GRANT|REVOKE|VACUUM|ANALYZE|REINDEX|CLUSTER|EXPLAIN)\b", re.IGNORECASE
)


class Outcome(enum.Enum):
    """What a dry run was worth, compared with the run."""

    CLEAN = "succeeded, and no error was reported"
    FALSE_ALARM = "succeeded, and an error was reported"
    FOUND = "failed, and an error was reported"
    OPEN = "failed, and the dry run said that it does not know"
    #: docs/dry-run.md says that this cannot be known: rows, and what a DO, CALL or VOLATILE function breaks.
    DOCUMENTED = "failed, for a reason that the documentation leaves out"
    MISSED = "failed, and everything was checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Real:
    """How a run ended: the error of the step that failed, None if all succeeded."""

    step: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A case, how its run ended, and what its dry run said."""

    case: Case
    outcome: Outcome
    real: Real
    said: tuple[str, ...] = ()


@dataclass(slots=True)
class _Failures:
    """A sink that keeps why steps failed."""

    found: list[Real] = field(default_factory=list)

    def handle(self, event: ev.Event, state: RunState) -> None:  # noqa: ARG002 - the protocol's parameters
        """Keep the error of an attempt."""
        error = getattr(event, "error", None)
        if isinstance(error, ev.ErrorDetails):
            step = str(getattr(event, "step", ""))
            self.found.append(Real(step=step, error=f"{error.sqlstate}: {error.message}"))

    def flush(self) -> None:
        """Do nothing."""

    def tick(self, now: float, state: RunState) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Range:
    """A server with a template database and the roles of the corpus; every run gets a database of its own.

    Names that begin with `gate_` get a number of this process, so that two processes can share a server.
    """

    def __init__(self, server_dsn: str, folder: Path) -> None:
        self._dsn = server_dsn
        self._folder = folder
        self._prefix = f"gate{os.getpid()}_"
        self._server = psycopg.connect(server_dsn, autocommit=True)
        self._base, self._here = f"{self._prefix}base", f"{self._prefix}here"
        self._remove()
        for role in ROLES:
            self._server.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(self.own(role))))
        self._server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._base)))
        with psycopg.connect(make_conninfo(server_dsn, dbname=self._base), autocommit=True) as connection:
            connection.execute(self.own(BASE).encode())

    def own(self, text: str) -> str:
        """Return the text with this process's names."""
        return re.sub(r"\bgate_", self._prefix, text)

    def close(self) -> None:
        """Remove everything from the server."""
        self._remove()
        self._server.close()

    def _remove(self) -> None:
        for name in (self._here, self._base):
            self._server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        for role in (*ROLES, "gate_new"):
            self._server.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(self.own(role))))

    def plan(self, case: Case) -> Readable:
        """Return the plan of a case with its offline findings, as the command reads it."""
        steps: list[dict[str, object]] = []
        if case.together:
            steps.append({"id": "then", "sql": self.own("; ".join(filter(None, (case.first, case.then))))})
        else:
            if case.first:
                steps.append({"id": "first", "sql": self.own(case.first)})
            needs = {"needs": ["first"]} if steps else {}
            steps.append({"id": "then", "sql": self.own(case.then), **needs})
        if case.role:
            steps[-1]["role"] = self.own(case.role)
        plan = {
            "version": 1,
            "name": "gate",
            "budget": {"slots": 1},
            "defaults": {"timeout": "1m", "lock_timeout": "20s", "on_finish": "wait"},
            "steps": steps,
        }
        path = self._folder / "plan.yaml"
        path.write_text(json.dumps(plan), encoding="utf-8")
        return read_to_look(path, ParameterValues(given={}, params_file=None, environment={}))

    def dry_run(self, readable: Readable) -> DryRun:
        """Look at the plan on the template database, which nothing changes. Warnings of offline rules are left out."""
        errors = tuple(problem for problem in readable.found if problem.severity is Severity.ERROR)
        options = DryRunOptions(found=errors, well_formed=readable.well_formed)
        return asyncio.run(look(readable.plan, make_conninfo(self._dsn, dbname=self._base), options))

    def run(self, case: Case, readable: Readable) -> Real:
        """Run the plan in a new database, also if an offline rule finds an error."""
        here, base = sql.Identifier(self._here), sql.Identifier(self._base)
        self._server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(here))
        self._server.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(self.own("gate_new"))))
        # A copy of the files, the only way before version 15, needs a checkpoint.
        strategy = " STRATEGY wal_log" if self._server.info.server_version >= 150_000 else ""
        self._server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}" + strategy).format(here, base))
        failures = _Failures()
        dsn = make_conninfo(self._dsn, dbname=self._here)
        result = run_plan(readable.plan, dsn=dsn, sinks=[failures], ledger=None)
        self._undo(case, dsn)
        if result.exit_code == 0:
            return Real()
        return failures.found[-1] if failures.found else Real(step="?", error=f"exit code {result.exit_code}")

    def _undo(self, case: Case, dsn: str) -> None:
        """Remove what a case has made beyond its database; what a failed step has not made is not there."""
        for statement in filter(None, map(str.strip, self.own(case.undo).split(";"))):
            with (
                suppress(psycopg.errors.UndefinedObject),
                psycopg.connect(dsn, autocommit=True) as connection,
            ):
                connection.execute(statement.encode())


def compare(case: Case, real: Real, dry: DryRun) -> Result:
    """Return what the dry run was worth."""
    errors = [problem for problem in dry.problems if problem.severity is Severity.ERROR]
    if real.error is None:
        outcome = Outcome.FALSE_ALARM if errors else Outcome.CLEAN
    elif errors:
        outcome = Outcome.FOUND
    else:
        # 22023 is also the class of options and parameters that a command refuses, which is known without rows.
        of_options = real.error.startswith("22023") and _DEFINES.match(case.then) is not None
        rows = real.error.startswith(("21", "22", "23", "44")) and not of_options
        opaque = case.first.startswith(("DO", "CALL"))
        left_out = Outcome.DOCUMENTED if rows or opaque else Outcome.MISSED
        outcome = Outcome.OPEN if _open(real, dry) else left_out
    return Result(case=case, outcome=outcome, real=real, said=tuple(_said(dry.problems, dry)))


def _open(real: Real, dry: DryRun) -> bool:
    """Return whether the dry run said of the step that failed that it does not know all."""
    warned = any(problem.step == real.step for problem in dry.problems)
    reports = [one for one in dry.statements if one.step == real.step and one.key == "sql"]
    return warned or any(one.coverage is not Coverage.CHECKED for one in reports)


def _said(problems: tuple[Problem, ...], dry: DryRun) -> Iterator[str]:
    for problem in problems:
        yield f"{problem.severity} {problem.code}: {problem.message}"
    for one in dry.statements:
        yield f"{one.step}: {one.coverage.value}{': ' if one.why else ''}{'; '.join(one.why)}"


def counts(results: list[Result]) -> Mapping[str, Mapping[Outcome, int]]:
    """Return how often each outcome came, by group."""
    table: dict[str, dict[Outcome, int]] = {}
    for result in results:
        row = table.setdefault(result.case.group, dict.fromkeys(Outcome, 0))
        row[result.outcome] += 1
    return table
