"""A whole tiny ladder by the command: trained once, reported, reused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from beyond_text.ablate import main
from beyond_text.config import load_config
from beyond_text.train import train


def test_a_ladder_is_trained_once_and_reported(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    start, out, recipe = tmp_path / "run", tmp_path / "ladder", tmp_path / "stage3.yaml"
    train(load_config([], [*tiny_overrides, "losses.query_text=1", "steps=1"]))
    recipe.write_text("losses: {query_text: 0.0, query_product: 1.0}\n")
    words = f"--fusion bilinear,concat --seeds 0 1 --start {start} --out {out} --recipe {recipe}"
    main([*words.split(), "steps=2"])
    assert capsys.readouterr().out.count(": training") == 4

    table = pd.read_csv(out / "table.csv")
    assert table["name"].unique().tolist() == ["bilinear", "concat"]
    assert (table["seeds"] == 2).all()
    assert table["mean"].between(0, 1).all()
    assert table["fusion_parameters"].nunique() == 2
    assert "| concat |" in (out / "table.md").read_text(encoding="utf-8")
    assert Image.open(out / "chart.png").size[0] > 100
    for fusion in ("bilinear", "concat"):
        cells = [load_config([out / f"{fusion}-seed{seed}" / "config.yaml"]) for seed in (0, 1)]
        assert [(c.fusion, c.seed, c.start) for c in cells] == [
            (fusion, 0, str(start)), (fusion, 1, str(start))
        ]  # fmt: skip
        assert {c.losses.query_product for c in cells} == {1.0}

    models = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    assert len(models) == 4
    main([*words.split(), "steps=2"])
    assert capsys.readouterr().out.count(": reused") == 4
    assert models == {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    assert pd.read_csv(out / "table.csv").equals(table)

    with pytest.raises(SystemExit, match="ablate: unknown fusion 'gate': expected some of bilin"):
        main([*words.replace("concat", "gate").split(), "steps=2"])
    with pytest.raises(SystemExit, match=r"ablate: .*no encoder there"):
        main([*words.replace(str(out), f"{out}2").split(), "text_encoder.path=/nowhere"])
