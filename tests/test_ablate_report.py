"""The ablation's table is what its cells hold, and nothing stale passes for a finished cell."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_text.ablate import (
    Cell,
    claim,
    configure,
    fusion_cells,
    main,
    markdown,
    parse,
    summarise,
    verdict,
    write_report,
)
from beyond_text.config import load_config, to_yaml
from beyond_text.metrics import Ranking, retrieval_metrics
from beyond_text.significance import compare_paired, interval
from beyond_text.trec import write_trec

RANDOM = np.random.default_rng(0)
RANKS = {  # rank of the one relevant product of each query
    "concat": RANDOM.integers(1, 6, 40),
    "gated": RANDOM.integers(1, 4, 40),
    "image": RANDOM.integers(4, 11, 40),
}
QUERIES = pd.DataFrame({
    "query_id": [f"q{number}" for number in range(40)],
    "kind": ["attribute"] * 25 + ["human"] * 15,
})  # fmt: skip
QRELS = pd.DataFrame({"query_id": QUERIES["query_id"], "product_id": "right", "relevance": 2})


def write_cell(cell: Cell, ranks: np.ndarray, seconds: float = 60) -> None:
    """A finished cell whose nDCG@10 of each query is 1 / log2(1 + rank)."""
    wrong = [f"wrong{number}" for number in range(9)]
    ranking = Ranking(
        QUERIES["query_id"].tolist(),
        [[*wrong[: rank - 1], "right", *wrong[rank - 1 :]] for rank in ranks],
        np.tile(np.arange(10, 0, -1, dtype=np.float32), (len(ranks), 1)),
    )
    write_trec(cell.folder, ranking, QRELS, QUERIES)
    metrics = retrieval_metrics(ranking, QUERIES, QRELS)
    training = {"seconds": seconds, "fusion_parameters": 1_000, "parameters": 2_000}
    content = json.dumps(metrics | {"training": training})
    (cell.folder / "metrics.json").write_text(content)


def ladder(out: Path, *names: str, seeds: tuple[int, ...] = (0, 1)) -> list[Cell]:
    cells = fusion_cells(names, seeds, out)
    for cell in cells:
        write_cell(cell, np.minimum(RANKS[cell.name] + cell.seed, 10), seconds=60 + cell.seed * 60)
    return cells


def value(name: str, seed: int) -> np.ndarray:
    return 1 / np.log2(1 + np.minimum(RANKS[name] + seed, 10))


def test_rows_are_means_intervals_and_paired_differences_of_seed_averages(tmp_path: Path) -> None:
    table = summarise(ladder(tmp_path, "concat", "gated"))
    assert list(zip(table["name"], table["kind"], strict=True)) == [
        (name, kind) for name in ("concat", "gated") for kind in ("all", "attribute", "human")
    ]
    kind = QUERIES["kind"].to_numpy()
    first = (value("concat", 0) + value("concat", 1)) / 2
    for _, row in table.iterrows():
        part = (kind == row["kind"]) | (row["kind"] == "all")
        seeds = [value(row["name"], seed)[part] for seed in (0, 1)]
        average = (seeds[0] + seeds[1]) / 2
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(interval(average))
        expected = compare_paired(average, first[part])
        got = row[["difference", "difference_low", "difference_high", "p"]].tolist()
        assert got == pytest.approx(list(expected))
        spread = abs(seeds[0].mean() - seeds[1].mean()) / math.sqrt(2)
        assert row["deviation"] == pytest.approx(spread)
        assert (row["queries"], row["seeds"]) == (part.sum(), 2)
        assert (row["minutes"], row["fusion_parameters"]) == (1.5, 1_000)


def test_one_seed_has_no_deviation_and_another_measure_can_be_asked_for(tmp_path: Path) -> None:
    table = summarise(ladder(tmp_path, "concat", seeds=(0,)), measure="mrr")
    assert table["deviation"].isna().all()
    assert table["mean"][0] == pytest.approx((1 / RANKS["concat"]).mean())
    assert "±" not in markdown(table)
    assert "of one seed" in markdown(table)


def test_cells_of_other_queries_are_refused(tmp_path: Path) -> None:
    cells = ladder(tmp_path, "concat", "gated", seeds=(0,))
    path = cells[1].folder / "qrels.trec"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"gated-seed0: other queries than those of .*concat-s"):
        summarise(cells)


def rows(*values: tuple[str, float, float, float]) -> pd.DataFrame:
    names = ["name", "mean", "difference_low", "difference_high"]
    table = pd.DataFrame(list(values), columns=names)
    return table.assign(kind="all", difference=table["mean"] - table["mean"][0], p=0.01)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (rows(("a", 0.5, 0, 0)), "a alone, nothing to compare it with."),
        (
            rows(("a", 0.5, 0, 0), ("b", 0.6, 0.02, 0.18)),
            "b is the best, +0.100 [+0.020, +0.180], p = 0.010 against a: "
            "the intervals separate them.",
        ),
        (
            rows(("a", 0.5, 0, 0), ("b", 0.6, -0.02, 0.18), ("c", 0.4, -0.2, -0.1)),
            "b is the best, +0.100 [-0.020, +0.180], p = 0.010 against a: "
            "the intervals do not separate them.",
        ),
        (
            rows(("a", 0.5, 0, 0), ("b", 0.4, -0.2, 0.01), ("c", 0.3, -0.3, -0.1)),
            "a is the best: the intervals do not separate it from b.",
        ),
        (
            rows(("a", 0.5, 0, 0), ("b", 0.4, -0.2, -0.1)),
            "a is the best: the intervals separate it from every other.",
        ),
    ],
)
def test_the_sentence_says_whether_the_best_is_apart(table: pd.DataFrame, sentence: str) -> None:
    assert verdict(table) == f"all: {sentence}"


def test_the_report_is_written_and_printed_alike(tmp_path: Path) -> None:
    table = summarise(ladder(tmp_path, "concat", "gated", "image"))
    text = write_report(table, tmp_path)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == text
    lines = text.splitlines()
    assert lines[0].split(" | ")[3] == "ndcg@10 all"
    assert {line.count("|") for line in lines[:5]} == {10}
    assert lines[2].startswith("| concat | 1,000 | 1.5 | ")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv"), table)
    with Image.open(tmp_path / "chart.png") as picture:
        assert min(picture.size) > 200


def test_fusions_and_seeds_are_split_at_spaces_and_commas_and_settings_may_follow() -> None:
    argv = "--fusion concat,gated sum steps=7 --seeds 0 1,2 data.workers=0 --start=x=1/stage2"
    asked = parse(argv.split())
    assert asked.fusion == ["concat", "gated", "sum"]
    assert asked.seeds == [0, 1, 2]
    assert asked.overrides == ["steps=7", "data.workers=0"]
    assert asked.start == Path("x=1/stage2")


def test_an_unknown_fusion_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown fusion 'concta': expected some of bilinear, con"):
        fusion_cells(["concta"], [0], tmp_path)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A finished stage 2."""
    folder = tmp_path / "stage2"
    folder.mkdir()
    config = load_config([], ["dim=48", "steps=5", f"run={folder}"])
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "metrics.json").write_text('{"training": {"seconds": 1.5}}')
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "stage3.yaml"
    path.write_text("steps: 9\nbatch_size: 16\n")
    return path


def test_a_cell_takes_start_then_recipe_then_overrides_then_its_own(
    start: Path, recipe: Path, tmp_path: Path
) -> None:
    cell = fusion_cells(["gated"], [3], tmp_path / "out")[0]
    config = configure(cell, start, [recipe], ["batch_size=4"])
    assert (config.dim, config.steps, config.batch_size) == (48, 9, 4)
    assert (config.fusion, config.seed) == ("gated", 3)
    assert (config.start, config.run) == (str(start), str(cell.folder))


def test_a_cell_of_other_settings_is_refused_by_key(
    start: Path, recipe: Path, tmp_path: Path
) -> None:
    cell = fusion_cells(["gated"], [3], tmp_path / "out")[0]
    cell.folder.mkdir(parents=True)
    saved = to_yaml(configure(cell, start, [recipe], ["lr.fusion=0.5"]))
    (cell.folder / "config.yaml").write_text(saved)
    harmless = ["lr.fusion=0.5", "resume=never", "data.workers=3"]
    assert configure(cell, start, [recipe], harmless).lr.fusion == 0.5
    with pytest.raises(ValueError, match=r"settings: lr\.fusion \(asked 0\.25, found 0\.5\); rem"):
        configure(cell, start, [recipe], ["lr.fusion=0.25"])


def test_what_the_ladder_varies_cannot_be_overridden(start: Path, tmp_path: Path) -> None:
    cell = fusion_cells(["gated"], [3], tmp_path)[0]
    with pytest.raises(ValueError, match="fusion, seed: set by the ablation"):
        configure(cell, start, [], ["fusion=sum", "seed=1"])


def test_an_unfinished_start_is_refused(start: Path, tmp_path: Path) -> None:
    (start / "metrics.json").unlink()
    with pytest.raises(ValueError, match="stage2 is not a finished run"):
        configure(fusion_cells(["gated"], [3], tmp_path)[0], start, [], [])


def test_a_ladder_stays_with_the_weights_it_began_with(start: Path, tmp_path: Path) -> None:
    claim(tmp_path / "out", start)
    claim(tmp_path / "out", start)
    (start / "metrics.json").write_text('{"training": {"seconds": 1.6}}')
    with pytest.raises(ValueError, match=r"out was begun from other weights than .*stage2"):
        claim(tmp_path / "out", start)


def test_finished_cells_are_reported_without_training(
    start: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    for cell in ladder(out, "concat", "gated"):
        config = configure(cell, start, [recipe], [])
        (cell.folder / "config.yaml").write_text(to_yaml(config))
    argv = f"--fusion concat gated --seeds 0 1 --start {start} --out {out} --recipe {recipe}"
    main(argv.split())
    printed = capsys.readouterr().out
    assert printed.count("reused") == 4
    assert (out / "table.md").read_text(encoding="utf-8") in printed
    with pytest.raises(SystemExit, match="settings: steps"):
        main([*argv.split(), "steps=8"])
