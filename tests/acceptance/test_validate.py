"""`jobplan validate` as a person, a script and a stranger's pull request use it."""

from __future__ import annotations

import json
import os
import pty
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.console import Jobplan, Ran

ROOT = Path(__file__).parents[2]
HEAD = "version: 1\nname: example\nbudget: {slots: 1}\ndefaults: {timeout: 10m, on_finish: wait}\n"
GOOD = HEAD + "steps:\n  - id: a\n    sql: VACUUM\n"
BAD = HEAD + "steps:\n  - id: a\n    sql: SELEC 1\n"
WARNED = HEAD + "steps:\n  - id: a  # jobplan: ignore=JP300\n    sql: VACUUM\n"

#: What no plan may take, however it is made: seconds, and bytes of memory. Both are far above what is measured.
SECONDS = 60
MEMORY = 1_500_000_000


def environment(**more: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "TERM"}}
    return plain | {"PYTHONPATH": str(ROOT), "TERM": "xterm"} | more


def jobplan(*arguments: str | Path, cwd: Path | None = None, **more: str) -> Ran:
    """Run the command line."""
    return Jobplan(cwd or Path.cwd())(*arguments, env={"TERM": "xterm", **more})


def bounded(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line within the bounds of time and memory."""
    return subprocess.run(
        [sys.executable, "-m", "runner", *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str | bytes, name: str = "plan.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_a_valid_plan(plan: Callable[..., Path]) -> None:
    path = plan(GOOD)
    done = jobplan("validate", path)
    assert (done.code, done.out, done.err) == (0, f"{path}: valid, 1 step\n", "")
    assert jobplan("validate", "-q", path).out == ""


def test_every_plan_in_the_repository_is_valid() -> None:
    done = jobplan("validate", *sorted((ROOT / "plans").glob("*.yaml")))
    assert done.code == 0, done.out


def test_every_problem_of_every_plan_is_reported(plan: Callable[..., Path]) -> None:
    good, bad, warned = plan(GOOD, "good.yaml"), plan(BAD, "bad.yaml"), plan(WARNED, "warned.yaml")
    unused = "`ignore=JP300` has no effect: the rule has no finding here"
    done = jobplan("validate", bad, good, warned)
    assert done.code == 3
    assert done.err == ""
    assert done.out.splitlines() == [
        f'{bad}:7:10: error JP300: syntax error at or near "SELEC"',
        f"{bad}: invalid, 1 error",
        f"{good}: valid, 1 step",
        f"{warned}:6:30: warning JP901: {unused} (remove the code from the comment)",
        "jobplan validate --explain CODE explains JP300 sql-syntax, JP901 unused-ignore",
        f"{warned}: valid, 1 step, 1 warning",
    ]


def test_warnings_fail_only_under_strict(plan: Callable[..., Path]) -> None:
    path = plan(WARNED)
    assert jobplan("validate", path).code == 0
    assert jobplan("validate", "--strict", path).code == 3
    assert jobplan("validate", "--strict", plan(GOOD)).code == 0


def test_a_plan_is_named_from_where_one_stands_and_checked_once(plan: Callable[..., Path]) -> None:
    path = plan(BAD)
    done = jobplan("validate", "plan.yaml", "./plan.yaml", cwd=path.parent)
    assert [line.split(":")[0] for line in done.out.splitlines() if "--explain" not in line] == ["plan.yaml"] * 2


@pytest.mark.parametrize(
    ("arguments", "excerpt", "color"),
    [(["--color", "always"], True, True), (["--color", "never"], False, False), ([], False, False)],
)
def test_colour_by_the_option(plan: Callable[..., Path], arguments: list[str], excerpt: bool, color: bool) -> None:
    done = jobplan("validate", *arguments, plan(BAD))
    assert ("7 |" in done.out) is excerpt
    assert ("\x1b[" in done.out) is color


def test_colour_by_the_environment(plan: Callable[..., Path]) -> None:
    path = plan(BAD)
    assert "\x1b[" in jobplan("validate", path, FORCE_COLOR="1").out
    assert "\x1b[" not in jobplan("validate", path, FORCE_COLOR="1", NO_COLOR="1").out
    assert "\x1b[" in jobplan("validate", "--color", "always", path, NO_COLOR="1").out


@pytest.mark.parametrize(("variables", "color"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_a_terminal_gets_the_line_and_colour(plan: Callable[..., Path], variables: dict[str, str], color: bool) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "runner", "validate", str(plan(BAD))]
    with subprocess.Popen(command, stdout=theirs, env=environment(**variables)) as process:
        os.close(theirs)
        text = b""
        try:
            while chunk := os.read(ours, 4096):
                text += chunk
        except OSError:
            pass  # Linux ends a terminal whose other side is closed with an error
        finally:
            os.close(ours)
    assert process.returncode == 3
    assert b"    sql: SELEC 1" in text
    assert b"^" in text
    assert (b"\x1b[" in text) is color


def test_json(plan: Callable[..., Path]) -> None:
    path = plan(BAD)
    done = jobplan("validate", "--format", "json", path, plan(GOOD, "good.yaml"))
    assert done.code == 3
    (reported,) = json.loads(done.out)
    assert (reported["file"], reported["line"], reported["column"], reported["code"], reported["step"]) == (
        str(path),
        7,
        10,
        "JP300",
        "a",
    )
    assert json.loads(jobplan("validate", "--format", "json", plan(GOOD)).out) == []


def test_github(plan: Callable[..., Path]) -> None:
    path = plan(BAD)
    done = jobplan("validate", "--format", "github", path)
    expected = f'::error file={path},line=7,col=10,title=JP300::syntax error at or near "SELEC"\n'
    assert (done.code, done.out) == (3, expected)


def test_sarif(plan: Callable[..., Path]) -> None:
    done = jobplan("validate", "--format", "sarif", plan(BAD))
    assert done.code == 3
    (run,) = json.loads(done.out)["runs"]
    assert [result["ruleId"] for result in run["results"]] == ["JP300"]


def test_a_code_is_explained() -> None:
    done = jobplan("validate", "--explain", "jp300")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("JP300 (error): A syntax error in SQL\n\n")
    assert "Wrong:\n    sql: DELETE FORM audit\n" in done.out
    assert "Right:\n    sql: DELETE FROM audit\n" in done.out
    assert "What to do:\n    Correct the SQL at the reported position.\n" in done.out
    assert "How to suppress it:\n    - id: step  # jobplan: ignore=sql-syntax the reason\n" in done.out
    assert jobplan("validate", "--explain", "SQL-syntax").out == done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--explain", "JP3OO"], "There is no code 'JP3OO'. Did you mean JP"),
        (["--explain", "JP300", "plan.yaml"], "--explain takes a code and no plans."),
        ([], "No plan was given"),
        (["-"], "cannot be read from standard input"),
        (["--format", "xml", "plan.yaml"], "'xml' is not one of"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    done = jobplan("validate", *arguments)
    assert done.code == 2
    assert message in done.err
    assert done.out == ""


def test_a_folder_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = jobplan("validate", tmp_path, tmp_path / "nothing.yaml")
    assert done.code == 3
    assert f"there are no plans in the folder {tmp_path}" in done.err
    assert "nothing.yaml:1:1: error JP001: the file cannot be read: No such file or directory" in done.out


@pytest.mark.parametrize("name", ["a" * 300, "b/" * 2500, "x" * 300 + "/plan.yaml"])
def test_a_name_that_is_too_long_is_a_problem_of_the_plan(tmp_path: Path, name: str) -> None:
    ran = jobplan("validate", name, cwd=tmp_path)
    assert ran.code == 3
    assert "JP001" in ran.out
    assert "Traceback" not in ran.err


def test_a_closed_pipe_causes_no_message(plan: Callable[..., Path]) -> None:
    steps = "".join(f"  - id: s{number}\n    sql: SELEC 1\n" for number in range(2_000))
    command = [sys.executable, "-m", "runner", "validate", str(plan(f"{HEAD}steps:\n{steps}"))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stdout is not None
    assert process.stderr is not None
    assert b"JP300" in process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(SECONDS) not in {0, 70}


def test_what_does_not_validate_does_not_run(plan: Callable[..., Path]) -> None:
    path = plan(BAD)
    done = jobplan("run", "--dsn", "host=/nowhere", path)
    assert done.code == 3
    assert f"{path}:7:10: error JP300" in done.err
    assert "is not a valid plan: 1 problem" in done.err


BIG = 50_000_000


def steps(*texts: str) -> str:
    return HEAD + "steps:\n" + "".join(f"  - {{id: s{number}, {text}}}\n" for number, text in enumerate(texts))


def sql(text: str) -> str:
    return steps(f"sql: '{text}'")


def beside(*texts: str) -> str:
    return steps(*texts).replace("slots: 1", "slots: 8")


def drops(tables: int) -> str:
    return ";".join(f"DROP TABLE t{number}" for number in range(tables))


def laughs() -> str:
    levels = (f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    return "x-0: &a0 [x]\n" + "".join(levels)


#: Files that are made to hurt, and the code of the problem that each must end with; empty if there need not be any.
HOSTILE: dict[str, tuple[Callable[[], str | bytes], str]] = {
    "50 MB of steps": (lambda: HEAD + "steps:\n" + "  - {id: a, sql: VACUUM}\n" * (BIG // 25), "JP002"),
    "50 MB on one line": (lambda: "name: " + "x" * BIG, "JP002"),
    "many values just within the size": (lambda: "x-a: [" + "1," * 9_900_000 + "1]", "JP013"),
    "one value just within the size": (lambda: sql("x" * 19_000_000), "JP300"),
    "10,000 brackets": (lambda: "x-a: " + "[" * 10_000 + "]" * 10_000, "JP012"),
    "4,000 levels": (lambda: "".join(" " * depth + "a:\n" for depth in range(4_000)), "JP012"),
    "a billion laughs": (laughs, "JP013"),
    "a NUL": (lambda: GOOD + "\0", "JP004"),
    "NULs only": (lambda: "\0" * 1_000_000, "JP004"),
    "UTF-16": (lambda: GOOD.encode("utf-16"), "JP003"),
    "Latin-1": (lambda: (GOOD + "# für\n").encode("latin-1"), "JP003"),
    "every byte": (lambda: bytes(range(256)) * 1_000, "JP003"),
    "a tab": (lambda: HEAD + "steps:\n\t- id: a\n", "JP005"),
    "nothing": (lambda: "", "JP006"),
    "100,000 brackets in SQL": (lambda: sql("SELECT " + "(" * 100_000 + "1" + ")" * 100_000), "JP302"),
    "100,000 operands in SQL": (lambda: sql("SELECT 1" + "+1" * 100_000), ""),
    "50,000 statements in a step": (lambda: sql("VACUUM;" * 50_000), ""),
    "20,000 parameters in a step": (
        lambda: sql("SELECT 0" + ",:n" * 20_000).replace("steps", "params: {n: {type: integer}}\nsteps"),
        "",
    ),
    "20,000 unknown parameters in a step": (lambda: sql("SELECT 0" + ",:n" * 20_000), "JP220"),
    "a parameter with a long name": (lambda: sql("SELECT :" + "n" * 1_000_000), "JP220"),
    "5,000 unknown steps": (lambda: steps(*(f"sql: VACUUM, needs: [b{n}]" for n in range(5_000))), "JP202"),
    "a cycle of 5,000 steps": (
        lambda: steps(*(f"sql: VACUUM, needs: [s{(n + 1) % 5_000}]" for n in range(5_000))),
        "JP203",
    ),
    "3,000 steps that lock one table": (lambda: beside(*["sql: ALTER TABLE t ADD c int"] * 3_000), "JP4"),
    "3,000 steps that lock 10 tables": (lambda: beside(*[f"sql: '{drops(10)}'"] * 3_000), "JP4"),
    "two steps that lock 20,000 tables": (lambda: beside(*[f"sql: '{drops(20_000)}'"] * 2), "JP4"),
    "100,000 comments in a step": (lambda: GOOD + "    # jobplan: ignore=JP399\n" * 100_000, "JP902"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_in_a_clear_error(plan: Callable[..., Path], name: str) -> None:
    make, code = HOSTILE[name]
    done = bounded("validate", plan(make()))
    assert done.returncode in {0, 3}, done.stderr[-2_000:]
    assert done.stderr == ""
    assert code in done.stdout
    assert "Traceback" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 2_000
