"""The live terminal, on a real pseudo-terminal: what a person sees small and large, resized, interrupted, dumb."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pyte
import pytest

from tests.acceptance.console import Database, Jobplan, clean_environment

PATIENCE = 60.0


class Terminal:
    """A terminal in which `jobplan` runs, and the screen that it has made."""

    def __init__(
        self, folder: Path, *arguments: str | Path, size: tuple[int, int] = (80, 24), **environment: str
    ) -> None:
        columns, rows = size
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self.written = b""
        self._stream = pyte.ByteStream(self.screen)
        unset = {name: value for name, value in clean_environment().items() if name not in ("COLUMNS", "LINES")}
        self.process = pexpect.spawn(
            sys.executable,
            ["-m", "runner", *map(str, arguments)],
            dimensions=(rows, columns),
            cwd=str(folder),
            env={**unset, "TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        )

    def until(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """Read until the screen is as wanted, and return it."""
        end = time.monotonic() + PATIENCE
        while not condition(self.shown):
            assert time.monotonic() < end, "\n".join(self.shown)
            assert self._read(), "\n".join(self.shown)
        return self.shown

    def ended(self) -> int:
        """Read to the end, and return the exit code."""
        while self._read():
            pass
        self.process.close()
        assert self.process.exitstatus is not None
        return int(self.process.exitstatus)

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size."""
        self.screen.resize(rows, columns)
        self.process.setwinsize(rows, columns)

    def hides_cursor(self) -> bool:
        """Say whether the cursor cannot be seen."""
        return bool(self.screen.cursor.hidden)

    @property
    def cleared(self) -> int:
        """How often the screen was cleared."""
        return self.written.count(b"\x1b[2J")

    @property
    def drawn_at(self) -> list[float]:
        """The seconds since the start of the run that each drawing so far shows."""
        plain = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", self.written)
        return [float(seconds) for seconds in re.findall(rb"trial  run \S+  ([0-9.]+)s  slots", plain)]

    @property
    def shown(self) -> list[str]:
        """The lines on the screen, without the empty ones."""
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def _read(self) -> bool:
        try:
            data: Any = self.process.read_nonblocking(65_536, timeout=0.1)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.written += data
        self._stream.feed(data)
        return True


@pytest.fixture
def terminals(jobplan: Jobplan) -> Iterator[Callable[..., Terminal]]:
    """Open terminals in the test's folder; whatever still runs at the end is ended."""
    opened: list[Terminal] = []

    def open_one(*arguments: str | Path, **keys: object) -> Terminal:
        opened.append(Terminal(jobplan.folder, *arguments, **keys))  # type: ignore[arg-type]  # size or environment
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.process.close(force=True)


def plan_of_500(jobplan: Jobplan, seconds: float) -> Path:
    """Write a plan of 500 steps that each take so long, and one that fails."""
    steps = [f"- {{id: step_{number:03d}, sql: SELECT pg_sleep({seconds})}}" for number in range(499)]
    steps.insert(3, "- {id: wrong, sql: SELECT 1/0, priority: 1}")
    return jobplan.plan("\n".join(steps), budget="{slots: 8}")


def is_drawn(shown: list[str]) -> bool:
    return any(line.startswith("━") and "/500" in line for line in shown) and any(
        line.startswith("  step") for line in shown
    )


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
def test_five_hundred_steps_fit_any_terminal_and_failures_stay(
    jobplan: Jobplan, db: Database, terminals: Callable[..., Terminal], size: tuple[int, int]
) -> None:
    terminal = terminals("run", plan_of_500(jobplan, 0.3), "--dsn", db.dsn, size=size)

    def is_whole(lines: list[str]) -> bool:  # what was read may end within a frame
        return (
            is_drawn(lines) and "1 failed" in "\n".join(lines) and sum("waits for a slot" in line for line in lines) > 1
        )

    shown = terminal.until(is_whole)
    (headline,) = [line for line in shown if line.startswith("trial  run ")]
    assert re.search(r" slots [1-8]/8$", headline)
    assert any("wrong: failed in" in line and "division by zero (SQLSTATE 22012)" in line for line in shown)
    terminal.process.sendintr()
    assert terminal.ended() == 130


def test_ctrl_c_leaves_the_screen_whole(jobplan: Jobplan, db: Database, terminals: Callable[..., Terminal]) -> None:
    terminal = terminals("run", plan_of_500(jobplan, 30), "--dsn", db.dsn)
    terminal.until(
        lambda lines: (
            is_drawn(lines)
            and any(line.endswith(" slots 8/8") for line in lines)
            and any("wrong: failed" in line for line in lines)
        )
    )
    assert terminal.hides_cursor()
    terminal.process.sendintr()
    assert terminal.ended() == 130
    text = "\n".join(terminal.shown)
    assert not terminal.hides_cursor()
    assert "8 cancelled" in text.replace("\n", "")
    assert not any(line.startswith(("━", "trial  run", "Running", "  and ")) for line in terminal.shown)
    assert b"\x1b[?1049" not in terminal.written  # the screen is not another one: what was there before is still there
    assert db.workers() == []


def test_another_size_is_drawn_again(jobplan: Jobplan, db: Database, terminals: Callable[..., Terminal]) -> None:
    terminal = terminals("run", plan_of_500(jobplan, 30), "--dsn", db.dsn, size=(120, 40))
    terminal.until(lambda lines: is_drawn(lines) and any("wrong: failed" in line for line in lines))
    for size in ((60, 15), (200, 50), (80, 24)):
        clears = terminal.cleared
        terminal.resize(*size)
        terminal.until(lambda _, clears=clears: terminal.cleared > clears)  # type: ignore[misc]  # a bound loop variable
        shown = terminal.until(is_drawn)
        assert sum(line.startswith("trial  run ") for line in shown) == 1
        assert sum("wrong: failed" in line for line in shown) == 1
        assert len(shown) <= size[1]
    terminal.process.sendintr()
    assert terminal.ended() == 130


def test_a_blocked_step_names_the_blocking_session(
    jobplan: Jobplan, db: Database, terminals: Callable[..., Terminal]
) -> None:
    db.run("CREATE TABLE orders ()")
    with db.elsewhere("web") as other:
        other.execute("LOCK orders")
        plan = jobplan.plan("- {id: waits, sql: ALTER TABLE orders ADD COLUMN n int}")
        terminal = terminals("run", plan, "--dsn", db.dsn, size=(160, 24))
        holder = f"waits for AccessExclusiveLock on orders, held by pid {other.info.backend_pid} app 'web'"
        terminal.until(lambda lines: any(holder in line for line in lines))
    assert terminal.ended() == 0


#: Clears the screen, renames the window, and writes green.
EVIL_STEP = r"""
- id: evil
  sql: |
    DO $$ BEGIN RAISE EXCEPTION E'gone \x1b[2J\x1b]0;pwned\x07 \u009b32mgreen'; END $$
"""
SHOWN = r"gone \x1b[2J\x1b]0;pwned\x07 \x9b32mgreen"


@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}])
def test_a_message_of_the_server_cannot_act_on_the_terminal(
    jobplan: Jobplan, db: Database, terminals: Callable[..., Terminal], environment: dict[str, str]
) -> None:
    terminal = terminals("run", jobplan.plan(EVIL_STEP), "--dsn", db.dsn, size=(160, 24), **environment)
    assert terminal.ended() == 1
    shown = terminals("show", "last", size=(160, 24))
    assert shown.ended() == 0
    for one in (terminal, shown):
        assert any(SHOWN in line for line in one.shown)
        assert not any(evil in one.written for evil in (b"\x1b[2J", b"\x1b]", b"\x07", "\x9b".encode()))


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": "unknown"}])
def test_a_terminal_that_cannot_be_drawn_on_gets_lines(
    jobplan: Jobplan, db: Database, terminals: Callable[..., Terminal], environment: dict[str, str]
) -> None:
    terminal = terminals("run", jobplan.plan("- {id: a, sql: SELECT 1}"), "--dsn", db.dsn, **environment)
    assert terminal.ended() == 0
    assert b"\x1b" not in terminal.written
    assert any("a: succeeded in" in line for line in terminal.shown)


def test_without_colour_it_is_drawn_all_the_same(
    jobplan: Jobplan, db: Database, terminals: Callable[..., Terminal]
) -> None:
    terminal = terminals("run", plan_of_500(jobplan, 30), "--dsn", db.dsn, NO_COLOR="1")
    terminal.until(is_drawn)
    terminal.process.sendintr()
    assert terminal.ended() == 130
    assert b"\x1b[3" not in terminal.written
    assert b"\x1b[1;3" not in terminal.written


def test_a_run_whose_steps_sleep_is_drawn_once_a_second(
    jobplan: Jobplan, db: Database, terminals: Callable[..., Terminal]
) -> None:
    """`python -m benchmarks idle` measures what that costs."""
    terminal = terminals("run", plan_of_500(jobplan, 30), "--dsn", db.dsn)
    terminal.until(is_drawn)
    before = len(terminal.drawn_at)
    terminal.until(lambda _: len(terminal.drawn_at) >= before + 6)
    drawn = terminal.drawn_at[before - 1 :]
    terminal.process.sendintr()
    assert terminal.ended() == 130
    assert len(drawn) - 1 <= drawn[-1] - drawn[0] + 1
