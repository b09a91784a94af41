"""The command of an exported manifest, run as a pod runs it: ended by SIGTERM, started again, as process 1."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from tests.acceptance.console import PATIENCE, Database, Jobplan, clean_environment, until

PLAN = """
version: 1
name: nightly
budget: {slots: 1}
run_timeout: 10m
defaults: {timeout: 5m, on_finish: wait, on_runner_exit: cancel}
steps:
  - {id: first, sql_file: sql/first.sql}
  - {id: slow, sql: "LOCK TABLE gate; INSERT INTO done VALUES ('slow')", needs: [first]}
"""


_STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """End what a failed test has started."""
    yield
    for process in _STARTED:
        process.kill()
        process.communicate()
    _STARTED.clear()


class Pod:
    """The container of a manifest, with its files and its environment, as one process after the other."""

    def __init__(self, folder: Path, manifest: str, *, run: str, index: int | None = None) -> None:
        *configs, last = list(yaml.safe_load_all(manifest))
        self.job = last["spec"]["jobTemplate"]["spec"]
        self._container: Mapping[str, Any] = self.job["template"]["spec"]["containers"][0]
        self._places = {"/etc/jobplan": folder / "config", "/var/lib/jobplan": folder / "state"}
        self._mount(configs[0]["data"], folder / "config")
        self._run, self._index = run, index

    def _mount(self, data: Mapping[str, str], folder: Path) -> None:
        """Write the files as kubelet does: each name is a symbolic link into a folder with the version."""
        volumes = self.job["template"]["spec"]["volumes"]
        (items,) = [one["configMap"]["items"] for one in volumes if "configMap" in one]
        version = folder / "..2026_11_30"
        for item in items:
            file = version / item["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(data[item["key"]], encoding="utf-8")
        (folder / "..data").symlink_to(version.name)
        for name in {Path(item["path"]).parts[0] for item in items}:
            (folder / name).symlink_to(f"..data/{name}")

    def start(self, *, fresh: bool, before: Sequence[str] = (), **extra: str) -> subprocess.Popen[str]:
        """Start the command; `fresh`: in another pod, without the journal of the one before."""
        if fresh:
            shutil.rmtree(self._places["/var/lib/jobplan"], ignore_errors=True)
        self._places["/var/lib/jobplan"].mkdir(exist_ok=True)
        env = {**clean_environment(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **extra}
        env |= {one["name"]: self._here(one["value"]) for one in self._container["env"] if "value" in one}
        env |= {"JOBPLAN_RUN_ID": self._run}
        if self._index is not None:
            env |= {"JOB_COMPLETION_INDEX": str(self._index)}
        words = [
            re.sub(r"\$\((\w+)\)", lambda found: env[found[1]], self._here(word)) for word in self._container["command"]
        ]
        process = subprocess.Popen(
            [*before, *words],
            cwd=self._here(self._container["workingDir"]),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        _STARTED.append(process)
        return process

    def _here(self, text: str) -> str:
        for path, folder in self._places.items():
            text = text.replace(path, str(folder))
        return text

    def action(self, code: int) -> str:
        """Return what the policy does after an exit code."""
        rules = (rule for rule in self.job["podFailurePolicy"]["rules"] if "onExitCodes" in rule)
        return next((str(rule["action"]) for rule in rules if code in rule["onExitCodes"]["values"]), "default")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end; the exit code and the output."""
    out, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, out


@pytest.fixture
def done(db: Database, jobplan: Jobplan) -> Database:
    """A database with a ledger, a table that steps write to, and one that they wait for."""
    db.run("CREATE TABLE done (step text); CREATE TABLE gate ()")
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    return db


def exported(jobplan: Jobplan, plan: str, *arguments: str, first: str = "INSERT INTO done VALUES ('first')") -> str:
    """Write a plan, and return its manifest."""
    (jobplan.folder / "sql").mkdir(exist_ok=True)
    (jobplan.folder / "sql" / "first.sql").write_text(first)
    (jobplan.folder / "plan.yaml").write_text(plan)
    ran = jobplan("export", "kubernetes", "plan.yaml", *arguments)
    assert ran.code == 0, ran.err
    return ran.out


def close_gate(done: Database) -> psycopg.Connection[Any]:
    """Lock the table that the slow step waits for."""
    session = done.elsewhere()
    session.execute("LOCK TABLE gate")
    return session


def rows(done: Database) -> list[str]:
    """Return what the steps have written."""
    return done.column("SELECT step FROM done ORDER BY 1")


def test_a_pod_that_is_ended_counts_and_another_one_resumes_its_run(done: Database, jobplan: Jobplan) -> None:
    pod = Pod(jobplan.folder, exported(jobplan, PLAN, "--dsn", done.dsn), run="nightly-29407397")
    with close_gate(done):
        process = pod.start(fresh=True)
        done.until_workers("slow")
        process.send_signal(signal.SIGTERM)
        code, out = ended(process)
    assert code == 143, out
    assert pod.action(code) == "Count"
    code, out = ended(pod.start(fresh=True))
    assert code == 0, out
    assert rows(done) == ["first", "slow"]
    code, out = ended(pod.start(fresh=True))  # the job controller can start the same pod twice
    assert code == 0, out
    assert rows(done) == ["first", "slow"]


def test_a_killed_pod_is_resumed_by_another_one(done: Database, jobplan: Jobplan) -> None:
    pod = Pod(jobplan.folder, exported(jobplan, PLAN, "--dsn", done.dsn), run="nightly-29407398")
    with close_gate(done):
        process = pod.start(fresh=True)
        done.until_workers("slow")
        process.kill()
        assert ended(process)[0] == -signal.SIGKILL
    code, out = ended(pod.start(fresh=True))
    assert code == 0, out
    assert rows(done) == ["first", "slow"]


@pytest.mark.parametrize(
    ("plan", "arguments", "first", "expected", "action"),
    [
        (PLAN, [], "SELECT 1/0", 1, "Count"),
        (PLAN, ["--param", "days=90"], "SELECT 1", 2, "FailJob"),
        (PLAN.replace("budget", "requires: {server_version: '>= 99'}\nbudget"), [], "SELECT 1", 9, "FailJob"),
    ],
)
def test_the_policy_knows_the_exit_codes(
    done: Database, jobplan: Jobplan, plan: str, arguments: list[str], first: str, expected: int, action: str
) -> None:
    manifest = exported(jobplan, plan, "--dsn", done.dsn, first=first)
    pod = Pod(jobplan.folder, manifest, run="nightly-29407399")
    pod.job["template"]["spec"]["containers"][0]["command"] += arguments
    code, out = ended(pod.start(fresh=True))
    assert code == expected, out
    assert pod.action(code) == action


def test_a_database_without_a_ledger_is_not_touched(db: Database, jobplan: Jobplan) -> None:
    db.run("CREATE TABLE done (step text)")
    pod = Pod(jobplan.folder, exported(jobplan, PLAN, "--dsn", db.dsn), run="nightly-29407400")
    code, out = ended(pod.start(fresh=True))
    assert code == 4, out
    assert pod.action(code) == "Count"
    assert rows(db) == []


#: Root needs no user namespace, in which it could not open the socket of another user.
_USER = () if os.geteuid() == 0 else ("--user", "--map-root-user")
_AS_PROCESS_1 = ("unshare", *_USER, "--pid", "--fork", "--mount-proc", "--kill-child")


def _namespaces() -> bool:
    command = [*_AS_PROCESS_1, "true"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not _namespaces(), reason="this system gives no user and process namespaces")
def test_signals_reach_jobplan_as_process_1(done: Database, jobplan: Jobplan) -> None:
    pod = Pod(jobplan.folder, exported(jobplan, PLAN, "--dsn", done.dsn), run="nightly-29407401")
    with close_gate(done):
        process = pod.start(fresh=True, before=_AS_PROCESS_1)
        done.until_workers("slow")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
        assert len(children) == 1
        status = Path(f"/proc/{children[0]}/status").read_text(encoding="utf-8")
        assert re.search(r"^NSpid:\s+\d+\s+1$", status, re.MULTILINE)
        os.kill(int(children[0]), signal.SIGTERM)
        code, out = ended(process)
    assert code == 143, out
    assert rows(done) == ["first"]


def test_each_index_runs_the_targets_of_its_cluster_and_resumes_them(done: Database, jobplan: Jobplan) -> None:
    parts = conninfo_to_dict(done.dsn)
    where = f"{{host: {parts['host']}, port: {parts['port']}, user: {parts['user']}}}"
    (jobplan.folder / "targets.yaml").write_text(f"""
version: 1
name: tenants
clusters:
  other: {{connection: {{host: /nowhere}}, slots: 1}}
  c1: {{connection: {where}, slots: 1}}
targets:
  - {{name: there, cluster: other, database: x, labels: {{canary: true}}}}
  - {{name: here, cluster: c1, database: {parts["dbname"]}}}
rollout:
  waves: [{{name: canary, where: [canary=true]}}, {{name: rest}}]
""")
    manifest = exported(jobplan, PLAN, "--targets", "targets.yaml")
    pod = Pod(jobplan.folder, manifest, run="nightly-29407402", index=1)
    with close_gate(done):
        process = pod.start(fresh=True)
        done.until_workers("slow")
        process.send_signal(signal.SIGTERM)
        code, out = ended(process)
    assert (code, pod.action(code)) == (143, "Count"), out
    code, out = ended(pod.start(fresh=True))
    assert code == 0, out
    assert "the ledgers have the runs of 1 target." in out
    code, out = ended(pod.start(fresh=False))  # the record is here
    assert code == 0, out
    assert rows(done) == ["first", "slow"]
    assert done.value("SELECT count(*) FROM jobplan.runs") == 1
    (jobplan.folder / "other").mkdir()
    none = Pod(jobplan.folder / "other", manifest, run="nightly-29407402", index=7)
    code, out = ended(none.start(fresh=True))
    assert (code, none.action(code)) == (2, "FailIndex"), out


def test_a_wave_is_run_alone_and_one_without_targets_is_nothing_to_do(done: Database, jobplan: Jobplan) -> None:
    parts = conninfo_to_dict(done.dsn)
    where = f"{{host: {parts['host']}, port: {parts['port']}, user: {parts['user']}}}"
    exported(jobplan, PLAN)
    (jobplan.folder / "targets.yaml").write_text(
        f"version: 1\nname: tenants\nclusters: {{c1: {{connection: {where}, slots: 1}}}}\n"
        f"targets: [{{name: here, cluster: c1, database: {parts['dbname']}}}]\n"
        "rollout: {waves: [{name: canary, where: [canary=true]}, {name: rest}]}\n"
    )
    command = ("fleet", "run", "plan.yaml", "--targets", "targets.yaml", "--where", "cluster=c1", "--fleet-id", "f1")
    ran = jobplan(*command, "--or-resume", "--wave", "canary")
    assert ran.code == 0, ran.err
    assert "nothing to do" in ran.err
    assert rows(done) == []
    ran = jobplan(*command, "--or-resume", "--wave", "rest")
    assert ran.code == 0, ran.err
    assert rows(done) == ["first", "slow"]
    assert jobplan(*command, "--wave", "others").code == 2
    assert jobplan(*command[:-2], "--or-resume").code == 2
    until(lambda: not done.workers())
