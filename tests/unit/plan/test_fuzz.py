"""Whatever a file holds, loading it gives a plan or problems, and never raises."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.plan import load_plan

_PLANS = Path(__file__).parents[2] / "plans"
_TEXTS = [path.read_bytes() for path in sorted(_PLANS.glob("*valid/*.yaml"))]
_PIECES = sorted({piece for text in _TEXTS for piece in text.split() if len(piece) < 40})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def load(folder: Path, data: bytes) -> None:
    path = folder / "plan.yaml"
    path.write_bytes(data)
    loaded = load_plan(path)
    assert (loaded.plan is None) == bool(loaded.problems)
    for problem in loaded.problems:
        assert problem.position.line >= 1
        assert problem.position.column >= 1
        assert "\n" not in problem.message


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(folder: Path, data: bytes) -> None:
    load(folder, data)


@given(st.lists(st.sampled_from(_PIECES) | st.sampled_from([b"\n", b"\n  ", b"\n    ", b": ", b"- "]), max_size=60))
def test_pieces_of_plans_in_any_order(folder: Path, pieces: list[bytes]) -> None:
    load(folder, b" ".join(pieces))


@given(st.sampled_from(_TEXTS), st.randoms(), st.integers(1, 6))
@settings(max_examples=300)
def test_mutated_plans(folder: Path, text: bytes, chance: Random, count: int) -> None:
    data = bytearray(text)
    for _ in range(count):
        at = chance.randrange(len(data) + 1)
        until = min(len(data), at + chance.choice((0, 1, 5, 30)))
        pieces = (b"", chance.choice(_PIECES), bytes([chance.randrange(256)]), bytes(data[:at][-20:]))
        data[at:until] = chance.choice(pieces)
    load(folder, bytes(data))
