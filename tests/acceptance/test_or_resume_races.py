"""`run --run-id ID --or-resume` by several processes at once, and again after kill -9: every effect is there once."""

from __future__ import annotations

import contextlib
import random
import signal
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.console import Database, Jobplan, Started, until

GATED = """
    - {id: slow, sql: "LOCK TABLE gate; INSERT INTO done VALUES ('slow')"}
    - {id: last, sql: "INSERT INTO done VALUES ('last')", needs: [slow]}
"""
QUICK = """
    - {id: one, sql: "INSERT INTO done VALUES ('one')"}
    - {id: two, sql: "INSERT INTO done VALUES ('two')", needs: [one]}
"""
#: Steps of which a random moment hits some before, some while, and some after they run.
SIX = """
    - {id: s1, sql: "INSERT INTO done SELECT 's1' FROM pg_sleep(0.2)"}
    - {id: s2, sql: "INSERT INTO done SELECT 's2' FROM pg_sleep(0.4)"}
    - {id: s3, sql: "INSERT INTO done SELECT 's3' FROM pg_sleep(0.2)", needs: [s1]}
    - {id: s4, sql: "INSERT INTO done SELECT 's4' FROM pg_sleep(0.2)", needs: [s1]}
    - {id: s5, sql: "INSERT INTO done SELECT 's5' FROM pg_sleep(0.2)", needs: [s3]}
    - {id: s6, sql: "INSERT INTO done SELECT 's6' FROM pg_sleep(0.1)", needs: [s2, s4, s5]}
"""
STEPS = ["s1", "s2", "s3", "s4", "s5", "s6"]
#: Exit codes of a command that was killed, succeeded, found its worker's failure or the run's last runner, or asks.
AGAIN = (-9, 1, 6)


def effects(done: Database) -> list[str]:
    """Return what the steps have written."""
    return done.column("SELECT step FROM done ORDER BY step")


def until_one_ended(started: list[Started]) -> None:
    """Wait until one of these processes has ended."""
    until(lambda: not all(one.alive for one in started), seconds=60)


@pytest.mark.parametrize(
    ("ledger", "apart"), [(False, False), (True, False), (True, True)], ids=["journal", "both", "ledger"]
)
def test_of_two_that_begin_one_run_at_the_same_moment_one_runs_it(
    jobplan: Jobplan, done: Database, ledger: bool, apart: bool
) -> None:
    if ledger:
        assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    plan = jobplan.plan(GATED, defaults="{timeout: 5m, on_finish: wait}")
    for number in range(3):
        done.run("TRUNCATE done")
        command = ("run", plan, "--dsn", done.dsn, "--run-id", f"race-{number}", "--or-resume")
        with psycopg.connect(done.dsn) as keeper:
            keeper.execute("LOCK TABLE gate")
            both = [jobplan.start(*command, "--journal", f"runs-{turn if apart else 0}") for turn in (0, 1)]
            until_one_ended(both)
            (loser,) = [one for one in both if not one.alive]
            refused = loser.ended()
            assert refused.code == 6, refused.err
            until(lambda: done.workers() == ["slow"])
        (winner,) = [one for one in both if one is not loser]
        ran = winner.ended()
        assert ran.code == 0, ran.err
        assert effects(done) == ["last", "slow"]


def test_whichever_comes_later_nothing_is_run_twice(jobplan: Jobplan, done: Database) -> None:
    """Without a gate the first may have ended when the second one looks, or takes the run's lock."""
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    plan = jobplan.plan(QUICK)
    for number in range(5):
        done.run("TRUNCATE done")
        command = ("run", plan, "--dsn", done.dsn, "--run-id", f"race-{number}", "--or-resume")
        started = [jobplan.start(*command, "--journal", f"runs-{number}-{turn % 2}") for turn in range(3)]
        ended = [one.ended() for one in started]
        codes = {one.code for one in ended}
        assert 0 in codes
        assert codes <= {0, 6}, [one.err for one in ended]
        assert effects(done) == ["one", "two"]


@pytest.mark.parametrize("apart", [False, True], ids=["same journal", "ledger only"])
def test_of_two_that_resume_the_last_run_at_the_same_moment_one_does(
    jobplan: Jobplan, done: Database, apart: bool
) -> None:
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    plan = jobplan.plan(GATED, defaults="{timeout: 5m, on_finish: wait}")
    command = ("run", plan, "--dsn", done.dsn, "--or-resume")
    for number in range(3):
        done.run("TRUNCATE done")
        with psycopg.connect(done.dsn) as keeper:
            keeper.execute("LOCK TABLE gate")
            first = jobplan.start(*command, "--journal", f"first-{number}")
            until(lambda: done.workers() == ["slow"])
            first.send(signal.SIGKILL)
            first.ended()
            folders = [f"first-{number}" if not apart else f"other-{number}-{turn}" for turn in (0, 1)]
            both = [jobplan.start(*command, "--journal", folder) for folder in folders]
            until_one_ended(both)
            (loser,) = [one for one in both if not one.alive]
            refused = loser.ended()
            assert refused.code == 6, refused.err
        (winner,) = [one for one in both if one is not loser]
        ran = winner.ended()
        assert ran.code == 0, ran.err
        assert effects(done) == ["last", "slow"]
        assert done.value("SELECT count(DISTINCT run) FROM jobplan.runs") == number + 1


def lines(jobplan: Jobplan, folder: str) -> int:
    """Return how many events a run has in its journal so far."""
    count = 0
    for path in (jobplan.folder / folder).glob("*/events.jsonl"):
        with contextlib.suppress(FileNotFoundError):  # of a run that was refused, and is being begun anew
            count += path.read_bytes().count(b"\n")
    return count


def killed(jobplan: Jobplan, started: Started, folder: str, dice: random.Random) -> int:
    """Kill the runner after a random number of further events, unless it ends before; return the exit code."""
    target = lines(jobplan, folder) + dice.randint(1, 12)
    until(lambda: not started.alive or lines(jobplan, folder) >= target, seconds=60)
    if started.alive:
        started.send(signal.SIGKILL)
    return started.ended().code


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("apart", [False, True], ids=["same journal", "another journal each time"])
def test_the_same_command_line_again_until_it_succeeds_with_every_effect_once(
    jobplan: Jobplan, done: Database, seed: int, apart: bool
) -> None:
    """Some workers are cancelled from outside when their runner was killed; they run again."""
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    dice = random.Random(seed)  # noqa: S311 - a reproducible generator is wanted
    command: tuple[str | Path, ...] = ("run", jobplan.plan(SIX), "--dsn", done.dsn)
    command += ("--run-id", f"crash-{seed}", "--or-resume", "--require-ledger")
    codes: list[int] = []
    for turn in range(20):
        folder = f"runs-{turn if apart else 0}"
        started = jobplan.start(*command, "--journal", folder)
        codes.append(killed(jobplan, started, folder, dice) if turn < 5 else started.ended().code)
        if codes[-1] == 0:
            break
        assert codes[-1] in AGAIN, codes
        if dice.random() < 0.4:
            jobplan("cancel", f"crash-{seed}", "--dsn", done.dsn)
    assert codes[-1] == 0, codes
    assert -9 in codes
    assert effects(done) == STEPS


@pytest.mark.parametrize("seed", [1, 2])
def test_without_a_ledger_an_effect_is_never_there_twice(jobplan: Jobplan, done: Database, seed: int) -> None:
    """What the journal cannot prove is asked, with exit code 7."""
    dice = random.Random(seed)  # noqa: S311 - a reproducible generator is wanted
    command: tuple[str | Path, ...] = ("run", jobplan.plan(SIX), "--dsn", done.dsn)
    command += ("--run-id", f"crash-{seed}", "--or-resume", "--journal", "runs")
    codes: list[int] = []
    for turn in range(20):
        started = jobplan.start(*command)
        codes.append(killed(jobplan, started, "runs", dice) if turn < 4 else started.ended().code)
        if codes[-1] in (0, 7):
            break
        assert codes[-1] in AGAIN, codes
    assert codes[-1] in (0, 7), codes
    done.until_workers()
    found = effects(done)
    assert sorted(set(found)) == found
    assert codes[-1] == 7 or found == STEPS
