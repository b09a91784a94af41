"""Records that an earlier version wrote are read, and the same data is written as the same bytes.

`tests/golden/README.md` says how the files were made.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from runner.cli import cli
from runner.engine.event_json import from_json, to_line
from runner.lint import check_plan
from runner.plan.plan_json import plan_from_json, resolved_json, sha256
from runner.records.record import read_record
from tests.unit.engine.test_events_schema import event_classes

GOLDEN = Path(__file__).parents[2] / "golden"
JOURNALS = GOLDEN / "journals"
RUNS = sorted(folder.name for folder in JOURNALS.iterdir())
LINES = (GOLDEN / "events.jsonl").read_bytes().splitlines(keepends=True)
#: A number that Python writes with an exponent; its notation, not its value, is another one now.
WITH_EXPONENT = re.compile(rb"\de[+-]\d+\b")
PLANS = sorted([*(GOLDEN / "plans").glob("*.json"), *JOURNALS.glob("*/plan.json")])
#: The SHA-256 of each resolved plan: a run that was begun with one is resumed with the same.
HASHES = {
    "261130-28vhce/plan.json": "f5266d16d2393ad749ed4bb24d0b775b66569ad56f28269a70e84576a1396dad",
    "261130-7pvgqr/plan.json": "2946ecb80797f693ccbfed28fc99cba52b839e51fcb82a0684b76a6b70a62926",
    "261130-8jmthm/plan.json": "9647d92b4f75b6b09da8f1b7e4bc36862e856060976477a6bbeaf81d3eecd48c",
    "261130-s884fy/plan.json": "ee4ab4b7bd9975ea1052ea2d344ae71c32d2f179d12de21319cd525af4d6f57e",
    "261130-hzdfmk/plan.json": "59e93498daf87b766f3ad6b85d1911b21219f914ca0491ea2fe3bebec841fd11",
    "261130-mpakb7/plan.json": "3f1029919bccaaf5a3ff1f886fdf96a2e0963fd95a7592272ff8cd3cba1f625b",
    "plans/between.json": "3f1029919bccaaf5a3ff1f886fdf96a2e0963fd95a7592272ff8cd3cba1f625b",
    "plans/carry.json": "2946ecb80797f693ccbfed28fc99cba52b839e51fcb82a0684b76a6b70a62926",
    "plans/every_key.json": "efcec5475e74dbbdd324f1e4f15c13ed84a51abdf942c6ba8ddf34ab1763a2f0",
    "plans/golden.json": "9647d92b4f75b6b09da8f1b7e4bc36862e856060976477a6bbeaf81d3eecd48c",
    "plans/holds.json": "59e93498daf87b766f3ad6b85d1911b21219f914ca0491ea2fe3bebec841fd11",
    "plans/nested_includes.json": "e1242a6f4b8a03b1ecf94220fffd42a8b36a771f397fe36e261c58a934f71620",
    "plans/resumed.json": "ee4ab4b7bd9975ea1052ea2d344ae71c32d2f179d12de21319cd525af4d6f57e",
    "plans/window.json": "f5266d16d2393ad749ed4bb24d0b775b66569ad56f28269a70e84576a1396dad",
    "plans/yaml_forms.json": "d25b70ca2b026351ee3dd0887933ddbe497cad6b31910375f1746ad8539a8013",
}


def test_the_lines_have_every_kind_of_event_that_there_was() -> None:
    kinds = {json.loads(line)["event"] for line in LINES}
    assert kinds <= {kind.name for kind in event_classes()}
    assert len(kinds) == 35


@pytest.mark.parametrize("line", LINES, ids=lambda line: str(json.loads(line)["event"]))
def test_an_event_is_read_and_written_again_as_the_same_bytes(line: bytes) -> None:
    data = json.loads(line)
    again = to_line(from_json(data), data["run"])
    assert list(json.loads(again).items()) == list(data.items())
    assert again == line or WITH_EXPONENT.search(line)


@pytest.mark.parametrize("run", RUNS)
def test_a_journal_is_read_and_written_again_as_the_same_bytes(run: str) -> None:
    record = read_record(JOURNALS, run)
    assert not record.torn
    assert b"".join(to_line(event, run) for event in record.events) == (JOURNALS / run / "events.jsonl").read_bytes()
    assert resolved_json(record.plan).encode() == (JOURNALS / run / "plan.json").read_bytes()
    assert f"{sha256(record.plan)}  plan.json\n" == (JOURNALS / run / "plan.sha256").read_text(encoding="ascii")


@pytest.mark.parametrize("run", RUNS)
def test_a_journal_is_shown_as_it_was(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(JOURNALS, tmp_path / "journals")
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(cli, ["show", run, "--journal", "journals", "--format", "json"])
    assert json.loads(shown.stdout) == json.loads((GOLDEN / f"{run}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_plan_is_read_and_written_again_as_the_same_bytes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    plan = plan_from_json(text)
    assert resolved_json(plan) == text
    assert sha256(plan) == HASHES[f"{path.parent.name}/{path.name}"] == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", ["between", "carry", "golden", "holds", "resumed", "window"])
def test_a_plan_file_has_the_hash_that_it_had(name: str) -> None:
    plan = check_plan(GOLDEN / "plans" / f"{name}.yaml").plan
    assert plan is not None
    assert resolved_json(plan) == (GOLDEN / "plans" / f"{name}.json").read_text(encoding="utf-8")
    assert sha256(plan) == HASHES[f"plans/{name}.json"]
