"""A model and a corpus in, vectors out; then the ranking of every query by exact search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from beyond_text.batch import Sample, Tokens
from beyond_text.collate import Collate, tokenize
from beyond_text.config import View
from beyond_text.corpus import Corpus
from beyond_text.index import ProductIndex
from beyond_text.metrics import Ranking
from beyond_text.model import TwoTower


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


def _device(model: TwoTower) -> torch.device:
    return next(model.parameters()).device


def _to(device: torch.device, batch: Any) -> Any:
    """Moves the tensors of a (nested) tuple."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple):
        return type(batch)(*(_to(device, part) for part in batch))
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


@torch.inference_mode()
def encode_products(
    model: TwoTower,
    tokenizer: Any,
    corpus: Corpus,
    views: Sequence[View] = ("product",),
    batch_size: int = 128,
    bf16: bool = False,
    workers: int = 1,
) -> dict[View, Vectors]:
    """Vectors of each view, of the products that have it, by one pass over the corpus."""
    device = _device(model)
    loader: DataLoader[Sample] = DataLoader(
        corpus.products,
        sampler=range(len(corpus.product_ids)),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate_for(model, tokenizer),
    )
    ids: dict[View, list[str]] = {view: [] for view in views}
    rows: dict[View, list[Tensor]] = {view: [] for view in views}
    for batch in tqdm(loader, desc="encoding products", leave=False, disable=None):
        with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            embeddings = model.embed(_to(device, batch), views)
        for view in views:
            present = embeddings.present[view].cpu()
            rows[view].append(embeddings.vectors[view].float().cpu()[present])
            ids[view] += [
                product_id
                for product_id, there in zip(batch.product_ids, present.tolist(), strict=True)
                if there
            ]
    return {view: Vectors(ids[view], torch.cat(rows[view]).numpy()) for view in views}


@torch.inference_mode()
def encode_queries(
    model: TwoTower,
    tokenizer: Any,
    queries: Sequence[str],
    batch_size: int = 256,
    bf16: bool = False,
) -> Float[np.ndarray, "queries dim"]:
    """Unit vectors of query texts, in their order."""
    device = _device(model)
    parts = []
    for first in range(0, len(queries), batch_size):
        texts = queries[first : first + batch_size]
        tokens = tokenize(
            tokenizer, texts, model.settings.max_length, model.text_tower.fixed_length
        )
        with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            parts.append(model.encode_query(Tokens(*_to(device, tokens))).float().cpu())
    return torch.cat(parts).numpy()


def rank(
    model: TwoTower,
    tokenizer: Any,
    corpus: Corpus,
    views: Sequence[View] = ("product",),
    depth: int = 100,
    bf16: bool = False,
    workers: int = 1,
) -> dict[View, Ranking]:
    """For every query of the corpus its `depth` best products, by each view's vectors."""
    queries = encode_queries(model, tokenizer, list(corpus.queries["query"]), bf16=bf16)
    query_ids = list(corpus.queries["query_id"])
    encoded = encode_products(model, tokenizer, corpus, views, bf16=bf16, workers=workers)
    return {
        view: ProductIndex.build(*vectors).search(queries, query_ids, depth)
        for view, vectors in encoded.items()
        if vectors.ids
    }
