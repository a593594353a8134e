"""The benchmarks do the work that they name, and their ratios are those of the listed medians."""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

from beyond_text.shards.split import Split
from beyond_text.shards.transform import to_square
from beyond_text.tables.pictures import decode_pixels
from tests.benchmarks import (
    gpu,
    index_update,
    large_batch,
    measure,
    peers,
    pictures,
    plan,
    quality,
    recipe,
    search,
    throughput,
)
from tests.benchmarks.measure import in_turn, rate, rate_of_batches, step_ends
from tests.benchmarks.quality import Point
from tests.benchmarks.recipe import Setting
from tests.benchmarks.throughput import CONTENDERS, RATIOS, chosen, ratios_of
from tests.benchmarks.towers import write_towers

pytestmark = pytest.mark.slow

TINY = ["--batch", "8", "--warmup", "1", "--steps", "2", "--workers", "0", "--cores", "1"]
ENCODER_SETTINGS = ("text_encoder.", "image_encoder.", "dim=", "fusion_rank=", "precision=")


@pytest.fixture
def words(tiny_overrides: list[str]) -> list[str]:
    """The tiny encoders, as words on top of the recipe."""
    return [word for word in tiny_overrides if word.startswith(ENCODER_SETTINGS)]


@pytest.fixture
def setting(tiny_shards: Path, tmp_path: Path, words: list[str]) -> Setting:
    return Setting(tiny_shards, tmp_path, words, batch=8, warmup=1, steps=2, workers=0, cores=2)


def measured(shards: Path, out: Path, words: list[str], *more: str) -> dict[str, Any]:
    throughput.main([str(shards), *words, "--out", str(out), *TINY, *more])
    return json.loads(out.read_text())


def check_ratios(result: dict[str, Any], keys: set[str]) -> None:
    """Checks that `keys` hold the ratio of the listed rates' medians, and the other keys None."""
    rates = result["compared"]["products_per_second"]
    for key, ratio in RATIOS.items():
        assert (result[key] is not None) == (key in keys)
        if key in keys:
            over = max(median(rates[name]) for name in ratio.over if name in rates)
            assert result[key] == pytest.approx(median(rates[ratio.of]) / over)


def test_throughput_writes_every_ratio_of_medians_and_what_was_compared(
    tiny_shards: Path, tmp_path: Path, words: list[str]
) -> None:
    without = ["--without", "open_clip", "sentence-transformers"]
    result = measured(tiny_shards, tmp_path / "a/b.json", words, "--rounds", "2", *without)
    assert result.keys() == RATIOS.keys() | {"compared"}
    check_ratios(result, {key for key in RATIOS if key.endswith(("_limit", "_peak", "_stage1"))})
    compared = result["compared"]
    assert compared["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert compared["setting"]["batch"] == "8"
    assert compared["machine"]["cores"] >= 1
    for found in compared["products_per_second"].values():
        assert len(found) == 2
        assert min(found) > 0


def test_open_clip_trains_and_loads_the_same_shards(
    tiny_shards: Path, tmp_path: Path, words: list[str]
) -> None:
    pytest.importorskip("open_clip_train.train")
    without = ["--rounds", "1", "--without", "compiled", "bare", "peak"]
    parts = ["--only", "stage1", "loader"]
    result = measured(tiny_shards, tmp_path / "a.json", words, *parts, *without)
    keys = {"stage1_over_open_clip_default", "stage1_over_open_clip_best", "loader_over_open_clip"}
    keys.add("loader_over_stage1")
    check_ratios(result, keys)


def test_sentence_transformers_trains_on_the_same_pairs(
    tiny_shards: Path, tmp_path: Path, words: list[str]
) -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("datasets")
    without = ["--rounds", "1", "--without", "compiled", "bare", "peak"]
    result = measured(tiny_shards, tmp_path / "a.json", words, "--only", "stage2", *without)
    kinds = ("default", "best")
    check_ratios(result, {f"stage2_over_sentence_transformers_{kind}" for kind in kinds})


def test_every_ratio_is_of_contenders_and_every_contender_is_in_a_ratio() -> None:
    assert {n for r in RATIOS.values() for n in (r.of, *r.over)} == CONTENDERS.keys()
    assert chosen("loader", ["open_clip"]) == [
        "stage 1", "loader", "loader, bare Pillow", "loader, bare simplejpeg",
    ]  # fmt: skip


def test_the_best_of_a_peer_is_the_fastest_of_its_settings() -> None:
    rates = {
        "stage 1, dropout": [8.0, 12.0, 10.0],
        "open_clip, bf16": [2.0, 1.0, 9.0],
        "open_clip, bf16, compiled": [4.0, 5.0, 0.5],
    }
    ratios = ratios_of(rates)
    assert ratios.pop("stage1_over_open_clip_best") == 10 / 4
    assert set(ratios.values()) == {None}


def counting(log: list[str], name: str) -> Iterator[float]:
    for number in range(5):
        log.append(name)
        yield float(number)


def not_installed() -> Iterator[float]:
    import a_peer_that_nobody_has  # type: ignore[import-not-found]

    yield a_peer_that_nobody_has.rate


def test_contenders_take_turns_and_one_that_is_not_installed_is_named() -> None:
    log: list[str] = []
    contenders = {"a": counting(log, "a"), "absent": not_installed(), "b": counting(log, "b")}
    rates, stopped = in_turn(contenders, rounds=3)
    assert log == ["a", "b", "a", "b", "a", "b"]
    assert rates == {"a": [0.0, 1.0, 2.0], "b": [0.0, 1.0, 2.0]}
    assert stopped.keys() == {"absent"}
    assert isinstance(stopped["absent"], ImportError)
    assert "a_peer_that_nobody_has" in str(stopped["absent"])


def test_a_contender_that_fails_leaves_the_result_of_the_others_and_exit_status_1(
    tiny_shards: Path, tmp_path: Path, words: list[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        measured(
            tiny_shards,
            tmp_path / "a.json",
            [*words, "image_encoder.path=nowhere"],
            "--only",
            "stage2",
            "--without",
            "sentence",
        )
    assert stop.value.code == 1
    result = json.loads((tmp_path / "a.json").read_text())
    check_ratios(result, set())
    reasons = result["compared"]["not_measured"]
    assert reasons.keys() == {"stage 2", "stage 2, dropout", "stage 2, bare loop", "stage 2, peak"}
    assert all("nowhere" in reason for reason in reasons.values())


def test_the_rate_leaves_out_the_warm_up() -> None:
    # 5 + 6 products in the 4 seconds after the second step.
    assert rate([10.0, 11.0, 13.0, 15.0], [100, 100, 5, 6], warmup=2) == 11 / 4
    with pytest.raises(ValueError, match="2 steps ended of 3, 1 of them warm-up"):
        rate([1.0, 2.0], [8, 8, 8], warmup=1)
    with pytest.raises(ValueError, match="1 of them warm-up"):
        rate([1.0], [8], warmup=1)


def test_a_loader_is_asked_for_no_more_than_is_measured() -> None:
    batches = iter([8] * 10)
    assert rate_of_batches(batches, warmup=2, measured=3) > 0
    assert len(list(batches)) == 5


def test_the_clock_hears_the_steps_of_any_optimiser_while_it_runs() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizers = [torch.optim.SGD([weight]), torch.optim.AdamW([weight])]
    weight.grad = torch.ones(1)
    with step_ends() as ends:
        for optimizer in optimizers:
            optimizer.step()
    optimizers[0].step()
    assert len(ends) == 2
    assert ends == sorted(ends)


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_the_bare_loop_computes_the_vectors_that_the_stage_computes(
    setting: Setting, stage: str
) -> None:
    prepared = recipe.prepare(setting.config(stage))
    model, views = prepared.module.model.eval(), prepared.module.views
    for batch in islice(prepared.loader, 3):
        with torch.no_grad():
            bare = recipe.vectors_of(model, batch, views)
            whole = model.embed(batch, views).vectors
        for view in views:
            assert torch.equal(bare[view], whole[view])


def test_the_peak_is_that_of_the_operations_of_both_passes(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "_operations_per_second", lambda *_: 1.0)
    operations = 1 / next(recipe.peak(setting, "stage2"))
    prepared = recipe.prepare(setting.config("stage2"))
    batches = list(islice(prepared.loader, setting.steps))
    tokens = sum(int(b.text.attention_mask.sum() + b.query.attention_mask.sum()) for b in batches)
    layers = prepared.module.model.text_tower.encoder.encoder.layer
    weights = sum(p.numel() for p in layers.parameters() if p.ndim > 1)
    # A multiplication and an addition per weight and token, and the same for each of two gradients.
    linear = 6 * weights * tokens / (setting.batch * setting.steps)
    # Attention and projections add to it.
    assert linear < operations < 2 * linear


def test_a_product_counts_when_it_has_every_view_of_the_stage(setting: Setting) -> None:
    splits = Split(setting.shards, "train", ["title"])
    prepared = recipe.prepare(setting.config("stage3"))
    # An epoch of 24 products, two of which lack a picture; all have a text and a query.
    batches = list(islice(prepared.loader, 3))
    # Each product has a row for each of its queries.
    queries = prepared.config.data.queries_per_product
    assert sum(len(batch.product_ids) for batch in batches) == 24 * queries > 24 == len(splits)
    assert sum(recipe.complete(batch, {"text", "image"}) for batch in batches) == 22
    assert sum(recipe.complete(batch, {"query", "image", "product"}) for batch in batches) == 22
    assert sum(recipe.complete(batch, {"query", "text"}) for batch in batches) == 24


def test_the_bare_decode_gives_the_pixels_that_the_loader_gives(tiny_shards: Path) -> None:
    products = Split(tiny_shards, "train", ["title"]).products
    data = products.read(0, ("jpg",))["jpg"]
    for size in (8, 32):
        expected = to_square(decode_pixels(data, reduce_to=size), size)
        for decode in (recipe.by_pillow, recipe.by_simplejpeg):
            assert int((decode(data, size).int() - expected.int()).abs().max()) <= 1


def test_shards_packed_for_open_clip_hold_the_same_pictures_and_texts(setting: Setting) -> None:
    split = Split(setting.shards, "train", ["title", "category"])
    folder = peers._packed(setting, split)
    packed: dict[str, bytes] = {}
    for path in folder.iterdir():
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                packed[member.name] = file.read()
    expected: dict[str, bytes] = {}
    for number in range(len(split)):
        content = split.products.read(number, ("json", "jpg"))
        if "jpg" in content:
            expected[f"{number:09}.jpg"] = content["jpg"]
            expected[f"{number:09}.txt"] = split.text_of(json.loads(content["json"])).encode()
    assert len(list(folder.iterdir())) == len(split.sizes)
    assert len(packed) == 44
    assert packed == expected


def test_sentence_transformers_is_given_the_pairs_that_stage_2_trains_on(setting: Setting) -> None:
    config = setting.config("stage2")
    pairs = peers._pairs(setting, config)
    batches = list(islice(recipe.prepare(config).loader, 3))
    queries = [batch.query.input_ids[batch.query_row] for batch in batches]
    assert [len(column) for column in pairs.values()] == [24, 24]
    tokenizer = recipe.prepare(config).tokenizer
    for number, ids in enumerate(queries):
        texts = pairs["anchor"][8 * number : 8 * number + 8]
        encoded = tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
        assert torch.equal(encoded, ids)


def test_search_writes_the_cost_of_each_precision_at_each_size_and_width(tmp_path: Path) -> None:
    words = ["--sizes", "300", "6000", "--widths", "8", "16", "--queries", "40"]
    words += ["--dim", "16", "--rounds", "1", "--out", str(tmp_path)]
    search.main([*words, "--precisions", "float32", "SQ8"])
    result = search.main(words)
    cells = [(c["products"], c["dim"], c["precision"]) for c in result["costs"]]
    names = list(search.PRECISIONS)
    assert sorted(cells) == sorted(product((300, 6000), (8, 16), names))
    for cost in result["costs"]:
        least = 1 - 1e-3 if cost["precision"] == "float32" else 0.8
        assert cost["recall_at_10"] >= least
        assert cost["queries_per_second"] > 0
        assert cost["ndcg_at_10"] is None
    assert json.loads((tmp_path / "search.json").read_text())["costs"] == result["costs"]
    # What is measured is not measured again.
    assert search.main(words)["costs"] == result["costs"]
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
    assert "faiss-cpu" in result["compared"]["versions"]


def test_vectors_are_grown_near_their_seeds_and_of_length_one() -> None:
    random = np.random.default_rng(0)
    seeds = search.cloud(32, random, rows=50)
    vectors = search.grown(seeds, 1000, 0.1, random)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    # A difference of two unit vectors is at most 2 long, so 0.1 of it turns by asin(0.2) at most.
    assert (vectors @ seeds.T).max(axis=1).min() >= np.sqrt(1 - 0.2**2) - 1e-6
    assert len(np.unique(vectors, axis=0)) > 990


def test_random_towers_are_encoders_that_train_on_the_shards(
    setting: Setting, tiny_text_encoder: Path, tmp_path: Path
) -> None:
    write_towers(tmp_path, tiny_text_encoder, layers=1)
    paths = [f"{kind}_encoder.path={tmp_path / kind}" for kind in ("text", "image")]
    words = [*setting.recipe, *paths, "image_encoder.image_size=224"]
    rate = next(recipe.training(replace(setting, recipe=words), "stage1"))
    assert rate > 0
    heads = [
        json.loads((tmp_path / kind / "config.json").read_text()) for kind in ("text", "image")
    ]
    assert heads[0]["hidden_size"] == 512
    assert heads[1]["architecture"] == "vit_base_patch32_224"


def test_the_gpu_table_has_a_line_of_each_case_and_says_why_one_is_missing(
    tiny_shards: Path,
    tiny_text_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ["stage 1, 1,024", "stage 3, 1,024, four queries each"]
    for name, limit in zip(names, (600, 1), strict=True):
        monkeypatch.setitem(gpu.CASES, name, gpu.CASES[name]._replace(limit=limit))
    words = [str(tiny_shards), "--tokenizer", str(tiny_text_encoder), "--layers", "1"]
    counts = ["--batch", "8", "--steps", "2", "--warmup", "1", "--workers", "1"]
    found = gpu.main([*words, *counts, "--out", str(tmp_path / "gpu.json"), "--cases", *names])
    assert found[names[0]].keys() == set(gpu.HEADS)
    assert found[names[0]]["products/s"] > 0
    assert 0 <= found[names[0]]["waiting"] < 1
    assert found[names[1]] == "stopped at its limit of 1 s"
    assert "stopped at its limit" in capsys.readouterr().out
    assert json.loads((tmp_path / "gpu.json").read_text())["cases"] == found


def test_the_limits_of_the_gpu_table_are_four_minutes() -> None:
    assert sum(case.limit for case in gpu.CASES.values()) <= 240


def test_versions_of_what_is_not_installed_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PACKAGES", ("torch", "a-peer-that-nobody-has"))
    versions = measure.surroundings()["versions"]
    assert versions["a-peer-that-nobody-has"] is None
    assert versions["torch"]


def test_the_same_ndcg_is_the_best_that_all_reach() -> None:
    curves = {
        "fast": [Point(1, 1.0, 0.1), Point(2, 2.0, 0.5), Point(3, 3.0, 0.7)],
        "slow": [Point(1, 3.0, 0.3), Point(2, 6.0, 0.4), Point(3, 9.0, 0.35)],
    }
    assert quality.to_same(curves) == (0.4, {"fast": 2.0, "slow": 6.0})


def test_quality_ranks_dev_every_few_steps_while_the_clock_stands_still(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = quality.search
    monkeypatch.setattr(quality, "search", lambda *given: time.sleep(1) or rank(*given))
    began = time.perf_counter()
    found = next(quality.measured(replace(setting, steps=3), "stage2", "recipe", every=2))
    passed = time.perf_counter() - began
    before, first, last = found["points"]
    assert [point.step for point in found["points"]] == [0, 2, 4]
    assert before.seconds == 0 < first.seconds < last.seconds < passed - 3
    assert 0 <= last.ndcg <= 1
    assert found["bytes"] > 1e8


def test_large_batch_compares_memory_and_time_in_processes_of_their_own(
    tiny_shards: Path, tmp_path: Path, words: list[str]
) -> None:
    options = ["--small", "8", "--batch", "16", "--chunk", "4", "--out", str(tmp_path / "a.json")]
    large_batch.main([str(tiny_shards), *words, *options])
    result = json.loads((tmp_path / "a.json").read_text())
    costs = result["compared"]["costs"]
    assert result["compared"]["cases"] == {
        "small": [8, 0], "small in chunks": [8, 4], "large in chunks": [16, 4],
    }  # fmt: skip
    large, small = costs["large in chunks"], costs["small"]
    assert result["memory_large_over_small"] == pytest.approx(large["bytes"] / small["bytes"])
    assert all(1e8 < cost["bytes"] < 1e10 for cost in costs.values())
    assert all(cost["seconds_per_product"] > 0 for cost in costs.values())


def test_quality_asks_the_peers_for_their_vectors(
    tiny_shards: Path, tmp_path: Path, words: list[str]
) -> None:
    pytest.importorskip("open_clip_train.train")
    pytest.importorskip("sentence_transformers")
    options = ["--steps", "4", "--every", "2", "--batch", "8", "--workers", "0"]
    out = tmp_path / "quality.json"
    quality.main([str(tiny_shards), *words, *options, "--out", str(out)])
    result = json.loads(out.read_text())
    for part, contenders in quality.CONTENDERS.items():
        assert result[part]["seconds"].keys() == contenders.keys()
        assert all(seconds >= 0 for seconds in result[part]["seconds"].values())


def test_pictures_are_decoded_and_resized_to_the_same_bits(
    tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures.main([str(tiny_shards), "--pictures", "3"])
    rows = [line for line in capsys.readouterr().out.splitlines() if "True" in line]
    assert len(rows) == 4


@pytest.mark.parametrize("form", [[], ["--shards"]])
def test_an_update_of_an_index_is_measured_beside_its_build(
    tiny_run: Path, form: list[str], capsys: pytest.CaptureFixture
) -> None:
    words = [str(tiny_run), "--products", "60", "--side", "32", "--share", "0.1", *form]
    measured = index_update.main(words)
    assert list(measured) == ["build", "nothing changed", "10% changed", "prices alone"]
    said = capsys.readouterr().out
    for line in ("60 encoded, 0 as", "0 encoded, 60 as", "6 encoded, 54 as", "0 encoded, 60 as"):
        before, found, said = said.partition(line)
        assert found, before


def test_plans_and_memory_are_measured_of_a_split_whose_arrays_are_written() -> None:
    result = plan.main(["--products", "10000", "--rows", "10", "--batches", "2"])
    assert list(result["plans"]) == [
        f"{name}, 64 x 10"
        for name in ("10,000,000 products", "the same and another source",
                     "10,000 products, judged negatives", "10,000 products, mined negatives",
                     "10,000 products, runs of a category")
    ]  # fmt: skip
    assert all(0 < times["batch"] <= times["slowest"] for times in result["plans"].values())
    assert all(len(costs) == 2 for costs in result["memory"].values())
