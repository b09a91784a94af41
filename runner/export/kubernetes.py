"""A plan as a CronJob or a Job: one pod for one process, and for a fleet one index for each cluster."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from runner.exit_codes import Retry
from runner.export.pod import (
    CONTAINER,
    KEPT,
    NO_RETRY,
    Export,
    Object,
    all_seconds,
    clusters,
    codes,
    config_map,
    container,
    fleet_words,
    grace_seconds,
    init_container,
    run_words,
    schedule_fields,
    security_context,
    shell_script,
    try_seconds,
    volumes,
)
from runner.export.yaml_text import Commented, yaml_documents
from runner.fleet.targets import Targets

#: The longest name, so that the names of a CronJob's jobs (`-` and 8 digits behind it) are ids of runs.
LONGEST_NAME = 27
#: The same for a fleet: its runs have a number behind the id.
LONGEST_FLEET_NAME = 22

_WAVES = (
    "One pod for each cluster, at the same time: the waves and limits of the targets file count within a cluster. "
    "For waves over all clusters: jobplan export argo, or one process, jobplan fleet run."
)


def kubernetes_manifest(export: Export) -> str:
    """Return the YAML of all objects."""
    job = _job_spec(export)
    if export.once:
        job["ttlSecondsAfterFinished"] = KEPT
        last: Object = {"apiVersion": "batch/v1", "kind": "Job", "metadata": export.metadata(), "spec": job}
    else:
        last = {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": export.metadata(),
            "spec": {
                "schedule": export.schedule,
                **schedule_fields("timeZone", export),
                "jobTemplate": {"metadata": {"labels": export.labels}, "spec": job},
            },
        }
    return yaml_documents([*([config_map(export)] if export.files else []), last])


def _job_spec(export: Export) -> Object:
    spec: Object = {}
    if export.targets is not None:
        names = clusters(export.targets)
        most = len(names) if export.max_failed_clusters is None else export.max_failed_clusters
        spec["completionMode"] = Commented("Indexed", _WAVES)
        spec["completions"] = len(names)
        spec["parallelism"] = len(names)
        spec["backoffLimitPerIndex"] = _limit(export)
        spec["maxFailedIndexes"] = most
    else:
        spec["completions"] = 1
        spec["parallelism"] = 1
        spec["backoffLimit"] = _limit(export)
    spec["podReplacementPolicy"] = Commented("Failed", "Another pod starts when the one before has ended.")
    spec["podFailurePolicy"] = {"rules": _rules(export)}
    whole, once = all_seconds(export), try_seconds(export)
    if whole is not None:
        spec["activeDeadlineSeconds"] = Commented(whole, "All tries together.")
    pod: Object = {"restartPolicy": "Never", "automountServiceAccountToken": False}
    if export.service_account is not None:
        pod["serviceAccountName"] = export.service_account
    if once is not None:
        pod["activeDeadlineSeconds"] = Commented(once, "One try: more than run_timeout and the grace period.")
    pod["terminationGracePeriodSeconds"] = grace_seconds(export)
    pod["securityContext"] = security_context()
    pod["initContainers"] = [init_container(export)]
    run_id = {"valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}}}
    pod["containers"] = [container(export, _command(export), run_id)]
    pod["volumes"] = volumes(export)
    if whole is None:
        pod = _without_deadline(pod)
    spec["template"] = {"metadata": {"labels": export.labels}, "spec": pod}
    return spec


def _without_deadline(pod: Mapping[str, object]) -> Object:
    reason = "No activeDeadlineSeconds: nothing limits a try (the plan has no run_timeout, or a query finds databases)."
    return {**pod, "restartPolicy": Commented(pod["restartPolicy"], reason)}


def _limit(export: Export) -> object:
    if export.ledger:
        return Commented(export.retries, "A retry resumes the run: the ledger in the database has what was done.")
    return Commented(0, NO_RETRY)


def _rules(export: Export) -> list[object]:
    fail = "FailJob" if export.targets is None else "FailIndex"
    rules: list[object] = [
        Commented(
            _rule(fail, codes(Retry.CANNOT_HELP)),
            "A retry cannot help: wrong usage, an invalid plan, an outcome that a person has to state, a bug.",
        ),
        Commented(
            _rule(fail, codes(Retry.LATER)),
            "Not now: the window is closed, or the server does not meet `requires`.",
        ),
    ]
    if export.ledger:
        rules.append(
            Commented(
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                "An eviction or a drained node is not the plan's fault; another pod resumes the run.",
            )
        )
    rules.append(
        Commented(
            _rule("Count", codes(Retry.HELPS)),
            "Failed, not started, busy, or interrupted by a signal: it counts, and a retry resumes the run.",
        )
    )
    return rules


def _rule(action: str, values: list[int]) -> Object:
    return {"action": action, "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": values}}


def _command(export: Export) -> list[str]:
    if export.targets is None:
        return run_words(export)
    return ["/bin/sh", "-c", _script(export, export.targets)]


def _script(export: Export, targets: Targets) -> str:
    cases = "".join(f"  {number}) cluster={shlex.quote(name)} ;;\n" for number, name in enumerate(clusters(targets)))
    words = fleet_words(export, "--where", '"cluster=$cluster"')
    return (
        'case "$JOB_COMPLETION_INDEX" in\n'
        f"{cases}"
        '  *) echo "no cluster has the index $JOB_COMPLETION_INDEX" >&2; exit 2 ;;\n'
        "esac\n"
        f"{shell_script(words)}\n"
    )
