"""A ladder over numbers of judged queries: which runs it plans, what it picks, and its picture."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from beyond_text.ablate import main
from beyond_text.config.load import load_config, to_yaml
from beyond_text.config.names import LABELS, STAGE3
from beyond_text.config.settings import Config
from beyond_text.evaluation.labels import (
    Point,
    Setup,
    numbers_of,
    picked,
    plan_labels,
    read_labels,
)
from beyond_text.evaluation.labels_report import chart, report_labels
from beyond_text.evaluation.report import Cell
from tests.evaluation.test_report import RANKS, write_run


@pytest.fixture
def settings(tiny_settings: list[str], tmp_path: Path) -> Path:
    path = tmp_path / "start" / "config.yaml"
    path.parent.mkdir()
    path.write_text(to_yaml(load_config([], tiny_settings)))
    return path


def planned(
    settings: Path, asked: str, *overrides: str, grid: bool = False, seeds: tuple[int, ...] = (0,)
) -> dict[tuple[int, str, str], list[Config]]:
    """Returns the chains of the recipes' own ladder, of the last seed, by number, row and entry."""
    rows, entries = read_labels(LABELS)
    setup = Setup(rows, seeds, settings, overrides, settings.parent.parent / "out")
    points = plan_labels(setup, numbers_of(asked.split(), setup), entries if grid else [{}])
    return {(p.labels, p.cell.name, p.entry): chain for p, chain in points.items()}


def samples(chain: list[Config]) -> int:
    return sum(c.total_steps * c.batch_size * c.accumulate for c in chain)


def test_rows_see_equally_many_products_and_only_stages_with_queries_know_the_number(
    settings: Path,
) -> None:
    chains = planned(settings, "3 0 all", "batch_size=8")
    entry = "as it stands"
    names = ["stage3-only", "query-to-text", "full", "full-replay", "full-slow-picture"]
    # The tiny shop has twelve queries.
    assert list(chains) == [
        *((0, name, entry) for name in ("untouched", "stage1-only", *names[2:])),
        *((number, name, entry) for number in (3, 12) for name in names),
    ]
    for (number, name, _), chain in chains.items():
        if number:
            assert samples(chain) == 160 * 8, name
        labels = [c.data.labels for c in chain]
        needs = [bool(c.losses.query_text or c.losses.query_product) for c in chain]
        assert labels == [3 if need and number == 3 else None for need in needs]
    assert [c.total_steps for c in chains[3, "full", entry]] == [80, 5, 75]
    assert chains[3, "full-replay", entry][2].losses.text_image == 0.1
    assert [c.total_steps for c in chains[0, "untouched", entry]] == [1]
    assert [c.total_steps for c in chains[0, "stage1-only", entry]] == [160]


def test_stage_1_is_one_run_for_all_numbers_and_rows(settings: Path) -> None:
    first = planned(settings, "0 3 7 all", seeds=(0, 1))
    entry = "as it stands"
    of = {first[n, name, entry][0].run for n in (0, 3, 7, 12) for name in ("full", "full-replay")}
    assert len(of) == 1
    assert Path(of.pop()).relative_to(settings.parent.parent / "out").parts == (
        "no-labels", "full-seed1", "1-stage1",
    )  # fmt: skip
    # Rows that share stages share them at one number, and not across numbers.
    second = {n: {first[n, name, entry][1].run for name in ("full", "full-replay")} for n in (3, 7)}
    assert all(len(runs) == 1 for runs in second.values())
    assert second[3] != second[7]
    # Whatever else is asked, a run has the same folder.
    alone = planned(settings, "3", seeds=(0, 1))
    assert [c.run for c in alone[3, "full", entry]] == [c.run for c in first[3, "full", entry]]
    assert alone[3, "full", entry][1].start == alone[3, "full", entry][0].run


def test_runs_without_labels_that_differ_by_the_number_have_folders_of_their_own(
    settings: Path, tmp_path: Path
) -> None:
    """With steps=auto the number of labels decides how many samples all rows see."""
    stage1 = STAGE3.with_name("stage1.yaml")
    lines = [
        f"stage3-only: [{STAGE3} steps=auto]",
        f"full: [{stage1} steps=auto, {STAGE3} steps=auto]",
    ]
    (tmp_path / "rows.yaml").write_text("\n".join(lines))
    rows, grid = read_labels(tmp_path / "rows.yaml")
    rule = ["auto_steps.few_steps=20", "auto_steps.few_queries=2", "auto_steps.many_queries=12"]
    setup = Setup(rows, [0], settings, rule, tmp_path / "out")
    points = plan_labels(setup, numbers_of(["3", "7", "all"], setup), grid)
    steps = {(c.run, c.total_steps) for chain in points.values() for c in chain}
    assert len({number for run, number in steps if "no-labels" in run}) > 1
    assert len({run for run, _ in steps}) == len(steps)


def test_numbers_beyond_the_queries_are_all_and_wrong_ones_are_refused(settings: Path) -> None:
    rows, _ = read_labels(LABELS)
    setup = Setup(rows, [0], settings, [], settings.parent)
    assert numbers_of(["1500", "all", "5", "0", "12"], setup) == {0: 0, 5: 5, 12: None}
    for asked in (["-1"], ["many"], ["1.5"]):
        with pytest.raises(ValueError, match="--labels: expected numbers or all, got"):
            numbers_of(asked, setup)
    with pytest.raises(ValueError, match="named twice: 3"):
        numbers_of(["3", "3"], setup)
    free = setup._replace(rows=[row for row in rows if row.name == "untouched"])
    with pytest.raises(ValueError, match="none of the rows has a stage that learns from judgments"):
        numbers_of(["3"], free)


def test_an_entry_of_the_grid_sets_all_stages_or_one_and_scales_all_rows_alike(
    settings: Path,
) -> None:
    chains = planned(settings, "0 3", "budget=2", grid=True)
    steps = {
        (name, entry): [c.total_steps for c in chain]
        for (number, name, entry), chain in chains.items() if number == 3
    }  # fmt: skip
    assert steps["full", "as it stands"] == [160, 10, 150]
    assert steps["full", "budget=0.3"] == [48, 3, 45]
    assert steps["stage3-only", "budget=2"] == [640]
    # 40 + 10 + 150 steps, scaled to the 320 of the others.
    assert steps["full", "stage1.steps=20"] == [64, 16, 240]
    assert chains[0, "full", "stage1.steps=20"][0].total_steps == 64
    # Without a stage 1 it is the same run.
    alone = [
        chains[3, "stage3-only", entry][0].run for entry in ("as it stands", "stage1.steps=20")
    ]
    assert alone[0] == alone[1]
    for asked in ("3", "all", "4"):
        with pytest.raises(ValueError, match=r"untouched: data.labels: set by --labels"):
            planned(settings, asked, "data.labels=4")


def test_an_entry_gives_one_stage_a_budget_of_its_own(settings: Path) -> None:
    rows, _ = read_labels(LABELS)
    setup = Setup(rows, (0,), settings, (), settings.parent.parent / "out")
    points = plan_labels(setup, numbers_of(["3"], setup), [{"stage1.budget": 0.25, "budget": 2}])
    steps = {p.cell.name: [c.total_steps for c in chain] for p, chain in points.items()}
    assert steps["stage3-only"] == [320]
    # 40 + 10 + 150 steps, scaled to the 320 of the others.
    assert steps["full"] == [64, 16, 240]


def test_all_is_all_and_few_are_few_whatever_the_settings_that_are_lent_say(settings: Path) -> None:
    lent = load_config([settings], ["data.labels=2"])
    settings.write_text(to_yaml(lent))
    chains = planned(settings, "3 all")
    labels = {number: chains[number, "full", "as it stands"][2].data.labels for number in (3, 12)}
    assert labels == {3: 3, 12: None}


def test_labels_that_a_row_or_each_source_sets_are_refused(settings: Path) -> None:
    rows = settings.with_name("rows.yaml")
    rows.write_text(f"mine: [{STAGE3} data.labels=5]\n")
    given = Setup(read_labels(rows)[0], [0], settings, [], settings.parent)
    with pytest.raises(ValueError, match=r"mine: data\.labels: set by --labels"):
        plan_labels(given, {3: 3}, [{}])
    rows.write_text(f"mine: [{STAGE3}]\n")
    given = given._replace(rows=read_labels(rows)[0])
    with pytest.raises(ValueError, match=r"mine: data\.labels: set by --labels"):
        plan_labels(given, {3: 3}, [{"data.labels": 5}])
    given = given._replace(overrides=["data.sources.tables.labels=4"])
    with pytest.raises(ValueError, match="--labels: each source has labels of its own"):
        numbers_of(["3"], given)


def test_a_source_that_feeds_no_loss_with_queries_is_not_counted(
    settings: Path, tiny_shards: Path
) -> None:
    more = [f"data.sources.others.path={tiny_shards}", "data.sources.others.losses=[text_image]"]
    few = ["data.sources.tables.labels=4"]
    rows, _ = read_labels(LABELS)
    setup = Setup(rows, [0], settings, [*more, *few], settings.parent)
    with pytest.raises(ValueError, match="or feeds no loss with queries"):
        numbers_of(["3"], setup)
    assert numbers_of(["all"], setup._replace(overrides=more)) == {12: None}


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ("{budget: 2}", "grid: expected a list of settings"),
        ("[budget]", "grid: expected a list of settings"),
        ("[{budget: 0}]", "expected a budget above 0, got 0"),
        ("[{budget: many}]", "expected a budget above 0, got 'many'"),
        ("[{budget: .inf}]", "expected a budget above 0, got inf"),
        ("[{budget: .nan}]", "expected a budget above 0, got nan"),
        ("[{1: 2}]", "expected names of settings, got 1"),
        ("[{seed: 1}, {seed: 1}]", "named twice: seed=1"),
    ],
)
def test_a_grid_that_is_none_is_refused(grid: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_text(f"row: [stage3.yaml]\ngrid: {grid}\n")
    with pytest.raises(ValueError, match=says):
        read_labels(tmp_path / "rows.yaml")


def points_of(out: Path) -> list[Point]:
    """Returns finished points of two entries at 0, 4 and 40 queries; concat is better with long."""
    points = []
    for number in (0, 4, 40):
        for row in ("image", "concat", "gated") if number else ("image",):
            for entry in ("as it stands", "long"):
                folder = out / f"{number}-{row}-{entry}"
                better = entry == "long" and row == "concat"
                write_run(folder, (RANKS[row] - better).clip(1))
                cell = Cell(f"{number} labels", row, 0, (folder,))
                points.append(Point(number, entry, cell))
    return points


def test_dev_picks_the_best_entry_and_the_table_says_which(tmp_path: Path) -> None:
    points = points_of(tmp_path)
    best = picked(points, "ndcg@10")
    assert {(p.labels, p.cell.name): p.entry for p in best} == {
        (0, "image"): "as it stands",
        **{(n, row): "as it stands" for n in (4, 40) for row in ("image", "gated")},
        **{(n, "concat"): "long" for n in (4, 40)},
    }
    text = report_labels(points, "ndcg@10", tmp_path)
    assert "own best of 2 settings (as it stands; long), picked by ndcg@10" in text
    assert "- 4 labels, concat: long\n" in text
    table = pd.read_csv(tmp_path / "table.csv")
    assert table.query("name == 'concat' and kind == 'all'")["grid"].tolist() == ["long", "long"]
    assert sorted(set(table["labels"])) == [0, 4, 40]
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == text
    assert Image.open(tmp_path / "labels.png").size[0] > 600
    only = [point for point in points if point.entry == "long"]
    assert "own best" not in report_labels(only, "ndcg@10", tmp_path)


def test_the_picture_has_a_panel_a_kind_and_0_at_its_left_end(tmp_path: Path) -> None:
    points = picked(points_of(tmp_path), "ndcg@10")
    report_labels(points, "ndcg@10", tmp_path)
    table = pd.read_csv(tmp_path / "table.csv")
    panels = chart(table).axes
    assert [panel.get_title().split()[0] for panel in panels] == ["all", "attribute", "human"]
    lines = {line.get_label(): line.get_xdata().tolist() for line in panels[0].lines}
    assert {name: lines[name] for name in ("image", "concat", "gated")} == {
        "image": [0, 4, 40], "concat": [4, 40], "gated": [4, 40],
    }  # fmt: skip
    across = panels[0].transData.transform([(number, 0.5) for number in (0, 4, 40)])[:, 0]
    assert across[0] < across[1] < across[2]
    assert [tick.get_text() for tick in panels[0].get_xticklabels()] == ["0", "4", "40"]
    # One band for each row of several numbers.
    assert len(panels[0].collections) == 3


def test_mistakes_of_the_command_are_one_line(
    settings: Path, capsys: pytest.CaptureFixture
) -> None:
    for argv, says in (
        ("--labels 3 --fusion sum", "--labels makes a table of its own"),
        ("--fusion sum --rows x.yaml", "--rows: expected with --labels"),
        ("--fusion sum --grid", "--grid: expected a FILE"),
        ("--labels 3 --grid x.yaml", "with --labels none, whose rows have their own"),
    ):
        with pytest.raises(SystemExit):
            main(argv.split())
        assert says in capsys.readouterr().err
    out = settings.parent.parent / "out"
    with pytest.raises(SystemExit, match="error: --labels: expected numbers or all, got 'few'"):
        main(f"--labels few --start {settings.parent} --out {out}".split())


def test_a_row_that_is_not_asked_for_may_set_what_an_override_sets(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[list[Config]] = []
    monkeypatch.setattr("beyond_text.ablate.run_chains", trained.extend)
    monkeypatch.setattr("beyond_text.evaluation.labels_report.report_labels", lambda *_: "")
    argv = ["--labels", "3", "--start", str(settings.parent), "--out", str(tmp_path / "out")]
    overrides = ["batch_size=8", "lr.image_encoder=0"]
    with pytest.raises(SystemExit, match=r"full-slow-picture: lr\.image_encoder: set by"):
        main([*argv, *overrides])
    main([*argv, "--only", "full", "stage3-only", "--seeds", "0", *overrides])
    assert [len(chain) for chain in trained] == [1, 3]
    assert all(config.lr.image_encoder == 0 for chain in trained for config in chain)
