"""What the schemas of Kubernetes and Argo cannot say of a manifest: fields that must fit each other, and our rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runner.exit_codes import RETRIES, Retry

Manifest = Mapping[str, Any]


def problems(documents: list[Manifest]) -> list[str]:
    """Return what is wrong in the documents of one export; empty if nothing is."""
    *configs, last = documents
    return [*_problems(configs, last)]


def _problems(configs: list[Manifest], last: Manifest) -> Iterator[str]:
    spec = last["spec"]
    if last["kind"] in ("CronJob", "CronWorkflow"):
        if spec.get("concurrencyPolicy") != "Forbid":
            yield "two runs at the same time are not forbidden"
        if not spec.get("startingDeadlineSeconds"):
            yield "startingDeadlineSeconds is missing"
    if last["kind"] in ("CronJob", "Job"):
        job = spec["jobTemplate"]["spec"] if last["kind"] == "CronJob" else spec
        pod = job["template"]["spec"]
        yield from _job(job, pod)
        yield from _pod(pod, pod["containers"][0], pod["initContainers"], configs)
        grace = pod.get("terminationGracePeriodSeconds", 30)
    else:
        workflow = spec["workflowSpec"] if last["kind"] == "CronWorkflow" else spec
        template = next(one for one in workflow["templates"] if one["name"] == "jobplan")
        yield from _workflow(workflow, template)
        yield from _pod(workflow, template["container"], template["initContainers"], configs)
        grace = 120 if '"terminationGracePeriodSeconds": 1' in workflow.get("podSpecPatch", "") else 30
    if grace < 120:
        yield "the grace period is shorter than 120 s"


def _job(job: Manifest, pod: Manifest) -> Iterator[str]:
    rules = job.get("podFailurePolicy", {}).get("rules", [])
    if pod.get("restartPolicy") != "Never":
        yield "a podFailurePolicy needs restartPolicy: Never"
    indexed = job.get("completionMode") == "Indexed"
    retries = job.get("backoffLimitPerIndex" if indexed else "backoffLimit")
    if retries is None:
        yield "the number of retries is the default"
    if indexed:
        if "backoffLimit" in job:
            yield "backoffLimit counts all indexes together"
        if job["completions"] != job["parallelism"]:
            yield "not every cluster has a pod at once"
        if not 0 <= job.get("maxFailedIndexes", -1) <= job["completions"]:
            yield "maxFailedIndexes is not a number of clusters"
        script = pod["containers"][0]["command"][-1]
        yield from (
            f"no cluster has the index {one}" for one in range(job["completions"]) if f"  {one}) cluster=" not in script
        )
        if f"  {job['completions']}) cluster=" in script:
            yield "a cluster has no index"
    yield from _rules(rules, "FailIndex" if indexed else "FailJob", pod["containers"][0]["name"])
    words = _words(pod["containers"][0])
    if "--require-ledger" not in words and (retries or any(rule["action"] == "Ignore" for rule in rules)):
        yield "a retry without a ledger begins the plan from the first step"
    if "--require-ledger" in words and "--or-resume" not in words:
        yield "a retry does not resume"
    yield from _deadlines(job.get("activeDeadlineSeconds"), pod, retries or 0)


def _rules(rules: list[Manifest], fail: str, container: str) -> Iterator[str]:
    seen: dict[int, str] = {}
    for rule in rules:
        found = rule.get("onExitCodes")
        if found is None:
            continue
        if found["containerName"] != container or found["operator"] != "In":
            yield "a rule looks at another container"
        for code in found["values"]:
            seen.setdefault(code, rule["action"])
    wanted = {code: "Count" if meaning is Retry.HELPS else fail for code, meaning in RETRIES.items()}
    yield from (
        f"exit code {code}: {seen.get(code)}, not {wanted[code]}" for code in wanted if seen.get(code) != wanted[code]
    )
    actions = [rule["action"] for rule in rules]
    if "Ignore" in actions and actions.index("Ignore") > actions.index("Count"):
        yield "an evicted pod counts: its exit code 143 is looked at first"


def _deadlines(whole: int | None, pod: Manifest, retries: int) -> Iterator[str]:
    once = pod.get("activeDeadlineSeconds")
    if (once is None) != (whole is None):
        yield "one deadline without the other"
    if once is not None and whole is not None:
        if whole < once * (retries + 1):
            yield "the deadline of the job ends a try"
        if once <= pod.get("terminationGracePeriodSeconds", 30):
            yield "the deadline of a try is shorter than its grace period"


def _workflow(workflow: Manifest, template: Manifest) -> Iterator[str]:
    strategy = template.get("retryStrategy", {})
    words = _words(template["container"])
    helpful = ", ".join(str(code) for code, meaning in RETRIES.items() if meaning is Retry.HELPS)
    if strategy.get("limit", 1) and f"in [{helpful}]" not in strategy.get("expression", ""):
        yield "a retry is not decided by the exit code"
    if "--require-ledger" not in words and strategy.get("limit", 1):
        yield "a retry without a ledger begins the plan from the first step"
    if not workflow.get("executor", {}).get("serviceAccountName"):
        yield "without a token Argo's own container has no account"
    names = {one["name"] for one in workflow["templates"]}
    for step in (step for one in workflow["templates"] for group in one.get("steps", []) for step in group):
        if step["template"] not in names:
            yield f"there is no template {step['template']}"
        given = {one["name"] for one in step.get("arguments", {}).get("parameters", [])}
        target: Manifest = next((one for one in workflow["templates"] if one["name"] == step["template"]), {})
        if given != {one["name"] for one in target.get("inputs", {}).get("parameters", [])}:
            yield f"step {step['name']} gives other parameters than its template takes"
    if workflow["entrypoint"] not in names:
        yield "there is no entry point"


def _pod(pod: Manifest, main: Manifest, inits: list[Manifest], configs: list[Manifest]) -> Iterator[str]:
    context = pod.get("securityContext", {})
    if pod.get("automountServiceAccountToken") is not False:
        yield "the pod has the token of its service account"
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "the pod may be root"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "there is no seccomp profile"
    for container in (main, *inits):
        yield from _container(container, {one["name"] for one in pod["volumes"]})
    env = {one["name"]: one for one in main["env"]}
    yield from (f"{name} has a password" for name, one in env.items() if "password" in one.get("value", "").lower())
    copied = next((one["command"][-1] for one in inits if one["command"][:3] == ["install", "-m", "0600"]), None)
    if env["PGPASSFILE"]["value"] != copied:
        yield "libpq ignores the password file: its group can read it"
    yield from _files(pod["volumes"], main, configs)


def _container(container: Manifest, volumes: set[str]) -> Iterator[str]:
    own = container.get("securityContext", {})
    if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{container['name']} is not restricted"
    if own.get("readOnlyRootFilesystem") is not True:
        yield f"{container['name']} can write to its image"
    resources = container.get("resources", {})
    if not resources.get("requests") or not resources.get("limits", {}).get("memory"):
        yield f"{container['name']} has no limits"
    for mount in container["volumeMounts"]:
        if mount["name"] not in volumes:
            yield f"there is no volume {mount['name']}"


def _files(volumes: list[Manifest], main: Manifest, configs: list[Manifest]) -> Iterator[str]:
    maps = {one["metadata"]["name"]: one for one in configs}
    for volume in volumes:
        if "configMap" not in volume:
            continue
        config = maps.get(volume["configMap"]["name"])
        if config is None:
            yield "there is no such ConfigMap"
        elif {one["key"] for one in volume["configMap"]["items"]} != set(config["data"]):
            yield "the ConfigMap has other files"
        elif config.get("immutable") is not True:
            yield "the plan can change between two tries"
    paths = {one["path"] for volume in volumes for one in volume.get("configMap", {}).get("items", [])}
    for word in _words(main):
        if word.startswith("/etc/jobplan/") and word.removeprefix("/etc/jobplan/") not in paths:
            yield f"there is no file {word}"


def _words(container: Manifest) -> list[str]:
    command = list(container["command"])
    return command[-1].split() if command[0] == "/bin/sh" else command
