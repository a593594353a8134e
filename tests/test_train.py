"""The training command, end to end on the tiny shop: what it learns, writes, reuses and refuses.

Runs that are killed, stopped or out of disk space are tested in `tests.training.test_exact`.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from beyond_text.config.load import load_config, to_yaml
from beyond_text.config.names import check_finished
from beyond_text.config.settings import ConfigError
from beyond_text.metrics.history import print_history, read_history
from beyond_text.shards.manifest import ShardError
from beyond_text.tasks.lock import locked
from beyond_text.train import main, train
from beyond_text.training.module import TrainingError
from beyond_text.training.resume import begin_or_resume
from data_prep.shards import build_shards
from tests import RECIPES

pytestmark = pytest.mark.slow

STAGES = ("stage1", "stage2", "stage3")
PRODUCT = ["losses.query_product=1"]


@pytest.fixture(scope="module")
def chain(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains the three stages of recipes/ in order, each from the weights of the one before."""
    runs = tmp_path_factory.mktemp("runs")
    start = ""
    for stage in STAGES:
        overrides = [
            *tiny_settings, f"run={runs / stage}", f"start={start}", "batch_size=12", "steps=40",
            "evaluate_every=20", "lr.text_encoder=0.003", "lr.image_encoder=0.003",
            "trainer.log_every_n_steps=1",
        ]  # fmt: skip
        files = [RECIPES / "base.yaml", RECIPES / f"{stage}.yaml"]
        train(load_config(files, overrides))
        start = str(runs / stage)
    return runs


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def board(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0}).Reload()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_three_stages_in_order_learn_to_see(chain: Path, capsys: pytest.CaptureFixture) -> None:
    history = json.loads((chain / "stage3" / "history.json").read_text())
    assert list(history) == ["step 0", *STAGES]
    value = {name: views["product"]["all"]["ndcg@10"] for name, views in history.items()}
    assert value["stage3"] > 0.9, value
    assert value["step 0"] < value["stage3"] - 0.2
    # Only the picture shows the colour, so text alone must be worse.
    assert history["stage3"]["text"]["all"]["ndcg@10"] < value["stage3"] - 0.05
    print_history(chain / "stage3")
    row = next(line for line in capsys.readouterr().out.splitlines() if "│ fused" in line)
    assert [f"{number:.3f} (" in row for number in value.values()] == [True] * 4


def test_metrics_come_last_and_the_checkpoint_goes(chain: Path) -> None:
    for stage in STAGES:
        run = chain / stage
        written = {path: path.stat().st_mtime_ns for path in run.iterdir() if path.is_file()}
        assert max(written, key=lambda path: written[path]).name == "metrics.json"
        assert not (run / "checkpoints").exists()
        metrics = json.loads((run / "metrics.json").read_text())
        history = json.loads((run / "history.json").read_text())
        assert metrics["training"]["steps"] == 40
        assert metrics["all"]["queries"] == 12
        assert metrics["all"] == history[stage]["product"]["all"]


def test_a_finished_run_is_returned_without_training(chain: Path) -> None:
    config = load_config([chain / "stage1" / "config.yaml"])
    before = {path: path.stat().st_mtime_ns for path in (chain / "stage1").rglob("*")}
    assert train(config) == json.loads((chain / "stage1" / "metrics.json").read_text())
    assert before == {path: path.stat().st_mtime_ns for path in (chain / "stage1").rglob("*")}


def test_other_settings_are_refused_by_key(chain: Path) -> None:
    saved = [chain / "stage1" / "config.yaml"]
    with pytest.raises(ConfigError, match=r"other settings: batch_size \(asked 6, found 12\); tak"):
        train(load_config(saved, ["batch_size=6"]))
    assert train(load_config(saved, ["data.workers=1", "evaluate_every=7", "trainer.devices=1"]))


def test_a_run_begun_with_other_data_or_weights_is_refused_by_setting(
    chain: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    shutil.copytree(chain, tmp_path / "runs")
    shutil.copytree(tiny_shards, tmp_path / "shards")
    words = [f"run={tmp_path}/runs/stage2", f"start={tmp_path}/runs/stage1"]
    words += [f"data.{name}={tmp_path}/shards" for name in ("dev", "sources.tables.path")]
    config = load_config([chain / "stage2" / "config.yaml"], words)
    (tmp_path / "runs/stage2/config.yaml").write_text(to_yaml(config))
    finished = train(config)
    metrics, manifest = tmp_path / "runs/stage1/metrics.json", tmp_path / "shards/manifest.json"
    for path, named in ((metrics, "start"), (manifest, r"data\.dev, data\.sources\.tables")):
        before = path.read_text()
        path.write_text(before + " ")
        with pytest.raises(ConfigError, match=f"stage2: what {named} held when the run began is"):
            train(config)
        path.write_text(before)
    assert train(config) == finished


def test_runs_of_one_name_are_two_stages_and_another_shop_begins_a_table_of_its_own(
    tiny_settings: list[str], tiny_shards: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "a/run", tmp_path / "b/run"
    train(load_config([], [*tiny_settings, *PRODUCT, "steps=1", f"run={first}"]))
    words = ["steps=1", f"run={second}", f"start={first}"]
    train(load_config([], [*tiny_settings, *PRODUCT, *words]))
    assert list(read_history(second)) == ["step 0", "run", str(second)]
    print_history(second)
    shutil.copytree(tiny_shards, other := tmp_path / "other")
    (other / "manifest.json").write_text((other / "manifest.json").read_text() + " ")
    words = ["steps=1", f"run={tmp_path / 'third'}", f"start={first}", f"data.dev={other}"]
    train(load_config([], [*tiny_settings, *PRODUCT, *words]))
    assert list(read_history(tmp_path / "third")) == ["third"]
    print_history(tmp_path / "third")


def test_saved_settings_are_those_of_the_run(chain: Path) -> None:
    config = load_config([chain / "stage2" / "config.yaml"])
    assert (config.losses.query_text, config.losses.query_product) == (1.0, 0.0)
    assert (config.steps, config.start) == (40, str(chain / "stage1"))


def test_tensorboard_holds_losses_beside_chance_rates_speed_and_retrieval(chain: Path) -> None:
    events = board(chain / "stage3")
    tags = set(events.Tags()["scalars"])
    rates = ("text_encoder", "image_encoder", "projections", "fusion", "temperature (no decay)")
    assert {
        "loss/query_image", "loss/query_product", "loss/chance", "temperature/query_product",
        "gradient_norm", "data/skipped", "speed/products_per_second", "speed/waiting_for_data",
        "dev_ndcg@10/product/all", "dev_recall@10/text/attribute", "final/all",
        *(f"lr-AdamW/{name}" for name in rates),
    } <= tags  # fmt: skip
    # Anchors are four queries of each of twelve products; candidates are these products and those
    # of the steps before.
    for event in events.Scalars("loss/chance"):
        chance = np.log([48, 12 + 12 * event.step]).mean()
        assert event.value == pytest.approx(chance)
    loss = [event.value for event in events.Scalars("loss/query_product")]
    assert len(loss) == 40
    assert np.mean(loss[-5:]) < np.mean(loss[:5])
    assert [event.step for event in events.Scalars("dev_ndcg@10/product/all")] == [0, 20, 40]
    rate = [event.value for event in events.Scalars("lr-AdamW/fusion")]
    assert max(rate) == pytest.approx(1e-3, rel=0.02)
    assert rate[-1] == pytest.approx(0.25e-3, rel=0.02)
    assert all(0 <= event.value <= 1 for event in events.Scalars("speed/waiting_for_data"))
    panels = events.Images("dev queries")
    assert [panel.step for panel in panels] == [0, 20, 40]
    with Image.open(io.BytesIO(panels[-1].encoded_image_string)) as panel:
        assert (panel.format, panel.size) == ("JPEG", (panels[-1].width, panels[-1].height))
        assert panel.getpixel((0, 0)) == pytest.approx((255, 255, 255), abs=3)
    assert "_hparams_/experiment" in events.summary_metadata
    first = board(chain / "stage1").Scalars("dev_ndcg@10/product/all")
    assert [event.step for event in first] == [0, 20, 40]


def test_a_run_is_trained_by_one_process_at_a_time(
    tiny_overrides: list[str], tmp_path: Path
) -> None:
    config = load_config([], [*tiny_overrides, *PRODUCT, "steps=2"])
    (tmp_path / "run").mkdir()
    with (
        locked(tmp_path / "run" / ".lock", ""),
        pytest.raises(BlockingIOError, match="run: another process trains this run"),
    ):
        train(config)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    metrics = train(config)
    # A finished run is only read.
    with locked(tmp_path / "run" / ".lock", ""):
        assert train(config) == metrics


def test_resume_never_begins_again(tiny_overrides: list[str], tmp_path: Path) -> None:
    config = load_config([], [*tiny_overrides, *PRODUCT, "steps=2"])
    train(config)
    before = weights(tmp_path / "run")
    stale = [tmp_path / "run" / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt")]
    stale[0].parent.mkdir()
    for checkpoint in stale:
        checkpoint.write_text("of an older run")
    again = load_config([], [*tiny_overrides, *PRODUCT, "steps=2", "seed=1", "resume=never"])
    begin_or_resume(again)
    # Not before it is finished again.
    with pytest.raises(ConfigError, match="no finished model there"):
        check_finished(tmp_path / "run")
    train(again)
    assert not any(checkpoint.exists() for checkpoint in stale)
    assert not same(before, weights(tmp_path / "run"))


def test_a_loss_that_is_no_number_names_step_and_products_and_leaves_the_last_good_checkpoint(
    tiny_tables: Path, tiny_overrides: list[str], tmp_path: Path
) -> None:
    # No rug is measured: only training meets the word.
    shutil.copytree(tiny_tables, tmp_path / "tables")
    for name in ("products.csv", "queries.csv", "qrels.csv"):
        table = pd.read_csv(tmp_path / "tables" / name, dtype=str, keep_default_na=False)
        rug = table.apply(lambda row: "rug" in " ".join(row) and "dev" in " ".join(row), axis=1)
        number = table.get("product_id", pd.Series("", table.index)).str.fullmatch(
            r"dev\.(2|6|10|14|18|22)"
        )
        table[~rug & ~number].to_csv(tmp_path / "tables" / name, index=False)
    build_shards(tmp_path / "tables", tmp_path / "shards", picture_size=40, workers=1)
    settings = [
        *tiny_overrides, "losses.text_image=1", "data.text_fields=[title]",
        f"data.dev={tmp_path / 'shards'}",
    ]  # fmt: skip
    start = tmp_path / "start"
    train(load_config([], [*settings, "steps=1", f"run={start}"]))
    state = weights(start)
    # 9 is the token of "rug": the first batch that has one gives a NaN.
    state["text_tower.encoder.embeddings.word_embeddings.weight"][9] = torch.nan
    save_file(state, start / "model" / "model.safetensors")
    further = ["batch_size=2", "steps=20", "checkpoint_every=1", f"start={start}", "seed=3"]
    with pytest.raises(TrainingError, match=r"not finite \(text_image nan\)") as caught:
        train(load_config([], [*settings, *further]))
    step, ids = re.search(r"step (\d+): .* of the batch: (.*)", str(caught.value)).groups()
    assert any(int(name.removeprefix("train.")) % 4 == 2 for name in ids.split())
    assert len(ids.split()) == 2
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == int(step) > 0
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_shards_are_compared_with_their_checksums_before_the_first_step(
    tiny_overrides: list[str], tiny_shards: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_shards, tmp_path / "changed")
    path = tmp_path / "changed" / "train-00001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    words = [*tiny_overrides, *PRODUCT, f"data.sources.tables.path={path.parent}", "steps=2"]
    with pytest.raises(ShardError, match=r"train-00001\.tar: damaged: SHA-256"):
        train(load_config([], words))
    assert not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.parametrize("queries", [1, 3])
def test_unreadable_samples_are_counted_and_too_many_stop_the_run(
    tiny_overrides: list[str],
    damaged_shards: Path,
    tmp_path: Path,
    queries: int,
    capsys: pytest.CaptureFixture,
) -> None:
    settings = [
        *tiny_overrides, *PRODUCT, f"data.sources.tables.path={damaged_shards}", "steps=6",
        "trainer.log_every_n_steps=1", f"data.queries_per_product={queries}",
    ]  # fmt: skip
    train(load_config([], [*settings, "data.max_skipped=0.5"]))
    # Six batches of eight are two epochs of 24 products.
    assert [event.value for event in board(tmp_path / "run").Scalars("data/skipped")][-1] == 2
    assert capsys.readouterr().out.count(f"skipped: {damaged_shards} sample ") == 2
    with pytest.raises(TrainingError, match=r"1 of \d\d? samples .* data\.max_skipped=0\.01; last"):
        train(load_config([], [*settings, f"run={tmp_path / 'strict'}"]))


def test_sources_that_cannot_feed_a_stage_sit_out_and_none_left_is_an_error(
    tiny_overrides: list[str], tiny_tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_tables, bare)
    for name in ("queries.csv", "qrels.csv"):
        (bare / name).unlink()
    build_shards(bare, tmp_path / "pictures", picture_size=40, workers=1)
    source = f"data.sources.pictures.path={tmp_path / 'pictures'}"
    train(load_config([], [*tiny_overrides, *PRODUCT, source, "steps=1"]))
    assert "pictures sits this stage out: no query in it" in capsys.readouterr().err
    train(load_config([], [*tiny_overrides, "losses.text_image=1", source, "steps=1",
                           f"run={tmp_path / 'first'}"]))  # fmt: skip
    assert "source pictures: 24 products" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"feed the loss query_product, which needs queries"):
        train(load_config([], [*tiny_overrides, *PRODUCT, "data.sources.tables.weight=0",
                               source, f"run={tmp_path / 'none'}"]))  # fmt: skip


def test_uniecs_trains_on_queries_and_on_pairs_and_logs_what_its_losses_weigh(
    tiny_overrides: list[str], tiny_pairs: Path, tmp_path: Path
) -> None:
    build_shards(tiny_pairs, tmp_path / "pairs", picture_size=40, workers=1)
    settings = [
        *tiny_overrides, f"data.sources.pairs.path={tmp_path / 'pairs'}", "steps=40",
        "batch_size=12", "trainer.log_every_n_steps=1",
    ]  # fmt: skip
    train(load_config([RECIPES / "base.yaml", RECIPES / "uniecs.yaml"], settings))
    events = board(tmp_path / "run")
    names = ("query_product", "cmal", "clal", "imcl")
    for name in names:
        values = [event.value for event in events.Scalars(f"loss/{name}")]
        assert len(values) == 40
        assert np.isfinite(values).all()
        weighing = [event.value for event in events.Scalars(f"loss_weight/{name}")]
        assert weighing[0] == 0.5
        assert weighing[-1] != 0.5
    # The weight of a large loss falls, that of a small one rises.
    last = {name: events.Scalars(f"loss_weight/{name}")[-1].value for name in names}
    assert last["cmal"] < 0.5 < last["clal"]
    tags = set(events.Tags()["scalars"])
    assert {tag for tag in tags if tag.startswith("temperature/")} == {
        "temperature/query_product",
        "temperature/text_image",
    }
    assert "lr-AdamW/loss_weights" in tags
    assert not any(name.startswith("weights") for name in weights(tmp_path / "run"))


def test_bfloat16_trains_to_nearly_the_same_weights(
    tiny_overrides: list[str], tmp_path: Path
) -> None:
    settings = [*tiny_overrides, *PRODUCT, "steps=2"]
    for precision in ("bf16-mixed", "32-true"):
        run = f"run={tmp_path / precision}"
        train(load_config([], [*settings, f"precision={precision}", run]))
    half, full = weights(tmp_path / "bf16-mixed"), weights(tmp_path / "32-true")
    assert not same(half, full)
    assert all(value.dtype == full[name].dtype for name, value in half.items())
    # Two AdamW steps move a weight by at most about twice the rate.
    assert all(
        torch.allclose(value.float(), full[name].float(), atol=5e-2) for name, value in half.items()
    )


def test_frozen_tower_keeps_weights_and_statistics_through_evaluations(
    tiny_overrides: list[str], tmp_path: Path
) -> None:
    settings = [*tiny_overrides, "losses.query_image=1"]
    train(load_config([], [*settings, "steps=1", f"run={tmp_path / 'start'}"]))
    train(load_config([], [*settings, "evaluate_every=1", "lr.image_encoder=0",
                           f"start={tmp_path / 'start'}"]))  # fmt: skip
    before, after = weights(tmp_path / "start"), weights(tmp_path / "run")
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert "image_tower" not in moved
    assert {"text_tower", "query_projection", "image_projection"} <= moved


def test_mistakes_on_the_command_line_are_one_clear_line(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*further: str) -> str:
        argv = ["train", str(RECIPES / "base.yaml"), *tiny_overrides, *further]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as caught:
            main()
        line = str(caught.value)
        assert line.startswith("error: ")
        assert "\n" not in line
        return line

    assert "unknown setting stepz; the nearest known one is steps" in told("stepz=3")
    assert "losses: every weight is 0" in told()
    assert "no finished model there" in told(*PRODUCT, f"start={tmp_path / 'nowhere'}")
    assert "no manifest.json" in told(*PRODUCT, f"data.dev={tmp_path}")
    assert "no encoder there" in told(*PRODUCT, "text_encoder.path=/nowhere")
    assert "trainer.max_steps: the run's own" in told(*PRODUCT, "trainer.max_steps=3")
    assert "trainer.max_epochs: the run's own" in told(*PRODUCT, "trainer.max_epochs=3")
    assert "devicez" in told(*PRODUCT, "trainer.devicez=3")
    assert not (tmp_path / "run" / "metrics.json").exists()
