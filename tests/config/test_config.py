"""Tests that a configuration refuses unknown settings by name and reads back as it was saved."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

import pytest

from beyond_text.config.compare import differences
from beyond_text.config.load import load_config, to_yaml
from beyond_text.config.settings import (
    Config,
    ConfigError,
    FusionName,
    Losses,
    LossName,
    LossWeighting,
    TextField,
    active_losses,
    views_of,
    widths_of,
)
from beyond_text.config.views import OBJECTIVE_VIEWS, PAIRS, TEACHER, View
from beyond_text.models.fusion import FUSIONS
from beyond_text.tables.layouts import TEXT_COLUMNS
from beyond_text.training.losses import LOSSES
from beyond_text.training.uniecs_losses import OBJECTIVES
from tests import RECIPES

RECIPE_FILES = sorted(
    path.relative_to(RECIPES).as_posix()
    for path in RECIPES.rglob("*.yaml")
    # These files list recipes and are not recipes themselves.
    if path.parent.name != "ladder"
)


def written(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_later_files_and_then_overrides_win_over_earlier_ones(tmp_path: Path) -> None:
    base = written(tmp_path, "steps: 10\ndim: 8\nlr: {fusion: 0.5, temperature: 0.25}", "base.yaml")
    stage = written(tmp_path, "steps: 20\nlr: {fusion: 0.0}", "stage.yaml")
    config = load_config([base, stage], ["steps=30", "data.sources.shop.path=shards"])
    assert (config.steps, config.dim) == (30, 8)
    assert (config.lr.fusion, config.lr.temperature) == (0.0, 0.25)
    assert config.lr.projections == Config().lr.projections
    assert config.data.sources["shop"].path == "shards"
    assert config.data.sources["shop"].weight == 1.0


def test_nothing_after_the_sign_is_the_empty_string() -> None:
    assert load_config([], ["start=runs/stage1", "start="]).start == ""
    assert load_config([], ["run=a=b"]).run == "a=b"


def test_trainer_settings_pass_as_they_are() -> None:
    config = load_config([], ["trainer.devices=2", "trainer.strategy=ddp"])
    assert config.trainer == {"devices": 2, "strategy": "ddp"}


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("batchsize=3", "batch_size"),
        ("lr.text_encodr=1", "lr.text_encoder"),
        ("max_length=3", "text_encoder.max_length"),
        ("losses.query_txt=1", "losses.query_text"),
        ("image_encoder.lora.rnak=1", "image_encoder.lora.rank"),
    ],
)
def test_an_unknown_key_names_itself_its_file_and_the_nearest_known_key(
    tmp_path: Path, override: str, nearest: str
) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ConfigError) as raised:
        load_config([], [override])
    assert str(raised.value) == (
        f"{override}: unknown setting {key}; the nearest known one is {nearest}"
    )
    nested = "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(key.split(".")))
    path = written(tmp_path, nested[:-1] + " 1")
    with pytest.raises(ConfigError) as raised:
        load_config([path])
    assert str(raised.value) == f"{path}: unknown setting {key}; the nearest known one is {nearest}"


def test_a_source_has_path_weight_losses_and_nothing_else() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.sources\.shop\.wieght; a source has path, weight, losses"
    ):
        load_config([], ["data.sources.shop.wieght=3"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fusion=sums", r"^fusion: expected one of bilinear, .*, got 'sums'$"),
        ("loss=nce", r"^loss: expected one of info_nce, ranked_nce, sigmoid, got 'nce'$"),
        ("loss_weighting=adaptive", r"^loss_weighting: expected one of fixed, learned, got 'ada"),
        ("precision=bf16", r"^precision: expected one of auto, .*, got 'bf16'$"),
        ("resume=always", r"^resume: expected one of auto, never, got 'always'$"),
        (
            "text_encoder.pooling=median",
            r"^text_encoder\.pooling: expected one of auto, .*'median'$",
        ),
        ("steps=0", r"^steps: expected a value from 1 to inf, got 0$"),
        ("steps=1.5", r"^steps=1\.5: steps: .*'1\.5' of type 'float'.*int"),
        ("steps=many", r"^steps: expected a whole number or auto, got 'many'$"),
        ("share_text_encoder=maybe", r"share_text_encoder: .*'maybe'"),
        ("budget=inf", r"^budget: expected .*, got inf$"),
        ("lr.fusion=nan", r"^lr\.fusion: expected a value from 0 to 1, got nan$"),
        ("lr.fusion=-1e-4", r"^lr\.fusion: expected a value from 0 to 1, got -0\.0001$"),
        ("lr=3", r"^lr=3: .*LearningRates"),
        ("losses.query_text=-1", r"^losses\.query_text: expected .*, got -1$"),
        ("losses.cmal=inf", r"^losses\.cmal: expected .*, got inf$"),
        ("losses=null", r"^losses=null: losses: .*not Optional"),
        ("seed=-1", r"^seed: expected a value from 0 to"),
        ("batch_size=1", r"^batch_size: expected a value from 2 to inf, got 1$"),
        ("data.modality_dropout=1.5", r"^data\.modality_dropout: expected .* 0 to 1, got 1\.5$"),
        ("text_encoder.lora.dropout=7", r"^text_encoder\.lora\.dropout: expected .* got 7$"),
        ("temperature=0.005", r"^temperature: 0\.005 lies below temperature_min 0\.01$"),
        ("data.sources.shop.weight=1", r"^data\.sources\.shop\.path: expected a folder"),
        ("data.sources.shop={path: a, weight: -1}", r"^data\.sources\.shop\.weight: .*got -1$"),
        ("data.sources.shop={path: a, weight: .nan}", r"^data\.sources\.shop\.weight: .*got nan$"),
        (
            "data.sources.shop={path: a, queries_per_product: -1}",
            r"^data\.sources\.shop\.queries_per_product: expected at least 0, got -1$",
        ),
        ("data.sources.shop=5", r"data\.sources\.shop: .*Source"),
        ("data.text_fields=[titel]", r"^data\.text_fields: expected .*title.*got \['titel'\]$"),
        ("data.text_fields=[]", r"^data\.text_fields: expected some of"),
        ("run=${nowhere}", r"^run=\$\{nowhere\}: run: .*nowhere"),
        ("steps=010", r"^steps=010: expected a number without a leading 0$"),
        ("steps=[", r"^steps=\[: not a YAML value"),
        ("steps", r"^steps: expected key=value$"),
    ],
)
def test_a_bad_value_names_its_setting_and_what_was_got(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([], [override])


@pytest.mark.parametrize(
    "text", ["5", "- 1", "a: [", "steps: 1\nsteps: 2", "data: {sources: [1]}", "steps: {a: 1}"]
)
def test_a_file_that_is_no_mapping_of_settings_is_an_error_that_names_it(
    tmp_path: Path, text: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=str(path)):
        load_config([path])
    with pytest.raises(ConfigError, match=r"none\.yaml: no such recipe file"):
        load_config([tmp_path / "none.yaml"])


@pytest.mark.parametrize("name", RECIPE_FILES)
def test_every_recipe_loads_on_top_of_base(name: str) -> None:
    # The shop's own shards are given on the command line, as the Makefile does.
    shards = "data.sources.tables.path=shards"
    config = load_config([RECIPES / "base.yaml", RECIPES / name], [shards])
    if name.startswith(("stage", "uniecs")):
        assert active_losses(config)
        assert any(dataclasses.astuple(config.lr))


def test_the_three_stages_and_uniecs_are_among_the_recipes() -> None:
    stages = {"stage1.yaml", "stage2.yaml", "stage3.yaml"}
    assert {"base.yaml", "uniecs.yaml"} | stages <= set(RECIPE_FILES)


def test_uniecs_trains_on_as_many_samples_as_the_three_stages() -> None:
    names = ("stage1", "stage2", "stage3", "uniecs")
    *stages, uniecs = (
        load_config([RECIPES / "base.yaml", RECIPES / f"{name}.yaml"]) for name in names
    )
    samples = [config.steps * config.batch_size * config.accumulate for config in stages]
    assert uniecs.steps * uniecs.batch_size * uniecs.accumulate == sum(samples)
    assert set(active_losses(uniecs)) == {"query_product", "cmal", "clal", "imcl"}
    assert (uniecs.fusion, uniecs.loss_weighting) == ("uniecs", "learned")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [
            "run=007",
            "start=1e-3",
            "budget=0.3",
            "text_encoder.lora={rank: 4, targets: [query, value]}",
            "data.sources={a: {path: x y, weight: 2}, b: {path: 'on'}}",
            "data.text_fields=[title]",
            "trainer={devices: 2, plugins: [a, b], limits: {time: null}}",
            "share_text_encoder=false",
        ],
    ],
)
def test_saved_settings_read_back_equal(tmp_path: Path, overrides: list[str]) -> None:
    config = load_config([], overrides)
    assert load_config([written(tmp_path, to_yaml(config))]) == config


def test_registries_hold_exactly_the_names_that_settings_may_take() -> None:
    assert sorted(FUSIONS) == sorted(get_args(FusionName))
    assert tuple(LOSSES) == get_args(LossName)
    assert set(get_args(LossWeighting)) == {"fixed", "learned"}
    assert list(OBJECTIVE_VIEWS) == [item.name for item in dataclasses.fields(Losses)]
    assert list(OBJECTIVE_VIEWS) == [*PAIRS, *OBJECTIVES, TEACHER]
    assert {view for views in OBJECTIVE_VIEWS.values() for view in views} == set(get_args(View))
    assert set(get_args(TextField)) == set(TEXT_COLUMNS)


def test_active_losses_are_those_with_a_weight_and_views_are_theirs() -> None:
    config = load_config([], ["losses.query_image=0.3", "losses.query_product=1"])
    assert active_losses(config) == {"query_image": 0.3, "query_product": 1.0}
    assert views_of(config) == {"query", "image", "product"}
    config = load_config([], ["losses.imcl=0.5"])
    assert active_losses(config) == {"imcl": 0.5}
    assert views_of(config) == {"trigger_text", "trigger_image", "text", "image"}
    with pytest.raises(ConfigError, match="every weight is 0"):
        active_losses(Config())


@pytest.mark.parametrize("frozen", ["lr.temperature=0", "lr_scale.temperature=0"])
def test_weights_of_losses_that_must_learn_at_no_rate_are_refused(frozen: str) -> None:
    assert load_config([], [frozen]).loss_weighting == "fixed"
    with pytest.raises(
        ConfigError, match=r"^loss_weighting=learned: .* lr\.temperature, which is 0"
    ):
        load_config([], ["loss_weighting=learned", frozen])


def test_budget_multiplies_the_steps_and_leaves_at_least_one() -> None:
    assert load_config([], ["steps=60", "budget=3"]).total_steps == 180
    assert load_config([], ["steps=60", "budget=0.001"]).total_steps == 1


def test_a_factor_on_a_learning_rate_leaves_a_frozen_group_frozen() -> None:
    config = load_config([], ["lr.fusion=0.5", "lr.image_encoder=0", "lr_scale.fusion=0.5"])
    assert config.rates.fusion == 0.25
    config.lr_scale.image_encoder = 9.0
    assert config.rates.image_encoder == 0.0
    assert config.rates.projections == config.lr.projections


def test_differences_name_what_changes_the_numbers_and_nothing_else() -> None:
    before = load_config([], ["steps=10", "data.sources.shop.path=shards"])
    assert differences(before, load_config([], ["steps=10", "data.sources.shop.path=shards"])) == []
    how = ["run=elsewhere", "resume=never", "trainer.devices=2", "data.workers=3"]
    same = load_config([], ["steps=10", "data.sources.shop.path=shards", *how])
    assert differences(before, same) == []
    other = load_config([], ["steps=20", "data.sources.shop.path=other", "lr.fusion=0"])
    assert differences(before, other) == [
        "data.sources.shop.path (asked 'other', found 'shards')",
        "lr.fusion (asked 0.0, found 0.001)",
        "steps (asked 20, found 10)",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["matryoshka=[64,512]"], r"matryoshka: expected ascending widths from 1 to 384 \(dim\)"),
        (["matryoshka=[64,64,384]"], "matryoshka: expected ascending widths"),
        (["matryoshka=[128,64]"], "matryoshka: expected ascending widths"),
        (["matryoshka=[0,64]"], "matryoshka: expected ascending widths"),
        (["matryoshka=[64]", "dim=32"], "from 1 to 32"),
        (["matryoshka_weights=[1]"], "matryoshka_weights: expected 0 weights"),
        (["matryoshka=[64,384]", "matryoshka_weights=[1]"], "expected 2 weights"),
        (["matryoshka=[64]", "matryoshka_weights=[0]"], "expected weights above 0"),
        (["matryoshka=[64]", "matryoshka_weights=[.nan]"], "expected weights above 0"),
        (["matryoshka=[a]"], "matryoshka"),
    ],
)
def test_widths_that_cannot_be_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([], words)


def test_widths_and_their_weights_are_paired() -> None:
    assert widths_of(load_config([], ["dim=7"])) == [(7, 1.0)]
    assert widths_of(load_config([], ["matryoshka=[64,384]"])) == [(64, 1.0), (384, 1.0)]
    words = ["matryoshka=[64,384]", "matryoshka_weights=[2,0.5]"]
    assert widths_of(load_config([], words)) == [(64, 2.0), (384, 0.5)]


def test_grades_have_the_names_of_a_shops_columns(tmp_path: Path) -> None:
    expected = {"relevance": 1.0, "desirability": 0.5}
    for words in (
        ["data.grades={relevance: 1, desirability: 0.5}"],
        ["data.grades.relevance=1", "data.grades.desirability=0.5"],
    ):
        config = load_config([], words)
        assert config.data.grades == expected
        file = tmp_path / "config.yaml"
        file.write_text(to_yaml(config))
        assert load_config([file]).data.grades == expected
