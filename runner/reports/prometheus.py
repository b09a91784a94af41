"""The run as a textfile for Prometheus' node exporter: the last run of each plan, and of each of its steps.

Source: https://prometheus.io/docs/practices/naming/ and https://prometheus.io/docs/instrumenting/exposition_formats/:
base units, a name that ends in the unit, one HELP and TYPE for each metric. All are gauges: a textfile describes the
last run, and no counter continues from one run to the next. The run's id is not a label, because each run would create
new time series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from runner.engine.state import FINAL
from runner.reports.run_report import RunReport, StepReport

#: A gauge: its name without the prefix, its help, and its samples (labels, value).
Gauge = tuple[str, str, Iterable[tuple[Mapping[str, str], float]]]


def prometheus_text(report: RunReport) -> str:
    """Write the report in the text format 0.0.4."""
    labels = {"plan": report.plan, "database": report.started.database}
    return gauges_text("jobplan", labels, (*_of_run(report), *_of_steps(report.steps)))


def gauges_text(prefix: str, labels: Mapping[str, str], gauges: Iterable[Gauge]) -> str:
    """Write gauges in the text format 0.0.4; every sample has the `labels`, before its own."""
    lines: list[str] = []
    for name, help_, samples in gauges:
        lines += (f"# HELP {prefix}_{name} {help_}", f"# TYPE {prefix}_{name} gauge")
        for own, value in samples:
            pairs = ",".join(f'{key}="{_label(text)}"' for key, text in {**labels, **own}.items())
            lines.append(f"{prefix}_{name}{{{pairs}}} {value:.15g}")
    return "".join(f"{line}\n" for line in lines)


def _of_run(report: RunReport) -> Iterator[Gauge]:
    counts: Counter[str] = Counter({str(state): 0 for state in sorted(FINAL)})
    counts.update(str(step.state) for step in report.leaves)
    code = -1 if report.exit_code is None else report.exit_code
    retries = sum(step.retries for step in report.leaves)
    yield "run_start_timestamp_seconds", "When the run began.", [({}, report.started_at)]
    yield "run_end_timestamp_seconds", "When the run ended.", [({}, report.finished_at)]
    yield "run_duration_seconds", "How long the run took.", [({}, report.seconds)]
    yield "run_exit_code", "The exit code of the run; -1 if it did not end.", [({}, code)]
    yield "run_success", "1 if the run ended with exit code 0, else 0.", [({}, float(code == 0))]
    yield "run_slots", "The budget of slots.", [({}, report.slots)]
    yield "run_slots_used", "The highest number of slots in use at the same time.", [({}, report.slots_used)]
    yield "run_retries", "Attempts after an attempt that did not succeed.", [({}, retries)]
    locks = sum(step.blocked for step in report.leaves)
    yield "run_lock_wait_seconds", "How long workers waited for locks; only waits of 1 s or more count.", [({}, locks)]
    yield "run_warnings", "WARNINGs that the server sent to workers.", [({}, report.warnings)]
    yield "run_hold_seconds", "How long holds of the plan were on, each counted on its own.", [({}, report.held)]
    if report.window:
        yield "run_steps_left_over", "Steps that the end of the plan's window left over.", [({}, report.left_over)]
    yield "run_steps", "Steps by their last state.", [({"state": name}, counts[name]) for name in counts]


#: The gauges of each step that ran.
_OF_STEP: tuple[tuple[str, str, Callable[[StepReport], float]], ...] = (
    (
        "step_duration_seconds",
        "From the first launch of the step to the end of its last attempt.",
        lambda step: step.seconds,
    ),
    ("step_queue_duration_seconds", "How long the step waited for slots and pools.", lambda step: step.waited),
    ("step_hold_seconds", "How long the step waited because a hold was on.", lambda step: step.held),
    (
        "step_lock_wait_seconds",
        "How long the workers of the step waited for locks; only waits of 1 s or more count.",
        lambda step: step.blocked,
    ),
    ("step_attempts", "Number of workers of the step.", lambda step: len(step.attempts)),
    ("step_retries", "Attempts after an attempt that did not succeed.", lambda step: step.retries),
    ("step_warnings", "WARNINGs that the server sent.", lambda step: step.warnings),
)


def _of_steps(steps: tuple[StepReport, ...]) -> Iterator[Gauge]:
    leaves = [step for step in steps if not step.instances]
    ran = [step for step in leaves if step.attempts]
    for name, help_, value in _OF_STEP:
        yield name, help_, [({"step": step.key}, value(step)) for step in ran]
    states = [({"step": step.key, "state": str(step.state)}, 1.0) for step in leaves]
    yield "step_state", "1 for the last state of the step.", states


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
