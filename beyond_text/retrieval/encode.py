"""Encodes a catalogue's products and a query set's queries as unit vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from beyond_text.config.views import View
from beyond_text.models.two_tower import TwoTower
from beyond_text.retrieval.catalogue import Catalogue, DropModality, Modality
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.shards.batch import Judgment, Sample
from beyond_text.shards.collate import Collate

MODALITIES: tuple[Modality, ...] = ("text", "image")


class Vectors(NamedTuple):
    """Unit vectors of a view and the id of each row."""

    ids: list[str]
    vectors: Float[np.ndarray, "rows dim"]


def collate_for(model: TwoTower, tokenizer: Any) -> Collate:
    """The collation that a model's inputs need outside training: nothing random."""
    settings = model.settings
    return Collate(
        tokenizer, settings.max_length, model.text_tower.fixed_length, settings.image_size
    )


def device_of(model: TwoTower) -> torch.device:
    """Where the model's weights lie."""
    return next(model.parameters()).device


def to_device(device: torch.device, batch: Any) -> Any:
    """Moves the tensors of a (nested) named tuple."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(device, part) for part in batch))
    return batch


@contextmanager
def evaluating(model: TwoTower) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every part, frozen ones too, is as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class Queries(Dataset[Sample]):
    """The queries of a corpus as samples with nothing but a query, in order.

    Of its text and picture a query keeps those named in `modalities`.
    """

    def __init__(self, query_set: QuerySet, modalities: Sequence[Modality]) -> None:
        self.rows = query_set.queries[["query_id", "query", "kind"]].to_dict("records")
        self.query_image = query_set.query_image
        self.modalities = modalities

    def __getitem__(self, number: int) -> Sample:
        """The number-th query."""
        row = self.rows[number]
        text = row["query"] if "text" in self.modalities else ""
        query = Judgment(row["query_id"], text, row["kind"])
        picture = self.query_image(number) if "image" in self.modalities else None
        return Sample("", "", None, [], query, query_image=picture)


def encode_products(
    model: TwoTower,
    tokenizer: Any,
    catalogue: Catalogue,
    views: Sequence[View] = ("product",),
    modalities: Sequence[Modality] = MODALITIES,
    batch_size: int = 128,
    bf16: bool = False,
    workers: int = 1,
) -> dict[View, Vectors]:
    """Vectors of each view, of the products that have it, by one pass over the corpus.

    With one of the two modalities, every product is as if it had never had the other.
    """
    products = catalogue.products
    for modality in MODALITIES:
        if modality not in modalities:
            products = DropModality(products, modality, share=1.0, seed=0)
    return _encode(
        model, tokenizer, products, catalogue.product_ids, views, batch_size, bf16, workers
    )


def encode_queries(
    model: TwoTower,
    tokenizer: Any,
    query_set: QuerySet,
    modalities: Sequence[Modality] = MODALITIES,
    batch_size: int = 256,
    bf16: bool = False,
    workers: int = 0,
) -> Vectors:
    """Vectors of the queries that have at least one of the modalities, made of these alone."""
    ids = list(query_set.queries["query_id"])
    samples = Queries(query_set, modalities)
    return _encode(model, tokenizer, samples, ids, ("query",), batch_size, bf16, workers)["query"]


@torch.inference_mode()
def _encode(
    model: TwoTower,
    tokenizer: Any,
    samples: Dataset[Sample],
    ids: Sequence[str],
    views: Sequence[View],
    batch_size: int,
    bf16: bool,
    workers: int,
) -> dict[View, Vectors]:
    """Vectors of each view, of the samples that have it; `ids` names the samples, in order."""
    device = device_of(model)
    loader: DataLoader[Sample] = DataLoader(
        samples,
        sampler=range(len(ids)),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate_for(model, tokenizer),
    )
    present: dict[View, list[bool]] = {view: [] for view in views}
    rows = {view: [torch.zeros(0, model.settings.dim)] for view in views}
    for batch in tqdm(loader, desc=f"encoding {', '.join(views)}", leave=False, disable=None):
        with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            embeddings = model.embed(to_device(device, batch), views)
        for view in views:
            there = embeddings.present[view].cpu()
            rows[view].append(embeddings.vectors[view].float().cpu()[there])
            present[view] += there.tolist()
    return {
        view: Vectors(list(compress(ids, present[view])), torch.cat(rows[view]).numpy())
        for view in views
    }
