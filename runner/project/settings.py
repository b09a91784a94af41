"""The settings of a project: `jobplan.toml`, or `[tool.jobplan]` in `pyproject.toml`; read with every problem at once.

The file is checked in, so a secret in it is an error. Paths in it are relative to its folder.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from runner.codes import code_of, nearest_code
from runner.errors import Problem, SettingsError, UsageError
from runner.lint import RULES
from runner.phrases import counted
from runner.plan.problem_collector import Report, did_you_mean
from runner.plan.schema_check import check_shape
from runner.plan.yaml_nodes import Fields, Scalar
from runner.plan.yaml_nodes import Mapping as MappingNode
from runner.project.places import PYPROJECT, find_config
from runner.project.toml_nodes import read_toml
from runner.secret_words import is_connection_string, names_a_secret, secrets_in
from runner.structs import Struct, field

SCHEMA: Final = "config-v1"
_TABLE: Final = ("tool", "jobplan")
#: The value of `lint` that disables a rule.
OFF: Final = "off"
_INSTEAD: Final = (
    "write the password into a password file (~/.pgpass) or PGPASSWORD, or the connection into a service file"
    ' (~/.pg_service.conf) and `service = "NAME"` here'
)


#: The kinds of report of a run (`reports.report_kinds`).
REPORT_KINDS: Final = ("jsonl", "junit", "markdown", "html", "prometheus")
#: Keys that other tools use for a webhook, whose URL is a secret.
_OF_WEBHOOKS: Final = frozenset({"notify", "slack", "webhook"})


class Section(Struct, frozen=True, kw_only=True):
    """What the top of the file or an environment says; empty and None: nothing."""

    conninfo: str = ""
    journal: Path | None = None
    reports: tuple[str, ...] | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    confirm: bool = False

    def over(self, general: Section) -> Section:
        """Return this section, with what it does not say from a more general one."""
        return Section(
            conninfo=self.conninfo or general.conninfo,
            journal=self.journal if self.journal is not None else general.journal,
            reports=self.reports if self.reports is not None else general.reports,
            params={**general.params, **self.params},
            confirm=self.confirm,
        )


class Settings(Struct, frozen=True, kw_only=True):
    """A settings file; without one, nothing is set. `lint` is the severity of rules by their code."""

    file: Path | None = None
    general: Section = Section()
    plans: Path | None = None
    lint: Mapping[str, str] = field(default_factory=dict)
    environments: Mapping[str, Section] = field(default_factory=dict)

    def section(self, environment: str | None) -> Section:
        """Return the settings for an environment, or those of none. UsageError if there is no such environment."""
        if environment is None:
            return self.general
        found = self.environments.get(environment)
        if found is not None:
            return found.over(self.general)
        if self.file is None:
            raise UsageError(
                f"--env {environment}: there is no jobplan.toml here or above.",
                hint="Change to the project, or name its file with JOBPLAN_CONFIG.",
            )
        near = did_you_mean(environment, self.environments)
        known = ", ".join(self.environments)
        hint = f"D{near[1:]}" if near else f"It has {known}." if known else f"Write [env.{environment}] into it."
        raise UsageError(f"{self.file} has no environment {environment!r}.", hint=hint)


def project_settings() -> Settings:
    """Return the settings for the working directory. SettingsError if their file is not valid."""
    path = find_config()
    return Settings() if path is None else read_settings(path)


def read_settings(path: Path) -> Settings:
    """Read a settings file. SettingsError, with every problem, if it is not valid; nothing in it raises another."""
    _check_owner(path)
    settings, problems = load_settings(path)
    if settings is None:
        count = counted(len(problems), "problem")
        raise SettingsError(f"the settings in {path} are not valid: {count}", problems)
    return settings


def load_settings(path: Path) -> tuple[Settings | None, tuple[Problem, ...]]:
    """Read a settings file; None if it has a problem. The problems are in the order of the file."""
    report = Report()
    root = read_toml(path, str(path), report, table=_TABLE if path.name == PYPROJECT else ())
    if root is None:
        return (None, report.problems()) if report.has_errors else (Settings(file=path), ())
    settings = _build(root, path, report)
    return (None if report.has_errors else settings), report.problems()


def _check_owner(path: Path) -> None:
    """SettingsError if another user could have prepared the file, such as one in /tmp."""
    try:
        file, folder = path.stat(), path.parent.stat()
    except OSError:  # reading it reports that
        return
    if file.st_uid in (os.geteuid(), 0) or (file.st_uid == folder.st_uid and not folder.st_mode & stat.S_IWOTH):
        return
    raise SettingsError(
        f"the settings in {path} belong to another user.",
        hint="Settings name the server and the files that are written: use a folder of your own.",
    )


def _build(root: MappingNode, path: Path, report: Report) -> Settings:
    _refuse_secrets(root, report)
    environments = root.values.get("env")
    for node in environments.values.values() if isinstance(environments, MappingNode) else ():
        if isinstance(node, MappingNode):
            _refuse_secrets(node, report)
    fields = Fields(root.values, root, report, check_shape(root, report, name=SCHEMA))
    known = fields.mapping("env")
    return Settings(
        file=path,
        general=_section(fields, path.parent),
        plans=_path(fields, "plans", path.parent),
        lint=_lint(fields.mapping("lint")),
        environments={
            name: _section(known.within(node), path.parent)
            for name, node in known.pairs()
            if isinstance(node, MappingNode)
        }
        if known is not None
        else {},
    )


def _section(fields: Fields, folder: Path) -> Section:
    dsn, service = fields.scalar("dsn"), fields.scalar("service")
    if dsn is not None and service is not None:
        fields.add(service, "JP277", "`dsn` and `service` exclude each other", hint="a dsn may contain service=NAME")
    if dsn is not None:
        _check_dsn(dsn, fields)
    params = fields.mapping("params")
    conninfo = "" if service is None else f"service={_quoted(service.text)}"
    return Section(
        conninfo=conninfo if dsn is None else dsn.text,
        journal=_path(fields, "journal", folder),
        reports=_reports(fields, folder) if fields.has("reports") else None,
        params={name: node.text for name, node in (params.pairs() if params else ()) if isinstance(node, Scalar)},
        confirm=fields.boolean("confirm") or False,
    )


def _path(fields: Fields, key: str, folder: Path) -> Path | None:
    node = fields.scalar(key)
    if node is None:
        return None
    if "\0" in node.text:
        fields.add(node, "JP106", f"`{key}` has a NUL character")
        return None
    return folder / os.path.expanduser(node.text)  # noqa: PTH111 - Path.expanduser raises for an unknown user


def _reports(fields: Fields, folder: Path) -> tuple[str, ...]:
    """Return the reports as `--report` takes them, with paths relative to the working directory."""
    found = []
    for node in fields.items("reports"):
        text = node.text if isinstance(node, Scalar) else ""
        kind, equals, path = text.partition("=")
        if kind == "otlp":
            found.append(text)
        elif equals and kind not in REPORT_KINDS:
            hint = fields.report.guesses.did_you_mean(kind, REPORT_KINDS) or f"the kinds are {', '.join(REPORT_KINDS)}"
            fields.add(node, "JP277", f"there is no kind of report `{kind[:60]}`", hint=hint)
        elif not equals or not path or "\0" in path:
            fields.add(node, "JP277", f"the report `{text[:60]}` is not KIND=PATH", hint="such as html=build/run.html")
        else:
            found.append(text if path == "-" else f"{kind}={folder / os.path.expanduser(path)}")  # noqa: PTH111 - as above
    return tuple(found)


def _lint(fields: Fields | None) -> Mapping[str, str]:
    if fields is None:
        return {}
    rules = {rule.code for rule in RULES}
    found = {}
    for name, node in fields.pairs():
        code = code_of(name)
        if code in rules and isinstance(node, Scalar):
            found[code] = node.text
            continue
        if isinstance(key := fields.key(name), Scalar) and key in fields.unusable:
            continue  # it has not even the form of a code
        hint = (nearest_code(name, rules) if code is None else None) or "docs/rules.md lists them"
        what = "is no rule whose severity can be set" if code else "is no rule"
        fields.add(key, "JP277", f"`{name[:60]}` {what}", hint=hint)
    return found


def _refuse_secrets(section: MappingNode, report: Report) -> None:
    for key in section.values:
        if names_a_secret(key):
            report.add(
                section.keys[key], "JP276", f"`{key[:60]}` is a secret, and this file is checked in", hint=_INSTEAD
            )
        elif key in _OF_WEBHOOKS:
            hint = "set JOBPLAN_NOTIFY to the URL, in the environment or in a file for --env-file"
            report.add(
                section.keys[key],
                "JP276",
                f"`{key}` is a secret: anyone who has the URL can send messages",
                hint=hint,
            )
    dsn = section.values.get("dsn")
    if isinstance(dsn, Scalar) and (found := next(secrets_in(dsn.text), None)) is not None:
        report.add(dsn, "JP276", f"`dsn` contains a secret ({found}), and this file is checked in", hint=_INSTEAD)


def _check_dsn(dsn: Scalar, fields: Fields) -> None:
    if any(secrets_in(dsn.text)):  # `_refuse_secrets` has reported it
        return
    if "\0" in dsn.text or not is_connection_string(dsn.text):
        hint = "such as 'host=db1 dbname=shop' or postgresql://db1/shop"
        fields.add(dsn, "JP277", "`dsn` is not a connection string of libpq", hint=hint)


def _quoted(value: str) -> str:
    """Return a value as a connection string needs it."""
    return value if re.fullmatch(r"[\w.-]+", value) else "'" + re.sub(r"(['\\])", r"\\\1", value) + "'"
