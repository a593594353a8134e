"""Ladders and their report: the plan of runs, stale runs that are refused, and the table."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_text.ablate import ladders_of, main, parse
from beyond_text.config.compare import differences
from beyond_text.config.load import load_config, to_yaml
from beyond_text.config.names import CURRICULUM, STAGE3
from beyond_text.config.settings import Config, active_losses
from beyond_text.config.views import OBJECTIVE_VIEWS
from beyond_text.evaluation.ladder import (
    Ladder,
    Row,
    Stage,
    check_chains,
    fusion_rows,
    plan,
    read_rows,
    with_samples,
)
from beyond_text.evaluation.report import Cell, chart, markdown, summarise, verdict, write_report
from beyond_text.metrics.ranking import Ranking, retrieval_metrics
from beyond_text.metrics.significance import compare_paired, interval
from beyond_text.metrics.trec import write_trec
from beyond_text.training.inputs import write_inputs

pytestmark = pytest.mark.slow

RANDOM = np.random.default_rng(0)
# The rank of the one relevant product of each query.
RANKS = {
    "concat": RANDOM.integers(1, 6, 40),
    "gated": RANDOM.integers(1, 4, 40),
    "image": RANDOM.integers(4, 11, 40),
}
QUERIES = pd.DataFrame({
    "query_id": [f"q{number}" for number in range(40)],
    "kind": ["attribute"] * 25 + ["human"] * 15,
})  # fmt: skip
# Each three queries in a row ask for the same product.
NEEDS = np.arange(40) // 3
QRELS = pd.DataFrame({
    "query_id": QUERIES["query_id"], "product_id": [f"right{need}" for need in NEEDS],
    "relevance": 2,
})  # fmt: skip


def write_run(folder: Path, ranks: np.ndarray, seconds: float = 60) -> None:
    """Writes a finished run, in which a query has an nDCG@10 of 1 / log2(1 + rank)."""
    wrong = [f"wrong{number}" for number in range(9)]
    ranking = Ranking(
        QUERIES["query_id"].tolist(),
        [
            [*wrong[: rank - 1], f"right{need}", *wrong[rank - 1 :]]
            for rank, need in zip(ranks, NEEDS, strict=True)
        ],
        np.tile(np.arange(10, 0, -1, dtype=np.float32), (len(ranks), 1)),
    )
    write_trec(folder, ranking, QRELS, QUERIES)
    metrics = retrieval_metrics(ranking, QUERIES, QRELS)
    training = {"seconds": seconds, "fusion_parameters": 1_000, "parameters": 2_000}
    content = json.dumps(metrics | {"training": training})
    (folder / "metrics.json").write_text(content)


def cells_of(
    out: Path, *names: str, seeds: tuple[int, ...] = (0, 1), ladder: str = "fusion"
) -> list[Cell]:
    """Returns finished cells of one stage; seed s ranks s worse and takes s minutes longer."""
    cells = []
    for name in names:
        for seed in seeds:
            folder = out / f"{name}-seed{seed}"
            write_run(folder, np.minimum(RANKS[name] + seed, 10), seconds=60 + seed * 60)
            cells.append(Cell(ladder, name, seed, (folder,)))
    return cells


def value(name: str, seed: int) -> np.ndarray:
    return 1 / np.log2(1 + np.minimum(RANKS[name] + seed, 10))


def test_rows_are_means_intervals_and_paired_differences_of_seed_averages(tmp_path: Path) -> None:
    table = summarise(cells_of(tmp_path, "concat", "gated"))
    assert list(zip(table["name"], table["kind"], strict=True)) == [
        (name, kind) for name in ("concat", "gated") for kind in ("all", "attribute", "human")
    ]
    kind = QUERIES["kind"].to_numpy()
    first = (value("concat", 0) + value("concat", 1)) / 2
    for _, row in table.iterrows():
        part = (kind == row["kind"]) | (row["kind"] == "all")
        seeds = [value(row["name"], seed)[part] for seed in (0, 1)]
        average = (seeds[0] + seeds[1]) / 2
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(
            interval(average, NEEDS[part])
        )
        expected = compare_paired(average, first[part], NEEDS[part])
        got = row[["difference", "difference_low", "difference_high", "p"]].tolist()
        assert got == pytest.approx(list(expected))
        spread = abs(seeds[0].mean() - seeds[1].mean()) / math.sqrt(2)
        assert row["deviation"] == pytest.approx(spread)
        assert (row["queries"], row["seeds"]) == (part.sum(), 2)
        assert row["needs"] == len(set(NEEDS[part]))
        assert (row["minutes"], row["fusion_parameters"]) == (1.5, 1_000)


def test_one_seed_has_no_deviation_and_another_measure_can_be_asked_for(tmp_path: Path) -> None:
    table = summarise(cells_of(tmp_path, "concat", seeds=(0,)), measure="mrr")
    assert table["deviation"].isna().all()
    assert table["mean"][0] == pytest.approx((1 / RANKS["concat"]).mean())
    assert "±" not in markdown(table)
    assert "of one seed" in markdown(table)


def test_cells_of_other_queries_are_refused(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "concat", "gated", seeds=(0,))
    path = cells[1].runs[0] / "qrels.trec"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"gated-seed0: other queries than those of .*concat-s"):
        summarise(cells)


def rows(*values: tuple[str, float, float, float]) -> pd.DataFrame:
    names = ["name", "mean", "difference_low", "difference_high"]
    table = pd.DataFrame(list(values), columns=names)
    return table.assign(
        ladder="curriculum", kind="all", difference=table["mean"] - table["mean"][0], p=0.01
    )


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
        # Of two needs an interval says nothing.
        (
            rows(("a", 0.5, 0, 0), ("b", 0.6, 0.02, 0.18)).assign(p=0.5),
            "b is the best, +0.100 [+0.020, +0.180], p = 0.500 against a: "
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
    assert verdict(table) == f"curriculum, all: {sentence}"


def test_the_report_is_written_and_printed_alike(tmp_path: Path) -> None:
    table = summarise(cells_of(tmp_path, "concat", "gated", "image"))
    text = write_report(table, tmp_path)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == text
    lines = text.splitlines()
    assert lines[0].split(" | ")[5] == "ndcg@10 all"
    assert {line.count("|") for line in lines[:5]} == {12}
    # Runs from before metrics named the pool say nothing of it.
    assert "products are searched" not in text
    assert "\n1,084 products are searched. Brackets" in markdown(table.assign(products=1084))
    assert lines[2].startswith("| fusion | concat | 1,000 | 1.5 | 2 | ")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv"), table)
    with Image.open(tmp_path / "chart.png") as picture:
        assert min(picture.size) > 200


def test_two_ladders_stand_in_one_table_each_against_its_own_first_row(tmp_path: Path) -> None:
    fusion = cells_of(tmp_path, "concat", "gated")
    shared = tmp_path / "gated-seed0" / "1-stage1"
    write_run(shared, RANKS["image"], seconds=180)
    chains = cells_of(tmp_path / "chains", "image", "gated", seeds=(0,), ladder="curriculum")
    chains = [cell._replace(runs=(shared, *cell.runs)) for cell in chains]
    table = summarise([*fusion, *chains])
    alone = summarise(fusion)
    pd.testing.assert_frame_equal(table[table["ladder"] == "fusion"], alone)

    rest = table[table["ladder"] == "curriculum"]
    assert rest["name"].drop_duplicates().tolist() == ["image", "gated"]
    # A chain is measured by its last stage, and its minutes are those of all stages, shared ones
    # too.
    assert rest["mean"].iloc[0] == pytest.approx(value("image", 0).mean())
    assert (rest["minutes"] == 4).all()
    assert (rest["seeds"] == 1).all()
    expected = compare_paired(value("gated", 0), value("image", 0), NEEDS)
    got = rest[["difference", "difference_low", "difference_high", "p"]].iloc[3].tolist()
    assert got == pytest.approx(list(expected))

    lines = markdown(table).splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:6]] == [
        ["| fusion", "concat"], ["| fusion", "gated"],
        ["| curriculum", "image"], ["| curriculum", "gated"],
    ]  # fmt: skip
    undiffered = [line.endswith(" - | - | - |") for line in lines[2:6]]
    assert undiffered == [True, False, True, False]
    assert [line.split(":")[0] for line in verdict(table).splitlines()] == [
        f"{ladder}, {kind}"
        for ladder in ("fusion", "curriculum")
        for kind in ("all", "attribute", "human")
    ]


def test_the_chart_keeps_the_ladders_apart_and_names_both(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "concat", "gated", seeds=(0,))
    cells += cells_of(tmp_path / "chains", "image", "gated", seeds=(0,), ladder="curriculum")
    panels = chart(summarise(cells)).axes
    assert len(panels) == 3
    assert [label.get_text() for label in panels[0].get_yticklabels()] == [
        "concat", "gated", "image", "gated"
    ]  # fmt: skip
    heights = panels[0].get_yticks()
    assert heights[2] - heights[1] > heights[1] - heights[0] == heights[3] - heights[2]
    for panel in panels:
        texts = {text.get_text() for text in panel.texts}
        assert {"fusion", "curriculum"} <= texts


def test_fusions_and_seeds_are_split_at_spaces_and_commas_and_settings_may_follow() -> None:
    argv = "--fusion concat,gated sum steps=7 --seeds 0 1,2 data.workers=0 --start=x=1/stage2"
    asked = parse(argv.split())
    assert asked.fusion == ["concat", "gated", "sum"]
    assert asked.seeds == asked.curriculum_seeds == [0, 1, 2]
    assert asked.overrides == ["steps=7", "data.workers=0"]
    assert asked.start == Path("x=1/stage2")
    assert asked.curriculum is None


def test_the_curriculum_has_a_file_and_may_have_seeds_of_its_own() -> None:
    asked = parse(["--curriculum", "steps=7", "--curriculum-seeds", "3,4", "--ladder", "rows.yaml"])
    assert asked.curriculum == CURRICULUM
    assert (asked.seeds, asked.curriculum_seeds) == ([0], [3, 4])
    assert parse(["--curriculum", "mine.yaml"]).curriculum == Path("mine.yaml")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--seeds 0", "nothing to compare: give --fusion, --curriculum, "),
        ("--curriculum --seeds one", "seeds: expected whole numbers"),
        ("--curriculum --curriculum-seeds one", "seeds: expected whole numbers"),
    ],
)
def test_a_command_that_cannot_be_meant_is_refused(
    argv: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        parse(argv.split())
    assert message in capsys.readouterr().err


def test_an_unknown_fusion_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown fusion 'concta': expected some of bilinear, "):
        fusion_rows(["concta"], [])


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A finished run of stage 2."""
    folder = tmp_path / "stage2"
    folder.mkdir()
    config = load_config([], ["dim=48", "steps=5", "lr.fusion=0", f"run={folder}"])
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "metrics.json").write_text('{"training": {"seconds": 1.5}}')
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "stage3.yaml"
    path.write_text("steps: 9\nbatch_size: 16\n")
    return path


def fusion_ladder(start: Path, *fusions: str, recipes: tuple[Path, ...] = ()) -> Ladder:
    return Ladder("fusion", fusion_rows(fusions, recipes), [3], start)


def planned(ladder: Ladder, start: Path, *overrides: str) -> list[list[Config]]:
    """Returns the planned chains of a ladder, in folders beside `start`."""
    cells = plan([ladder], start / "config.yaml", overrides, start.parent / "out")
    return list(cells.values())


def begin(config: Config, seconds: float | None = None) -> None:
    """Writes what training writes first, and if `seconds` is given, what it writes last."""
    run = Path(config.run)
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(to_yaml(config))
    write_inputs(config)
    if seconds is not None:
        write_run(run, RANKS["concat"], seconds)


def test_a_cell_takes_start_then_recipe_then_overrides_then_its_own(
    start: Path, recipe: Path
) -> None:
    ladder = fusion_ladder(start, "gated", recipes=(recipe,))
    [[config]] = planned(ladder, start, "batch_size=4", "budget=2")
    assert (config.dim, config.steps, config.budget, config.batch_size) == (48, 9, 2.0, 4)
    assert (config.fusion, config.seed) == ("gated", 3)
    assert config.start == str(start)
    assert config.run == str(start.parent / "out" / "gated-seed3")


def test_a_control_without_pictures_is_blind_in_its_losses_too(start: Path) -> None:
    ladder = fusion_ladder(start, "image", "text", recipes=(STAGE3,))
    [[seeing], [blind]] = planned(ladder, start)
    assert seeing.losses.query_image > 0 == blind.losses.query_image


def test_a_run_of_other_settings_is_refused_by_key(start: Path, recipe: Path) -> None:
    ladder = fusion_ladder(start, "gated", recipes=(recipe,))
    begin(planned(ladder, start, "lr.fusion=0.5")[0][0])
    check_chains(planned(ladder, start, "lr.fusion=0.5", "resume=never", "data.workers=3"))
    with pytest.raises(ValueError, match=r"settings: lr\.fusion \(asked 0\.25, found 0\.5\); rem"):
        check_chains(planned(ladder, start, "lr.fusion=0.25"))


@pytest.mark.parametrize(
    ("row", "overrides", "message"),
    [
        ("fusion=gated", ["fusion=sum", "seed=1"], "row: fusion, seed: set by the ablation"),
        ("fusion=gated seed=1", [], "row: seed: set by the ablation"),
        ("start=elsewhere", [], "row: start: set by the ablation"),
        ("fusoin=gated", [], "row: fusoin=gated: unknown setting fusoin; .* known one is fusion"),
        ("none.yaml", [], r"row: none\.yaml: no such recipe file"),
    ],
)
def test_what_a_row_cannot_say_is_refused_by_row_and_key(
    start: Path, row: str, overrides: list[str], message: str
) -> None:
    words = tuple(word for word in row.split() if "=" in word)
    files = tuple(Path(word) for word in row.split() if "=" not in word)
    ladder = Ladder("mine", [Row("row", (Stage(files, words),))], [0], start)
    with pytest.raises(ValueError, match=f"^{message}"):
        planned(ladder, start, *overrides)


def test_an_unfinished_start_gives_settings_but_no_weights(start: Path) -> None:
    (start / "metrics.json").unlink()
    with pytest.raises(ValueError, match="stage2 is not a finished run"):
        planned(fusion_ladder(start, "gated"), start)
    [[untouched]] = planned(fusion_ladder(start, "gated")._replace(start=None), start)
    assert (untouched.dim, untouched.start) == (48, "")


def test_nothing_is_named_twice(start: Path) -> None:
    ladder = fusion_ladder(start, "gated")
    with pytest.raises(ValueError, match="named twice: gated"):
        planned(fusion_ladder(start, "gated", "sum", "gated"), start)
    with pytest.raises(ValueError, match="named twice: 3"):
        planned(ladder._replace(seeds=[3, 1, 3]), start)
    for other, twice in ((ladder._replace(name="other"), "gated"), (ladder, "fusion")):
        with pytest.raises(ValueError, match=f"named twice: {twice}"):
            plan([ladder, other], start / "config.yaml", [], start.parent)


def test_a_ladder_stays_with_the_weights_it_began_with(start: Path) -> None:
    chains = planned(fusion_ladder(start, "gated"), start)
    begin(chains[0][0], seconds=60)
    check_chains(chains)
    (start / "metrics.json").write_text('{"training": {"seconds": 1.6}}')
    with pytest.raises(ValueError, match=r"gated-seed3: what start held .* is not what is"):
        check_chains(chains)


def test_rows_are_chains_of_recipes_beside_the_file_with_words_on_top(tmp_path: Path) -> None:
    path = tmp_path / "rows.yaml"
    path.write_text("one: [../a.yaml]\ntwo: [a.yaml b.yaml dim=8 steps=2, c.yaml]\n")
    one, two = read_rows(path)
    assert one == Row("one", (Stage((tmp_path / "../a.yaml",), ()),))
    first = Stage((tmp_path / "a.yaml", tmp_path / "b.yaml"), ("dim=8", "steps=2"))
    assert two == Row("two", (first, Stage((tmp_path / "c.yaml",), ())))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no rows to read: .*No such file"),
        ("a: [", "no rows to read"),
        ("a: [s.yaml]\na: [t.yaml]", "no rows to read: .*duplicate key"),
        ("", "expected rows as `name: "),
        ("- a", "expected rows as `name: "),
        ("a: s.yaml", "row 'a': expected a name .* with a list of stages such as"),
        ("a: []", "row 'a': expected a name"),
        ("a: [3]", "row 'a': expected a name"),
        ("a/b: [s.yaml]", "row 'a/b': expected a name of letters"),
        ("7: [s.yaml]", "row 7: expected a name of letters"),
        ("a: [steps=3]", "row 'a': stage 'steps=3' names no recipe file"),
    ],
)
def test_a_file_of_no_rows_is_refused_with_its_name(
    tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "rows.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=rf"rows\.yaml: {message}"):
        read_rows(path)


def stages(*settings: str) -> list[Config]:
    return [load_config([], words.split()) for words in settings]


@pytest.mark.parametrize(
    ("chain", "samples", "expected"),
    [
        (["steps=40 budget=2", "steps=60"], 140, [80, 60]),
        (["steps=60", "steps=120"], 220, [73, 147]),
        (["steps=40", "steps=120"], 220, [55, 165]),
        (["steps=1", "steps=1", "steps=1"], 100, [33, 33, 34]),
        (["steps=1", "steps=1000"], 10, [1, 9]),
        (["steps=120 budget=0.5"], 7, [7]),
        # In units of 128 samples: 22 steps of 4 leave 132, which are 66 steps of 2.
        (["steps=40 accumulate=4", "steps=120 batch_size=256"], 220, [22, 66]),
    ],
)
def test_the_steps_of_a_chain_are_scaled_to_exactly_the_samples_given(
    chain: list[str], samples: int, expected: list[int]
) -> None:
    scaled = with_samples(stages(*chain), samples * 128)
    assert [stage.total_steps for stage in scaled] == expected
    seen = sum(s.total_steps * s.batch_size * s.accumulate for s in scaled)
    assert seen == samples * 128


def test_a_chain_of_as_many_samples_keeps_its_settings_and_one_too_long_is_refused() -> None:
    chain = stages("steps=40 budget=2", "steps=60")
    assert with_samples(chain, 140 * 128) == chain
    with pytest.raises(ValueError, match="256 samples are too few for 3 stages"):
        with_samples(stages("steps=1", "steps=1", "steps=1"), 256)


def chains_of(
    start: Path, *overrides: str, seeds: tuple[int, ...] = (0,)
) -> dict[tuple[str, int], list[Config]]:
    ladder = Ladder("curriculum", read_rows(CURRICULUM), seeds, None)
    cells = plan([ladder], start / "config.yaml", overrides, start.parent / "out")
    return {(cell.name, cell.seed): chain for cell, chain in cells.items()}


@pytest.mark.parametrize("overrides", [[], ["budget=4"], ["budget=0.37"], ["steps=2"]])
def test_every_row_of_the_curriculum_sees_as_many_samples(
    start: Path, overrides: list[str]
) -> None:
    chains = chains_of(start, *overrides)
    assert len(chains) == 6
    assert len({sum(stage.total_steps for stage in chain) for chain in chains.values()}) == 1
    assert len({stage.batch_size for chain in chains.values() for stage in chain}) == 1


def test_a_chain_begins_untouched_and_each_stage_where_the_one_before_ends(start: Path) -> None:
    for (name, seed), chain in chains_of(start, seeds=(0, 1)).items():
        assert [stage.start for stage in chain] == ["", *(stage.run for stage in chain[:-1])]
        assert {(stage.seed, stage.dim) for stage in chain} == {(seed, 48)}
        assert f"{name}-seed{seed}" in chain[-1].run


def test_rows_that_begin_alike_share_the_stages_they_begin_with(start: Path) -> None:
    chains = chains_of(start, seeds=(0, 1))
    out = start.parent / "out"
    for seed in (0, 1):
        full = [stage.run for stage in chains["full", seed]]
        folder = out / f"full-seed{seed}"
        assert full == [str(folder / f"{n}-stage{n}") for n in (1, 2, 3)]
        blind = [stage.run for stage in chains["no-query-to-image", seed]]
        assert blind == [*full[:2], str(out / f"no-query-to-image-seed{seed}" / "3-stage3")]
        # Without stage 2, stage 1 is longer, so the rows share no run.
        assert chains["no-query-to-text", seed][0].run not in full
        assert chains["all-at-once", seed][0].run == str(out / f"all-at-once-seed{seed}")


def test_the_rows_of_the_curriculum_leave_out_what_their_names_say(start: Path) -> None:
    chains = {name: chain for (name, _), chain in chains_of(start).items()}
    found = {name: [set(active_losses(s)) for s in chain] for name, chain in chains.items()}
    first, second, third = found["full"]
    assert found == {
        "full": [{"text_image"}, {"query_text"}, {"query_image", "query_product"}],
        "no-domain-pretraining": [second, third],
        "no-query-to-text": [first, third],
        "no-query-to-image": [first, second, {"query_product"}],
        "all-at-once": [first | second | third],
        "stage3-only": [third],
    }
    [together] = chains["all-at-once"]
    for name in OBJECTIVE_VIEWS:
        weights = [getattr(stage.losses, name) for stage in chains["full"]]
        assert getattr(together.losses, name) == max(weights)
    [third_only] = chains["stage3-only"]
    assert {key.split()[0] for key in differences(third_only, together)} == {
        "losses.text_image", "losses.query_text"
    }  # fmt: skip
    assert together.lr == chains["full"][-1].lr


def test_all_at_once_takes_as_many_batches_of_each_source_as_the_chain(
    start: Path, tiny_shards: Path
) -> None:
    words = [f"data.sources.{name}.path={tiny_shards}" for name in ("shop", "titles")]
    words += ["data.sources.titles.losses=[text_image]", "data.sources.titles.weight=2"]
    rows = {row.name: row for row in read_rows(CURRICULUM)}
    ladder = Ladder("curriculum", [rows["full"], rows["all-at-once"]], [0], None)
    full, [together] = planned(ladder, start, *words)
    steps = [stage.total_steps for stage in full]
    assert together.total_steps == sum(steps)
    shares = {name: source.weight for name, source in together.data.sources.items()}
    # Two thirds of the batches of stage 1 are of the titles, and none of the later stages.
    titles = steps[0] * 2 / 3
    assert shares == pytest.approx({"shop": sum(steps) - titles, "titles": titles}, abs=1e-3)


def test_a_start_that_has_trained_its_fusion_is_refused(start: Path) -> None:
    path = start / "config.yaml"
    config = load_config([path], ["lr.fusion=1e-3", "losses.query_product=1"])
    path.write_text(to_yaml(config))
    asked = parse(["--fusion", "bilinear", "concat", "--start", str(start)])
    with pytest.raises(ValueError, match=r"stage2 has trained its fusion: .* before that"):
        ladders_of(asked)


def test_a_stage_begun_from_weights_that_are_gone_is_refused(start: Path) -> None:
    chain = chains_of(start)["full", 0]
    first = Path(chain[0].run)
    begin(chain[0], seconds=60)
    begin(chain[1], seconds=60)
    check_chains([chain])
    write_run(first, RANKS["concat"], seconds=61)
    with pytest.raises(ValueError, match=r"2-stage2: what start held .* is not what is"):
        check_chains([chain])
    (first / "metrics.json").unlink()
    with pytest.raises(ValueError, match=r"2-stage2: what start held .* is not what is"):
        check_chains([chain])


def test_finished_cells_are_reported_without_training(
    start: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    ladder = Ladder("fusion", fusion_rows(["concat", "gated"], [recipe]), [0, 1], start)
    for [config] in planned(ladder, start):
        begin(config, seconds=60)
    # A row that trains the same as another one uses its run.
    (tmp_path / "mine.yaml").write_text("same: [stage3.yaml fusion=concat]\n")
    argv = f"--fusion concat gated --seeds 0 1 --start {start} --out {out} --recipe {recipe}"
    main([*argv.split(), "--ladder", str(tmp_path / "mine.yaml")])
    printed = capsys.readouterr().out
    assert printed.count("reused") == 6
    assert printed.count("concat-seed1, stage 1 of 1, 9 steps: reused") == 2
    assert (out / "table.md").read_text(encoding="utf-8") in printed
    assert pd.read_csv(out / "table.csv")["ladder"].unique().tolist() == ["fusion", "mine"]
    with pytest.raises(SystemExit, match="settings: steps"):
        main([*argv.split(), "steps=8"])
