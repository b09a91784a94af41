"""Whole outputs of the commands, compared with snapshots: the wording of messages is compared here.

`pytest --snapshot-update tests/acceptance/test_whole_outputs.py` writes the snapshots again after a change of words;
the difference in `__snapshots__` is then reviewed like code. What differs from run to run is replaced first.
"""

from __future__ import annotations

import re
import signal

import pytest

from tests.acceptance.console import Database, Jobplan, Ran, until

#: What differs from run to run, and what stands for it; in this order.
_VARIABLE = (
    (r"\b\d{6}-[0-9a-z]{6}\b", "RUN-ID"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?", "DATE"),
    (r"\b\d\d:\d\d:\d\dZ", "TIME"),
    (r"jobplan_test_\d+_\d+", "DATABASE"),
    (r"(pg_background )\d[\w.]*", r"\1VERSION"),
    (r"(PostgreSQL )\d[\w.]*( \([^)]*\))?", r"\1VERSION"),
    (r"(pids? )\d+", r"\1PID"),
    (r"(server version +)\S+ \([^)]*\)", r"\1VERSION"),
    (r"(extension +)\d[\w.]* in", r"\1VERSION in"),
    (r"host=\S+ port=\d+", "host=HOST port=PORT"),
    (r"process \d+ on [^\s,]+", "process PID on HOST"),
    (r"\(plan [0-9a-f]{12}\)", "(plan SHA256)"),
    (r"\b\d+m\d+s\b|\b\d+(\.\d+)?( ?ms|s|m|h)\b", "DURATION"),
    (r"(skipped \|  \| )DURATION( \|)", r"\1\2"),  # only on a busy machine, the evaluation of `if` takes long enough
    (r"\b\d+(\.\d+)? [kMG]?B\b", "SIZE"),
    (r"--dsn ('[^']*'|\S+)", "--dsn DSN"),
    (r"[\w.+-]+@[\w.-]+", "USER@HOST"),
    (r" +$", ""),
)


#: What a command says on a given server, on which other tests have runs, and what it says without them.
_OTHERS: list[tuple[str, str]] = []


@pytest.fixture(autouse=True)
def without_runs_of_others(request: pytest.FixtureRequest) -> None:
    """Leave out the runs of other tests, which a given server may have."""
    if request.config.getoption("--test-dsn") is not None:
        _OTHERS[:] = [
            (r"There are: .*\.$", "No jobplan session is active there."),
            (r", N of them of pg_background$", ""),
        ]


def steady(text: str, jobplan: Jobplan, *more: tuple[str, str]) -> str:
    """Replace what differs from run to run."""
    text = text.replace(str(jobplan.folder), "FOLDER")
    for pattern, word in (*more, *_VARIABLE, *_OTHERS):
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    return re.sub(r"(?<=\S) {2,}(?=\S)", "  ", text)  # columns are as wide as what was replaced


def whole(ran: Ran, jobplan: Jobplan, *more: tuple[str, str]) -> str:
    """Return both streams and the exit code as one text."""
    return "\n".join(
        [f"exit code {ran.code}", "--- stdout", steady(ran.out, jobplan, *more), "--- stderr", steady(ran.err, jobplan)]
    )


COMMANDS = (
    *("validate", "dry-run", "run", "runs", "show", "resume", "graph", "status", "cancel", "attach", "doctor"),
    *("init", "schema", "ledger", "server"),
    *(f"ledger {name}" for name in ("install", "upgrade", "status", "restore", "purge", "remove")),
    *(f"server {name}" for name in ("start", "status", "env", "psql", "stop")),
)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(jobplan: Jobplan, snapshot: object, command: str) -> None:
    ran = jobplan(*command.split(), "--help")
    assert ran.code == 0
    assert ran.out == snapshot


FLAWED = """
- {id: read, sql: "SELECT count(*) FROM orders WHERE state = ${missing}"}
- {id: index, needs: [nowhere], sql: "CREATE INDEX i ON orders (state)"}
- {id: clean, sql: "VACUUM orders; DELETE FROM orders"}
- {id: typo, timeot: 5s, sql: SELEC 1}
"""
QUESTIONABLE = """
- {id: index, sql: "CREATE INDEX i ON orders (state)"}
- {id: clean, sql: "DELETE FROM orders"}
"""


@pytest.mark.parametrize("form", ["text", "github"])
def test_validate_an_invalid_plan(jobplan: Jobplan, snapshot: object, form: str) -> None:
    assert whole(jobplan("validate", jobplan.plan(FLAWED).name, "--format", form), jobplan) == snapshot


def test_validate_a_plan_with_warnings(jobplan: Jobplan, snapshot: object) -> None:
    assert whole(jobplan("validate", jobplan.plan(QUESTIONABLE).name), jobplan) == snapshot


TABLE = """
CREATE TABLE orders (id int PRIMARY KEY, state text);
INSERT INTO orders VALUES (1, 'new'), (2, 'new');
ANALYZE orders
"""
#: One after another, so that the order of lines is always the same.
MIXED = """
- {id: count, sql: SELECT count(*) FROM orders, expect: {value: 2}}
- {id: update, needs: [count], sql: "UPDATE orders SET state = 'old'"}
- {id: warn, needs: [update], sql: "DO $$BEGIN RAISE WARNING 'look at this'; END$$"}
- id: again
  needs: [warn]
  repeat: {until: SELECT true, max_iterations: 3}
  sql: "UPDATE orders SET state = 'x' WHERE id > 2"
- {id: allowed, needs: [again], allow_failure: true, sql: SELECT 1/0}
- {id: retried, needs: [allowed], retry: {max_attempts: 2, delay: 10ms, on: [division_by_zero]}, sql: SELECT 1/0}
- {id: never, needs: [retried], sql: SELECT 1}
- {id: only_if, needs: [allowed], if: SELECT false, sql: SELECT 1}
"""


def test_dry_run(jobplan: Jobplan, db: Database, snapshot: object) -> None:
    db.run(TABLE)
    plan = jobplan.plan(MIXED + QUESTIONABLE.lstrip())
    assert whole(jobplan("dry-run", plan.name, "--dsn", db.dsn), jobplan) == snapshot


@pytest.mark.parametrize("verbosity", ["--quiet", "--verbose"])
def test_run_with_other_verbosity(jobplan: Jobplan, db: Database, snapshot: object, verbosity: str) -> None:
    db.run(TABLE)
    plan = jobplan.plan(MIXED, budget="{slots: 1}")
    assert whole(jobplan("run", plan.name, "--dsn", db.dsn, verbosity), jobplan) == snapshot


def test_run_and_its_record(jobplan: Jobplan, db: Database, snapshot: object) -> None:
    db.run(TABLE)
    plan = jobplan.plan(MIXED, budget="{slots: 1}")
    places = ("--report", "markdown=report.md", "--dsn", db.dsn)
    ran = jobplan("run", plan.name, *places, env={"GITHUB_ACTIONS": "true"})
    assert whole(ran, jobplan) == _named(snapshot, "run")
    assert steady((jobplan.folder / "report.md").read_text(encoding="utf-8"), jobplan) == _named(snapshot, "markdown")
    for command in ("show last", "runs", "resume last --mark never=failed", "resume last"):
        dsn = ("--dsn", db.dsn) if command.startswith("resume") else ()
        assert whole(jobplan(*command.split(), *dsn), jobplan) == _named(snapshot, command)


def _named(snapshot: object, name: str) -> object:
    """Return the snapshot of this name; the fixture's type is not imported, so that type checks need no plug-in."""
    assert callable(snapshot)
    return snapshot(name=name)


LIVING = """
- {id: reader, sql: "SELECT pg_sleep(600)", timeout: 20m}
- {id: writer, on_finish: detach, sql: "UPDATE orders SET state = 'old'", timeout: 20m}
- {id: later, needs: [reader], sql: SELECT 1}
"""


#: A row if a worker of this database waits for a lock.
WAITING = (
    "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND datname = current_database()"
)


def test_a_run_under_way_is_observed_and_cancelled(
    jobplan: Jobplan, db: Database, snapshot: object, request: pytest.FixtureRequest
) -> None:
    db.run(TABLE)
    plan = jobplan.plan(LIVING, **{"finally": "[{id: tidy, sql: SELECT pg_sleep(4)}]"})
    with db.elsewhere("psql") as other:
        other.execute("LOCK TABLE orders IN SHARE MODE")
        started = jobplan.start("run", plan.name, "--dsn", db.dsn)
        db.until_workers("reader", "writer")
        until(lambda: bool(db.column(WAITING)))
        journal = jobplan.folder / ".jobplan/runs" / _run_of(jobplan) / "events.jsonl"
        until(lambda: journal.read_text(encoding="utf-8").count('"attempt_running"') == 2)
        run = _run_of(jobplan)  # other tests may share the server
        assert whole(jobplan("status", run, "--dsn", db.dsn), jobplan) == _named(snapshot, "status")
        cancelled = jobplan("cancel", _run_of(jobplan), "--dsn", db.dsn)
        assert _sorted(whole(cancelled, jobplan)) == _named(snapshot, "cancel")
        assert _sorted(whole(started.ended(), jobplan)) == _named(snapshot, "run")
        shown = whole(jobplan("status", run, "--dsn", db.dsn), jobplan)
        assert shown == _named(snapshot, "status with a detached worker")
        cancelled = jobplan("cancel", _run_of(jobplan), "--detached", "--dsn", db.dsn)
        assert whole(cancelled, jobplan) == _named(snapshot, "cancel a detached worker")
    if request.config.getoption("--test-dsn") is None:  # on a given server other tests may have runs
        assert whole(jobplan("status", "--dsn", db.dsn), jobplan) == _named(snapshot, "status without a run")
    assert whole(jobplan("attach", _run_of(jobplan), "--dsn", db.dsn), jobplan) == _named(snapshot, "attach")


def _sorted(text: str) -> list[str]:
    """Return the lines whose order depends on timing, without those that depend on it altogether."""
    return sorted(line for line in text.splitlines() if not re.search(r"cancel requested|^tidy \(pid", line))


def _run_of(jobplan: Jobplan) -> str:
    (folder,) = (jobplan.folder / ".jobplan/runs").iterdir()
    return folder.name


def test_a_run_whose_runner_was_killed_is_resumed(jobplan: Jobplan, db: Database, snapshot: object) -> None:
    plan = jobplan.plan("""
        - {id: first, sql: SELECT 1}
        - {id: long, needs: [first], sql: "INSERT INTO orders SELECT 3 FROM pg_sleep(600)", timeout: 20m}
        - {id: later, needs: [long], sql: SELECT 1}
        """)
    db.run(TABLE)
    started = jobplan.start("run", plan.name, "--dsn", db.dsn)
    db.until_workers("long")
    events = jobplan.folder / ".jobplan/runs" / _run_of(jobplan) / "events.jsonl"
    until(lambda: bool(re.search('"attempt_running".*"long"', events.read_text(encoding="utf-8"))))
    started.send(signal.SIGKILL)
    started.ended()
    assert whole(jobplan("status", _run_of(jobplan), "--dsn", db.dsn), jobplan) == _named(snapshot, "status")
    db.terminate("long")
    db.until_workers()
    assert whole(jobplan("resume", "last", "--dsn", db.dsn), jobplan) == _named(snapshot, "refused")
    marked = jobplan("resume", "last", "--mark", "long=succeeded", "--dsn", db.dsn)
    assert whole(marked, jobplan) == _named(snapshot, "resumed")
    assert whole(jobplan("show", "last"), jobplan) == _named(snapshot, "show")


def test_doctor(jobplan: Jobplan, db: Database, snapshot: object) -> None:
    settings = (r"(?<=[ (])\d+(?=[ ),\n])", "N")
    assert whole(jobplan("doctor", "--dsn", db.dsn), jobplan, settings) == snapshot


def test_the_ledger(jobplan: Jobplan, db: Database, snapshot: object) -> None:
    for number, command in enumerate(
        ("status", "install", "install", "upgrade", "status", "remove", "remove --yes"), 1
    ):
        done = jobplan("ledger", *command.split(), "--dsn", db.dsn)
        assert whole(done, jobplan) == _named(snapshot, f"{number} {command}")


REFUSED = (
    "validate none.yaml",
    "run none.yaml",
    "show none",
    "resume none",
    "cancel none",
    "attach none",
    "status none",
    "dry-run plan.yaml --dsn host=/none",
    "run plan.yaml --dsn host=/none",
    "run plan.yaml --param a",
    "run plan.yaml --report pdf=x",
    "run plan.yaml --select none",
    "graph plan.yaml",
    "runs --prune",
)


@pytest.mark.parametrize("command", REFUSED)
def test_a_command_that_is_refused(jobplan: Jobplan, db: Database, snapshot: object, command: str) -> None:
    jobplan.plan("- {id: one, sql: SELECT 1}\n- {id: two, needs: [one], sql: SELECT 2}")
    env = {"JOBPLAN_DSN": db.dsn}
    assert whole(jobplan(*command.split(), env=env), jobplan) == snapshot
