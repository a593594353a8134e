"""A run that is killed, stopped or out of disk space ends with the bits of an undisturbed one.

The faults are real: runs are killed in processes of their own, at moments drawn from a fixed seed;
a loader's worker is killed; and files cannot grow, as on a full disk (RLIMIT_FSIZE).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from transformers import AutoTokenizer

from beyond_text.config.load import load_config
from beyond_text.config.settings import ConfigError
from beyond_text.models.checkpoint import CheckpointError
from beyond_text.models.settings import settings_of
from beyond_text.shards.batch import Batch, SampleIndex
from beyond_text.shards.sampler import BatchSampler
from beyond_text.train import train as run_training
from beyond_text.training import trainer as trainers
from beyond_text.training.checkpoints import Origin, read_origin, write_checkpoint
from beyond_text.training.datamodule import ShardData
from beyond_text.training.module import TrainingError
from data_prep.shards import build_shards
from tests import ROOT
from tests.test_train import same, weights

pytestmark = pytest.mark.slow

STEPS, ACCUMULATE, CHECKPOINT_EVERY = 10, 2, 2
# Hooks in which a run is killed, and the number of batches between two calls of each.
MOMENTS = {
    "on_before_backward": 1,
    "on_after_backward": 1,
    "on_train_batch_end": 1,
    "on_before_optimizer_step": ACCUMULATE,
    "on_save_checkpoint": ACCUMULATE * CHECKPOINT_EVERY,
}


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_a_worker() -> None:
    worker = multiprocessing.active_children()[0].pid
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    # PyTorch notices in this second or, if Lightning replaced its signal handler, when the next
    # batch is missing.
    time.sleep(1)


def limit_files(size: int) -> None:
    """Limits the size in bytes of the files that this process writes, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class Watcher(pl.Callback):
    """Records the content of each batch, and strikes at the n-th call of a hook."""

    def __init__(
        self, seen: Path, moment: str = "", count: int = 0, strike: Callable[[], None] = kill_self
    ) -> None:
        self.seen = seen
        self.left = count
        self.strike = strike
        if moment:
            setattr(self, moment, self.comes)

    def comes(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.strike()

    def on_train_batch_start(self, _: Any, __: Any, batch: Batch, batch_idx: int) -> None:
        with self.seen.open("a") as file:
            file.write(json.dumps([batch_idx, content(batch)]) + "\n")


def content(value: Any) -> Any:
    """Returns all strings of a batch, and the checksums of its tensors."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return [list(value.shape), zlib.crc32(np.asarray(value).tobytes())]
    return [content(item) for item in value] if isinstance(value, (list, tuple)) else value


def train(settings: Sequence[str], run: Path, watcher: Watcher) -> dict[str, Any]:
    """Trains as the command does, with a watcher."""
    made = trainers.make_trainer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            trainers, "make_trainer", lambda config, others: made(config, [*others, watcher])
        )
        return run_training(load_config([], [*settings, f"run={run}"]))


def batches(seen: Path) -> list[tuple[int, Any]]:
    return [(number, held) for number, held in map(json.loads, seen.read_text().splitlines())]


@pytest.fixture(scope="module")
def settings(
    tiny_settings: list[str], tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Settings with everything that is random or has a state.

    Dropout, modality dropout, crops, several sources, weight averaging and cross-batch memory.
    """
    pairs = tmp_path_factory.mktemp("shards") / "pairs"
    build_shards(tiny_pairs, pairs, picture_size=40, samples_per_shard=7, workers=1)
    return [
        *tiny_settings, "data.sources.tables.weight=2", f"data.sources.pairs.path={pairs}",
        "batch_size=6", f"accumulate={ACCUMULATE}", f"steps={STEPS}",
        f"checkpoint_every={CHECKPOINT_EVERY}", "evaluate_every=3", "data.augment=true",
        "data.modality_dropout=0.3", "losses.query_product=1", "losses.cmal=0.5",
        "loss_weighting=learned", "temperature=0.011", "temperature_min=0.0109",
        "average_span=0.4", "lr_floor=0.1", "data.queries_per_product=2",
        "data.same_category=3", "memory_size=12",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed, without workers."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train([*settings, "data.workers=0"], folder / "run", Watcher(folder / "seen"))
    assert len(batches(folder / "seen")) == STEPS * ACCUMULATE
    return folder / "run"


def assert_same_end(run: Path, other: Path) -> None:
    """Compares weights, rankings, metrics and history of two finished runs, bit by bit."""
    assert same(weights(run), weights(other))
    for name in ("run.trec", "history.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes()
    ours, theirs = (json.loads((path / "metrics.json").read_text()) for path in (run, other))
    assert ours.pop("training")["steps"] == theirs.pop("training")["steps"] == STEPS
    assert ours == theirs


def test_a_run_killed_at_random_steps_ends_with_the_bits_of_one_that_never_was(
    settings: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    draw = random.Random(4)
    run, seen = tmp_path / "run", tmp_path / "seen"
    for workers in (1, 2):
        moment, between = draw.choice(list(MOMENTS.items()))
        place = [str(seen), moment, str(max(1, draw.randint(5, 9) // between))]
        killed = subprocess.run(
            [sys.executable, "-m", __name__, *place, *settings, f"run={run}",
             f"data.workers={workers}"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            # Not a pipe: the workers outlive their process a little and would keep it open.
            stderr=(tmp_path / "errors").open("w"),
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL, (tmp_path / "errors").read_text()
        assert not (run / "metrics.json").exists()
    step = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < step < STEPS
    before = len(batches(seen))
    train([*settings, "data.workers=3"], run, Watcher(seen))
    assert batches(seen)[before][0] == step * ACCUMULATE
    whole = dict(batches(undisturbed.parent / "seen"))
    assert dict(batches(seen)).keys() == whole.keys()
    assert all(held == whole[number] for number, held in batches(seen))
    assert_same_end(run, undisturbed)


@pytest.fixture(scope="module")
def stopped(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended because a worker was killed in its fifth step."""
    folder = tmp_path_factory.mktemp("stopped")
    killer = Watcher(folder / "seen", "on_before_backward", 2 * 4 + 1, kill_a_worker)
    with pytest.raises(TrainingError, match=r"^step \d: DataLoader worker .* command goes on from"):
        train([*settings, "data.workers=2"], folder / "run", killer)
    assert not multiprocessing.active_children()
    return folder / "run"


@pytest.fixture
def copied(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the stopped run, for a test to damage."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def test_a_full_disk_is_a_clear_error_that_costs_no_checkpoint(
    settings: list[str], undisturbed: Path, copied: Path, tmp_path: Path
) -> None:
    folder = copied / "checkpoints"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limit = len(before["last.ckpt"]) // 2
    filler = Watcher(tmp_path / "seen", "on_after_backward", 1, lambda: limit_files(limit))
    try:
        with pytest.raises(CheckpointError, match=r"last\.ckpt: could not be written \(.*File too"):
            train(settings, copied, filler)
    finally:
        limit_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    train(settings, copied, Watcher(tmp_path / "seen"))
    assert_same_end(copied, undisturbed)


def test_a_run_goes_on_with_the_data_that_it_began_with_alone(
    settings: list[str], copied: Path, tmp_path: Path
) -> None:
    inputs = copied / "inputs.json"
    begun = inputs.read_text()
    inputs.write_text(begun.replace(json.loads(begun)["data.sources.pairs"], "another"))
    with pytest.raises(ConfigError, match=r"what data\.sources\.pairs held when the run began is"):
        train(settings, copied, Watcher(tmp_path / "seen"))
    inputs.write_text("")
    with pytest.raises(ConfigError, match=r"inputs\.json: not what a run began with"):
        train(settings, copied, Watcher(tmp_path / "seen"))
    inputs.write_text(begun)
    order = [word for word in settings if ".sources.pairs." in word]
    sources = r"data\.sources \(asked 'pairs, tables', found 'tables, pairs'\)"
    with pytest.raises(ConfigError, match=sources):
        train([*order, *settings], copied, Watcher(tmp_path / "seen"))


def stop() -> None:
    raise TrainingError("enough")


def test_a_run_stopped_again_right_after_it_went_on_ends_with_the_same_bits(
    settings: list[str], undisturbed: Path, copied: Path, tmp_path: Path
) -> None:
    checkpoint = copied / "checkpoints" / "last.ckpt"
    before = checkpoint.read_bytes()
    # In the middle of the first step, after half of its batches.
    stopper = Watcher(tmp_path / "seen", "on_before_backward", ACCUMULATE, stop)
    with pytest.raises(TrainingError, match="enough"):
        train([*settings, "data.workers=0"], copied, stopper)
    assert checkpoint.read_bytes() == before
    train([*settings, "data.workers=0"], copied, Watcher(tmp_path / "seen"))
    assert_same_end(copied, undisturbed)


def test_a_run_stopped_after_its_last_step_ends_with_the_same_bits(
    settings: list[str], undisturbed: Path, copied: Path, tmp_path: Path
) -> None:
    def stop() -> None:
        raise RuntimeError("stopped here")

    with pytest.raises(RuntimeError, match="stopped here"):
        train(settings, copied, Watcher(tmp_path / "seen", "on_train_end", 1, stop))
    last = torch.load(copied / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == STEPS
    train(settings, copied, Watcher(tmp_path / "seen"))
    assert_same_end(copied, undisturbed)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_says_so(
    settings: list[str],
    undisturbed: Path,
    copied: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    last, previous = (copied / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt"))
    step = torch.load(previous, weights_only=True)["global_step"]
    last.write_bytes(last.read_bytes()[:-1000])
    gone: list[bool] = []
    watcher = Watcher(
        tmp_path / "seen", "on_before_backward", 1, lambda: gone.append(not last.exists())
    )
    train(settings, copied, watcher)
    # Otherwise the damaged one would replace the whole one as `previous.ckpt`.
    assert gone == [True]
    said = capsys.readouterr().err
    assert re.search(rf"{last}: not whole \(.*\); going on from {previous}\n", said)
    assert batches(tmp_path / "seen")[0][0] == step * ACCUMULATE
    assert_same_end(copied, undisturbed)


def test_checkpoints_of_which_none_is_whole_are_refused_by_name(
    settings: list[str], copied: Path, tmp_path: Path
) -> None:
    for path in (copied / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        CheckpointError, match=r"last\.ckpt: not whole .*previous\.ckpt: not whole .*resume=never"
    ):
        train(settings, copied, Watcher(tmp_path / "seen"))


def test_a_checkpoint_of_other_settings_is_refused_by_name(
    settings: list[str], copied: Path, tmp_path: Path
) -> None:
    # The settings in the checkpoint count, not the config.yaml beside it.
    (copied / "config.yaml").unlink()
    watcher = Watcher(tmp_path / "seen")
    with pytest.raises(ConfigError, match=r"last\.ckpt was .* other .*seed \(asked 9, found 0\)"):
        train([*settings, "seed=9"], copied, watcher)
    last = copied / "checkpoints" / "last.ckpt"
    content, begun = torch.load(last, weights_only=True), read_origin(last)
    write_checkpoint(content, Origin(begun.settings | {"colour": "red"}, 1), last)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: of other settings: .*colour"):
        train(settings, copied, watcher)


def test_any_number_of_workers_gives_the_same_batches_of_several_sources(
    settings: list[str], tiny_text_encoder: Path, tmp_path: Path
) -> None:
    def loaded(workers: int) -> list[Any]:
        config = load_config([], [*settings, f"run={tmp_path}", f"data.workers={workers}"])
        tokenizer = AutoTokenizer.from_pretrained(tiny_text_encoder)
        data = ShardData(config, settings_of(config, 40), tokenizer, False)
        data.trainer = trainers.make_trainer(config, [])
        return [content(batch) for batch in data.train_dataloader()]

    alone = loaded(0)
    assert len(alone) == STEPS * ACCUMULATE
    assert loaded(1) == alone
    assert loaded(3) == alone


def test_the_order_of_a_source_is_decided_by_seed_and_epoch_alone() -> None:
    def order(
        seed: int, batch_size: int, processes: int, others: int, share: float
    ) -> list[tuple[SampleIndex, ...]]:
        """Returns the samples of the first source in its first three epochs."""
        sizes, shares = [[7, 7, 3, 7], *[[5, 6]] * others], [share, *[1.0] * others]
        parts = [
            BatchSampler(sizes, shares, batch_size, 400, seed, rank, processes)
            for rank in range(processes)
        ]
        draws = [
            draw
            for slices in zip(*parts, strict=True)
            for row in zip(*slices, strict=True)
            for draw in row
            if draw.source == 0
        ]
        epochs = [draws[start : start + 24] for start in (0, 24, 48)]
        assert [{draw.epoch for draw in epoch} for epoch in epochs] == [{0}, {1}, {2}]
        return [tuple(epoch) for epoch in epochs]

    alone = order(0, 5, 1, 0, 1.0)
    assert all(sorted(d.sample for d in epoch) == list(range(24)) for epoch in alone)
    assert len({tuple(d.sample for d in epoch) for epoch in alone}) == 3
    for batch_size, processes, others, share in ((5, 5, 1, 2.0), (5, 1, 2, 0.3)):
        assert order(0, batch_size, processes, others, share) == alone
    assert order(1, 5, 1, 0, 1.0) != alone
    # Where an epoch ends within a batch, whoever would meet itself there waits. Else batches of any
    # size give one order.
    whole = order(0, 4, 1, 0, 1.0)
    for batch_size, processes, others, share in ((8, 4, 1, 2.0), (6, 3, 2, 0.3), (3, 1, 0, 1.0)):
        assert order(0, batch_size, processes, others, share) == whole
    assert [order(0, size, 1, 0, 1.0)[0] for size in (5, 7)] == whole[:1] * 2


if __name__ == "__main__":
    place, count, overrides = Path(sys.argv[1]), int(sys.argv[3]), sys.argv[4:]
    train(overrides, place.parent / "run", Watcher(place, sys.argv[2], count))
