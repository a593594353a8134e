"""Tests that faults of the machine name the file and lose nothing; a second try succeeds."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import pytorch_lightning as pl
from PIL import Image
from torch.utils.data import DataLoader

from beyond_text.config.load import load_config, to_yaml
from beyond_text.shards.batch import Sample
from beyond_text.shards.dataset import Products
from beyond_text.shards.manifest import ShardError
from beyond_text.shards.sampler import BatchSampler
from beyond_text.shards.split import Split
from beyond_text.tables.layouts import TableError
from beyond_text.train import train
from beyond_text.training.build import build
from beyond_text.training.datamodule import ShardData
from beyond_text.training.module import ContrastiveModule
from beyond_text.training.trainer import make_trainer
from data_prep.mbeer import read_designs, write_pairs
from data_prep.planned import work_folders
from data_prep.rejects import BuildError
from data_prep.shards import build_shards
from tests.hostile import FIELDS, read_all

pytestmark = pytest.mark.slow


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Makes writing more than `size` bytes to any file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("full_at", ["the first byte", "the first shard", "the largest file"])
def test_a_full_disk_stops_a_build_and_the_next_finishes_it(
    tiny_tables: Path, tiny_shards: Path, tmp_path: Path, full_at: str
) -> None:
    largest = max(path.stat().st_size for path in tiny_shards.iterdir())
    room = {"the first byte": 0, "the first shard": 5000, "the largest file": largest - 1}[full_at]
    out = tmp_path / "out"
    build_shards(tiny_tables, out, picture_size=8, workers=1)
    earlier = (out / "manifest.json").read_bytes()
    with room_for(room), pytest.raises(BuildError, match=r"out: not written: .*File too large"):
        build_shards(tiny_tables, out, picture_size=40, samples_per_shard=7, workers=1)
    # What is done is kept, for the next build to go on with.
    assert set(tmp_path.iterdir()) == {out, *work_folders(out)}
    assert (out / "manifest.json").read_bytes() == earlier
    build_shards(tiny_tables, out, picture_size=40, samples_per_shard=7, workers=1)
    assert (out / "manifest.json").read_bytes() == (tiny_shards / "manifest.json").read_bytes()
    assert len(read_all(out)) == 24


def test_a_full_disk_leaves_an_earlier_file_of_pairs_whole(
    tiny_pairs: Path, tmp_path: Path
) -> None:
    designs, _ = read_designs(tiny_pairs.parent)
    out = tmp_path / "pairs.jsonl"
    write_pairs(designs, out, most=2)
    earlier = out.read_bytes()
    with room_for(1000), pytest.raises(OSError, match=r"pairs\.jsonl") as caught:
        write_pairs(designs, out)
    assert caught.value.errno == errno.EFBIG
    assert out.read_bytes() == earlier
    write_pairs(designs, out)
    assert out.read_bytes() == tiny_pairs.read_bytes()


def test_a_killed_worker_stops_a_build_and_the_next_finishes_it(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    products = tmp_path / "products.csv"
    products.write_text(
        "product_id,title,image\n" + "".join(f"{number},a,a.png\n" for number in range(100))
    )
    before = set(multiprocessing.active_children())

    def kill_one() -> None:
        while not (found := set(multiprocessing.active_children()) - before):
            time.sleep(0.001)
        os.kill(found.pop().pid or 0, signal.SIGKILL)

    killer = Thread(target=kill_one)
    killer.start()
    with pytest.raises(BuildError, match="out: not written: a process was killed"):
        build_shards(tmp_path, tmp_path / "out", workers=2, dev_share=0, samples_per_shard=10)
    killer.join()
    assert not (tmp_path / "out").exists()
    products.write_text("product_id,title,image\n0,a,a.png\n")
    build_shards(tmp_path, tmp_path / "out", workers=2, dev_share=0)
    assert not list(tmp_path.glob(".*"))
    assert len(read_all(tmp_path / "out")) == 1


def test_a_build_killed_between_its_renames_gives_the_earlier_one_back(
    tiny_tables: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build_shards(tiny_tables, out, picture_size=8, workers=1)
    earlier = (out / "manifest.json").read_bytes()
    out.rename(tmp_path / ".out.old")
    with pytest.raises(TableError):
        build_shards(tmp_path / "none", out, workers=1)
    assert (out / "manifest.json").read_bytes() == earlier


def test_a_folder_with_a_manifest_of_something_else_is_not_replaced(
    tiny_tables: Path, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a web page", "icons": []}')
    with pytest.raises(BuildError, match="earlier build, got neither"):
        build_shards(tiny_tables, tmp_path, workers=1)
    assert (tmp_path / "manifest.json").is_file()


def first(batch: list[Sample | str]) -> list[Sample | str]:
    return batch


def test_a_shard_deleted_while_workers_read_is_an_error_that_names_it(
    tiny_shards: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_shards, tmp_path / "shards"))
    products = Products([Split(folder, "train", FIELDS)], seed=0, picture=32)
    plan = BatchSampler([products.sources[0].sizes], [1.0], 4, 100, seed=0)
    loader = iter(DataLoader(products, batch_sampler=plan, collate_fn=first, num_workers=2))
    assert len(next(loader)) == 4
    for path in folder.glob("train-*.tar"):
        path.unlink()
    with pytest.raises(ShardError, match=r"train-0000\d\.tar: (no longer|not a) readable"):
        list(loader)


class Deletes(pl.Callback):
    """Moves the shards elsewhere after the second step."""

    def __init__(self, shards: Path, elsewhere: Path) -> None:
        self.shards = shards
        self.elsewhere = elsewhere

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.global_step == 2:
            self.shards.rename(self.elsewhere)


def test_a_run_whose_shards_are_deleted_goes_on_when_they_are_back(
    tiny_overrides: list[str], tiny_shards: Path, tmp_path: Path
) -> None:
    shards, elsewhere, run = tmp_path / "shards", tmp_path / "elsewhere", tmp_path / "run"
    shutil.copytree(tiny_shards, shards)
    config = load_config(
        [],
        [*tiny_overrides, "losses.text_image=1", f"data.sources.tables.path={shards}",
         "checkpoint_every=1", "steps=6"],
    )  # fmt: skip
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    model, tokenizer = build(config)
    data = ShardData(config, model.settings, tokenizer, model.text_tower.fixed_length)
    trainer = make_trainer(config, [Deletes(shards, elsewhere)])
    with pytest.raises(ShardError, match=r"train-0000\d\.tar: no longer readable"):
        trainer.fit(ContrastiveModule(model, config), data)
    with pytest.raises(ShardError, match="no manifest"):
        train(config)
    elsewhere.rename(shards)
    assert train(config)["training"]["steps"] == 6
