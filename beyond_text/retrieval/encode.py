"""Encodes a catalogue's products and a query set's queries as unit vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from multiprocessing import parent_process
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from beyond_text.config.views import View
from beyond_text.models.two_tower import TwoTower
from beyond_text.retrieval.catalogue import MODALITIES, Catalogue, DropModality, Modality
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.shares import ALONE, Share
from beyond_text.shards.batch import Batch, Judgment, Sample
from beyond_text.shards.collate import Collate


@dataclass(frozen=True)
class Encoder:
    """A model with its tokenizer, and how it encodes outside training.

    Attributes:
        bf16: whether the model computes under bfloat16 autocast.
        workers: the largest number of processes that load samples.
        share: the part of the samples that this process encodes, of several of a training.
        swap: gives products whose pictures are vectors already, for products that it knows.
    """

    model: TwoTower
    tokenizer: Any
    bf16: bool = False
    workers: int = 0
    share: Share = ALONE
    swap: Callable[[Dataset[Sample]], Dataset[Sample]] | None = None


class Vectors(NamedTuple):
    """Unit vectors of a view, and the id of each row."""

    ids: list[str]
    vectors: Float[np.ndarray, "rows dim"]


def encode_products(
    encoder: Encoder,
    catalogue: Catalogue,
    views: Sequence[View] = ("product",),
    modalities: Sequence[Modality] = MODALITIES,
    batch_size: int = 128,
) -> dict[View, Vectors]:
    """Encodes the products in one pass; returns, for each view, the products that have it.

    The vector of a product with several pictures is the mean of those that it has with each.
    With one of the two modalities, every product is encoded as if it lacked the other.
    """
    products = catalogue.products
    if encoder.swap:
        products = encoder.swap(products)
    for modality in MODALITIES:
        if modality not in modalities:
            products = DropModality(products, modality, share=1.0, seed=0)
    return encode_samples(encoder, products, catalogue.product_ids, views, batch_size)


def encode_queries(
    encoder: Encoder,
    query_set: QuerySet,
    modalities: Sequence[Modality] = MODALITIES,
    batch_size: int = 256,
) -> Vectors:
    """Encodes the queries that have at least one of the modalities, from these modalities alone."""
    ids = list(query_set.queries["query_id"])
    return encode_samples(encoder, Queries(query_set, modalities), ids, ("query",), batch_size)[
        "query"
    ]


class Queries(Dataset[Sample]):
    """Yields the queries of a query set, in order, as samples that hold only a query.

    A query keeps its text and its picture only where `modalities` names them.
    """

    def __init__(self, query_set: QuerySet, modalities: Sequence[Modality]) -> None:
        self.rows = query_set.queries[["query_id", "query", "kind"]].to_dict("records")
        self.query_image = query_set.query_image
        self.modalities = modalities

    def __getitem__(self, number: int) -> Sample:
        """Returns the number-th query."""
        row = self.rows[number]
        text = row["query"] if "text" in self.modalities else ""
        query = Judgment(row["query_id"], text, row["kind"])
        picture = self.query_image(number) if "image" in self.modalities else None
        return Sample("", "", None, [], query, query_image=picture)


def encode_samples(
    encoder: Encoder,
    samples: Dataset[Sample],
    ids: Sequence[str],
    views: Sequence[View],
    batch_size: int,
) -> dict[View, Vectors]:
    """Encodes samples, whose ids are `ids` in order; returns, for each view, those that have it.

    Several processes take turns by batches, so that a batch, and its vectors, are the same whatever
    their number. The first process gets all vectors, the others none.
    """
    share, number = encoder.share, len(ids)
    batches = [range(s, min(s + batch_size, number)) for s in range(0, number, batch_size)]
    own = share.of(batches)
    found = share.together(lambda: _encode_batches(encoder, samples, own, views, batch_size))
    gathered = {view: _in_order(share, batches, *found[view]) for view in views}
    return {
        view: Vectors(list(compress(ids, present.tolist())), vectors.numpy())
        for view, (present, vectors) in gathered.items()
    }


def _in_order(
    share: Share,
    batches: Sequence[range],
    present: Bool[Tensor, " samples"],
    vectors: Float[Tensor, "rows dim"],
) -> tuple[Bool[Tensor, " samples"], Float[Tensor, "rows dim"]]:
    """Gathers which samples have a view, and their vectors, in the order of the samples."""
    if share.world == 1:
        return present, vectors
    has, rows = share.gather(present), share.gather(vectors)
    if not share.is_first:
        return present[:0], vectors[:0]
    numbers = [
        torch.tensor([n for batch in batches[rank :: share.world] for n in batch], dtype=torch.long)
        for rank in range(share.world)
    ]
    all_present = torch.cat(has)[torch.argsort(torch.cat(numbers))]
    of_rows = torch.cat([number[flags] for number, flags in zip(numbers, has, strict=True)])
    return all_present, torch.cat(rows)[torch.argsort(of_rows)]


@torch.inference_mode()
def _encode_batches(
    encoder: Encoder,
    samples: Dataset[Sample],
    batches: Sequence[range],
    views: Sequence[View],
    batch_size: int,
) -> dict[View, tuple[Tensor, Tensor]]:
    """Encodes batches of samples; returns, for each view, which have it, and their vectors."""
    model = encoder.model
    device = device_of(model)
    full = sum(len(batch) == batch_size for batch in batches)
    loader: DataLoader[Sample] = DataLoader(
        samples,
        batch_sampler=list(map(list, batches)),
        # A process without a full batch of its own costs more to start than it saves.
        num_workers=min(encoder.workers, full),
        collate_fn=EveryPicture(collate_for(model, encoder.tokenizer)),
    )
    present = {view: [torch.zeros(0, dtype=torch.bool)] for view in views}
    rows = {view: [torch.zeros(0, model.settings.dim)] for view in views}
    # Of several processes that encode, the one that started them shows how far they are.
    quiet = True if parent_process() or not encoder.share.is_first else None
    for batch, owner in tqdm(
        loader, desc=f"encoding {', '.join(views)}", leave=False, disable=quiet
    ):
        with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=encoder.bf16):
            embeddings = model.embed(to_device(device, batch), views)
        for view in views:
            has_view = embeddings.present[view].cpu()
            vectors = embeddings.vectors[view].float().cpu()
            vectors, has_view = mean_of_pictures(vectors, has_view, owner)
            rows[view].append(vectors[has_view])
            present[view].append(has_view)
    return {view: (torch.cat(present[view]), torch.cat(rows[view])) for view in views}


class EveryPicture:
    """Collates samples with a row for each picture; also returns the sample of each row."""

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[Sample]) -> tuple[Batch, Int[Tensor, " rows"]]:
        """Makes the batch; a sample without a picture has one row."""
        rows = [
            # Pictures of one product are told apart by the number that stands for the epoch.
            (sample._replace(image=picture, epoch=number, further=()), owner)
            for owner, sample in enumerate(samples)
            for number, picture in enumerate((sample.image, *sample.further))
        ]
        return self.collate([row for row, _ in rows]), torch.tensor([owner for _, owner in rows])


def mean_of_pictures(
    vectors: Float[Tensor, "rows dim"], has_view: Bool[Tensor, " rows"], owner: Int[Tensor, " rows"]
) -> tuple[Float[Tensor, "samples dim"], Bool[Tensor, " samples"]]:
    """Returns the unit vector of the mean of each sample's rows, and which samples have the view.

    The rows of a sample stand together, and agree on whether they have it.
    """
    samples = int(owner[-1]) + 1
    if samples == len(owner):
        return vectors, has_view
    sums = torch.zeros(samples, vectors.shape[1]).index_add(0, owner, vectors)
    several = torch.bincount(owner) > 1
    first = torch.searchsorted(owner, torch.arange(samples))
    means = torch.where(several.unsqueeze(1), F.normalize(sums, dim=1), vectors[first])
    return means, has_view[first]


def collate_for(model: TwoTower, tokenizer: Any) -> Collate:
    """Returns the collation for a model outside training, where nothing is random."""
    settings = model.settings
    return Collate(
        tokenizer,
        settings.max_length,
        model.text_tower.fixed_length,
        settings.image_size,
        text_prefix=settings.text_prefix,
        query_prefix=settings.query_prefix,
    )


def device_of(model: TwoTower) -> torch.device:
    """Returns the device of the model's weights."""
    return next(model.parameters()).device


def to_device(device: torch.device, batch: Any) -> Any:
    """Moves the tensors of a (nested) named tuple to a device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(device, part) for part in batch))
    return batch


@contextmanager
def evaluating(model: TwoTower) -> Iterator[None]:
    """Puts the model in evaluation mode for a while, then restores the mode of every module."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
