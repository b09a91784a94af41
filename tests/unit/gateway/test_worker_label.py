"""What a worker carries in front of its SQL: whatever a step is called, it is one comment, and it comes back."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner.engine.ports import LaunchRequest
from runner.engine.worker_text import MARKER, NEXT, launched_text, plan_text
from runner.gateway.queries import query
from runner.identity import WorkerLabel, without_comment, worker_name
from runner.sql.placeholders import quote_identifier, quote_literal
from runner.sql.statements import parse_statements
from runner.structs import replace

LABEL = WorkerLabel(run="260131-k7f3qz", plan="nightly", step="vacuum", attempt=1, on_finish="wait", timeout=300.0)
#: track_activity_query_size as the server has it unless another session has changed it, less what a statement needs.
ROOM = 1000

HOSTILE = [
    "s[*/ DROP TABLE t; /*]",
    "s[/* /* /*]",
    "s[\"quotes\" and 'quotes' and \\backslashes\\]",
    "s[größe 日本 🙂]",
    "s[\n\r\t\x00\x7f]",
    "s[} */ SELECT 1]",
    "s[" + "x" * 10_000 + "]",
    "s[" + "🙂" * 10_000 + "]",
    "s[" + "*/" * 10_000 + "]",
]


def label(step: str) -> WorkerLabel:
    """Return a label for this step."""
    return replace(LABEL, step=step)


def test_the_comment_is_as_the_decision_record_says() -> None:
    assert LABEL.to_comment() == (
        '/* jobplan {"run":"260131-k7f3qz","plan":"nightly","step":"vacuum","attempt":1,"on_finish":"wait",'
        '"timeout":300.0} */'
    )


@given(st.text())
@example(HOSTILE[0])
@example(HOSTILE[1])
@example(HOSTILE[6])
@example(HOSTILE[7])
@example(HOSTILE[8])
def test_whatever_a_step_is_called_the_label_is_one_comment_and_comes_back(step: str) -> None:
    comment = label(step).to_comment()
    assert comment.isascii()
    assert comment.isprintable()
    assert len(comment) <= ROOM
    assert comment.count("/*") == comment.count("*/") == 1
    assert comment.endswith(" */")
    back = WorkerLabel.from_query(f"{comment} VACUUM t")
    assert back is not None
    assert back == label(back.step)
    if len(json.dumps(step)) < 80:
        assert back.step == step


def test_a_long_id_is_cut_as_in_the_workers_name() -> None:
    long = "s[" + "x" * 10_000 + "]"
    back = WorkerLabel.from_query(label(long).to_comment())
    assert back is not None
    assert back.step.startswith("s[xxx")
    assert back.step[-7:] == worker_name("r", long)[-7:]
    other = WorkerLabel.from_query(label(long + "y").to_comment())
    assert other != back


def test_an_id_is_cut_only_where_the_comment_would_be_too_long() -> None:
    ids = ["s[" + "x" * length + "]" for length in range(450, 520)]
    back = [WorkerLabel.from_query(label(one).to_comment()) for one in ids]
    kept = [one for one, read in zip(ids, back, strict=True) if read is not None and read.step == one]
    assert kept == ids[: len(kept)]
    assert 40 < len(kept) < len(ids)


@pytest.mark.parametrize("step", HOSTILE)
def test_the_parser_sees_the_plans_statements_only(step: str) -> None:
    text = launched_text(LaunchRequest(sql="DELETE FROM t; SELECT 1", application_name="n", label=label(step)))
    statements = [text[one.start : one.end] for one in parse_statements(text)]
    assert statements[0].endswith("DELETE FROM t")
    assert statements[1:] == [NEXT, "SELECT 1", MARKER]


@pytest.mark.parametrize("timeout", [None, 0.001, 20.0, 2_147_483.647])
def test_the_rest_comes_back(timeout: float | None) -> None:
    written = replace(LABEL, timeout=timeout, attempt=17, on_finish="detach", in_finally=True)
    assert WorkerLabel.from_query(written.to_comment() + " SELECT 1") == written


@pytest.mark.parametrize("length", range(0, 150, 7))
def test_a_server_that_keeps_little_of_the_text_gives_no_half_a_label(length: int) -> None:
    text = LABEL.to_comment() + " SELECT 1"
    whole = length >= len(LABEL.to_comment())
    assert (WorkerLabel.from_query(text[:length]) is not None) is whole


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELECT 1",
        "<insufficient privilege>",
        " " + LABEL.to_comment(),
        "/* jobplan */ SELECT 1",
        "/* jobplan {} */ SELECT 1",
        "/* jobplan [] */ SELECT 1",
        "/* jobplan {not JSON} */ SELECT 1",
        '/* jobplan {"run":1,"plan":"p","step":"s","attempt":1,"on_finish":"wait","timeout":null} */',
        '/* jobplan {"run":"r","plan":"p","step":"s","attempt":true,"on_finish":"wait","timeout":null} */',
        '/* jobplan {"run":"r","plan":"p","step":"s","attempt":1,"on_finish":"wait","timeout":"1"} */',
        '/* jobplan {"run":"r","plan":"p","step":"s","attempt":1,"on_finish":"wait","timeout":NaN} */',
        '/* jobplan {"run":"r","plan":"p","step":"s","attempt":1,"on_finish":"wait","timeout":1e999} */',
        f'/* jobplan {{"run":"r","plan":"p","step":"s","attempt":1,"on_finish":"wait","timeout":1{"0" * 400}}} */',
        "/* jobplan {" + '"a":{' * 5000 + "} */",
    ],
)
def test_what_is_no_label_is_none(text: str) -> None:
    assert WorkerLabel.from_query(text) is None


def test_a_label_of_a_later_version_is_understood() -> None:
    text = LABEL.to_comment().replace('"attempt":1', '"attempt":1,"later":{"x":[1]}')
    assert WorkerLabel.from_query(text) == LABEL


def test_the_text_without_its_commit_row_is_the_plans_own() -> None:
    for step, schema in (("a", "jobplan"), ("s[it's; ', true);]", 'my"ledger'), ("s[\\'\n]", "x")):
        names = {"ledger": quote_identifier(schema), "step": quote_literal(step)}
        row = query("ledger_row", ledger="{ledger}").decode()
        row = row.format(**names, run="'r'", attempt="2", lock_timeout="'5s'", proof="'0a'") + "\n"
        launched = f"{LABEL.to_comment()} {row}INSERT INTO t VALUES (1)\n;{NEXT}; VACUUM t\n;{MARKER}"
        assert plan_text(launched) == "INSERT INTO t VALUES (1); VACUUM t"
    own = "INSERT INTO \"x\".commits (run, step, attempt, committed) VALUES ('r', 's', 1, true)"
    assert plan_text(own) == own


def test_the_text_without_its_label_is_the_plans_own() -> None:
    request = LaunchRequest(sql="VACUUM t", application_name="n", label=LABEL)
    assert without_comment(launched_text(request)) == "VACUUM t"
    assert without_comment("/* mine */ VACUUM t") == "/* mine */ VACUUM t"
