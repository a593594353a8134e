"""Computes the outputs of frozen towers that are to be kept, and writes them block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from beyond_text.models.towers import Tower
from beyond_text.retrieval.encode import (
    Encoder,
    EveryPicture,
    collate_for,
    device_of,
    evaluating,
    to_device,
)
from beyond_text.shards.archive import SampleError
from beyond_text.shards.batch import EMPTY_SAMPLE, Batch, Judgment, Sample, product_sample
from beyond_text.shards.split import Split
from beyond_text.training.cached_embeddings import Block, picture_keys, text_keys

# Inputs that are encoded at a time.
BATCH = 128
# Inputs of a block at least, and blocks of a kind of inputs at most.
SMALLEST_BLOCK = 512
MOST_BLOCKS = 256
IMAGE = "image_tower"


class Part(NamedTuple):
    """One kind of inputs of a split: products, query texts, or pictures of queries."""

    kind: str
    inputs: int

    @property
    def blocks(self) -> list[range]:
        """The numbers of the inputs of each block, whatever the number of processes."""
        size = max(SMALLEST_BLOCK, -(-self.inputs // MOST_BLOCKS))
        return [range(s, min(s + size, self.inputs)) for s in range(0, self.inputs, size)]


class Kept(NamedTuple):
    """A split whose outputs are kept: its inputs, and the folder of each tower.

    `picture` is the size that its pictures are read in; None: they are left out.
    """

    split: Split
    picture: int | None
    queries: list[str]
    parts: dict[str, Part]
    folders: dict[str, Path]

    def blocks(self, name: str, kind: str) -> list[Block]:
        """Returns the blocks of a tower's outputs for a kind of inputs."""
        return [Block.of(self.folders[name], kind, r.start) for r in self.parts[kind].blocks]


class Task(NamedTuple):
    """Inputs of a split, given by its number, and the block of each tower that reads them."""

    split: int
    kind: str
    numbers: range
    blocks: dict[str, Block]


@torch.inference_mode()
def fill(encoder: Encoder, kept: Sequence[Kept], tasks: Sequence[Task]) -> None:
    """Computes and writes blocks."""
    if not tasks:
        return
    model = encoder.model
    device = device_of(model)
    batches = [
        [(number, each) for each in task.numbers[start : start + BATCH]]
        for number, task in enumerate(tasks)
        for start in range(0, len(task.numbers), BATCH)
    ]
    loader: DataLoader[Sample] = DataLoader(
        _Inputs(kept, tasks),
        batch_sampler=batches,
        num_workers=min(encoder.workers, len(batches)),
        collate_fn=EveryPicture(collate_for(model, encoder.tokenizer)),
    )
    quiet = None if encoder.share.is_first else True
    shown = tqdm(loader, desc="outputs of frozen towers", disable=quiet)
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=encoder.bf16):
        begun: dict[str, _Written] = {}
        for positions, (batch, owner) in zip(batches, shown, strict=True):
            task = tasks[positions[0][0]]
            begun = begun or {name: _Written() for name in task.blocks}
            numbers = torch.tensor([number for _, number in positions])[owner]
            for name, written in begun.items():
                written.add(model.towers[name], *_inputs(name, task.kind, batch, numbers), device)
            if positions[-1][1] == task.numbers[-1]:
                for name, block in task.blocks.items():
                    block.write(*begun[name].arrays(model.towers[name].layout.size))
                begun = {}


def _inputs(
    name: str, kind: str, batch: Batch, numbers: Tensor
) -> tuple[np.ndarray, tuple[Tensor, ...]]:
    """Returns the keys and the inputs that a batch has for a tower; its rows are of `numbers`."""
    if name != IMAGE:
        tokens = batch.query if kind == "queries" else batch.text
        return text_keys(*tokens), tuple(tokens)
    if kind == "query_pictures":
        row, keys = batch.query_image_row, numbers.numpy()
    else:
        row = batch.image_row
        # Rows of a product stand together, one for each of its pictures.
        place = torch.arange(len(numbers)) - torch.searchsorted(numbers, numbers)
        keys = picture_keys(numbers.numpy(), place.numpy())
    there = row >= 0
    return keys[there.numpy()], (batch.image[row[there]],)


class _Written:
    """The outputs of a block so far, an input of each key."""

    def __init__(self) -> None:
        self.keys: list[np.ndarray] = [np.zeros(0, "<i8")]
        self.vectors: list[Tensor] = []
        self.known: set[int] = set()

    def add(
        self, tower: Tower, keys: np.ndarray, inputs: Sequence[Tensor], device: torch.device
    ) -> None:
        """Encodes the inputs whose keys are new."""
        new = [row for row, key in enumerate(keys.tolist()) if key not in self.known]
        self.known.update(keys[new].tolist())
        if new:
            self.keys.append(keys[new])
            outputs = tower.flat(*(to_device(device, part[new]) for part in inputs))
            self.vectors.append(outputs.float().cpu())

    def arrays(self, width: int) -> tuple[np.ndarray, Tensor]:
        """Returns the keys and the vectors."""
        return np.concatenate(self.keys), torch.cat([torch.zeros(0, width), *self.vectors])


class _Inputs(Dataset[Sample]):
    """Reads inputs of tasks as samples, by the number of the task and their own.

    What cannot be read is an empty sample: a run that meets it counts it.
    """

    def __init__(self, kept: Sequence[Kept], tasks: Sequence[Task]) -> None:
        self.kept = kept
        self.tasks = tasks

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        """Returns an input of a task."""
        task, number = self.tasks[place[0]], place[1]
        read: dict[str, Callable[[Kept, int, Task], Sample]] = {
            "products": _product,
            "queries": _query,
            "query_pictures": _query_picture,
        }
        try:
            return read[task.kind](self.kept[task.split], number, task)
        except SampleError:
            return EMPTY_SAMPLE


def _product(kept: Kept, number: int, task: Task) -> Sample:
    split = kept.split
    pictures: list[Tensor] = []
    if IMAGE in task.blocks and kept.picture is not None:
        fields, pictures = split.read_pictures(number, kept.picture)
    else:
        fields, _ = split.read(number, None)
    return product_sample(f"{number}", split.text_of(fields), pictures)


def _query(kept: Kept, number: int, task: Task) -> Sample:
    return EMPTY_SAMPLE._replace(query=Judgment("", kept.queries[number], ""))


def _query_picture(kept: Kept, number: int, task: Task) -> Sample:
    assert kept.picture is not None
    picture = kept.split.read_query_picture(number, kept.picture)
    return EMPTY_SAMPLE._replace(query=Judgment(f"{number}", "", ""), query_image=picture)
