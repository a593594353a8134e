"""Two processes fill a cache together, and what they keep is what one would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.test_processes import go

pytestmark = pytest.mark.slow


def test_processes_fill_a_cache_together(tiny_settings: list[str], tmp_path: Path) -> None:
    words = [
        *tiny_settings, "align_pairs=0", "losses.query_product=1", "lr.text_encoder=0",
        "lr.image_encoder=0", "data.augment=false", "steps=1", "trainer.accelerator=cpu",
    ]  # fmt: skip
    for name, processes in (("one", 1), ("two", 2)):
        go([*words, f"cache={tmp_path / name}"], tmp_path / "run" / name, tmp_path, processes)
    one, two = (
        {
            path.relative_to(tmp_path / name): np.load(path)
            for path in (tmp_path / name).rglob("*.npy")
        }
        for name in ("one", "two")
    )
    # Two splits with texts and pictures of products, and texts of queries; keys beside vectors.
    assert len(one) == 2 * 3 * 2
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)
