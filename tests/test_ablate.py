"""The ablation command on tiny ladders: cells are trained once, reported, reused and continued."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from beyond_text.ablate import main
from beyond_text.config.load import load_config, to_yaml
from beyond_text.metrics.history import read_history
from beyond_text.train import train
from tests import ROOT

pytestmark = pytest.mark.slow


def folders(tmp_path: Path, settings: list[str]) -> tuple[Path, Path, Path]:
    """Returns a START of settings without weights, a folder of results, and a file of rows."""
    start = tmp_path / "run"
    start.mkdir()
    (start / "config.yaml").write_text(to_yaml(load_config([], settings)))
    return start, tmp_path / "ladder", tmp_path / "rows.yaml"


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

    with pytest.raises(SystemExit, match="error: unknown fusion 'gate': expected some of bilin"):
        main([*words.replace("concat", "gate").split(), "steps=2"])
    with pytest.raises(SystemExit, match=r"error: .*no encoder there"):
        main([*words.replace(str(out), f"{out}2").split(), "text_encoder.path=/nowhere"])


def test_chains_are_trained_from_the_encoders_share_stages_and_go_on_where_they_were(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    start, out, rows = folders(tmp_path, tiny_overrides)
    (tmp_path / "align.yaml").write_text("losses: {query_text: 1.0}\nsteps: 2\n")
    (tmp_path / "fuse.yaml").write_text(
        "losses: {query_text: 0.0, query_image: 0.3, query_product: 1.0}\nsteps: 1\n"
    )
    rows.write_text(
        "full: [align.yaml, fuse.yaml]\n"
        "no-images: [align.yaml, fuse.yaml losses.query_image=0]\n"
        "alone: [fuse.yaml]\n"
    )
    argv = ["--curriculum", str(rows), "--start", str(start), "--out", str(out)]
    main(argv)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert lines == [
        f"[1/3] {out}/full-seed0/1-align, stage 1 of 2, 2 steps: training",
        f"[1/3] {out}/full-seed0/2-fuse, stage 2 of 2, 1 steps: training",
        f"[2/3] {out}/full-seed0/1-align, stage 1 of 2, 2 steps: reused",
        f"[2/3] {out}/no-images-seed0/2-fuse, stage 2 of 2, 1 steps: training",
        f"[3/3] {out}/alone-seed0, stage 1 of 1, 3 steps: training",
    ]
    for last in (out / "full-seed0" / "2-fuse", out / "no-images-seed0" / "2-fuse"):
        assert list(read_history(last)) == ["step 0", "1-align", "2-fuse"]
    table = pd.read_csv(out / "table.csv")
    assert table["name"].unique().tolist() == ["full", "no-images", "alone"]
    assert (table["ladder"] == "curriculum").all()

    (out / "no-images-seed0" / "2-fuse" / "metrics.json").unlink()
    main(argv)
    printed = capsys.readouterr().out
    assert printed.count(": reused") == 4
    assert "no-images-seed0/2-fuse, stage 2 of 2, 1 steps: training" in printed
    assert (
        pd.read_csv(out / "table.csv").drop(columns="minutes").equals(table.drop(columns="minutes"))
    )
    with pytest.raises(SystemExit, match=r"error: .*1-align was trained with other settings: dim"):
        main([*argv, "dim=8"])


def test_some_rows_are_trained_as_in_the_whole_ladder_which_takes_them_over(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    start, out, rows = folders(tmp_path, tiny_overrides)
    (tmp_path / "fuse.yaml").write_text("losses: {query_product: 1.0}\nsteps: 3\n")
    rows.write_text("long: [fuse.yaml]\nhalf: [fuse.yaml steps=1 loss=sigmoid]\n")
    argv = ["--curriculum", str(rows), "--start", str(start), "--out", str(out)]
    main([*argv, "--only", "half"])
    printed = capsys.readouterr().out
    assert f"[1/1] {out}/half-seed0, stage 1 of 1, 3 steps: training" in printed
    assert pd.read_csv(out / "table.csv")["name"].unique().tolist() == ["half"]
    main(argv)
    assert f"{out}/half-seed0, stage 1 of 1, 3 steps: reused" in capsys.readouterr().out
    assert pd.read_csv(out / "table.csv")["name"].unique().tolist() == ["long", "half"]
    main([*argv[:-1], str(tmp_path / "other"), "loss=sigmoid", "--only", "long"])
    assert pd.read_csv(tmp_path / "other" / "table.csv")["name"].unique().tolist() == ["long"]
    with pytest.raises(SystemExit, match="error: half: loss: set by the ablation"):
        main([*argv, "loss=sigmoid", "--only", "half"])
    labels = ["--labels", "5", "all", "--rows", *argv[1:-1], f"{out}-labels"]
    main([*labels, "--only", "half"])
    names = pd.read_csv(f"{out}-labels/table.csv")["name"]
    assert names.unique().tolist() == ["half"]
    for words in ([*argv, "--only", "halve"], [*labels, "--only", "half", "halve"]):
        with pytest.raises(SystemExit, match="error: --only: no row 'halve': expected some of lo"):
            main(words)
    with pytest.raises(SystemExit, match="error: --labels: nothing to train: at 0 a row"):
        main(["--labels", "0", *labels[3:], "--only", "half"])


def test_rows_are_trained_by_several_processes_and_reported_by_the_first(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    two = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu", "resume=never"]
    start, out, rows = folders(tmp_path, [*tiny_settings, *two])
    (tmp_path / "align.yaml").write_text("losses: {query_text: 1.0}\nsteps: 2\n")
    rows.write_text("one: [align.yaml, align.yaml lr.fusion=0]\ntwo: [align.yaml, align.yaml]\n")
    words = ["--curriculum", str(rows), "--start", str(start), "--out", str(out)]
    (tmp_path / "grid.yaml").write_text("lr.projections: [1e-3]\n")
    words += ["--grid", str(tmp_path / "grid.yaml")]
    command = [sys.executable, "-m", "beyond_text.ablate", *words, "evaluate_every=0"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout.count(": training"), done.stdout.count(": reused")) == (3, 5)
    assert done.stdout.count("| ladder | row |") == 1
    assert pd.read_csv(out / "table.csv")["name"].unique().tolist() == ["one", "two"]
    configs = [load_config([path]) for path in sorted(out.rglob("config.yaml"))]
    assert [(c.resume, c.trainer["devices"]) for c in configs] == [("auto", 2)] * 3


def test_each_row_takes_the_settings_of_a_grid_that_are_best_for_it(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    start, out, recipe = tmp_path / "run", tmp_path / "ladder", tmp_path / "stage3.yaml"
    train(load_config([], [*tiny_overrides, "losses.query_text=1", "steps=1"]))
    recipe.write_text("losses: {query_text: 0.0, query_product: 1.0}\n")
    grid = tmp_path / "grid.yaml"
    grid.write_text("lr.fusion: [1e-4, 0.5]\nfusion_rank: [8]\n")
    words = f"--fusion sum,bilinear --seeds 0 1 --start {start} --out {out} --recipe {recipe}"
    main([*words.split(), "--grid", str(grid), "steps=3"])
    printed = capsys.readouterr().out
    # `sum` has nothing to choose; one of the two points of `bilinear` is trained with seed 1 too.
    assert printed.count(": training") == 3 + 2
    assert printed.count(": reused") == 2
    found = {
        rate: json.loads((folder / "metrics.json").read_text())["all"]["ndcg@10"]
        for rate in ("0.0001", "0.5")
        if (folder := out / "grid" / f"bilinear-lr.fusion-{rate}-fusion_rank-8-seed0")
    }
    best = max(found, key=lambda rate: found[rate])
    assert len(set(found.values())) == 2
    config = load_config([out / "bilinear-seed1" / "config.yaml"])
    assert (config.lr.fusion, config.seed) == (float(best), 1)
    lines = (out / "grid.md").read_text().splitlines()
    assert f"| bilinear | lr.fusion={best} fusion_rank=8 | {found[best]:.3f} | chosen |" in lines
    assert sum(line.endswith("| chosen |") for line in lines) == 2
    runs = pd.read_csv(out / "runs.csv")
    assert runs["name"].tolist() == ["sum", "sum", "bilinear", "bilinear"]
    assert runs["run"].tolist()[1::2] == ["sum-seed1", "bilinear-seed1"]
    assert runs["run"][2] == f"grid/bilinear-lr.fusion-{best}-fusion_rank-8-seed0"
    table = pd.read_csv(out / "table.csv")
    assert table["name"].unique().tolist() == ["sum", "bilinear"]
    assert (table["seeds"] == 2).all()
    main([*words.split(), "--grid", str(grid), "steps=3"])
    assert ": training" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"lr\.fusion: set by the ablation"):
        main([*words.split(), "--grid", str(grid), "steps=3", "lr.fusion=0.1"])


def test_labels_are_counted_stages_without_them_trained_once_and_the_ladder_goes_on(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    start, out, rows = folders(tmp_path, tiny_overrides)
    (tmp_path / "see.yaml").write_text("losses: {text_image: 1.0}\nsteps: 1\n")
    (tmp_path / "fuse.yaml").write_text("losses: {text_image: 0.0, query_product: 1.0}\nsteps: 2\n")
    rows.write_text(
        "alone: [fuse.yaml steps=3]\n"
        "both: [see.yaml, fuse.yaml]\n"
        "grid: [{}, {fuse.loss: sigmoid}]\n"
    )
    argv = ["--labels", "0", "5", "all", "--rows", str(rows), "--start", str(start),
            "--out", str(out)]  # fmt: skip
    main(argv)
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if line.startswith("[")]
    see = f"{out}/no-labels/both-seed0/1-see"
    assert lines == [
        f"[1/5] {see}, stage 1 of 1, 1 steps: training",
        f"[2/5] {out}/labels-5/alone-seed0/1-fuse, stage 1 of 1, 3 steps: training",
        f"[3/5] {see}, stage 1 of 2, 1 steps: reused",
        f"[3/5] {out}/labels-5/both-seed0/2-fuse, stage 2 of 2, 2 steps: training",
        f"[4/5] {out}/labels-all/alone-seed0/1-fuse, stage 1 of 1, 3 steps: training",
        f"[5/5] {see}, stage 1 of 2, 1 steps: reused",
        f"[5/5] {out}/labels-all/both-seed0/2-fuse, stage 2 of 2, 2 steps: training",
    ]
    assert printed.err.count("source tables: 24 products, 5 of 12 judged queries, weight 1") == 2
    table = pd.read_csv(out / "table.csv")
    assert list(zip(table["labels"], table["name"], strict=True)) == [
        (0, "both"), (5, "alone"), (5, "both"), (12, "alone"), (12, "both"),
    ]  # fmt: skip
    assert Image.open(out / "labels.png").size[0] > 100

    (out / "labels-5" / "both-seed0" / "2-fuse" / "metrics.json").unlink()
    main([*argv, "--grid"])
    printed = capsys.readouterr()
    assert printed.out.count(": training") == 5
    assert "labels-5/both-seed0/2-fuse, stage 2 of 2, 2 steps: training" in printed.out
    assert "own best of 2 settings (as it stands; fuse.loss=sigmoid)" in printed.out
