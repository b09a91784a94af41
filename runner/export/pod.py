"""The pod that runs jobplan, for Kubernetes and Argo: command, environment, files, limits, security context.

Passwords come from a Secret, and never into a manifest. libpq ignores a password file that the group can read, and
the files of a Secret are readable for the group if the pod's user can read them at all. So an init container copies
the file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final

from runner.errors import UsageError
from runner.exit_codes import RETRIES, Retry
from runner.export.yaml_text import Commented
from runner.fleet.targets import Targets, Wave, place
from runner.plan.model import Plan
from runner.structs import Struct, field

#: The container whose exit code the policies look at.
CONTAINER: Final = "jobplan"
#: The environment variable with the id of the run: the name of the engine's object, which its retries share.
RUN_ID: Final = "JOBPLAN_RUN_ID"
#: The user of the image.
_USER: Final = 10001
#: Seconds between SIGTERM and SIGKILL at least: workers are cancelled, and the record is completed.
_GRACE: Final = 120
#: Seconds for the start of a pod and its image, besides what the run takes.
_START: Final = 120
#: Seconds that engines wait between the tries of a run, all together.
_BETWEEN: Final = 600
#: Seconds after which a job that could not be started in time is left out.
_STARTING: Final = 600
#: Seconds for which a job that has ended is kept, if it was not started by a schedule.
KEPT: Final = 7 * 86400
#: Why there is no retry without a ledger.
NO_RETRY: Final = (
    "No retry: without a ledger, the record of the run ends with the pod, and another pod would begin the plan"
    " from the first step."
)
#: Bytes of a ConfigMap, with room for its other fields.
_MOST_BYTES: Final = 1_000_000
_CONFIG, _STATE, _SECRETS, _PASSWORDS = "/etc/jobplan", "/var/lib/jobplan", "/run/secrets/jobplan", "/run/jobplan"

Object = dict[str, object]


class Export(Struct, frozen=True, kw_only=True):
    """What a manifest is made of. `files` are texts by their path below /etc/jobplan; without them, the image has them.

    `deadline` is the longest time of one try in seconds, if it is not that of the plan. `retries` is the number of
    further tries, 0 without a ledger.
    """

    plan: Plan
    plan_path: str
    targets: Targets | None = None
    targets_path: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    name: str
    namespace: str | None = None
    image: str
    schedule: str
    time_zone: str | None = None
    once: bool = False
    secret: str
    service_account: str | None = None
    executor_account: str = ""
    dsn: str | None = None
    params: tuple[tuple[str, str], ...] = ()
    ledger: bool = True
    retries: int = 3
    deadline: float | None = None
    max_failed_clusters: int | None = None

    @property
    def tries(self) -> int:
        """How often the command is started at most."""
        return self.retries + 1 if self.ledger else 1

    @property
    def labels(self) -> dict[str, str]:
        """The labels of every object."""
        return {"app.kubernetes.io/name": "jobplan", "app.kubernetes.io/instance": self.name}

    def metadata(self, name: str | None = None) -> Object:
        """Return the metadata of an object."""
        where = {} if self.namespace is None else {"namespace": self.namespace}
        return {"name": name or self.name, **where, "labels": self.labels}


def schedule_fields(zone_key: str, export: Export) -> Object:
    """Return what every engine has beside the schedule; `zone_key` is its key for the time zone."""
    return {
        **({} if export.time_zone is None else {zone_key: export.time_zone}),
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": _STARTING,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
    }


def run_words(export: Export) -> list[str]:
    """Return the command for one database."""
    words = ["jobplan", "run", literal(export.plan_path)]
    if not export.ledger:
        words += ["--run-id", f"$({RUN_ID})", "--no-ledger"]
    elif export.plan.window is not None:  # an unfinished run is resumed by the next scheduled one
        words += ["--or-resume", "--wait-for-runner", "--require-ledger"]
    else:
        words += ["--run-id", f"$({RUN_ID})", "--or-resume", "--wait-for-runner", "--require-ledger"]
    return [*words, *_parameters(export)]


def fleet_words(export: Export, *where: str) -> list[str]:
    """Return the command for a part of the fleet, with the options `where` that say which."""
    ledger = ["--or-resume", "--require-ledger"] if export.ledger else ["--no-ledger"]
    words = ["jobplan", "fleet", "run", literal(export.plan_path), "--targets", literal(export.targets_path), *where]
    return [*words, "--fleet-id", f"$({RUN_ID})", *ledger, *_parameters(export)]


def _parameters(export: Export) -> list[str]:
    return [word for name, value in export.params for word in ("--param", f"{name}={literal(value)}")]


def literal(text: str) -> str:
    """Return a text, escaped so that Kubernetes replaces no variable in it."""
    return text.replace("$", "$$") if "$(" in text or "$$" in text else text


def shell_script(words: Sequence[str]) -> str:
    """Return a line that a shell executes in its own place, so that signals reach jobplan."""
    return "exec " + " ".join(
        word if word.startswith('"') else f'"${RUN_ID}"' if word == f"$({RUN_ID})" else shlex.quote(word)
        for word in words
    )


def codes(*meanings: Retry) -> list[int]:
    """Return the exit codes of which a retry has one of these meanings."""
    return [code for code, meaning in RETRIES.items() if meaning in meanings]


def grace_seconds(export: Export) -> int:
    """Return the seconds between SIGTERM and SIGKILL: `finally` may run in them."""
    return _GRACE + round(sum(step.timeout or 0 for step in export.plan.finally_))


def try_seconds(export: Export) -> int | None:
    """Return the longest time of one try: that of the plan's run_timeout, and time to start and to end.

    None if nothing limits it: the plan has no run_timeout, or it is not known how many databases a process has.
    """
    if export.deadline is not None:
        limit = export.deadline
    elif export.plan.run_timeout is None:
        return None
    elif export.targets is None:
        limit = export.plan.run_timeout
    elif export.targets.discover:
        return None
    else:
        databases = max(sum(one.cluster == name for one in export.targets.targets) for name in clusters(export.targets))
        limit = export.plan.run_timeout * databases + sum(wave.pause for wave in export.targets.rollout.waves)
    return round(limit) + grace_seconds(export) + _START


def all_seconds(export: Export) -> int | None:
    """Return the longest time of all tries together."""
    once = try_seconds(export)
    return None if once is None else once * export.tries + (_BETWEEN if export.tries > 1 else 0)


def clusters(targets: Targets) -> list[str]:
    """Return the clusters that have targets, in the order of the file."""
    used = {one.cluster for one in targets.targets} | {one.cluster for one in targets.discover}
    return [name for name in targets.clusters if name in used]


def used_waves(targets: Targets) -> list[tuple[Wave, list[str]]]:
    """Return the waves with the clusters that may have a target in them: a query can find targets for each."""
    found = {one.cluster for one in targets.discover}
    waves = []
    for wave, members in place(targets.targets, targets.rollout.waves).waves:
        used = {one.cluster for one in members} | found
        names = [name for name in clusters(targets) if name in used]
        if names:
            waves.append((wave, names))
    return waves


def security_context() -> Object:
    """Return the security context of a pod, as the profile `restricted` wants it."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container(export: Export, command: Sequence[str], run_id: Mapping[str, object]) -> Object:
    """Return the container; `run_id` is the source of the run's id: the fields of an entry of `env`."""
    env: list[object] = [
        {"name": RUN_ID, **run_id},
        {"name": "JOBPLAN_JOURNAL", "value": f"{_STATE}/runs"},
        {"name": "HOME", "value": _STATE},
        {"name": "PGPASSFILE", "value": f"{_PASSWORDS}/pgpass"},
        {"name": "PGSERVICEFILE", "value": f"{_SECRETS}/pg_service.conf"},
    ]
    if export.targets is None and export.dsn is not None:
        env.append({"name": "JOBPLAN_DSN", "value": literal(export.dsn)})
    elif export.targets is None:
        env.append({"name": "JOBPLAN_DSN", "valueFrom": {"secretKeyRef": {"name": export.secret, "key": "dsn"}}})
    mounts: list[object] = [
        {"name": "state", "mountPath": _STATE},
        {"name": "passwords", "mountPath": _PASSWORDS, "readOnly": True},
        {"name": "secrets", "mountPath": _SECRETS, "readOnly": True},
    ]
    if export.files:
        mounts.append({"name": "plan", "mountPath": _CONFIG, "readOnly": True})
    return {
        "name": CONTAINER,
        "image": export.image,
        "command": list(command),
        "workingDir": _STATE,
        "env": env,
        "resources": _resources("100m", "256Mi"),
        "securityContext": _container_context(),
        "volumeMounts": mounts,
    }


def init_container(export: Export) -> Object:
    """Return the container that makes the password file one that libpq accepts."""
    return {
        "name": "pgpass",
        "image": export.image,
        "command": ["install", "-m", "0600", f"{_SECRETS}/pgpass", f"{_PASSWORDS}/pgpass"],
        "resources": _resources("10m", "32Mi"),
        "securityContext": _container_context(),
        "volumeMounts": [
            {"name": "passwords", "mountPath": _PASSWORDS},
            {"name": "secrets", "mountPath": _SECRETS, "readOnly": True},
        ],
    }


def _resources(cpu: str, memory: str) -> Object:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}


def _container_context() -> Object:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def volumes(export: Export) -> list[object]:
    """Return the volumes of a pod."""
    state = Commented(
        {"name": "state", "emptyDir": {"sizeLimit": "256Mi"}},
        "The journal ends with the pod: only a ledger in the database lets another pod resume the run.",
    )
    found: list[object] = [
        state,
        {"name": "passwords", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "secrets", "secret": {"secretName": export.secret, "defaultMode": 0o440}},
    ]
    if export.files:
        items = [{"key": key, "path": path} for path, key in _keys(export).items()]
        found.append({"name": "plan", "configMap": {"name": _config_name(export), "items": items}})
    return found


def _config_name(export: Export) -> str:
    """Return the name of the ConfigMap: it has a hash of the files, because a run needs the files it began with."""
    digest = sha256()
    for path, text in sorted(export.files.items()):
        digest.update(f"{path}\0{text}\0".encode())
    return f"{export.name}-{digest.hexdigest()[:10]}"


def config_map(export: Export) -> Object:
    """Return the ConfigMap with the plan, its files and the targets file. UsageError if they are too large for one."""
    size = sum(len(text.encode()) for text in export.files.values())
    if size > _MOST_BYTES:
        raise UsageError(
            f"the plan and its files have {size:,} bytes; a ConfigMap takes 1 MiB.",
            hint="Put them into the image, and name their place there: --plan-path and --targets-path.",
        )
    data = {key: export.files[path] for path, key in _keys(export).items()}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": export.metadata(_config_name(export)),
        "immutable": True,
        "data": data,
    }


def _keys(export: Export) -> dict[str, str]:
    """Return a key of a ConfigMap for each path: a key takes no slash, and few other characters."""
    keys: dict[str, str] = {}
    for path in export.files:
        key = re.sub(r"[^A-Za-z0-9._-]", "_", path.replace("/", "__"))
        while key in keys.values():
            key += "_"
        keys[path] = key
    return keys
