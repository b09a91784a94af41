"""Names of workers: what PostgreSQL stores of an application_name must be what jobplan looks for."""

from __future__ import annotations

import pytest

from runner.identity import new_run_id, runner_name, worker_name

RUN = "260131-k7f3qz"


def test_a_short_name_is_written_as_it_is() -> None:
    assert worker_name(RUN, "vacuum[orders]") == f"jobplan:{RUN}:vacuum[orders]"
    assert runner_name(RUN) == f"jobplan:{RUN}:runner"


@pytest.mark.parametrize(
    "step", ["s" * 100, "vacuum[größe]", "v[" + "ö" * 70 + "]", "v[a\nb]", "v[\u2028]", "日本" * 40]
)
def test_what_postgresql_would_cut_or_replace_is_cut_and_replaced_before(step: str) -> None:
    name = worker_name(RUN, step)
    assert len(name) <= 63
    assert name.isascii()
    assert name.isprintable()
    assert name.startswith(f"jobplan:{RUN}:{step[0]}" if step[0].isascii() else f"jobplan:{RUN}:")


def test_different_steps_have_different_names() -> None:
    steps = ["a" * 60 + end for end in "xyz"] + ["v[größe]", "v[gräße]", "v[gr??e]", "v[gr?e]"]
    assert len({worker_name(RUN, step) for step in steps}) == len(steps)


def test_a_run_id_begins_with_its_day_and_is_not_repeated() -> None:
    ids = {new_run_id(1769817600.0) for _ in range(200)}
    assert len(ids) == 200
    assert all(name.startswith("260131-") and len(name) == 13 for name in ids)
