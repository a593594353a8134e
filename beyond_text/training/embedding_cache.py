"""Computes the outputs of frozen towers once for all of a run's data, and keeps them on disk.

A file holds the outputs of one tower for one split, a record per input (see `cached_embeddings`).
Its name is a digest of all that decides them, so every later run of the same towers and shards
finds it. An input that is not in the file, such as a random crop, is computed when it is needed.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from beyond_text.config.settings import Config
from beyond_text.files import atomic_write
from beyond_text.models.precision import precision_of, uses_bf16
from beyond_text.models.towers import Tower
from beyond_text.models.two_tower import TwoTower
from beyond_text.retrieval.encode import collate_for, device_of, evaluating, to_device
from beyond_text.shards.archive import SampleError
from beyond_text.shards.batch import EMPTY_SAMPLE, Batch, Judgment, Sample
from beyond_text.shards.split import Split
from beyond_text.shards.store import Store
from beyond_text.terminal import plain
from beyond_text.training.cached_embeddings import CachedEmbeddings, keys_of, record_type
from beyond_text.training.datamodule import ShardData
from beyond_text.training.module import ContrastiveModule
from beyond_text.training.optim import frozen_towers

# Part of the file names' digest: after a change of the record layout, older files are not found.
LAYOUT = 1
# Inputs that are encoded at a time.
BATCH = 128


class _CacheFiles(NamedTuple):
    """A split, the size its pictures are read in (None: not at all), and a file for each tower."""

    split: Split
    picture: int | None
    files: dict[str, Path]


class EmbeddingCache(pl.Callback):
    """Fills a folder with the outputs of the frozen towers, and makes the towers use them.

    Training pictures that are augmented are left out: they are different each time.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Computes the missing files, once per machine and with a progress bar.

        Raises:
            OSError: the folder cannot be written; names it or the file.
            ShardError: a file in it is damaged.
        """
        assert isinstance(module, ContrastiveModule)
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ShardData)
        model, config = module.model, module.config
        frozen = frozen_towers(model)
        if not frozen or model.fusion.tokens:
            reason = "its fusion reads tokens" if frozen else "no tower is frozen"
            if trainer.is_global_zero:
                print(plain(f"cache={self.folder} is not used: {reason}"), file=sys.stderr)
            return
        splits = list(self._cache_files(model, config, data, frozen))
        if trainer.local_rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for cache_files in splits:
                _fill(model, config, data.collate.tokenizer, cache_files)
        trainer.strategy.barrier()
        for name in frozen:
            files = [cache_files.files[name] for cache_files in splits]
            model.towers[name].cached = CachedEmbeddings(files, model.widths[name])

    def _cache_files(
        self, model: TwoTower, config: Config, data: ShardData, frozen: Sequence[str]
    ) -> Iterator[_CacheFiles]:
        """Names the files of each split that the run trains on, and of dev."""
        settings = model.settings
        digests = {name: _digest(model.towers[name]) for name in frozen}
        dev = Split(
            Store.of(config.data.dev, config.data), config.data.dev_split, settings.text_fields
        )
        for split in (*(source.split for source in data.sources.values()), dev):
            augmented = config.data.augment and split is not dev
            with_pictures = "image_tower" in frozen and not augmented
            picture = data.collate.picture_size if with_pictures else None
            common = precision_of(config.precision), split.checksums
            read = settings.pooling, settings.text_prefix, settings.query_prefix
            as_text = *common, *read, settings.lower_case, settings.max_length, split.text_fields
            statistics = settings.mean, settings.std
            as_picture = *common, *statistics, settings.image_pooling, picture
            files = {}
            for name in frozen:
                read_as = as_picture if name == "image_tower" else as_text
                content = repr((LAYOUT, digests[name], read_as)).encode()
                files[name] = self.folder / f"{hashlib.sha256(content).hexdigest()}.outputs"
            yield _CacheFiles(split, picture, files)


def _digest(tower: Tower) -> str:
    """Returns a digest of the tower's weights and settings."""
    digest = hashlib.sha256(tower.settings.to_json_string().encode())
    for name, tensor in tower.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.inference_mode()
def _fill(model: TwoTower, config: Config, tokenizer: Any, cache_files: _CacheFiles) -> None:
    """Computes the files of a split that do not exist yet."""
    split, picture, files = cache_files
    missing = {name: path for name, path in files.items() if not path.is_file()}
    if not missing:
        return
    device = device_of(model)
    bf16 = uses_bf16(config.precision)
    loader: DataLoader[Sample] = DataLoader(
        _TowerInputs(split, picture),
        batch_size=BATCH,
        num_workers=config.data.workers,
        collate_fn=collate_for(model, tokenizer),
    )
    title = f"outputs of frozen towers for {split.store.label}"
    written: dict[str, set[int]] = {name: set() for name in missing}
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=bf16))
        out = {n: stack.enter_context(atomic_write(p, binary=True)) for n, p in missing.items()}
        for batch in tqdm(loader, desc=title, disable=None):
            for name, inputs in _inputs_of(model, to_device(device, batch)):
                if name in missing:
                    records = _new_records(model.towers[name], inputs, written[name])
                    out[name].write(records.tobytes())


def _inputs_of(model: TwoTower, batch: Batch) -> Iterator[tuple[str, Sequence[Tensor]]]:
    """Yields the inputs that a batch holds for each tower, with the tower's name."""
    yield "text_tower", batch.text
    yield "text_tower" if model.own_query_tower is None else "own_query_tower", batch.query
    yield "image_tower", (batch.image,)


def _new_records(tower: Tower, inputs: Sequence[Tensor], written: set[int]) -> np.ndarray:
    """Returns the records of inputs whose keys are not in `written`, and adds the keys to it."""
    keys = keys_of(inputs)
    new = [row for row, key in enumerate(keys.tolist()) if key not in written]
    written.update(keys[new].tolist())
    vectors = tower(*(part[new] for part in inputs)).float().cpu() if new else torch.zeros(0, 1)
    records = np.zeros(len(new), record_type(vectors.shape[1]))
    records["key"], records["vector"] = keys[new], vectors.numpy()
    return records


class _TowerInputs(Dataset[Sample]):
    """All inputs that a split has for towers: products, then distinct queries, then their pictures.

    With `picture` None there are no pictures. What cannot be read is an empty sample: a run that
    meets it counts it.
    """

    def __init__(self, split: Split, picture: int | None) -> None:
        self.split = split
        self.picture = picture
        queries = split.asked.table()["query"].unique().to_pylist()
        self.queries = [query for query in queries if query]
        self.query_pictures = 0 if picture is None else len(split.query_pictures)

    def __len__(self) -> int:
        return len(self.split) + len(self.queries) + self.query_pictures

    def _product(self, number: int, picture: int | None) -> tuple[dict[str, Any], Tensor | None]:
        try:
            return self.split.read(number, picture)
        except SampleError:
            return {}, None

    def __getitem__(self, number: int) -> Sample:
        """Returns the number-th input as a sample."""
        if number < len(self.split):
            fields, picture = self._product(number, self.picture)
            return Sample(f"product {number}", self.split.text_of(fields), picture, [], None)
        number -= len(self.split)
        if number < len(self.queries):
            return EMPTY_SAMPLE._replace(query=Judgment("", self.queries[number], ""))
        number -= len(self.queries)
        assert self.picture is not None
        try:
            picture = self.split.read_query_picture(number, self.picture)
        except SampleError:
            return EMPTY_SAMPLE
        query = Judgment(f"picture {number}", "", "")
        return EMPTY_SAMPLE._replace(query=query, query_image=picture)
