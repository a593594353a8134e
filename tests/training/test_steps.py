"""`steps: auto`: the rule, and runs that keep what it gave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from beyond_text.config.load import load_config
from beyond_text.config.settings import Config, ConfigError
from beyond_text.config.steps import auto_steps
from beyond_text.evaluation.ladder import Stage, configure
from beyond_text.shards.manifest import ShardError
from beyond_text.shards.sources import supplies_of
from beyond_text.train import train
from beyond_text.training.steps import say_too_long, with_steps

STAGES = {
    1: ["losses.text_image=1"],
    2: ["losses.query_text=1"],
    3: ["losses.query_image=0.3", "losses.query_product=1"],
}


def config(stage: int, *overrides: str) -> Config:
    return load_config([], ["steps=auto", *STAGES[stage], *overrides])


@pytest.mark.parametrize(
    ("products", "overrides", "steps"),
    [
        (12_800, [], 50),
        (12_800, ["accumulate=2"], 25),
        (12_800, ["batch_size=64"], 100),
        (12_800, ["auto_steps.passes=1"], 100),
        (100, [], 20),
        (100, ["auto_steps.least=7"], 7),
        (10**9, [], 400),
        (10**9, ["auto_steps.most=900"], 900),
    ],
)
def test_a_stage_without_queries_passes_over_the_products_between_limits(
    products: int, overrides: list[str], steps: int
) -> None:
    # Whatever is judged.
    assert {auto_steps(config(1, *overrides), products, n) for n in (0, 1000)} == {steps}


@pytest.mark.parametrize(
    ("queries", "overrides", "steps"),
    [
        (0, [], 1),
        (1, [], 1),
        (12, [], 5),
        (30, [], 10),
        (300, [], 63),
        (3000, [], 400),
        (10**9, [], 400),
        (30, ["auto_steps.few_steps=4"], 4),
        (300, ["auto_steps.few_steps=4"], 40),
        (300, ["auto_steps.many_steps=1000"], 100),
        (300, ["auto_steps.few_queries=300"], 10),
        (300, ["auto_steps.many_queries=300"], 400),
    ],
)
def test_a_stage_with_queries_grows_as_a_power_of_them(
    queries: int, overrides: list[str], steps: int
) -> None:
    assert {auto_steps(config(3, *overrides), n, queries) for n in (100, 10**7)} == {steps}
    # Stage 2 takes a twentieth of it, with a replay of stage 1 as much as stage 3.
    assert auto_steps(config(2, *overrides), 100, queries) == max(1, round(steps / 20))
    assert auto_steps(config(2, *overrides, "losses.text_image=1"), 100, queries) == steps
    share = config(2, *overrides, "auto_steps.text_share=1")
    assert auto_steps(share, 100, queries) == steps


def test_what_is_no_rule_is_refused() -> None:
    for word, says in (
        ("steps=often", "steps: expected a whole number or auto, got 'often'"),
        ("steps=1.5", "steps: "),
        ("steps=true", "steps: "),
        ("steps=0", "steps: expected a value from 1"),
        ("auto_steps.passes=0", "auto_steps.passes: expected a value from 0.001"),
        ("auto_steps.least=500", "auto_steps.least: expected a value from 1 to 400, got 500"),
        ("auto_steps.few_queries=3000", "auto_steps.few_queries: expected a value from 1 to 2999"),
        ("auto_steps.few_steps=0", "auto_steps.few_steps: expected"),
        (
            "auto_steps.many_steps=9",
            "auto_steps.many_steps: expected a value from 10 to inf, got 9",
        ),
        ("auto_steps.text_share=2", "auto_steps.text_share: expected"),
        ("auto_steps.pases=1", "unknown setting auto_steps.pases; .* auto_steps.passes"),
    ):
        with pytest.raises(ConfigError, match=says):
            load_config([], [word])
    assert load_config([], ["steps=7"]).steps == 7
    with pytest.raises(ConfigError, match="steps: expected a number by now, got 'auto'"):
        _ = config(1).total_steps


def test_queries_that_are_kept_decide_and_the_number_is_printed(
    tiny_settings: list[str], capsys: pytest.CaptureFixture
) -> None:
    given = [*tiny_settings, "steps=auto", "budget=0.5", *STAGES[3],
             "auto_steps.few_queries=3", "auto_steps.few_steps=10",
             "auto_steps.many_queries=12", "auto_steps.many_steps=30"]  # fmt: skip
    for labels, steps in (("null", 30), ("6", 17), ("3", 10), ("1", 4)):
        found = with_steps(load_config([], [*given, f"data.labels={labels}"]))
        assert (found.steps, found.total_steps) == (steps, steps // 2)
    assert "steps auto of 24 products, 6 judged queries: 17, 8 with" in capsys.readouterr().err
    fixed = load_config([], tiny_settings)
    assert with_steps(fixed) is fixed


def test_a_stage_that_is_long_for_few_queries_is_told(
    tiny_settings: list[str], capsys: pytest.CaptureFixture
) -> None:
    given = [*tiny_settings, "auto_steps.few_queries=3", "auto_steps.few_steps=10"]
    for words, said in (
        ([*STAGES[3], "data.labels=3", "steps=41"], "3 judged queries are few for 41 steps, which"),
        ([*STAGES[3], "data.labels=3", "steps=40"], ""),
        ([*STAGES[3], "data.labels=3", "steps=82", "budget=0.5"], "steps=auto takes 10"),
        ([*STAGES[3], "data.labels=1", "steps=20", "auto_steps.few_steps=1"], ""),
        ([*STAGES[1], "data.labels=3", "steps=1000"], ""),
    ):
        config = load_config([], [*given, *words])
        say_too_long(config, supplies_of(config).values())
        err = capsys.readouterr().err
        assert said in err
        assert bool(said) == ("judged queries are few" in err)


def test_sources_of_one_shop_count_its_products_once(
    tiny_settings: list[str], tiny_shards: Path, capsys: pytest.CaptureFixture
) -> None:
    again = f"data.sources.free.path={tiny_shards}"
    given = [*tiny_settings, "steps=auto", "auto_steps.least=1", *STAGES[1]]
    for more, products in (
        ([], 24),
        ([again], 48),
        ([again, "data.sources.free.namespace=tables"], 24),
    ):
        with_steps(load_config([], [*given, *more]))
        assert f"steps auto of {products} products:" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_keeps_its_steps_and_is_found_finished_without_its_data(
    tiny_overrides: list[str], tiny_shards: Path, tmp_path: Path
) -> None:
    shards, run = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(tiny_shards, shards)
    given = [*tiny_overrides, "steps=auto", "data.sources.tables.path=" + str(shards),
             "losses.query_text=1", "auto_steps.few_steps=2", "auto_steps.many_steps=2",
             "auto_steps.text_share=1"]  # fmt: skip
    metrics = train(load_config([], given))
    assert metrics["training"]["steps"] == 2
    assert load_config([run / "config.yaml"]).steps == 2
    assert train(load_config([], given)) == json.loads((run / "metrics.json").read_text())
    # As a number it is the same run; another rule that gives another number is not.
    assert train(load_config([], [*given, "steps=2"])) == metrics
    with pytest.raises(ConfigError, match=r"other settings: steps \(asked 4, found 2\)"):
        train(load_config([], [*given, "auto_steps.few_steps=4", "auto_steps.many_steps=4"]))
    shutil.rmtree(shards)
    assert train(load_config([], given)) == metrics
    # A ladder that takes its settings does not take the length of its stage for that of others.
    (tmp_path / "stage.yaml").write_text("steps: auto\n")
    stage = Stage((tmp_path / "stage.yaml",), ())
    with pytest.raises(ShardError, match="shards"):
        configure(stage, 0, run / "config.yaml", [])
