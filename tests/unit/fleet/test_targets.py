"""The targets file: what it may say, every mistake at its place, and which target is in which wave."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from runner.errors import TargetsError, UsageError
from runner.fleet.targets import (
    Limits,
    OnStop,
    Selector,
    Target,
    Wave,
    load_targets,
    parse_selectors,
    place,
    read_targets,
    select,
)
from runner.plan.schema_check import schema_text

WHOLE = """\
version: 1
name: tenants
x-notes: ignored
clusters:
  c1: {connection: {service: c1}, slots: 4, parallel: 2}
  c2: {connection: {host: db2, port: 5433, user: ops}, slots: 2}
targets:
  - {name: acme, cluster: c1, database: acme, labels: {tier: gold, canary: true}, params: {retention_days: 365}}
  - {cluster: c2, database: other}
discover:
  - {cluster: c1, sql: "SELECT datname AS database FROM pg_database", labels: {tier: bronze}}
rollout:
  parallel: 24
  waves:
    - {name: canary, where: [canary=true], max_failures: 0, pause: 10m}
    - {name: gold, where: [tier=gold, canary!=true]}
    - {name: rest}
  stop: {max_failures: 5, max_failure_rate: 5%}
  on_stop: cancel
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "targets.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def codes(folder: Path, text: str) -> list[tuple[str, int]]:
    targets, problems = load_targets(written(folder, text))
    assert (targets is None) == bool(problems)
    return [(problem.code, problem.position.line) for problem in problems]


def test_a_whole_file(tmp_path: Path) -> None:
    targets = read_targets(written(tmp_path, WHOLE))
    assert targets.name == "tenants"
    assert targets.clusters["c1"].slots == 4
    assert targets.clusters["c2"].connection == {"host": "db2", "port": "5433", "user": "ops"}
    acme, other = targets.targets
    assert acme.labels == {"tier": "gold", "canary": "true"}
    assert acme.params == {"retention_days": "365"}
    assert other.name == "other"
    assert targets.discover[0].database == "postgres"
    canary, gold, rest = targets.rollout.waves
    assert canary.pause == 600
    assert canary.limits == Limits(failures=0)
    assert [str(one) for one in gold.where or ()] == ["tier=gold", "canary!=true"]
    assert rest.where is None
    assert targets.rollout.stop == Limits(failures=5, rate=0.05)
    assert targets.rollout.on_stop is OnStop.CANCEL


def test_the_labels_of_a_cluster_are_those_of_its_targets(tmp_path: Path) -> None:
    text = HEAD.replace("slots: 1", "slots: 1, labels: {region: eu, tier: bronze}") + (
        "targets: [{cluster: c1, database: a, labels: {tier: gold}}]\n"
        "discover: [{cluster: c1, sql: SELECT 1, labels: {kind: found}}]\n"
    )
    targets = read_targets(written(tmp_path, text))
    assert targets.targets[0].labels == {"region": "eu", "tier": "gold"}
    assert targets.discover[0].labels == {"region": "eu", "tier": "bronze", "kind": "found"}


def test_the_published_schema_accepts_the_file() -> None:
    jsonschema.validate(yaml.safe_load(WHOLE), json.loads(schema_text("targets-v1")))


HEAD = "version: 1\nname: f\nclusters:\n  c1: {connection: {service: c1}, slots: 1}\n"


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("", "JP006", 1),
        ("[]\n", "JP008", 1),
        ("version: 1\nname: f\n", "JP102", 1),
        (HEAD, "JP102", 1),
        (HEAD + "targets: [{cluster: c9, database: a}]\n", "JP270", 5),
        (HEAD + "targets: [{database: a}]\n", "JP102", 5),
        (HEAD + "targets:\n- {cluster: c1, database: a}\n- {cluster: c1, database: a, name: b}\n", "JP271", 7),
        (HEAD + "targets:\n- {cluster: c1, database: a}\n- {cluster: c1, database: b, name: a}\n", "JP271", 7),
        (HEAD + "targets: [{cluster: c1, database: a, labels: {name: x}}]\n", "JP274", 5),
        (HEAD + "targets: [{cluster: c1, database: a, lables: {}}]\n", "JP101", 5),
        (HEAD.replace("service: c1", "password: x") + "targets: []\n", "JP272", 4),
        (HEAD.replace("{service: c1}", "postgresql://u:p@h/d") + "targets: []\n", "JP272", 4),
        (HEAD.replace("service: c1", "host: 'postgresql://u:p@h/d'") + "targets: []\n", "JP272", 4),
        (HEAD.replace("service: c1", "options: -csearch_path=x") + "targets: []\n", "JP101", 4),
        (HEAD.replace("slots: 1", "slots: 0") + "targets: []\n", "JP105", 4),
        (HEAD + "targets: []\nrollout: {waves: [{name: a}, {name: b}]}\n", "JP273", 6),
        (HEAD + "targets: []\nrollout: {waves: [{name: a}, {name: a, where: [x=y]}]}\n", "JP271", 6),
        (HEAD + "targets: []\nrollout: {waves: [{name: a, where: [gold]}]}\n", "JP274", 6),
        (HEAD + "targets: []\nrollout: {waves: [{name: a, where: ['tier=']}]}\n", "JP274", 6),
        (HEAD + "targets: []\nrollout: {waves: [{name: a, pause: soon}]}\n", "JP215", 6),
        (HEAD + "targets: []\nrollout: {stop: {max_failure_rate: 0.05}}\n", "JP103", 6),
        (HEAD + "targets: []\nrollout: {stop: {max_failure_rate: '120%'}}\n", "JP106", 6),
    ],
)
def test_each_mistake_has_a_code_and_a_place(tmp_path: Path, text: str, code: str, line: int) -> None:
    assert (code, line) in codes(tmp_path, text)


def test_every_problem_is_reported_at_once_and_a_password_is_not_repeated(tmp_path: Path) -> None:
    text = HEAD.replace("service: c1", "password: S3cr3t") + "targets: [{cluster: c2, database: a}]\n"
    with pytest.raises(TargetsError) as refused:
        read_targets(written(tmp_path, text))
    found = {problem.code for problem in refused.value.problems}
    assert {"JP272", "JP270"} <= found
    assert "S3cr3t" not in str([str(problem) for problem in refused.value.problems])


def target(name: str, **labels: str) -> Target:
    return Target(name=name, cluster="c1", database=name, labels=labels)


@pytest.mark.parametrize(
    "text",
    [
        "clusters: {c: {connection: {host: h}, slots: 1, password: hunter2}}\n",
        "clusters: {c: {connection: {host: h, PGPASSWORD: hunter2}, slots: 1}}\n",
        "clusters: {c: {connection: {host: h}, slots: 1}}\npasswords: {c: hunter2}\n",
        "clusters: {c: {connection: {host: h}, slots: 1}}\ntargets: [{cluster: c, database: d, db_secret: hunter2}]\n",
    ],
)
def test_a_secret_is_recognised_in_every_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / "targets.yaml"
    path.write_text(f"version: 1\nname: t\n{text}", encoding="utf-8")
    targets, problems = load_targets(path)
    assert targets is None
    assert "JP272" in [problem.code for problem in problems]
    assert "hunter2" not in "".join(map(str, problems))


def test_names_that_a_user_chooses_are_no_secrets(tmp_path: Path) -> None:
    path = tmp_path / "targets.yaml"
    text = "clusters: {password-store: {connection: {host: h}, slots: 1, labels: {token: new}}}\n"
    text += "targets: [{cluster: password-store, database: d, params: {secret_days: 3}}]\n"
    path.write_text(f"version: 1\nname: t\n{text}", encoding="utf-8")
    assert load_targets(path)[1] == ()


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (["tier=gold"], ["a", "b"]),
        (["tier=gold", "canary=true"], ["a"]),
        (["tier!=gold"], ["c", "d"]),
        (["name=[ab]"], ["a", "b"]),
        (["cluster=c1", "database=d"], ["d"]),
        (["tier=*"], ["a", "b", "c"]),
        (["nothing=x"], []),
    ],
)
def test_selectors(where: list[str], names: list[str]) -> None:
    targets = [
        target("a", tier="gold", canary="true"),
        target("b", tier="gold"),
        target("c", tier="silver"),
        target("d"),
    ]
    assert [one.name for one in select(targets, parse_selectors(where))] == names


@pytest.mark.parametrize("text", ["", "gold", "=gold", "tier=", "tier==", "ti er=x"])
def test_what_is_no_selector(text: str) -> None:
    if text == "tier==":
        assert Selector.parse(text).pattern == "="
        return
    with pytest.raises(UsageError):
        parse_selectors([text])


def test_each_target_has_one_wave() -> None:
    waves = (
        Wave(name="canary", where=parse_selectors(["canary=true"])),
        Wave(name="gold", where=parse_selectors(["tier=gold"])),
    )
    both, gold, none = target("both", canary="true", tier="gold"), target("gold", tier="gold"), target("none")
    placed = place([both, gold, none], waves)
    assert placed.problems == (
        "the target both is in the waves canary and gold",
        "the target none is in no wave",
    )
    rest = place([gold, none], (*waves, Wave(name="rest")))
    assert [[one.name for one in members] for _, members in rest.waves] == [[], ["gold"], ["none"]]
    assert not rest.problems


@pytest.mark.parametrize(
    ("limits", "failed", "members", "exceeded"),
    [
        (Limits(), 100, 100, False),
        (Limits(failures=0), 0, 10, False),
        (Limits(failures=0), 1, 10, True),
        (Limits(failures=5), 5, 200, False),
        (Limits(failures=5), 6, 200, True),
        (Limits(rate=0.05), 10, 200, False),
        (Limits(rate=0.05), 11, 200, True),
        (Limits(rate=0.0), 1, 200, True),
    ],
)
def test_limits(limits: Limits, failed: int, members: int, exceeded: bool) -> None:
    assert (limits.exceeded(failed, members) is not None) is exceeded
