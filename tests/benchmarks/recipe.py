"""The recipe's training and loading as contenders, and their limits: towers alone, decoding alone.

Every contender is a generator that sets up once and then yields products per second, one round at a
time. A product counts when it has every view that the stage contrasts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from PIL import Image
from simplejpeg import decode_jpeg
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.v2.functional import pil_to_tensor, resize

from beyond_text.config.load import load_config
from beyond_text.config.settings import Config
from beyond_text.config.views import PAIRS, View
from beyond_text.models.cpu.memory import keep_freed_memory
from beyond_text.models.precision import uses_bf16
from beyond_text.models.two_tower import TwoTower
from beyond_text.retrieval.encode import to_device
from beyond_text.shards.batch import Batch, Sample, rows_of
from beyond_text.training.build import build
from beyond_text.training.callbacks import Throughput
from beyond_text.training.datamodule import ShardData
from beyond_text.training.module import ContrastiveModule
from beyond_text.training.optim import adamw
from beyond_text.training.trainer import make_trainer
from tests import RECIPES
from tests.benchmarks.measure import rate, rate_of_batches, step_ends, synchronize
from tests.training.dense import LOSSES

# The field of a batch that says which rows have a view.
ROWS: dict[View, str] = {"query": "query_row", "text": "text_row", "image": "image_row"}
# Loading is many times faster than training, so more batches are loaded for a steady figure.
LOADED_PER_STEP = 5
# Batches that a run has after its last measured step. Without them, the loader would be idle during
# the last measured steps, as it reads ahead.
IN_STORE = 64
# Rows and columns of the matrices by which a device's peak is measured.
PEAK_SIDE = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Setting:
    """The settings that all contenders share; `recipe` holds recipe files and `key=value` words.

    `workers` processes load for a training, `cores` where loaders alone are measured.
    """

    shards: Path
    scratch: Path
    recipe: Sequence[str] = ()
    batch: int = 128
    warmup: int = 2
    steps: int = 8
    workers: int = 1
    cores: int = 2

    @property
    def loaded(self) -> int:
        """The number of batches by which loaders are measured."""
        return LOADED_PER_STEP * self.steps

    def config(self, stage: str, workers: int | None = None, further: Sequence[str] = ()) -> Config:
        """Returns the settings of a stage's run on the shards, from the untouched encoders."""
        planned = self.warmup + self.loaded + IN_STORE
        return load_config(
            [RECIPES / "base.yaml", RECIPES / f"{stage}.yaml", *self._words(file=True)],
            [
                *self._words(file=False),
                *further,
                f"data.sources.tables.path={self.shards}",
                f"data.dev={self.shards}",
                f"data.workers={self.workers if workers is None else workers}",
                f"batch_size={self.batch}",
                f"steps={planned}",
                "budget=1",
                "accumulate=1",
                # Nothing but steps is measured, as with all other contenders.
                "evaluate_every=0",
                f"checkpoint_every={planned}",
                "trainer.enable_progress_bar=false",
                f"run={self.scratch / stage}",
            ],
        )

    def _words(self, file: bool) -> list[str]:
        return [word for word in self.recipe if ("=" not in word) == file]


@contextmanager
def setting_of(
    arguments: argparse.Namespace, recipe: Sequence[str] = (), **more: int
) -> Iterator[Setting]:
    """Gives the setting of a command line, with a temporary folder; `recipe` is put on top."""
    with TemporaryDirectory() as scratch:
        yield Setting(arguments.shards, Path(scratch), [*arguments.recipe, *recipe], **more)


class Prepared(NamedTuple):
    """A stage's module and data, built as for training."""

    config: Config
    module: ContrastiveModule
    data: ShardData
    tokenizer: Any

    @property
    def loader(self) -> DataLoader[Sample | str]:
        """Returns the batches of the run's steps, from the first one on."""
        self.data.trainer = make_trainer(self.config, [])
        return self.data.train_dataloader()


def prepare(config: Config) -> Prepared:
    """Builds what `beyond_text.train` builds before it trains."""
    model, tokenizer = build(config)
    data = ShardData(config, model.settings, tokenizer, model.text_tower.fixed_length)
    data.check_shares(1)
    return Prepared(config, ContrastiveModule(model, config), data, tokenizer)


def complete(batch: Batch, views: Collection[View]) -> int:
    """Returns how many products of a batch have all of the views except the fused `product`."""
    has = [getattr(batch, name) >= 0 for view, name in ROWS.items() if view in views]
    return len(batch.product_key[torch.stack(has).all(dim=0)].unique())


class _Counted(pl.Callback):
    """Counts the products of every step and ends the training after `steps` of them."""

    def __init__(self, views: Collection[View], steps: int) -> None:
        self.views = views
        self.steps = steps
        self.products: list[int] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.products.append(complete(batch, self.views))
        trainer.should_stop = len(self.products) == self.steps


def training(
    setting: Setting,
    stage: str,
    prepared: Prepared | None = None,
    further: Sequence[str] = (),
    callbacks: Sequence[pl.Callback] = (),
) -> Iterator[float]:
    """Yields the speed of a stage as `beyond_text.train` runs it, by its steps alone.

    `further` are `key=value` settings; `callbacks` take the place of the one that logs speed.
    """
    keep_freed_memory()
    config, module, data, _ = prepared or prepare(setting.config(stage, further=further))
    while True:
        counted = _Counted(module.views, setting.warmup + setting.steps)
        trainer = make_trainer(config, [*(callbacks or [Throughput()]), counted])
        with step_ends() as ends:
            trainer.fit(module, data)
        yield rate(ends, counted.products, setting.warmup)


def vectors_of(model: TwoTower, batch: Batch, views: Collection[View]) -> dict[View, Tensor]:
    """Returns the vectors of a batch's views, by towers, projections and fusion alone."""
    fused = "product" in views
    vectors: dict[View, Tensor] = {}
    if "query" in views:
        vectors["query"] = rows_of(model.encode_query(batch.query), batch.query_row)
    if "text" in views or fused:
        vectors["text"] = rows_of(model.encode_text(batch.text), batch.text_row)
    if "image" in views or fused:
        vectors["image"] = rows_of(model.encode_image(batch.image), batch.image_row)
    if fused:
        has_text, has_image = batch.text_row >= 0, batch.image_row >= 0
        texts, images = vectors["text"], vectors["image"]
        vectors["product"] = model.fusion(texts, images, has_text, has_image)
    return vectors


def _bare_loss(module: ContrastiveModule, batch: Batch) -> Tensor:
    """Returns the stage's weighted losses; an anchor's only positive is its own product."""
    vectors = vectors_of(module.model, batch, module.views)
    products = module.config.batch_size
    queries_per_product = len(batch.product_ids) // products
    losses = []
    for pair, weight in module.weights.fixed.items():
        temperature: Any = module.model.temperatures[pair]
        anchor, candidate = PAIRS[pair]
        anchors, candidates = vectors[anchor], vectors[candidate][::queries_per_product]
        if anchor != "query":
            anchors = anchors[::queries_per_product]
        own = torch.eye(products, device=anchors.device)
        own = own.repeat_interleave(len(anchors) // products, dim=0)
        loss = LOSSES[module.config.loss](
            anchors,
            candidates,
            own,
            own.any(dim=1),
            own.any(dim=0),
            temperature.value,
            temperature.bias,
        )
        losses.append(weight * loss)
    return torch.stack(losses).sum()


class _Bare(NamedTuple):
    """A stage's model and first batches on the device, outside any training."""

    config: Config
    module: ContrastiveModule
    batches: list[Batch]
    device: torch.device

    @property
    def products(self) -> list[int]:
        return [complete(batch, self.module.views) for batch in self.batches]

    @property
    def bf16(self) -> bool:
        return uses_bf16(self.config.precision)

    def loss(self, batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return _bare_loss(self.module, batch)


def _bare(config: Config, batches: int) -> _Bare:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepared = prepare(config)
    prepared.module.to(device)
    planned = [to_device(device, batch) for batch in islice(prepared.loader, batches)]
    return _Bare(config, prepared.module, planned, device)


def bare_loop(setting: Setting, stage: str) -> Iterator[float]:
    """Yields the limit of a stage: towers, losses and optimiser, on batches in memory."""
    keep_freed_memory()
    bare = _bare(setting.config(stage), setting.warmup + setting.steps)
    config, model = bare.config, bare.module.model
    optimizer = adamw(model, config.rates, config.weight_decay)
    moving = [p for p in model.parameters() if p.requires_grad]
    while True:
        with step_ends() as ends:
            for batch in bare.batches:
                loss = bare.loss(batch)
                optimizer.zero_grad()
                loss.backward()
                clip_grad_norm_(moving, config.clip_norm or float("inf"))
                optimizer.step()
        yield rate(ends, bare.products, setting.warmup)


def _operations_per_second(kind: torch.dtype, device: torch.device) -> float:
    """Returns the device's operations per second in large matrix products, its practical peak."""
    side = PEAK_SIDE[device.type]
    one, other = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    ends = []
    for _ in range(4):
        one @ other
        synchronize()
        ends.append(time.perf_counter())
    return 2 * side**3 * (len(ends) - 1) / (ends[-1] - ends[0])


def _operations(bare: _Bare) -> float:
    """Returns the operations of a training step per product: three times the forward pass's.

    That is the usual estimate. The backward pass itself is not counted, as PyTorch's counter takes
    gradients of depthwise convolutions for those of full ones.
    """
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        for batch in bare.batches:
            bare.loss(batch)
    return 3 * counted.get_total_flops() / sum(bare.products)


def peak(setting: Setting, stage: str) -> Iterator[float]:
    """Yields the limit of the device: the stage at the speed of large matrix products."""
    # Not compiled: the counter cannot see the operations of compiled code.
    bare = _bare(replace(setting.config(stage), compile=False), setting.steps)
    operations, device = _operations(bare), bare.device
    kind = torch.bfloat16 if bare.bf16 else torch.float32
    # Other contenders need the memory.
    del bare
    while True:
        yield _operations_per_second(kind, device) / operations


def loader(setting: Setting, stage: str = "stage1") -> Iterator[float]:
    """Yields the speed of a stage's loader alone, with as many processes as cores."""
    prepared = prepare(setting.config(stage, workers=setting.cores))
    views = prepared.module.views
    while True:
        sizes = (complete(batch, views) for batch in prepared.loader)
        yield rate_of_batches(sizes, setting.warmup, setting.loaded)


def by_pillow(picture: bytes, size: int) -> Tensor:
    """Returns the pixels [3, size, size] of a JPEG, by the fastest way in Pillow."""
    with Image.open(BytesIO(picture), formats=("JPEG",)) as image:
        image.draft("RGB", (size, size))
        return pil_to_tensor(image.resize((size, size), Image.Resampling.BILINEAR))


def by_simplejpeg(picture: bytes, size: int) -> Tensor:
    """Returns the pixels [3, size, size] of a JPEG, by the recipe's decoder and resize."""
    return resize(torch.from_numpy(decode_jpeg(picture)).permute(2, 0, 1), [size, size])


def _decode_all(
    decode: Callable[[bytes, int], Tensor],
    pictures: list[bytes],
    size: int,
    start: Any,
    seconds: Any,
) -> None:
    torch.set_num_threads(1)
    start.wait()
    began = time.perf_counter()
    for picture in pictures:
        decode(picture, size)
    seconds.put(time.perf_counter() - began)


def bare_decode(setting: Setting, decode: Callable[[bytes, int], Tensor]) -> Iterator[float]:
    """Yields the limit of a loader: the same pictures, from memory, decoded on the same cores."""
    prepared = prepare(setting.config("stage1"))
    plan: Any = prepared.loader.batch_sampler
    splits = [source.split for source in prepared.data.sources.values()]
    pictures = [
        content["jpg"]
        for draws in islice(plan, setting.loaded)
        for draw in draws
        if "jpg" in (content := splits[draw.source].products.read(draw.sample, ("jpg",)))
    ]
    size = prepared.data.collate.picture_size
    # A forked process has the bytes in its memory, so they need not be sent.
    context = multiprocessing.get_context("fork")
    while True:
        start, seconds = context.Barrier(setting.cores), context.SimpleQueue()
        processes = [
            context.Process(
                target=_decode_all,
                args=(decode, pictures[first :: setting.cores], size, start, seconds),
            )
            for first in range(setting.cores)
        ]
        for process in processes:
            process.start()
        longest = max(seconds.get() for _ in processes)
        for process in processes:
            process.join()
        yield len(pictures) / longest
