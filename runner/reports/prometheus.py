"""The run as a textfile for Prometheus' node exporter: the last run of each plan, and of each of its steps.

Source: https://prometheus.io/docs/practices/naming/ and https://prometheus.io/docs/instrumenting/exposition_formats/:
base units, a name that ends in the unit, one HELP and TYPE for each metric. All are gauges: a textfile describes the
last run, and no counter continues from one run to the next. The run's id is not a label, because each run would create
new time series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from runner.engine.state import FINAL
from runner.reports.run_report import RunReport, StepReport

#: name, help, and samples (labels, value).
_Samples = Iterable[tuple[dict[str, str], float]]


def prometheus_text(report: RunReport) -> str:
    """Write the report in the text format 0.0.4."""
    return "".join(f"{line}\n" for line in _lines(report))


def _lines(report: RunReport) -> Iterator[str]:
    labels = {"plan": report.plan, "database": report.database}
    for name, help_, samples in (*_of_run(report), *_of_steps(report.steps)):
        yield f"# HELP jobplan_{name} {help_}"
        yield f"# TYPE jobplan_{name} gauge"
        for own, value in samples:
            pairs = ",".join(f'{key}="{_label(text)}"' for key, text in {**labels, **own}.items())
            yield f"jobplan_{name}{{{pairs}}} {value:.15g}"


def _of_run(report: RunReport) -> Iterator[tuple[str, str, _Samples]]:
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


def _of_steps(steps: tuple[StepReport, ...]) -> Iterator[tuple[str, str, _Samples]]:
    leaves = [step for step in steps if not step.instances]
    ran = [step for step in leaves if step.attempts]
    queued = [(_step(step), step.waited) for step in ran]
    yield (
        "step_duration_seconds",
        "From the first launch of the step to the end of its last attempt.",
        [(_step(step), step.seconds) for step in ran],
    )
    yield "step_queue_duration_seconds", "How long the step waited for slots and pools.", queued
    held = [(_step(step), step.held) for step in ran]
    yield "step_hold_seconds", "How long the step waited because a hold was on.", held
    blocked = [(_step(step), step.blocked) for step in ran]
    yield (
        "step_lock_wait_seconds",
        "How long the workers of the step waited for locks; only waits of 1 s or more count.",
        blocked,
    )
    yield "step_attempts", "Number of workers of the step.", [(_step(step), len(step.attempts)) for step in ran]
    yield (
        "step_retries",
        "Attempts after an attempt that did not succeed.",
        [(_step(step), step.retries) for step in ran],
    )
    yield "step_warnings", "WARNINGs that the server sent.", [(_step(step), step.warnings) for step in ran]
    yield (
        "step_state",
        "1 for the last state of the step.",
        [({**_step(step), "state": str(step.state)}, 1) for step in leaves],
    )


def _step(step: StepReport) -> dict[str, str]:
    return {"step": step.key}


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
