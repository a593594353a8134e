"""Outputs of towers that nothing moves, computed once for all of a run's data and kept on disk.

A file holds those of one tower for one split, a record an input. Its name is a digest of all that
decides them, so every later run of the same towers and shards finds it. In the file an input is
found by its content, tokens or pixels; one that is not there, such as a random crop, is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float, Int64
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from beyond_text.config.settings import Config
from beyond_text.files import atomic_write
from beyond_text.models.precision import precision_of
from beyond_text.models.towers import Tower
from beyond_text.models.two_tower import TwoTower
from beyond_text.retrieval.encode import collate_for, device_of, evaluating, to_device
from beyond_text.shards.archive import SampleError
from beyond_text.shards.batch import EMPTY_SAMPLE, Batch, Judgment, Sample
from beyond_text.shards.manifest import ShardError
from beyond_text.shards.split import Split
from beyond_text.training.datamodule import ShardData
from beyond_text.training.module import ContrastiveModule
from beyond_text.training.optim import frozen_towers

# Files of another layout are not found any more.
LAYOUT = 1
BATCH = 128


def keys_of(inputs: Sequence[Tensor]) -> Int64[np.ndarray, " inputs"]:
    """A 64-bit key of each input's content: of a text's tokens without padding, or of the pixels.

    `inputs` are a tower's: tokens and their mask [texts, length], or pictures
    [pictures, 3, height, width].
    """
    if len(inputs) == 2:
        ids, mask = (part.cpu() for part in inputs)
        rows = [row[there] for row, there in zip(ids, mask.bool(), strict=True)]
    else:
        # As they lie in memory.
        rows = list(inputs[0].cpu().permute(0, 2, 3, 1))
    digests = [hashlib.blake2b(row.contiguous().numpy(), digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(digests), dtype="<i8")


def record_of(width: int) -> np.dtype[Any]:
    """What a file holds of an input: its key and its pooled vector of `width` numbers."""
    return np.dtype([("key", "<i8"), ("vector", "<f4", (width,))])


class CachedEmbeddings:
    """Pooled vectors of a tower's inputs, by the inputs' keys, in files of records on disk.

    Raises:
        ShardError: a file is no whole number of records.
    """

    def __init__(self, files: Sequence[Path], width: int) -> None:
        self.width = width
        record = record_of(width)
        for path in files:
            if path.stat().st_size % record.itemsize:
                raise ShardError(
                    f"{path}: damaged: {path.stat().st_size} bytes are no whole number of records "
                    f"of {record.itemsize}; delete it"
                )
        # An empty file cannot be mapped.
        held = [path for path in files if path.stat().st_size]
        self.records = [np.memmap(path, record, mode="r") for path in held]
        keys = np.concatenate([np.zeros(0, "<i8"), *(part["key"] for part in self.records)])
        self.order = keys.argsort(kind="stable")
        self.keys = keys[self.order]
        self.starts = np.cumsum([0, *map(len, self.records)])

    def find(
        self, keys: Int64[np.ndarray, " inputs"]
    ) -> tuple[Float[np.ndarray, "inputs features"], Bool[np.ndarray, " inputs"]]:
        """The vectors of the keys, zeros where there is none, and where there is one."""
        place = np.searchsorted(self.keys, keys)
        found = place < len(self.keys)
        found[found] = self.keys[place[found]] == keys[found]
        at = np.full(len(keys), -1)
        at[found] = self.order[place[found]]
        vectors = np.zeros((len(keys), self.width), dtype=np.float32)
        for first, part in zip(self.starts, self.records, strict=False):
            here = (first <= at) & (at < first + len(part))
            vectors[here] = part["vector"][at[here] - first]
        return vectors, found

    def __call__(self, tower: Tower, inputs: Sequence[Tensor]) -> Float[Tensor, "inputs features"]:
        """What the tower makes of the inputs, in float32; it runs for those that are not held."""
        vectors, found = self.find(keys_of(inputs))
        pooled = torch.from_numpy(vectors).to(inputs[0].device)
        if not found.all():
            new = torch.from_numpy(~found).to(pooled.device)
            pooled[new] = tower(*(part[new] for part in inputs)).float()
        return pooled


class _Inputs(Dataset[Sample]):
    """All that towers see of a split: its products, its distinct queries, its queries' pictures.

    With `picture` None no pictures. What cannot be read is an empty sample: a run that meets it
    counts it.
    """

    def __init__(self, split: Split, picture: int | None) -> None:
        self.split = split
        self.picture = picture
        asked = (self._product(number, None)[0]["queries"] for number in range(len(split)))
        self.queries = list(dict.fromkeys(item["query"] for items in asked for item in items))
        self.shown = 0 if picture is None else len(split.query_pictures)

    def __len__(self) -> int:
        return len(self.split) + len(self.queries) + self.shown

    def _product(self, number: int, picture: int | None) -> tuple[dict[str, Any], Tensor | None]:
        try:
            return self.split.read(number, picture)
        except SampleError:
            return {"queries": ()}, None

    def __getitem__(self, number: int) -> Sample:
        """The number-th of all."""
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
        asked = Judgment(f"picture {number}", "", "")
        return EMPTY_SAMPLE._replace(query=asked, query_image=picture)


def _digest(tower: Tower) -> str:
    """A digest of the tower's weights and settings."""
    digest = hashlib.sha256(tower.settings.to_json_string().encode())
    for name, tensor in tower.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _given(model: TwoTower, batch: Batch) -> Iterator[tuple[str, Sequence[Tensor]]]:
    """What a batch holds for each tower, by its name."""
    yield "text_tower", batch.text
    yield "text_tower" if model.own_query_tower is None else "own_query_tower", batch.query
    yield "image_tower", (batch.image,)


class _Part(NamedTuple):
    """A split, the size its pictures are read in (None: not at all), and each tower's file."""

    split: Split
    picture: int | None
    files: dict[str, Path]


class EmbeddingCache(pl.Callback):
    """Fills a folder with what the frozen towers make of a run's data, and gives it to them.

    Not of pictures that are trained on where these are augmented: then they are others each time.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Computes what is not there yet, once a machine and with a progress bar.

        Raises:
            OSError: the folder cannot be written; names it or the file.
            ShardError: a file there is damaged.
        """
        assert isinstance(module, ContrastiveModule)
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ShardData)
        model, config = module.model, module.config
        frozen = frozen_towers(model)
        if not frozen or model.fusion.tokens:
            reason = "its fusion reads tokens" if frozen else "no tower is frozen"
            if trainer.is_global_zero:
                Console(stderr=True).print(f"cache={self.folder} is not used: {reason}")
            return
        parts = list(self._parts(model, config, data, frozen))
        if trainer.local_rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for part in parts:
                _fill(model, config, data.collate.tokenizer, part)
        trainer.strategy.barrier()
        for name in frozen:
            files = [part.files[name] for part in parts]
            model.towers[name].known = CachedEmbeddings(files, model.widths[name])

    def _parts(
        self, model: TwoTower, config: Config, data: ShardData, frozen: Sequence[str]
    ) -> Iterator[_Part]:
        """What the run trains on, and what it is measured on."""
        settings = model.settings
        digests = {name: _digest(model.towers[name]) for name in frozen}
        dev = Split(config.data.dev, config.data.dev_split, settings.text_fields)
        for split in (*(feed.split for feed in data.sources.values()), dev):
            augmented = config.data.augment and split is not dev
            shown = "image_tower" in frozen and not augmented
            picture = data.collate.picture_size if shown else None
            read = precision_of(config.precision), split.checksums
            as_text = *read, settings.pooling, settings.max_length, split.text_fields
            as_picture = *read, settings.mean, settings.std, picture
            files = {}
            for name in frozen:
                read_as = as_picture if name == "image_tower" else as_text
                decided = repr((LAYOUT, digests[name], read_as)).encode()
                files[name] = self.folder / f"{hashlib.sha256(decided).hexdigest()}.outputs"
            yield _Part(split, picture, files)


def _records(tower: Tower, inputs: Sequence[Tensor], held: set[int]) -> np.ndarray:
    """The records of those inputs whose keys are not held yet, but are from now on."""
    keys = keys_of(inputs)
    new = [row for row, key in enumerate(keys.tolist()) if key not in held]
    held.update(keys[new].tolist())
    vectors = tower(*(given[new] for given in inputs)).float().cpu() if new else torch.zeros(0, 1)
    records = np.zeros(len(new), record_of(vectors.shape[1]))
    records["key"], records["vector"] = keys[new], vectors.numpy()
    return records


@torch.inference_mode()
def _fill(model: TwoTower, config: Config, tokenizer: Any, part: _Part) -> None:
    """Computes the files of a part that are not there yet."""
    missing = {name: path for name, path in part.files.items() if not path.is_file()}
    if not missing:
        return
    device = device_of(model)
    bf16 = precision_of(config.precision) == "bf16-mixed"
    loader: DataLoader[Sample] = DataLoader(
        _Inputs(part.split, part.picture),
        batch_size=BATCH,
        num_workers=config.data.workers,
        collate_fn=collate_for(model, tokenizer),
    )
    said = f"outputs of frozen towers for {part.split.folder.name}"
    held: dict[str, set[int]] = {name: set() for name in missing}
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=bf16))
        files = {n: stack.enter_context(atomic_write(p, binary=True)) for n, p in missing.items()}
        for batch in tqdm(loader, desc=said, disable=None):
            for name, inputs in _given(model, to_device(device, batch)):
                if name in missing:
                    found = _records(model.towers[name], inputs, held[name])
                    files[name].write(found.tobytes())
