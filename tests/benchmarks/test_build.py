"""The benchmark of builds makes a shop, builds it and says what that took."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import build

pytestmark = pytest.mark.slow


def test_a_build_is_measured_with_its_children_and_drawn(tmp_path: Path) -> None:
    results, picture = tmp_path / "results.jsonl", tmp_path / "build.svg"
    words = ["--products", "40", "80", "--judgments", "3", "--workers", "1"]
    rows = build.main([*words, "--results", str(results), "--plot", str(picture)])
    assert [(row.products, row.judgments) for row in rows] == [(40, 120), (80, 240)]
    # Python with its packages takes more than 50 MB.
    assert all(row.peak > 5e7 and row.seconds > 0.5 and row.written > 40_000 for row in rows)
    assert [json.loads(line) for line in results.open()] == [row._asdict() for row in rows]
    assert picture.read_text().startswith("<?xml")
    assert [row.products for row in build._measured(results)] == [40, 80]
