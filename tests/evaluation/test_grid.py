"""The grid of settings that each row of a ladder chooses from."""

from __future__ import annotations

from pathlib import Path

import pytest

from beyond_text.ablate import parse
from beyond_text.config.load import load_config, to_yaml
from beyond_text.config.names import CONTROLS, FUSION_NAMES, RECIPES
from beyond_text.evaluation.grid import (
    Tried,
    best_of,
    check_points,
    points_of,
    read_grid,
    runs_of,
    tried_rows,
    unused_settings,
    values_of,
    with_best,
    write_grid,
)
from beyond_text.evaluation.ladder import Ladder, Row, Stage, plan
from beyond_text.evaluation.report import Cell
from beyond_text.metrics.results import METRICS
from beyond_text.models.fusion import FUSIONS
from tests.evaluation.test_report import RANKS, write_run


def test_the_recipes_grid_tries_what_each_fusion_has() -> None:
    grid = read_grid(RECIPES / "ladder" / "fusion_grid.yaml")
    assert grid == {"lr.fusion": ["0.0003", "0.001", "0.003"], "fusion_rank": ["256", "512"]}
    assert points_of(grid, "sum") == [()]
    assert points_of(grid, "gated") == [(f"lr.fusion={rate}",) for rate in grid["lr.fusion"]]
    assert len(points_of(grid, "attended")) == 6
    assert points_of(grid, "attended")[1] == ("lr.fusion=0.0003", "fusion_rank=512")


def test_what_a_fusion_uses_is_what_changes_its_size() -> None:
    for name in FUSIONS:
        without = name in CONTROLS
        assert ("lr.fusion" in unused_settings(name)) == without
        assert ("fusion_rank" in unused_settings(name)) == (without or name in ("gated", "lmf"))
        assert ("fusion_balance" in unused_settings(name)) == (name != "moe")


def test_all_learned_names_every_fusion_but_the_controls() -> None:
    assert parse(["--fusion", "sum", "all-learned"]).fusion == [
        "sum",
        *(name for name in FUSION_NAMES if name not in CONTROLS),
    ]
    assert {"attended", "moe", "uniecs"} <= set(parse(["--fusion=all-learned"]).fusion)
    assert [name for name in FUSIONS if unused_settings(name) >= {"lr.fusion"}] == list(CONTROLS)


def test_values_are_written_as_settings_are(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(
        "temperature: [null, 0.1]\ntext_encoder.dropout: [true, false]\nloss: [sigmoid]\n"
    )
    assert read_grid(file) == {
        "temperature": ["null", "0.1"],
        "text_encoder.dropout": ["true", "false"],
        "loss": ["sigmoid"],
    }


@pytest.mark.parametrize("text", ["", "lr.fusion: 0.1", "- 1", "lr.fusion: []", "a: [1\n"])
def test_a_file_that_is_no_grid_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"grid\.yaml: (expected a grid|no grid to read)"):
        read_grid(tmp_path / "grid.yaml")
    with pytest.raises(ValueError, match=r"nowhere\.yaml: no grid to read"):
        read_grid(tmp_path / "nowhere.yaml")


def test_the_best_point_of_each_row_and_of_equal_ones_the_first(tmp_path: Path) -> None:
    tried = [
        Tried("a", ("x=1",), 0.2),
        Tried("a", ("x=2",), 0.5),
        Tried("a", ("x=3",), 0.5),
        Tried("b", (), 0.1),
    ]
    assert best_of(tried) == {"a": ("x=2",), "b": ()}
    stages = Stage((tmp_path / "one",), ("y=1",)), Stage((tmp_path / "two",), ())
    ladder = Ladder("l", [Row("a", stages), Row("b", stages[:1])], [0, 1], None)
    (a, b) = with_best(ladder, best_of(tried)).rows
    assert [stage.words for stage in a.stages] == [("y=1",), ("x=2",)]
    assert b == ladder.rows[1]
    text = write_grid(tried, "ndcg@10", 0, tmp_path)
    assert "| a | x=2 | 0.500 | chosen |" in text
    assert "| b | as they are | 0.100 | chosen |" in text
    assert text == (tmp_path / "grid.md").read_text()


def test_points_that_train_the_same_are_refused(tmp_path: Path) -> None:
    """As those of `steps` do in a row of one stage, whose samples are those of the first row."""

    def cell(name: str, run: str) -> Cell:
        return Cell("l", name, 0, (tmp_path / run,))

    of_name = {"a1": ("a", ("steps=1",)), "a2": ("a", ("steps=2",)), "b": ("b", ("steps=1",))}
    # Two rows may share a run.
    check_points([cell("a1", "one"), cell("a2", "two"), cell("b", "one")], of_name)
    with pytest.raises(ValueError, match="--grid: a: steps=1 and steps=2 train the same run"):
        check_points([cell("a1", "one"), cell("a2", "one"), cell("b", "two")], of_name)


def test_a_shop_without_queries_has_values_too(tmp_path: Path) -> None:
    write_run(tmp_path / "run", RANKS["image"])
    # Its texts and pictures that find each other have metrics of their own, and none of all.
    (tmp_path / "run" / METRICS).write_text("{}")
    (tried,) = values_of([Cell("l", "a", 0, (tmp_path / "run",))], {"a": ("a", ("x=1",))}, "mrr")
    assert tried == Tried("a", ("x=1",), pytest.approx((1 / RANKS["image"]).mean()))


def test_a_chosen_point_is_the_run_that_was_tried_for_as_many_samples(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    settings, recipe = tmp_path / "config.yaml", tmp_path / "fuse.yaml"
    settings.write_text(to_yaml(load_config([], tiny_settings)))
    recipe.write_text("losses: {query_product: 1.0}\nsteps: 12\nbatch_size: 8\n")
    rows = [Row("a", (Stage((recipe,), ()),)), Row("b", (Stage((recipe,), ("loss=sigmoid",)),))]
    ladder = Ladder("curriculum", rows, [0, 1], None)
    grid = {"batch_size": ["4", "16"], "accumulate": ["1", "2"]}
    every, of_name = tried_rows(ladder, grid, settings, [])
    cells = plan([every], settings, [], tmp_path / "grid")
    assert {c.total_steps * c.batch_size * c.accumulate for c in runs_of(cells)} == {96}
    best = {"a": ("batch_size=16", "accumulate=2"), "b": ("batch_size=4", "accumulate=1")}
    chosen = plan([with_best(ladder, best)], settings, [], tmp_path / "out", runs_of(cells))
    assert {c.total_steps * c.batch_size * c.accumulate for c in runs_of(chosen)} == {96}
    tried = {of_name[cell.name]: cell.runs for cell in cells}
    for cell in chosen:
        assert (cell.runs == tried[cell.name, best[cell.name]]) == (cell.seed == 0)
