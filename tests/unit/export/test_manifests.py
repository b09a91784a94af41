"""`jobplan export`: golden files, the validators of Kubernetes and Argo, and mutations that are refused."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from runner.cli import cli
from runner.errors import UsageError
from tests.unit.export.manifest_checks import problems

GOLDEN = Path(__file__).parents[2] / "golden" / "export"
#: The oldest version that is supported upstream with every field of the manifests, to the newest that is known.
VERSIONS = [f"1.{minor}.0" for minor in range(29, int(kubernetes_validate.latest_version().split(".")[1]) + 1)]

PLAN = """\
version: 1
name: nightly_maintenance
budget: {slots: 2}
run_timeout: 1h
defaults: {timeout: 10m, on_finish: wait}
params: {days: {type: integer, default: 90}, note: {type: string, default: nightly}}
steps:
  - {id: purge, sql_file: sql/purge.sql}
  - {id: vacuum, needs: [purge], sql: VACUUM audit}
finally:
  - {id: note, sql: "SELECT 'ended: ' || :'note'", timeout: 30s}
"""
TARGETS = """\
version: 1
name: tenants
clusters:
  c1: {connection: {service: c1}, slots: 4}
  c2: {connection: {host: db2, user: ops}, slots: 8}
targets:
  - {name: acme, cluster: c1, database: acme, labels: {canary: true}}
  - {name: other, cluster: c2, database: other}
rollout:
  waves:
    - {name: canary, where: [canary=true], max_failures: 0, pause: 10m}
    - {name: the_rest}
"""
DISCOVERING = TARGETS.replace("rollout:", 'discover: [{cluster: c1, sql: "SELECT 1"}]\nrollout:')

SAMPLES = {
    "kubernetes-plan": ["kubernetes", "plan.yaml", "--dsn", "service=app"],
    "kubernetes-no-ledger": ["kubernetes", "plan.yaml", "--no-ledger", "--once", "--param", "note=$(HOME)"],
    "kubernetes-fleet": ["kubernetes", "plan.yaml", "--targets", "targets.yaml", "--namespace", "ops"],
    "kubernetes-fleet-no-ledger": ["kubernetes", "plan.yaml", "--targets", "targets.yaml", "--no-ledger"],
    "kubernetes-discovery": ["kubernetes", "plan.yaml", "--targets", "discovering.yaml", "--max-failed-clusters", "1"],
    "kubernetes-in-image": ["kubernetes", "plan.yaml", "--plan-path", "/plans/plan.yaml", "--time-zone", "Etc/UTC"],
    "argo-plan": ["argo", "plan.yaml", "--dsn", "service=app"],
    "argo-no-ledger": ["argo", "plan.yaml", "--no-ledger", "--once"],
    "argo-fleet": ["argo", "plan.yaml", "--targets", "targets.yaml", "--service-account", "jobplan"],
    "argo-discovery": ["argo", "plan.yaml", "--targets", "discovering.yaml", "--deadline", "2h"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a plan and targets files."""
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "purge.sql").write_text("DELETE FROM audit\nWHERE at < now() - :days * interval '1 day';\n")
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "targets.yaml").write_text(TARGETS)
    (tmp_path / "discovering.yaml").write_text(DISCOVERING)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exported(*arguments: str) -> str:
    """Return what `jobplan export` prints."""
    ran = CliRunner().invoke(cli, ["export", *arguments], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.output


def refused(*arguments: str) -> str:
    """Return why `jobplan export` prints nothing."""
    with pytest.raises(UsageError) as error:
        CliRunner().invoke(cli, ["export", *arguments], catch_exceptions=False)
    return error.value.message


def documents(text: str) -> list[Any]:
    """Return the objects of a manifest."""
    return list(yaml.safe_load_all(text))


def accepted(objects: list[Any], version: str) -> bool:
    """Return whether the schemas of a version of Kubernetes accept all objects that they know."""
    try:
        for one in objects:
            if not one["apiVersion"].startswith("argoproj.io/"):
                kubernetes_validate.validate(one, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError):
        return False
    return True


@pytest.mark.parametrize("name", SAMPLES)
def test_the_manifest_is_that_of_the_golden_file(folder: Path, name: str) -> None:  # noqa: ARG001
    text = exported(*SAMPLES[name])
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
    assert problems(documents(text)) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_supported_version_of_kubernetes_accepts_the_manifests(version: str) -> None:
    for file in sorted(GOLDEN.glob("*.yaml")):
        assert accepted(documents(file.read_text(encoding="utf-8")), version), file.name


def _job(objects: list[Any]) -> Any:
    return objects[-1]["spec"]["jobTemplate"]["spec"]


def _pod(objects: list[Any]) -> Any:
    return _job(objects)["template"]["spec"]


def _main(objects: list[Any]) -> Any:
    return _pod(objects)["containers"][0]


def _rule(objects: list[Any], number: int) -> Any:
    return _job(objects)["podFailurePolicy"]["rules"][number]


Mutation = Callable[[list[Any]], object]

#: Each makes a good manifest wrong.
MUTATIONS: dict[str, Mutation] = {
    "unknown field": lambda it: _job(it).update(backofflimit=3),
    "wrong type": lambda it: _job(it).update(parallelism="two"),
    "unknown field of a container": lambda it: _main(it).update(cmd=[]),
    "no template": lambda it: _job(it).pop("template"),
    "no schedule": lambda it: it[-1]["spec"].pop("schedule"),
    "rule without an operator": lambda it: _rule(it, 0)["onExitCodes"].pop("operator"),
    "exit codes as texts": lambda it: _rule(it, 0)["onExitCodes"].update(values=["2"]),
    "wrong object": lambda it: it[-1].update(kind="CronTask"),
    "two at once": lambda it: it[-1]["spec"].update(concurrencyPolicy="Allow"),
    "restarted in place": lambda it: _pod(it).update(restartPolicy="OnFailure"),
    "an open question is retried": lambda it: _rule(it, 0)["onExitCodes"]["values"].remove(7),
    "a signal ends the job": lambda it: _rule(it, 1)["onExitCodes"]["values"].append(143),
    "evictions count": lambda it: _job(it)["podFailurePolicy"]["rules"].reverse(),
    "other container": lambda it: _rule(it, 0)["onExitCodes"].update(containerName="pgpass"),
    "default retries": lambda it: _job(it).pop("backoffLimit"),
    "no grace": lambda it: _pod(it).update(terminationGracePeriodSeconds=30),
    "short deadline": lambda it: _pod(it).update(activeDeadlineSeconds=60),
    "deadline of the job ends a try": lambda it: _job(it).update(activeDeadlineSeconds=3600),
    "only one deadline": lambda it: _pod(it).pop("activeDeadlineSeconds"),
    "root": lambda it: _pod(it)["securityContext"].update(runAsNonRoot=False),
    "no seccomp": lambda it: _pod(it)["securityContext"].pop("seccompProfile"),
    "privileges": lambda it: _main(it)["securityContext"].update(allowPrivilegeEscalation=True),
    "capabilities": lambda it: _main(it)["securityContext"].pop("capabilities"),
    "writable image": lambda it: _main(it)["securityContext"].pop("readOnlyRootFilesystem"),
    "no limits": lambda it: _main(it).pop("resources"),
    "token": lambda it: _pod(it).pop("automountServiceAccountToken"),
    "password file of the secret": lambda it: _pod(it).update(initContainers=[]),
    "password in the environment": lambda it: _main(it)["env"].append({"name": "X", "value": "password=x"}),
    "no such volume": lambda it: _main(it)["volumeMounts"].append({"name": "logs", "mountPath": "/logs"}),
    "other configuration": lambda it: it[0]["metadata"].update(name="other"),
    "file missing": lambda it: it[0]["data"].pop("plan.yaml"),
    "plan that can change": lambda it: it[0].pop("immutable"),
    "other plan": lambda it: _main(it)["command"].__setitem__(2, "/etc/jobplan/other.yaml"),
    "retries without a ledger": lambda it: _main(it)["command"].remove("--require-ledger"),
    "retries that begin anew": lambda it: _main(it)["command"].remove("--or-resume"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_manifest_is_refused(name: str) -> None:
    objects = documents((GOLDEN / "kubernetes-plan.yaml").read_text(encoding="utf-8"))
    changed = copy.deepcopy(objects)
    MUTATIONS[name](changed)
    assert changed != objects
    assert not accepted(changed, VERSIONS[-1]) or problems(changed)


@pytest.mark.parametrize(
    "mutation",
    [
        lambda it: _job(it).update(completions=3, parallelism=3),
        lambda it: _job(it).update(completions=1, parallelism=1),
        lambda it: _job(it).update(parallelism=1),
        lambda it: _job(it).update(backoffLimit=3),
        lambda it: _job(it).update(maxFailedIndexes=5),
        lambda it: _rule(it, 0).update(action="FailJob"),
    ],
)
def test_a_wrong_fleet_is_refused(mutation: Mutation) -> None:
    objects = documents((GOLDEN / "kubernetes-fleet.yaml").read_text(encoding="utf-8"))
    mutation(objects)
    assert problems(objects)


@pytest.mark.parametrize(
    "mutation",
    [
        lambda spec: spec.update(entrypoint="other"),
        lambda spec: spec.pop("executor"),
        lambda spec: spec["templates"][-1].pop("retryStrategy"),
        lambda spec: spec["templates"][-1]["retryStrategy"].update(expression="true"),
        lambda spec: spec["templates"][0]["steps"][0][0].update(template="other"),
        lambda spec: spec["templates"][0]["steps"][0][0]["arguments"]["parameters"].pop(),
        lambda spec: spec.update(podSpecPatch="{}"),
        lambda spec: spec["securityContext"].update(runAsNonRoot=False),
    ],
)
def test_a_wrong_workflow_is_refused(mutation: Callable[[Any], object]) -> None:
    objects = documents((GOLDEN / "argo-fleet.yaml").read_text(encoding="utf-8"))
    assert problems(objects) == []
    mutation(objects[-1]["spec"]["workflowSpec"])
    assert problems(objects)


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("argo-*.yaml")), ids=lambda file: file.name)
def test_the_models_of_argo_accept_the_workflow(file: Path) -> None:
    models = pytest.importorskip("hera.workflows.models", reason="hera is not installed")
    *_, workflow = documents(file.read_text(encoding="utf-8"))
    kind = getattr(models, workflow["kind"])
    accepted = kind.model_validate(workflow).model_dump(exclude_none=True, by_alias=True, mode="json")
    assert set(accepted["spec"]) == set(workflow["spec"])
    with pytest.raises(ValueError, match="spec"):
        kind.model_validate({**workflow, "spec": 3})


def test_each_wave_has_the_clusters_of_its_targets() -> None:
    (*_, workflow) = documents((GOLDEN / "argo-fleet.yaml").read_text(encoding="utf-8"))
    steps = [group[0] for group in workflow["spec"]["workflowSpec"]["templates"][0]["steps"]]
    assert [(step["name"], step.get("withItems")) for step in steps] == [
        ("wave-1-canary", ["c1"]),
        ("wave-1-canary-pause", None),
        ("wave-2-the-rest", ["c2"]),
    ]


def test_the_deadlines_are_longer_than_the_plan(folder: Path) -> None:
    (*_, cron) = documents(exported("kubernetes", "plan.yaml", "--dsn", "service=app"))
    job = cron["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 120 + 30  # the step in `finally`
    assert pod["activeDeadlineSeconds"] > 3600 + 150
    assert job["activeDeadlineSeconds"] >= 4 * pod["activeDeadlineSeconds"]
    (folder / "plan.yaml").write_text(PLAN.replace("run_timeout: 1h\n", ""))
    text = exported("kubernetes", "plan.yaml", "--dsn", "service=app")
    assert "activeDeadlineSeconds" not in json.dumps(documents(text))
    assert "No activeDeadlineSeconds" in text
    assert "activeDeadlineSeconds:" in exported("kubernetes", "plan.yaml", "--deadline", "2h")


def test_a_plan_with_a_window_is_resumed_in_the_next_one(folder: Path) -> None:
    (folder / "plan.yaml").write_text(
        PLAN.replace("run_timeout", "window: {from: '22:00', to: '06:00', timezone: UTC}\nrun_timeout")
    )
    (*_, cron) = documents(exported("kubernetes", "plan.yaml"))
    command = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert "--or-resume" in command
    assert "--run-id" not in command


def test_names_are_made_short_enough_for_the_ids_of_runs(folder: Path) -> None:
    (folder / "plan.yaml").write_text(PLAN.replace("nightly_maintenance", "every-night_all_the_big_and_old_tables"))
    for kind, more, longest in (("kubernetes", [], 27), ("argo", [], 25), ("argo", ["--targets", "targets.yaml"], 20)):
        name = documents(exported(kind, "plan.yaml", *more))[-1]["metadata"]["name"]
        assert name.startswith("every-night-all-the")
        assert len(name) <= longest


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["kubernetes", "plan.yaml", "--name", "Nightly"], "lower-case"),
        (["kubernetes", "plan.yaml", "--name", "a" * 28], "at most 27 characters"),
        (["kubernetes", "plan.yaml", "--schedule", "nightly"], "five fields"),
        (["kubernetes", "plan.yaml", "--dsn", "host=x password=y"], "must not contain a password"),
        (["kubernetes", "plan.yaml", "--dsn", "postgresql://u:p@h/d"], "must not contain a password"),
        (["kubernetes", "plan.yaml", "--dsn", "host=x", "--targets", "targets.yaml"], "exclude each other"),
        (["kubernetes", "plan.yaml", "--deadline", "soon"], "--deadline"),
        (["kubernetes", "plan.yaml", "--targets-path", "/x"], "--targets"),
        (["kubernetes", "plan.yaml", "--max-failed-clusters", "1"], "--targets"),
        (["kubernetes", "plan.yaml", "--param", "days"], "NAME=VALUE"),
        (["argo", "plan.yaml", "--param", "note={{workflow.name}}"], "Argo replaces"),
        (["argo", "plan.yaml", "--dsn", "dbname={{workflow.name}}"], "Argo replaces"),
        (["argo", "plan.yaml", "--plan-path", "/plans/{{workflow.name}}.yaml"], "Argo replaces"),
        (["argo", "plan.yaml", "--executor-service-account", "Argo"], "--executor-service-account 'Argo'"),
        (["kubernetes", "plan.yaml", "--namespace", "Bad_NS"], "--namespace 'Bad_NS'"),
        (["kubernetes", "plan.yaml", "--namespace", "a.b"], "--namespace 'a.b'"),
        (["kubernetes", "plan.yaml", "--secret", "A/b"], "--secret 'A/b'"),
        (["kubernetes", "plan.yaml", "--service-account", "x y"], "--service-account 'x y'"),
        (["kubernetes", "plan.yaml", "--time-zone", "Local"], "--time-zone 'Local'"),
        (["kubernetes", "plan.yaml", "--time-zone", "Mars/Olympus"], "time zone such as"),
        (["kubernetes", "plan.yaml", "--image", "a b"], "--image 'a b'"),
        (["kubernetes", "plan.yaml", "--image", ""], "--image ''"),
        (["kubernetes", "plan.yaml", "--plan-path", "plan.yaml"], "not an absolute path"),
        (["kubernetes", "plan.yaml", "--dsn", "host=x scram_client_key=y"], "must not contain a password"),
        (["kubernetes", "plan.yaml", "--dsn", "nonsense"], "not a connection string"),
        (["kubernetes", "plan.yaml", "--schedule", "60 0 * * *"], "has '60' as a minute, which must be from 0 to 59"),
        (["kubernetes", "plan.yaml", "--schedule", "0 0 * * 7"], "day of the week"),
        (["kubernetes", "plan.yaml", "--schedule", "0 0 * mon *"], "month"),
        (["kubernetes", "plan.yaml", "--schedule", "0 0 5-1 * *"], "'5-1'"),
        (["kubernetes", "plan.yaml", "--schedule", "*/0 * * * *"], "'*/0'"),
        (["kubernetes", "plan.yaml", "--schedule", "0  0 * * *"], "five fields"),
    ],
)
def test_wrong_options_are_refused(folder: Path, arguments: list[str], says: str) -> None:  # noqa: ARG001
    assert says in refused(*arguments)


@pytest.mark.parametrize(
    "schedule", ["*/15 0-6,22 1,15 jan-MAR,12 Mon-fri/2", "? ? ? ? ?", "5/10 * * * *", "@daily", "0 0 29 2 0"]
)
def test_schedules_that_engines_accept(folder: Path, schedule: str) -> None:  # noqa: ARG001
    assert documents(exported("kubernetes", "plan.yaml", "--schedule", schedule))[-1]["spec"]["schedule"] == schedule


@pytest.mark.parametrize("text", ["$(HOME)", "$$(HOME)", "$$ $x $(A", "a$b", "$", "$$$"])
def test_kubernetes_gives_the_command_what_was_typed(folder: Path, text: str) -> None:
    """Kubernetes replaces `$(NAME)` in commands and values, and makes `$$` one dollar."""
    (folder / f"{text}.yaml").write_text(PLAN)
    arguments = ("kubernetes", f"{text}.yaml", "--param", f"note={text}", "--dsn", f"dbname='{text}'", "--once")
    container = documents(exported(*arguments))[-1]["spec"]["template"]["spec"]["containers"][0]
    words = [expanded(word) for word in container["command"]]
    assert f"note={text}" in words
    assert f"/etc/jobplan/{text}.yaml" in words
    (dsn,) = [one["value"] for one in container["env"] if one["name"] == "JOBPLAN_DSN"]
    assert expanded(dsn) == f"dbname='{text}'"


def expanded(text: str) -> str:
    """Expand a text as Kubernetes does, without variables (k8s.io/kubernetes/third_party/forked/golang/expansion)."""
    return re.sub(r"\$(\$|\([^)]*\))", lambda found: "$" if found[1] == "$" else f"<{found[1]}>", text)


def test_a_plan_that_is_too_large_for_a_config_map_is_refused(folder: Path) -> None:
    (folder / "sql" / "purge.sql").write_text("SELECT 1;" + " " * 1_100_000)
    assert "ConfigMap" in refused("kubernetes", "plan.yaml")
    assert json.dumps(documents(exported("kubernetes", "plan.yaml", "--plan-path", "/plans/plan.yaml")))
