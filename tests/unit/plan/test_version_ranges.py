"""Version constraints as DBAs write them."""

from __future__ import annotations

import pytest

from runner.plan.version_ranges import version_fits


@pytest.mark.parametrize(
    ("version", "constraints", "fits"),
    [
        ("16.4", ">=14", True),
        ("13.12", ">=14", False),
        ("16.4", "16", True),
        ("16.4", "==16", True),
        ("16.4", "<=16", True),
        ("16.4", ">16", False),
        ("16.4", ">=16.5", False),
        ("16.4", ">=14, <18", True),
        ("18.0", ">=14,<18", False),
        ("18.6 (Debian 18.6-3)", "==18.6", True),
        ("18beta1", ">=18", True),
        ("16.4", "!=16.4", False),
        ("2.0", ">=2.0.3", False),
        ("nothing", ">=1", False),
    ],
)
def test_a_version_fits_its_constraints(version: str, constraints: str, fits: bool) -> None:
    assert version_fits(version, constraints) is fits
