"""A plan as a CronWorkflow or a Workflow of Argo: for a fleet a step for each wave, with a pod for each cluster."""

from __future__ import annotations

import json
import re

from runner.errors import UsageError
from runner.exit_codes import Retry
from runner.export.pod import (
    KEPT,
    NO_RETRY,
    Export,
    Object,
    all_seconds,
    codes,
    config_map,
    container,
    fleet_words,
    grace_seconds,
    init_container,
    run_words,
    schedule_fields,
    security_context,
    try_seconds,
    used_waves,
    volumes,
)
from runner.export.yaml_text import Commented, yaml_documents
from runner.fleet.targets import Wave

#: The longest name, so that the names of its workflows (`-` and 10 digits behind it) are ids of runs.
LONGEST_NAME = 25
LONGEST_FLEET_NAME = 20
_GATE = (
    "A wave begins when every target of the wave before has succeeded. The limits of the targets file"
    " (max_failures) count within one pod, that is in one cluster."
)


def argo_manifest(export: Export) -> str:
    """Return the YAML of all objects. UsageError if a value contains what Argo would replace."""
    given = [(f"--param {name}", value) for name, value in export.params]
    given += [("--dsn", export.dsn or ""), ("--image", export.image)]
    given += [("the path of the plan", export.plan_path), ("--targets-path", export.targets_path)]
    for name, value in given:
        if "{{" in value:
            raise UsageError(f"{name}: Argo replaces {{{{…}}}} in a value.", hint="Parameters can come from a file.")
    spec = _workflow_spec(export)
    if export.once:
        kind, whole = "Workflow", spec
    else:
        kind = "CronWorkflow"
        whole = {
            "schedules": [export.schedule],
            **schedule_fields("timezone", export),
            "workflowSpec": spec,
        }
    last = {"apiVersion": "argoproj.io/v1alpha1", "kind": kind, "metadata": export.metadata(), "spec": whole}
    return yaml_documents([*([config_map(export)] if export.files else []), last])


def _workflow_spec(export: Export) -> Object:
    spec: Object = {"entrypoint": "main"}
    if export.service_account is not None:
        spec["serviceAccountName"] = export.service_account
    spec["automountServiceAccountToken"] = False
    spec["executor"] = Commented(
        {"serviceAccountName": export.executor_account},
        "Argo's own container needs a token to report results; that of jobplan has none.",
    )
    spec["securityContext"] = security_context()
    spec["podSpecPatch"] = json.dumps({"terminationGracePeriodSeconds": grace_seconds(export)})
    spec["ttlStrategy"] = {"secondsAfterCompletion": KEPT}
    whole = all_seconds(export)
    if whole is not None:
        waves = 1 if export.targets is None else len(export.targets.rollout.waves)
        spec["activeDeadlineSeconds"] = Commented(whole * waves, "All tries of all waves together.")
    spec["volumes"] = volumes(export)
    spec["templates"] = [_main(export), *_pauses(export), _pod(export)]
    return spec


def _main(export: Export) -> Object:
    if export.targets is None:
        return {"name": "main", "steps": [[{"name": "run", "template": "jobplan"}]]}
    steps: list[object] = []
    waves = used_waves(export.targets)
    for number, (wave, names) in enumerate(waves, 1):
        arguments = {
            "parameters": [{"name": "wave", "value": wave.name}, {"name": "cluster", "value": "{{item}}"}],
        }
        step = {"name": _step_name(number, wave), "template": "jobplan", "arguments": arguments, "withItems": names}
        steps.append([step])
        if wave.pause and number < len(waves):
            steps.append([{"name": f"{_step_name(number, wave)}-pause", "template": _pause_name(number)}])
    return {"name": "main", "steps": Commented(steps, _GATE)}


def _pauses(export: Export) -> list[object]:
    if export.targets is None:
        return []
    waves = used_waves(export.targets)
    return [
        {"name": _pause_name(number), "suspend": {"duration": str(round(wave.pause))}}
        for number, (wave, _) in enumerate(waves[:-1], 1)
        if wave.pause
    ]


def _step_name(number: int, wave: Wave) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", wave.name.lower()).strip("-")[:30].strip("-")
    return f"wave-{number}-{words}" if words else f"wave-{number}"


def _pause_name(number: int) -> str:
    return f"pause-{number}"


def _pod(export: Export) -> Object:
    template: Object = {"name": "jobplan"}
    if export.targets is None:
        words = run_words(export)
    else:
        template["inputs"] = {"parameters": [{"name": "wave"}, {"name": "cluster"}]}
        where = ["--where", "cluster={{inputs.parameters.cluster}}", "--wave", "{{inputs.parameters.wave}}"]
        words = fleet_words(export, *where)
    once = try_seconds(export)
    if once is not None:
        template["activeDeadlineSeconds"] = Commented(once, "One try: more than run_timeout and the grace period.")
    template["retryStrategy"] = _retries(export)
    template["initContainers"] = [init_container(export)]
    template["container"] = container(export, words, {"value": "{{workflow.name}}"})
    return template


def _retries(export: Export) -> object:
    if not export.ledger:
        return Commented({"limit": 0}, NO_RETRY)
    helpful = ", ".join(map(str, codes(Retry.HELPS)))
    return Commented(
        {
            "limit": export.retries,
            "retryPolicy": "Always",
            "expression": f'lastRetry.status == "Error" || asInt(lastRetry.exitCode) in [{helpful}]',
            "backoff": {"duration": "30s", "factor": 2, "maxDuration": "10m"},
        },
        "A retry resumes the run. After other exit codes it cannot help: wrong usage, an invalid plan, an outcome that"
        " a person has to state, a bug; or not now, because the window is closed or `requires` is not met.",
    )
