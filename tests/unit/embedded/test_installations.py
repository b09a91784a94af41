"""Which PostgreSQL is taken, with programs that only answer as PostgreSQL's would."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.embedded.installations import find_installed, inspect, parse_extension_major, parse_version
from runner.errors import EmbeddedServerError


def _fake(bin_dir: Path, *, version: str = "18.6", extension: str | None = "2.0") -> Path:
    bin_dir.mkdir(parents=True)
    share = bin_dir.parent / "share"
    (share / "extension").mkdir(parents=True)
    if extension is not None:
        control = share / "extension" / "pg_background.control"
        control.write_text(f"default_version = '{extension}'\n", encoding="utf-8")
    answers = {"postgres": f"postgres (PostgreSQL) {version}", "pg_config": str(share)}
    for name in ("postgres", "initdb", "pg_ctl", "psql", "pg_config"):
        program = bin_dir / name
        program.write_text(f"#!/bin/sh\necho '{answers.get(name, '')}'\n", encoding="utf-8")
        program.chmod(0o755)
    return bin_dir


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("postgres (PostgreSQL) 18.6 (Debian 18.6-3)\n", (18, "18.6")),
        ("postgres (PostgreSQL) 14.0", (14, "14.0")),
        ("postgres (PostgreSQL) 19beta1", (19, "19beta1")),
        ("PostgreSQL 9.6.24", (9, "9.6.24")),
    ],
)
def test_versions_are_read(answer: str, expected: tuple[int, str]) -> None:
    assert parse_version(answer) == expected


def test_another_answer_is_no_version() -> None:
    with pytest.raises(ValueError, match="not a version"):
        parse_version("sh: 1: not found")


@pytest.mark.parametrize(
    ("control", "major"),
    [
        ("comment = 'x'\ndefault_version = '2.0'\n", 2),
        ("default_version='10.1'", 10),
        ("# default_version = '2.0'\n", None),
        ("", None),
    ],
)
def test_the_extensions_version_is_read(control: str, major: int | None) -> None:
    assert parse_extension_major(control) == major


def test_a_good_one_is_described(tmp_path: Path) -> None:
    found = inspect(_fake(tmp_path / "pg" / "bin"))
    assert (found.major, found.version, found.bin_dir) == (18, "18.6", tmp_path / "pg" / "bin")


@pytest.mark.parametrize(
    ("version", "extension", "reason"),
    [
        ("13.9", "2.0", "14 or later is needed"),
        ("18.6", None, "has no extension pg_background"),
        ("18.6", "1.8", r"pg_background before 2\.0"),
        ("of something else", "2.0", "not a version"),
    ],
)
def test_an_unusable_one_says_why(version: str, extension: str | None, reason: str, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=reason):
        inspect(_fake(tmp_path / "pg" / "bin", version=version, extension=extension))


def test_a_folder_without_programs_names_them(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="no postgres, initdb, pg_ctl, psql"):
        inspect(tmp_path)


def test_the_newest_with_the_extension_is_found(tmp_path: Path) -> None:
    root = tmp_path / "usr" / "lib" / "postgresql"
    _fake(root / "9.6" / "bin", version="9.6.1")
    _fake(root / "16" / "bin", version="16.4")
    _fake(root / "17" / "bin", version="17.2")
    _fake(root / "18" / "bin", version="18.6", extension=None)
    found = find_installed({"PATH": str(tmp_path)}, tmp_path)
    assert found is not None
    assert found.version == "17.2"


def test_none_is_no_error(tmp_path: Path) -> None:
    assert find_installed({"PATH": str(tmp_path)}, tmp_path) is None


def test_the_named_one_goes_before_all_others(tmp_path: Path) -> None:
    _fake(tmp_path / "usr" / "lib" / "postgresql" / "18" / "bin")
    named = _fake(tmp_path / "mine" / "bin", version="15.2")
    found = find_installed({"PATH": "", "JOBPLAN_PG_BIN": str(named)}, tmp_path)
    assert found is not None
    assert found.bin_dir == named


def test_a_wrong_name_is_an_error_and_not_passed_over(tmp_path: Path) -> None:
    _fake(tmp_path / "usr" / "lib" / "postgresql" / "18" / "bin")
    with pytest.raises(EmbeddedServerError, match=r"JOBPLAN_PG_BIN cannot be used: .*wrong has no postgres"):
        find_installed({"PATH": "", "JOBPLAN_PG_BIN": str(tmp_path / "wrong")}, tmp_path)


def test_a_pg_config_that_fails_is_passed_over(tmp_path: Path) -> None:
    broken = tmp_path / "pg_config"
    broken.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    assert find_installed({"PATH": str(tmp_path)}, tmp_path) is None
