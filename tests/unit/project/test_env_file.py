"""The file of --env-file is read as users of Docker and dotenv write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import UsageError
from runner.project.env_file import add_variables, variables

TEXT = """\
# a comment

PGHOST=db1
export PGUSER = ops
  PGPASSWORD=a#b'c"d$e\\n
EMPTY=
DOUBLE="a # b 'c' "  # behind
SINGLE='$HOME "x"'
BEHIND=value # a comment
EQUALS=a=b=c
ONLY_A_COMMENT= # nothing
"""


def test_each_line_is_a_variable() -> None:
    assert dict(variables(TEXT, Path("f"))) == {
        "PGHOST": "db1",
        "PGUSER": "ops",
        "PGPASSWORD": "a#b'c\"d$e\\n",
        "EMPTY": "",
        "DOUBLE": "a # b 'c' ",
        "SINGLE": '$HOME "x"',
        "BEHIND": "value",
        "EQUALS": "a=b=c",
        "ONLY_A_COMMENT": "",
    }
    assert dict(variables(TEXT.replace("\n", "\r\n"), Path("f"))) == dict(variables(TEXT, Path("f")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A=1\nPGPASSWORD hunter2", "f:2 is not NAME=VALUE"),
        ("hunter2", "f:1 is not NAME=VALUE"),
        ("1A=hunter2", "f:1 is not NAME=VALUE"),
        ("A B=hunter2", "f:1 is not NAME=VALUE"),
        ("=hunter2", "f:1 is not NAME=VALUE"),
        ("A='hunter2", "f:1: the value begins with a quote"),
        ("A='hunter2'x", "f:1: the value begins with a quote"),
        ("A=hunter2\0", "f:1 has a NUL character"),
        ("É=hunter2", "f:1 is not NAME=VALUE"),
    ],
)
def test_a_wrong_line_is_named_without_its_value(text: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        list(variables(text, Path("f")))
    assert words in str(error.value)
    assert "hunter2" not in str(error.value)


def test_what_the_environment_has_already_stays(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfA=file\nB=file\n")
    environment = {"A": "own"}
    add_variables(tmp_path / "f", environment)
    assert environment == {"A": "own", "B": "file"}


def test_a_wrong_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("A=1\nwrong\n", encoding="utf-8")
    environment: dict[str, str] = {}
    with pytest.raises(UsageError):
        add_variables(tmp_path / "f", environment)
    assert environment == {}


@pytest.mark.parametrize("kind", ["folder", "missing", "latin", "huge", "nul"])
def test_what_is_no_text_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "f"
    if kind == "folder":
        path.mkdir()
    elif kind == "latin":
        path.write_bytes(b"A=\xe9\n")
    elif kind == "huge":
        path.write_bytes(b"A=" + b"x" * 1_000_001)
    elif kind == "nul":
        path = Path("a\0b")
    with pytest.raises(UsageError, match="--env-file: "):
        add_variables(path, {})
