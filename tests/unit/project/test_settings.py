"""A settings file: what it says, and every mistake in it with its place."""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import SettingsError, UsageError
from runner.plan.schema_check import schema_text
from runner.project.settings import REPORT_KINDS, Settings, load_settings, project_settings, read_settings
from runner.reference.rule_pages import explain
from runner.reports.report_kinds import KINDS

WHOLE = """\
dsn = "host=localhost dbname=shop"
journal = "records/runs"
reports = ["html=build/run.html", "junit=-", "otlp"]
plans = "plans"

[params]
region = "eu"
days = 30
rate = 1.10
fast = true

[lint]
JP341 = "error"
lock-without-timeout = "off"

[env.prod]
service = "shop prod"
confirm = true
params = { days = 90 }

[env.dev]
reports = []
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., list[str]]:
    """Return the problems of a settings file: line:column, code and message."""

    def problems(text: str, name: str = "jobplan.toml") -> list[str]:
        (tmp_path / name).write_text(text, encoding="utf-8")
        settings, found = load_settings(tmp_path / name)
        assert (settings is None) == bool(found)
        return [f"{one.position.line}:{one.position.column} {one.code} {one.message} ({one.hint})" for one in found]

    return problems


def whole(folder: Path) -> Settings:
    (folder / "jobplan.toml").write_text(WHOLE, encoding="utf-8")
    return read_settings(folder / "jobplan.toml")


def test_an_environment_has_what_it_says_and_the_rest_from_the_top(tmp_path: Path) -> None:
    settings = whole(tmp_path)
    general, prod, dev = settings.section(None), settings.section("prod"), settings.section("dev")
    assert (general.conninfo, prod.conninfo, dev.conninfo) == (
        "host=localhost dbname=shop",
        "service='shop prod'",
        "host=localhost dbname=shop",
    )
    assert general.params == {"region": "eu", "days": "30", "rate": "1.10", "fast": "true"}
    assert prod.params == {**general.params, "days": "90"}
    assert general.reports == (f"html={tmp_path}/build/run.html", "junit=-", "otlp") == prod.reports
    assert dev.reports == ()
    assert prod.journal == tmp_path / "records" / "runs"
    assert settings.plans == tmp_path / "plans"
    assert (general.confirm, prod.confirm, dev.confirm) == (False, True, False)
    assert settings.lint == {"JP341": "error", "JP333": "off"}


def test_the_schema_file_agrees(tmp_path: Path) -> None:
    schema = json.loads(schema_text("config-v1"))
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(tomllib.loads(WHOLE), schema)
    for wrong in ("plans = 3", "[env.prod]\nconfirm = 'yes'", "[lint]\nJP341 = 'loud'", "x = 1", "[env.'a b']"):
        assert not jsonschema.Draft7Validator(schema).is_valid(tomllib.loads(wrong)), wrong
        (tmp_path / "jobplan.toml").write_text(wrong, encoding="utf-8")
        assert load_settings(tmp_path / "jobplan.toml")[0] is None, wrong


def test_a_table_of_pyproject_is_the_same(tmp_path: Path) -> None:
    table = WHOLE.replace("[", "[tool.jobplan.").replace('= [tool.jobplan."', '= ["').replace("[tool.jobplan.]", "[]")
    text = '[project]\nname = "shop"\n[tool.jobplan]\n' + table
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    found = read_settings(tmp_path / "pyproject.toml")
    assert found.environments == whole(tmp_path).environments
    assert found.general == whole(tmp_path).general


def test_other_tables_of_pyproject_do_not_matter(load: Callable[..., list[str]]) -> None:
    assert load('[tool.other]\ndsn = 1\n[tool.jobplan]\nplans = "p"\n', "pyproject.toml") == []
    assert load("[tool.other]\n", "pyproject.toml") == []
    assert load("[tool]\njobplan = 3\n", "pyproject.toml") == ["2:11 JP008 `tool.jobplan` must be a table (None)"]
    assert load("[tool.jobplan]\nplan = 'p'\n", "pyproject.toml") == [
        "2:1 JP101 the file has no key `plan` (did you mean `plans`?)"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("jurnal = 'x'", "1:1 JP101 the file has no key `jurnal` (did you mean `journal`?)"),
        ("[env.prod]\nconfirmed = true", "2:1 JP101 `prod` has no key `confirmed` (did you mean `confirm`?)"),
        ("plans = ['a']", "1:9 JP103 `plans` must be a path, not a list (None)"),
        ("journal = ''", "1:11 JP107 `journal` must not be empty (None)"),
        ("env = 'prod'", "1:7 JP103 `env` must be a mapping, not the text `prod` (None)"),
        ("[env]\nprod = 'x'", "2:8 JP103 `prod` must be a mapping, not the text `x` (None)"),
        ("reports = 'html=x'", "1:11 JP103 `reports` must be a list, not the text `html=x` (write it as a list"),
        ("reports = ['html']", "1:12 JP277 the report `html` is not KIND=PATH (such as html=build/run.html)"),
        ("reports = ['htm=x']", "1:12 JP277 there is no kind of report `htm` (did you mean `html`?)"),
        ("reports = ['pdf=x']", "1:12 JP277 there is no kind of report `pdf` (the kinds are jsonl, junit, "),
        ("[lint]\nJP34 = 'off'", "2:1 JP106 `JP34`: `JP34` is not a code such as JP341, or its name"),
        ("[lint]\nindex-block-writes = 'off'", "2:1 JP277 `index-block-writes` is no rule (did you mean index-"),
        ("[lint]\nJP101 = 'off'", "2:1 JP277 `JP101` is no rule whose severity can be set"),
        ("[lint]\nJP341 = 'of'", "2:9 JP104 `JP341` must be `error`, `warning` or `off`, not the text `of`"),
        ("dsn = 'a b'", "1:7 JP277 `dsn` is not a connection string of libpq"),
        ("dsn = 'host=a'\nservice = 'b'", "2:11 JP277 `dsn` and `service` exclude each other"),
        ("[params]\na = [1]", "2:5 JP103 `a` must be a text, a number or a boolean, not a list (None)"),
        ("journal = 'a\\u0000'".replace("'", '"'), "1:11 JP106 `journal` has a NUL character (None)"),
    ],
)  # fmt: skip
def test_a_mistake_has_its_place_and_a_hint(load: Callable[..., list[str]], text: str, expected: str) -> None:
    found = load(text)
    assert len(found) == bool(expected), found
    if expected:
        assert found[0].startswith(expected)


@pytest.mark.parametrize(
    "dsn",
    [
        "host=a password=hunter2",
        "host=a password = 'hunter2'",
        "PASSWORD=hunter2",
        "application_name='it''s' password=hunter2".replace("''", "\\'"),
        "host=a sslpassword=hunter2",
        "postgresql://u:hunter2@h/d",
        "postgres://:hunter2@h",
        "postgresql://h/d?password=hunter2",
        "postgresql://h/d?x=1&p%61ssword=hunter2",
        "postgresql://u@h/d?sslpassword=hunter2",
        "postgresql://u:hunter2/x@h/d",
        "jdbc:postgresql://u:hunter2@h/d",
        "Postgresql://u:hunter2@h/d",
        "host=a password='hunter2",
        "host a password=hunter2",
    ],
)
@pytest.mark.parametrize("section", ["", "[env.prod]\n"])
def test_a_password_in_a_connection_string_is_refused(load: Callable[..., list[str]], dsn: str, section: str) -> None:
    (problem,) = load(f"{section}dsn = {json.dumps(dsn)}")
    assert " JP276 `dsn` contains a secret (" in problem
    assert "~/.pgpass" in problem
    assert "service" in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    "dsn",
    [
        "host=a dbname='password=x'",
        "postgresql://u@h:5432,h2:5433/d?passfile=x",
        "postgresql://h/d?application_name=password",
        "service=a",
        "host=a passfile=/x",
        "host = a",
        "postgresql://",
        "postgresql://h:5432/d@b",
    ],
)
def test_other_connection_strings_are_accepted(load: Callable[..., list[str]], dsn: str) -> None:
    assert load(f"dsn = {json.dumps(dsn)}") == []


@pytest.mark.parametrize(
    "key",
    ["password", "sslpassword", "Password", "PGPASSWORD", "db_passwd", "api-token", "oauth_client_secret", "notify"],
)
def test_a_password_as_a_key_is_refused(load: Callable[..., list[str]], key: str) -> None:
    found = load(f"[env.prod]\n{key} = 'hunter2'")
    assert any(f"JP276 `{key}` is a secret" in one for one in found)
    assert "hunter2" not in "".join(found)


def test_a_name_that_a_user_chooses_is_no_key(load: Callable[..., list[str]]) -> None:
    assert load("[params]\ntoken_days = 3\n[env.password-store]\nservice = 'x'\nparams = {secret = 'shown'}") == []


@pytest.mark.parametrize("code", ["JP275", "JP276", "JP277"])
def test_the_examples_of_a_code_are_true(load: Callable[..., list[str]], code: str) -> None:
    assert [one.split()[1] for one in load(explain(code).wrong)] == [code]
    assert load(explain(code).right) == []


VALUES = st.sampled_from(
    [
        "1",
        "1.5",
        "true",
        '""',
        '"x"',
        '"html=x"',
        '["html=x"]',
        "[]",
        "{}",
        "{a = 1}",
        '{dsn = "a"}',
        "1979-05-27",
        "[[]]",
        "nan",
    ]
)
KEYS = st.sampled_from(["dsn", "service", "journal", "reports", "params", "plans", "lint", "env", "x"])
SECTIONS = st.sampled_from(
    ["", "[env.a]", "[params]", "[lint]", "[env]", "[[env]]", "[env.a.params]", '[env."é"]', "[x]"]
)


@given(
    st.lists(st.tuples(SECTIONS, st.dictionaries(KEYS, VALUES, max_size=4)), max_size=4, unique_by=lambda one: one[0])
)
def test_no_content_raises_anything_and_agrees_with_the_schema(parts: list[tuple[str, dict[str, str]]]) -> None:
    lines = [line for head, keys in parts for line in (head, *(f"{key} = {value}" for key, value in keys.items()))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobplan.toml"
        path.write_text("\n".join(lines), encoding="utf-8")
        settings, problems = load_settings(path)
    assert (settings is None) == bool(problems)
    if settings is not None:
        schema = json.loads(schema_text("config-v1"))
        jsonschema.validate(json.loads(json.dumps(tomllib.loads("\n".join(lines)), default=str)), schema)


def test_the_kinds_of_report_are_those_of_a_run() -> None:
    assert REPORT_KINDS == KINDS


def test_an_environment_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no environment 'prdo'. Did you mean `prod`\?"):
        whole(tmp_path).section("prdo")
    with pytest.raises(UsageError, match="It has prod, dev"):
        whole(tmp_path).section("elsewhere")
    with pytest.raises(UsageError, match="there is no jobplan"):
        Settings().section("prod")
    (tmp_path / "jobplan.toml").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match=r"Write \[env.prod\] into it"):
        read_settings(tmp_path / "jobplan.toml").section("prod")


@pytest.mark.parametrize("kind", ["folder", "pipe", "latin", "huge", "utf16", "dangling"])
def test_what_is_no_text_file_is_a_problem(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jobplan.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "latin":
        path.write_bytes(b"plans = '\xe9'\n")
    elif kind == "huge":
        path.write_bytes(b"#" * 1_000_001)
    elif kind == "utf16":
        path.write_text("plans = 'x'", encoding="utf-16")
    else:
        path.symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as error:
        project_settings()
    assert len(error.value.problems) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not read the file")
def test_a_file_that_may_not_be_read_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobplan.toml").write_text("plans = 'x'", encoding="utf-8")
    (tmp_path / "jobplan.toml").chmod(0o600)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    os.seteuid(65534)
    try:
        with pytest.raises(SettingsError) as error:
            read_settings(Path("jobplan.toml"))
    finally:
        os.seteuid(0)
    (problem,) = error.value.problems
    assert str(problem) == "jobplan.toml:1:1: error JP001: the file cannot be read: Permission denied"


def test_the_nearest_file_of_the_repository_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "repo" / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "jobplan.toml").write_text("plans = 'above'", encoding="utf-8")
    monkeypatch.chdir(inner)
    assert project_settings().plans == Path("../../../above")
    (tmp_path / "repo" / ".git").mkdir()
    assert project_settings() == Settings()  # the search ends with the repository
    (tmp_path / "repo" / "pyproject.toml").write_text("[tool.jobplan]\nplans = 'p'", encoding="utf-8")
    assert project_settings().plans == Path("../../p")
    (tmp_path / "repo" / "jobplan.toml").write_text("plans = 'q'", encoding="utf-8")
    assert project_settings().plans == Path("../../q")
    (tmp_path / "repo" / "a" / "jobplan.toml").write_text("plans = 'r'", encoding="utf-8")
    assert project_settings().plans == Path("../r")
    monkeypatch.setenv("JOBPLAN_CONFIG", str(tmp_path / "jobplan.toml"))
    assert project_settings().plans == tmp_path / "above"
    monkeypatch.setenv("JOBPLAN_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(SettingsError, match="missing"):
        project_settings()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_that_another_user_has_put_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobplan.toml").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    os.chown(tmp_path / "jobplan.toml", 12345, -1)
    with pytest.raises(SettingsError, match="belong to another user"):
        project_settings()
    os.chown(tmp_path, 12345, -1)  # a project of that user, as in a container
    assert project_settings().file == Path("jobplan.toml")
